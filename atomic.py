"""Files that are whole or absent: written under a temporary name, flushed to disk, then renamed."""

import contextlib
import glob
import os
from pathlib import Path

from console import UserError


@contextlib.contextmanager
def atomic_open(path, mode="w", previous=None):
    """Open a file for writing that appears under `path` only when the block ends without an error.

    A crash or a full disk leaves the previous file of that name as it was. mode: "w" or "wb".
    previous: a name beside `path` under which its previous file is then kept; None: it is replaced.
    Raises UserError when the file cannot be written (no such folder, no permission, disk full).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left_behind in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # by a run that was killed
            left_behind.unlink(missing_ok=True)
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous and path.exists():
            os.replace(path, path.with_name(previous))
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # the error that is being told matters, not that there is nothing to remove
            temporary.unlink(missing_ok=True)
