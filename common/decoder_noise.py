"""Capture of messages that C decoders print on standard error: libmpg123 (in libsndfile) prints on damaged MP3 frames.

PyAV already keeps FFmpeg's libraries silent.
"""

import contextlib
import os
import re
import threading
from collections.abc import Iterator

_LINE = re.compile(rb"(?:\[[^\]\n]*libmpg123[^\]\n]*\] (?:\w+: )?|(?:Note|Warning|Error): )([^\n]*)\n*", re.IGNORECASE)
_lock = threading.Lock()  # all threads share one standard error
# A process forked by another thread during a capture would have a held lock and a redirected standard error.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


@contextlib.contextmanager
def caught(lines: list[str]) -> Iterator[None]:
    """Context manager around a decoder call that adds the decoder's messages to `lines` instead of printing them.

    Other output on standard error is printed after the block. The capture uses a memory file, not a pipe, so that any
    amount of output fits without blocking. If no file descriptor is free, nothing is captured.
    """
    with _lock, contextlib.ExitStack() as stack:
        descriptors = []
        with contextlib.suppress(OSError, AttributeError):  # AttributeError: not Linux
            for make in (lambda: os.dup(2), lambda: os.memfd_create("standard error")):
                descriptors.append(make())
                stack.callback(os.close, descriptors[-1])
        if len(descriptors) < 2:
            yield
            return
        before, memory = descriptors
        try:
            os.dup2(memory, 2)
            yield
        finally:
            # Twice, so that what other threads write meanwhile stays in order.
            end = _pass_on(memory, 0, before, lines)
            os.dup2(before, 2)
            _pass_on(memory, end, before, lines)


def _pass_on(memory, start, before, lines):
    """Add a decoder's messages in a memory file to `lines`, and write the rest to `before`. Returns where it ended."""
    end = os.fstat(memory).st_size
    others = []
    for line in os.pread(memory, end - start, start).splitlines(keepends=True):
        message = _LINE.fullmatch(line)
        if message:
            lines.append(message[1].decode(errors="replace").strip())
        else:
            others.append(line)
    if others:
        with contextlib.suppress(OSError):  # standard error cannot be written
            os.write(before, b"".join(others))
    return end
