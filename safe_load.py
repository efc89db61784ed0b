"""Files of tensors and plain data from strangers: read without running code, hanging, or filling the memory.

torch's own reader with weights_only runs no code, but its unpickler still allocates what a pickle tells it to, unpacks
what is compressed, and takes a tensor's shape on trust; and it does not notice a flipped bit.
"""

import contextlib
import functools
import os
import pickle
import stat
import warnings
import zipfile
from pathlib import Path

import safetensors.torch
import torch

from console import UserError

MEMORY = 2 << 30  # bytes that reading a file may take beside its tensors, which stay on the disk until used
LONGEST_PICKLE = 16 << 20  # bytes; that of a detector has a tenth of a million


def load(path, harmless=()):
    """Read a safetensors file, or what torch.save wrote: tensors in plain data, memory-mapped where the format allows.

    harmless: classes, or (class, name that stands for it), that may be built besides.
    Raises UserError where the file is missing, damaged, of another kind, would run code, or promises more than it has.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: expected a checkpoint, found no regular file")
        with _limited_memory(status.st_size + MEMORY):
            if Path(path).suffix == ".safetensors":
                content = safetensors.torch.load_file(path)
            else:
                # Only files since torch 1.6, which are zip archives, can be mapped.
                is_archive = zipfile.is_zipfile(path)
                if is_archive:
                    _check_archive(path, status.st_size, status.st_mtime_ns)
                with torch.serialization.safe_globals(list(harmless)), warnings.catch_warnings(action="ignore"):
                    content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
            _check_tensors(path, tensors(content), status.st_size)
            return content
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused: expected a checkpoint of tensors and plain data, found a pickle with other objects, "
            "which could run code"
        ) from error
    except MemoryError as error:
        raise UserError(f"{path}: refused: reading it takes more memory than its size accounts for") from error
    except Exception as error:  # whatever a damaged file makes of the reader; the file is at fault, not the program
        raise UserError(f"{path}: expected a checkpoint, found a damaged file or one of another kind") from error


def tensors(value):
    """Every tensor somewhere in plain data, as a list."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [tensor for part in parts for tensor in tensors(part)]


@functools.lru_cache(64)
def _check_archive(path, size, modified):
    """Raises UserError for a zip archive that is damaged or unpacks to more than it is, once for each state of it."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise UserError(f"{path}: refused: expected an archive without compression, as torch.save writes it")
            pickles = [entry.file_size for entry in entries if entry.filename.endswith("data.pkl")]
            if sum(entry.file_size for entry in entries) > size or any(n > LONGEST_PICKLE for n in pickles):
                raise UserError(f"{path}: refused: expected the size of a checkpoint, its archive promises more")
            damaged = archive.testzip()  # reads it all, at the speed of the disk
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: expected a checkpoint, found a damaged file or one of another kind") from error
    if damaged:
        raise UserError(f"{path}: damaged: the checksum of {damaged} in it is wrong")


def _check_tensors(path, found, size):
    for tensor in found:
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain or tensor.is_nested or type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            raise UserError(f"{path}: refused: expected dense tensors, found another kind")
    # By strides of 0 one value may stand for a tensor of any size, and a storage may serve any number of tensors.
    if sum(tensor.nbytes for tensor in found) > size + MEMORY:
        raise UserError(f"{path}: refused: its tensors promise more values than the file has")


@contextlib.contextmanager
def _limited_memory(n_bytes):
    """Let an allocation beyond n_bytes more than now fail with MemoryError, where the system can (Linux)."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = now + n_bytes
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
