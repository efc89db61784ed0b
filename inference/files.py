"""The audio files that the names on a command line stand for."""

import contextlib
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.console import UserError
from corpora import list_audio, warn_of_others


@contextlib.contextmanager
def find_files(names: Iterable[str]) -> Iterator[dict[str, str]]:
    """The audio files that the names stand for, without doubles: {what to call it: path}.

    names: files, folders (the audio files in them and in their sub-folders), patterns, and `-` for standard input, of
    which a copy exists while the context does. Warns of what it skips in folders but hidden files.
    Raises UserError for a name that stands for none.
    """
    with contextlib.ExitStack() as copies:
        found = {}
        for name in names:
            if name == "-":
                found["standard input"] = copies.enter_context(_copy_of_standard_input()).name
                continue
            if os.path.isfile(name):
                files = [name]
            elif os.path.isdir(name):
                files, others = list_audio(name, recursive=True)
                files = [str(Path(name, file)) for file in files]
                warn_of_others(name, others)
            else:
                files = sorted(file for file in glob.glob(name, recursive=True) if os.path.isfile(file))
            if not files:
                raise UserError(f"{name}: expected a file, a folder with audio files, a pattern or -, found nothing")
            found |= dict(zip(files, files))
        yield found


def _copy_of_standard_input():
    """A temporary file, open, with all of standard input. Raises UserError if it cannot hold it."""
    if sys.stdin is None:
        raise UserError("-: standard input is closed")
    copy = None
    try:
        copy = tempfile.NamedTemporaryFile()
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            copy and copy.close()
        raise UserError(f"standard input: cannot be copied to a temporary file: {error.strerror}") from error
    return copy
