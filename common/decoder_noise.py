"""What decoders in C print on standard error, caught: libmpg123, in libsndfile, has lines for every damaged MP3 frame.

PyAV keeps FFmpeg's libraries silent by itself.
"""

import contextlib
import os
import re
import threading
from collections.abc import Iterator

_LINE = re.compile(rb"(?:\[[^\]\n]*libmpg123[^\]\n]*\] (?:\w+: )?|(?:Note|Warning|Error): )([^\n]*)\n*", re.IGNORECASE)
_lock = threading.Lock()  # there is one standard error for all threads
# A process that is forked meanwhile by another thread would have neither a free lock nor its standard error.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


@contextlib.contextmanager
def caught(lines: list[str]) -> Iterator[None]:
    """Within a `with` block, for a call of a decoder alone, what it prints is added to `lines`, not printed.

    What others print meanwhile, on the same descriptor, is printed behind the block. It goes through memory, not a
    pipe, so that no amount of it can block. Without a descriptor to spare nothing is caught.
    """
    with _lock, contextlib.ExitStack() as stack:
        descriptors = []
        with contextlib.suppress(OSError, AttributeError):  # AttributeError: another system than Linux
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
            os.dup2(before, 2)
            text = os.pread(memory, os.fstat(memory).st_size, 0)
            others = []
            for line in text.splitlines(keepends=True):
                found = _LINE.fullmatch(line)
                if found:
                    lines.append(found[1].decode(errors="replace").strip())
                else:
                    others.append(line)
            if others:
                with contextlib.suppress(OSError):  # a standard error that takes no more
                    os.write(2, b"".join(others))
