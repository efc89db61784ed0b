"""The console of a run, kept in its folder."""

import datetime
import shlex
import sys
import traceback
from pathlib import Path
from typing import IO, Self

from common.console import Stopped, UserError, printable, signal_name

NAME = "console.log"


class ConsoleLog:
    """Within a `with` block, what goes to standard output and standard error is kept, and written to a file from `open`
    on: whole lines, without progress bars. An error that ends the block is written too, a bug with its traceback.

    A file that takes no more is given up: the run matters more.
    """

    def __init__(self) -> None:
        self.lines, self.file = [], None

    def __enter__(self) -> Self:
        self.streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (_Copied(stream, self) for stream in self.streams)
        return self

    def open(self, folder: Path | str) -> None:
        """Write to `console.log` in this folder, behind what earlier starts of the run left there."""
        lines, self.lines = self.lines, []
        self.file = open(Path(folder) / NAME, "ab", buffering=0)  # so that forked workers have nothing to flush
        started = datetime.datetime.now().isoformat(" ", "seconds")
        self.add([f"== {started} {shlex.join(sys.argv)}", *lines])

    def add(self, lines: list[str]) -> None:
        self.lines += lines
        if self.file and self.lines:
            text = "".join(f"{line}\n" for line in self.lines)
            self.lines = []
            try:
                self.file.write(text.encode(errors="backslashreplace"))
            except OSError:
                self.file = None

    def __exit__(self, kind, error, trace):
        for stream in (sys.stdout, sys.stderr):
            stream.end_line()
        sys.stdout, sys.stderr = self.streams
        if isinstance(error, UserError):
            self.add([printable(line) for line in (*error.details, f"error: {error}")])
        elif isinstance(error, KeyboardInterrupt):
            number = error.args[0] if isinstance(error, Stopped) else 2
            self.add([f"stopped by {signal_name(number)}"])
        elif isinstance(error, Exception):
            self.add("".join(traceback.format_exception(error)).splitlines())
        if self.file:
            self.file.close()


class _Copied:
    """A stream whose lines are given to a ConsoleLog too."""

    def __init__(self, stream: IO[str], log: ConsoleLog) -> None:
        self.stream, self.log, self.unfinished = stream, log, ""

    def write(self, text: str) -> int:
        n = self.stream.write(text)
        if not text.startswith("\r"):  # as all that a progress bar writes does
            *lines, self.unfinished = (self.unfinished + text).split("\n")
            self.log.add(lines)
        return n

    def end_line(self) -> None:
        """Give away what stands behind the last line."""
        if self.unfinished:
            self.log.add([self.unfinished])

    def __getattr__(self, name):
        return getattr(self.stream, name)
