"""Atomic output files that never overwrite an input. Devices and pipes are written to directly."""

import contextlib
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from common.console import UserError


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike, mode: str = "w", previous: str | None = None) -> Iterator[IO]:
    """Open a file for writing that appears under `path` only when the block ends without an error.

    It is written under a temporary name, flushed to disk and renamed, so a crash or a full disk leaves the previous
    file unchanged. A symbolic link is kept and its target is written; the mode of an existing file is kept.
    A device, a pipe or this process's own standard output is written to directly.
    mode: "w" or "wb". previous: keep the previous file next to `path` under this name; None: replace it.
    Raises UserError if the file cannot be written (no such folder, no permission, disk full).
    """
    # File names may contain bytes that are not UTF-8; these are written as escapes.
    options = {"mode": mode} if "b" in mode else {"mode": mode, "encoding": "utf-8", "errors": "backslashreplace"}
    try:
        with _written_to(path, options) if is_stream(path) else _replaced(path, options, previous) as file:
            yield file
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _standard_stream(path):
            raise  # `... | head`: handled by console.run
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _replaced(path, options, previous):
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for other in path.parent.iterdir():
            if re.fullmatch(rf"\.{re.escape(path.name)}\.\d+\.tmp", other.name):  # left by a killed process
                other.unlink(missing_ok=True)
        with open(temporary, **options) as file:
            _take_mode(file.fileno(), path)
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous and path.exists():
            os.replace(path, path.with_name(previous))
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # must not hide the error that is being raised
            temporary.unlink(missing_ok=True)


def _take_mode(descriptor, path):
    """Copy the mode, and if permitted the owner and group, of the file that a new file will replace."""
    with contextlib.suppress(FileNotFoundError):
        old = os.stat(path)
        for owner, group in ((old.st_uid, -1), (-1, old.st_gid)):
            with contextlib.suppress(OSError):
                os.fchown(descriptor, owner, group)
        os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


@contextlib.contextmanager
def _written_to(path, options):
    stream = _standard_stream(path)
    if stream:
        stream.flush()
    with open(os.dup(stream.fileno()) if stream else path, **options) as file:
        yield file


def _standard_stream(path):
    """sys.__stdout__ or sys.__stderr__ if `path` is its file (/dev/stdout, or a redirection's target), else None."""
    for stream in (sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(OSError, AttributeError, ValueError):  # closed by the parent process
            if os.path.samestat(os.stat(path), os.fstat(stream.fileno())):
                return stream
    return None


def is_standard_output(path: str | os.PathLike) -> bool:
    """Whether `path` is this process's standard output, under whatever name."""
    return _standard_stream(path) is sys.__stdout__ is not None


def is_stream(path: str | os.PathLike) -> bool:
    """Whether `path` is written to directly, without a temporary file: a device, a pipe, our own standard output."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or _standard_stream(path) is not None


def check_outputs(
    outputs: Iterable[tuple[str, str | os.PathLike | None]], inputs: Iterable[str | os.PathLike | None] = ()
) -> None:
    """Raise UserError if an output cannot be written, is also an input, or is the same file as another output.

    Every command calls this before it starts to work. outputs: pairs (name for messages, path or None). inputs: paths
    or None; a folder stands for its files. Files are compared by inode, so links are resolved; outputs that do not
    exist yet are compared by their resolved path.
    """
    written = {}
    for name, path in outputs:
        if path is None:
            continue
        _check_writable(name, path)
        identity = _identity(path)
        if identity in written:
            other, its_path = written[identity]
            raise UserError(f"{name} {path}: expected a different file from {other} {its_path}, found the same file")
        if identity is not None:
            written[identity] = (name, path)
    if not any(isinstance(identity, tuple) for identity in written):
        return  # no output exists: none can be an input
    for path in inputs:
        for file in _files_of(path):
            if (identity := _identity(file)) in written:
                name, output = written[identity]
                raise UserError(f"{name} {output}: expected a file that is not an input, found the input {file}")


def check_folder(name: str, folder: str | os.PathLike) -> None:
    """Raise UserError, prefixed with `name`, if files cannot be written in a folder that exists or is to be created."""
    place = Path(os.path.realpath(folder))
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise UserError(f"{name}: cannot be written: {place} is not a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{name}: cannot be written: no permission to write in {place}")


def _check_writable(name, path):
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:
        raise UserError(f"{name} {path}: cannot be written: {error.strerror}") from error
    if (mode and stat.S_ISDIR(mode)) or (mode is None and str(path).endswith("/")):
        raise UserError(f"{name} {path}: cannot be written: it is a folder")
    if mode and not _standard_stream(path) and not os.access(path, os.W_OK):
        raise UserError(f"{name} {path}: cannot be written: no permission")
    if not is_stream(path):
        check_folder(f"{name} {path}", os.path.dirname(os.path.realpath(path)))


def _identity(path):
    """Identity of a file under any name: (device, inode), or the resolved path of a new file; None for /dev/null."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return None if os.path.samestat(status, os.stat(os.devnull)) else (status.st_dev, status.st_ino)


def _files_of(path):
    """The files of an input: itself, or all files directly in a folder."""
    if path is None:
        return []
    try:
        return [entry.path for entry in os.scandir(path)] if stat.S_ISDIR(os.stat(path).st_mode) else [path]
    except OSError:  # reading it will raise the error
        return []
