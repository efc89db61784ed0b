"""Terminal output of commands: errors of the user (exit status 2), notes, warnings, progress bars; and signals."""

import argparse
import errno
import io
import math
import os
import re
import reprlib
import signal
import sys
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from tqdm import tqdm

# Errors of the machine (open files, memory), not of the file being read, which may be valid.
OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class UserError(ValueError):
    """Error that the user can fix. The message names the file, line or flag, what was expected and what was found.

    details: further lines to print above the message, such as all missing files.
    """

    def __init__(self, message: str, details: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.details = list(details)


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP, raised as an exception so that partly written files are removed on the way out."""


class _Stream(io.FileIO):
    """File descriptor of a standard stream. Output that standard error cannot take is dropped: the work continues."""

    def write(self, data):
        try:
            return super().write(data)
        except OSError as error:
            if self.fileno() == 2:
                return len(data)
            raise type(error)(error.errno, error.strerror, "standard output") from None


def _mend_streams():
    """Mark failures of standard output as such, and ignore failures of standard error. Raises UserError."""
    for descriptor in range(3):  # a file opened in place of a closed stream would receive other code's output
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    is_closed = sys.stdout is None
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")
        elif stream is getattr(sys, f"__{name}__"):
            options = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
            file = io.BufferedWriter(_Stream(descriptor, "w", closefd=False))
            # Characters that the terminal's encoding lacks, such as in file names, are printed as escapes.
            stream = io.TextIOWrapper(file, stream.encoding, "backslashreplace", **options)
            setattr(sys, f"__{name}__", stream)
        setattr(sys, name, stream)
    if is_closed:
        raise UserError("standard output is closed; > /dev/null discards it")


def _stop(number, frame):
    raise Stopped(number)


def signal_name(number: int) -> str:
    """Name of a signal for messages: Ctrl-C for SIGINT."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run the `main()` of a command, print its errors and exit with the matching status.

    A UserError becomes one line on stderr (below its details) and exit status 2; so do a failure to write standard
    output, too many open files and lack of memory. The status is 1 if the reader of standard output is gone
    (`... | head`), 130 for Ctrl-C, 143 for SIGTERM and 129 for SIGHUP. Any other exception is a bug and keeps its
    traceback.
    """
    try:
        try:
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) == signal.SIG_DFL:  # keep SIGHUP ignored under nohup
                    signal.signal(number, _stop)
            _mend_streams()
            status = main()
        except SystemExit as ended:
            status = ended.code
        except UserError as error:
            status = _say(error, error.details)
        except Stopped as stop:
            status = _say(f"stopped by {signal_name(stop.args[0])}", status=128 + stop.args[0])
        except KeyboardInterrupt:
            status = _say(f"stopped by {signal_name(signal.SIGINT)}", status=130)
        except MemoryError as error:
            status = _say(f"out of memory{f': {error}' if str(error) else ''}")
        sys.stdout.flush()  # here, because a failure at interpreter exit could not be handled
    except OSError as error:
        gone = isinstance(error, BrokenPipeError)
        if gone or error.filename == "standard output":
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for the rest of the buffer
            text = "its reader is gone" if gone else f"cannot be written: {error.strerror}"
            status = _say(f"standard output: {text}", status=1 if gone else 2)
        elif error.errno in OF_THE_MACHINE:
            where = f"{error.filename}: " if error.filename else ""
            limit = "; ulimit -n sets the limit" if error.errno == errno.EMFILE else ""
            status = _say(f"{where}{error.strerror}{limit}")
        else:
            raise
    sys.exit(status)


def _say(text, details=(), status=2):
    command = os.path.basename(sys.argv[0])
    print(*map(printable, [*details, f"{command}: error: {text}"]), sep="\n", file=sys.stderr)
    return status


def note(message: str) -> None:
    """Print a line of information on stderr."""
    print(printable(f"{os.path.basename(sys.argv[0])}: {message}"), file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Print a warning line on stderr; the command continues."""
    note(f"warning: {message}")


def printable(text: str) -> str:
    """Escape control, invisible and line-breaking characters of a text, so that none affects the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: object, limit: int = 100) -> str:
    """Untrusted data, such as from a file or its name, shortened for one line of a message and made printable."""
    text = " ".join((value if isinstance(value, str) else reprlib.repr(value)).split())
    text, more = text[:limit], "..." if len(text) > limit else ""
    return printable(text) + more


class Number:
    """Type and range of a number in a flag or a file: finite, from low to high, or above `above`.

    As an argparse type it accepts ASCII digits only; Python's int() and float() would also accept 1_000 and nan.
    """

    def __init__(
        self,
        kind: type[int] | type[float] = float,
        low: float = -math.inf,
        high: float = math.inf,
        above: float = -math.inf,
    ) -> None:
        self.kind, self.low, self.high, self.above = kind, low, high, above

    def __contains__(self, value):
        kinds = (int,) if self.kind is int else (int, float)
        return type(value) in kinds and self.low <= value <= self.high and self.above < value < math.inf

    def __call__(self, text: str) -> int | float:
        if re.fullmatch(r"[+-]?\d+" if self.kind is int else r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII):
            value = self.kind(text) if len(text) < 1000 else math.inf
            if value in self:
                return value
        raise argparse.ArgumentTypeError(f"expected {self}, found {shown(text)}")

    def __str__(self):
        kind = "a whole number" if self.kind is int else "a number"
        if self.above > -math.inf:
            return f"{kind} above {self.above:,}"
        if self.low == -math.inf:
            return f"{kind} of at most {self.high:,}" if self.high < math.inf else f"a finite {kind[2:]}"
        return (
            f"{kind} from {self.low:,} to {self.high:,}" if self.high < math.inf else f"{kind} of at least {self.low:,}"
        )


AT_LEAST_0, AT_LEAST_1, ABOVE_0 = Number(int, 0), Number(int, 1), Number(above=0)
SEED = Number(int, 0, 2**32 - 1)  # numpy's range


def unfit(value: object, expected: Number | Collection) -> str | None:
    """Description of the expected value if `value` does not match, else None. expected: Number, or allowed values."""
    if isinstance(expected, Number):
        return None if value in expected else str(expected)
    if any(type(value) is type(choice) and value == choice for choice in expected):
        return None
    return "true or false" if expected == (False, True) else f"one of {', '.join(map(str, expected))}"


def check(name: str, value: object, expected: Number | Collection) -> None:
    """Raise ValueError if a value does not match `expected`; see unfit."""
    if words := unfit(value, expected):
        raise ValueError(f"{name} {shown(value)}, expected {words}")


class StopSignals:
    """Context manager that records SIGTERM (cluster pre-emption), SIGHUP (closed terminal) and SIGINT (Ctrl-C).

    The signals do not end the process, so that it can finish a step and save. An ignored SIGHUP (nohup) stays ignored.
    received: 0, or the number of the first signal; the exit status is then 128 + received. A second Ctrl-C ends the
    command at once.
    """

    def __enter__(self):
        self.received = 0
        numbers = [signal.SIGTERM, signal.SIGINT]
        numbers += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
        self.handlers = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def _receive(self, number, frame):
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number

    def __exit__(self, *error):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)


def progress(iterable: Iterable | None = None, **options: object) -> "tqdm":
    """tqdm bar on a terminal; in a log, one line per ten seconds, if the work takes longer than that."""
    from tqdm import tqdm  # imported here: reports run without it

    pace = {} if sys.stderr.isatty() else {"mininterval": 10, "delay": 10}
    return tqdm(iterable, leave=False, dynamic_ncols=True, **pace, **options)


def audio_progress(seconds: float | None, desc: str, **options: object) -> "tqdm":
    """Progress bar of audio, updated in minutes. seconds: of all audio; None: unknown, no percentage."""
    counted = "{n:.1f} min of audio [{elapsed}]"
    if seconds is not None:
        counted = "{percentage:3.0f} %|{bar}| {n:.1f} of {total:.1f} min of audio [{elapsed}<{remaining}]"
    total = None if seconds is None else seconds / 60
    return progress(total=total, desc=desc, bar_format="{desc}: " + counted, **options)
