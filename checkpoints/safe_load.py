"""Safe reading of untrusted files of tensors and plain data: no code runs, and time and memory are bounded.

torch.load with weights_only runs no code, but its unpickler still allocates as much memory as a pickle requests,
decompresses archives, trusts the shapes of tensors, and does not detect flipped bits.
"""

import contextlib
import datetime
import functools
import os
import pickle
import re
import stat
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import safetensors.torch
import torch

from common.console import UserError, shown
from common.safe_pickle import NUMPY, limited_memory

MEMORY = 2 << 30  # bytes for reading a file in addition to its tensors, which stay on disk until used
LONGEST_PICKLE = 16 << 20  # bytes, also of a safetensors header; a detector's has about 0.1 million


def load(path: Path | str, harmless: Sequence[type | tuple[type, str]] = ()) -> object:
    """Read a safetensors or torch.save file of tensors and plain data. Tensors are memory-mapped if the format allows.

    The format is detected from the content, not from the name. Numpy numbers become Python numbers.
    harmless: further classes, or (class, name that it replaces), that may be built.
    Raises UserError if the file is missing, damaged, of another kind, could run code, or claims more data than it has.
    """
    problem = "a damaged file"
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise UserError(f"{path}: expected a checkpoint, found {_kind_of_folder(path)}")
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: expected a checkpoint, found a special file (device, pipe or socket)")
        with open(path, "rb") as file:
            head = file.read(1024)
        with limited_memory(status.st_size + MEMORY), contextlib.ExitStack() as stack:
            if _header_length(head) is not None:
                _check_header(path, _header_length(head), status.st_size)
                content = safetensors.torch.load_file(path)
            else:
                # Only zip archives, written since torch 1.6, can be memory-mapped.
                is_archive = head.startswith(b"PK\x03\x04")
                if is_archive:
                    _check_archive(path, status.st_size, status.st_mtime_ns)
                elif head.startswith(b"\x80"):
                    problem = "a damaged pickle, or one that torch.save did not write"
                else:
                    raise UserError(f"{path}: expected a checkpoint, found {_kind_of_file(head)}")
                # Given a path that ends in .safetensors, torch.load would not read a pickle.
                misnamed = str(path).endswith(".safetensors")
                file = stack.enter_context(open(path, "rb")) if misnamed else path
                with torch.serialization.safe_globals([*NUMPY, *_HARMLESS, *harmless]), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    content = torch.load(file, map_location="cpu", weights_only=True, mmap=is_archive and not misnamed)
            _check_tensors(path, tensors(content), status.st_size)
            return content
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        # Only the message of torch's error names the class.
        if name := re.search(r"GLOBAL (\S+)|unrecognized function (\S+)", str(error)):
            raise UserError(
                f"{path}: refused: expected a checkpoint of tensors and plain data, found a pickle with "
                f"{shown(name[1] or name[2])}, which could run code"
            ) from error
        raise UserError(f"{path}: expected a checkpoint, found {problem}") from error
    except MemoryError as error:
        raise UserError(f"{path}: refused: reading it needs more memory than its size justifies") from error
    except Exception as error:  # a damaged file can raise anything in torch's reader; it is not a bug of this program
        raise UserError(f"{path}: expected a checkpoint, found {problem}") from error


def tensors(value: object) -> list[torch.Tensor]:
    """List of all tensors in nested plain data."""
    found, pending, seen = [], [value], set()
    while pending:
        value = pending.pop()
        if isinstance(value, torch.Tensor):
            found.append(value)
        # A pickle may contain a list a billion times, or within itself, so each is visited once.
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            pending += value.values() if isinstance(value, dict) else value
    return found


# ---------------------------------------------------------------------------------------------- files of other kinds

_SIGNATURES = (  # offset, bytes, kind of file
    (0, b"\x1f\x8b", "a gzip file; unpack it first"),
    (0, b"BZh", "a bzip2 file; unpack it first"),
    (0, b"\xfd7zXZ\0", "an xz file; unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file; unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (0, b"Rar!", "a rar archive; unpack it first"),
    (257, b"ustar", "a tar archive; unpack it first"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"version https://git-lfs", "a Git LFS pointer; `git lfs pull` downloads the file"),
    (0, b"/annex/objects/", "a git-annex pointer; `git annex get` downloads the file"),
    (8, b"WAVE", "audio (WAV)"),
    (8, b"AIFF", "audio (AIFF)"),
    (8, b"AIFC", "audio (AIFF)"),
    (0, b"fLaC", "audio (FLAC)"),
    (0, b"OggS", "audio (Ogg)"),
    (0, b"ID3", "audio (MP3)"),
    (4, b"ftyp", "audio or video (MP4)"),
    (0, b"\x1a\x45\xdf\xa3", "audio or video (Matroska, WebM)"),
    (0, b"\x30\x26\xb2\x75", "audio or video (WMA, ASF)"),
    (0, b"caff", "audio (CAF)"),
    (0, b".snd", "audio (AU)"),
    (0, b"#!AMR", "audio (AMR)"),
    (0, b"\xff\xd8\xff", "a picture (JPEG)"),
    (0, b"\x89PNG", "a picture (PNG)"),
    (0, b"GIF8", "a picture (GIF)"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x89HDF\r\n", "an HDF5 file, as written by Keras"),
    (0, b"\x93NUMPY", "a numpy array (.npy)"),
    (0, b"GGUF", "a GGUF model"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (2, b"\x12\x07pytorch", "an ONNX model"),
)


def _kind_of_file(head: bytes) -> str:
    """Kind of a file that is not a checkpoint, for messages, from its first 1024 bytes."""
    if not head:
        return "an empty file"
    if not head.strip(b"\0"):
        return "only zero bytes, as after an incomplete download or copy"
    for at, signature, kind in _SIGNATURES:
        if head.startswith(signature, at):
            return kind
    text = _text_of(head)
    if text is None:
        mpeg = head[0] == 0xFF and head[1:2] >= b"\xe0"  # the sync word of MP3 and AAC frames
        return "audio (MP3 or AAC)" if mpeg else "a damaged file or one of another kind"
    text = text.strip()
    if not text:
        return "a text file of whitespace"
    if text.startswith("<"):
        title = re.search(r"<title[^>]*>([^<]+)", text, re.IGNORECASE)
        title = f" ({shown(title[1].strip(), 60)})" if title else ""
        if re.search(r"<!doctype html|<html|<head|<body|<script|<meta", text, re.IGNORECASE):
            return f"a web page{title} instead of the file that it links to"
        return "an XML file, perhaps a server's error message"
    return f"a {'JSON' if text[0] in '{[' else 'text'} file that starts with {shown(text, 40)}"


def _text_of(head):
    """Decode the first bytes of a file; None if they are not text."""
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    for cut in range(4):  # the last character may be cut
        with contextlib.suppress(UnicodeDecodeError):
            text = head[: len(head) - cut].decode(encoding)
            return text if all(c.isprintable() or c.isspace() for c in text) else None
    return None


def _kind_of_folder(path):
    names = set(os.listdir(path))
    if "data.pkl" in names:
        return "an unpacked checkpoint; pass the original file"
    if "config.json" in names:
        return "a Hugging Face folder of an encoder; use it with train.py --ssl_path"
    if "checkpoints" in names:
        return "the folder of a run; pass a file in its checkpoints/"
    return "a folder"


def _kind_of_archive(path, names):
    """Kind of a zip archive, for messages; None if torch.save wrote it."""
    roots = {name.split("/")[0] for name in names}
    inside = {name.partition("/")[2] for name in names} if len(roots) == 1 else set()
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        return "a TorchScript program, which is code"
    if "data.pkl" in inside:
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "numpy arrays (.npz)"
    if any(name.endswith("model.weights.h5") for name in names):
        return "a Keras model"
    endings = (".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".tar")
    if inner := [name for name in names if name.endswith(endings) and "__MACOSX/" not in name]:
        return f"a zip archive with {shown(inner[0])}; unpack it and pass that file"
    first = f", first {shown(names[0])}" if names else ""
    return f"a zip archive of {len(names)} other files{first}"


# ------------------------------------------------------------------------------------------- checks of claimed sizes


def _header_length(head):
    """Header length in bytes that a safetensors file claims; None if it is another kind of file."""
    length = int.from_bytes(head[:8], "little")
    return length if head[8:9] == b"{" and length < 1 << 48 else None


def _check_header(path, length, size):
    if length > size - 8:
        raise UserError(f"{path}: damaged: its header claims {length:,} bytes, the file has {size:,}")
    if length > LONGEST_PICKLE:
        raise UserError(f"{path}: refused: expected a header of at most {LONGEST_PICKLE:,} bytes, found {length:,}")


@functools.lru_cache(64)
def _check_archive(path, size, modified):
    """Raise UserError for a zip archive that is not a checkpoint, is damaged, or claims more than its size.

    Cached, so that an unchanged file is checked once.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if kind := _kind_of_archive(path, archive.namelist()):
                raise UserError(f"{path}: expected a checkpoint, found {kind}")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise UserError(f"{path}: refused: expected an archive without compression, as torch.save writes it")
            pickles = [entry.file_size for entry in entries if entry.filename.endswith("data.pkl")]
            if sum(entry.file_size for entry in entries) > size or any(n > LONGEST_PICKLE for n in pickles):
                raise UserError(f"{path}: refused: expected the size of a checkpoint, its archive claims more")
            damaged = archive.testzip()  # reads the whole file, at the speed of the disk
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{path}: damaged: the directory at the end of its archive is missing or wrong, as after an incomplete "
            "download or copy"
        ) from error
    if damaged:
        raise UserError(f"{path}: damaged: wrong checksum of {shown(damaged)}")


def _check_tensors(path, found, size):
    for tensor in found:
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain or tensor.is_nested or type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            raise UserError(f"{path}: refused: expected dense tensors, found another kind")
    # With strides of 0, one value can fill a tensor of any size; any number of tensors can share a storage.
    if sum(tensor.nbytes for tensor in found) > size + MEMORY:
        raise UserError(f"{path}: refused: its tensors claim more values than the file has")


# ------------------------------------------------------------- classes allowed besides tensors and plain containers


class Inert:
    """Placeholder for a class that is irrelevant to the weights."""


_HARMLESS = [datetime.datetime, datetime.date, datetime.timedelta]
_HARMLESS += [  # Python 3.13 writes pathlib._local
    (PurePosixPath, f"{module}.{system}Path")
    for module in ("pathlib", "pathlib._local")
    for system in ("Posix", "Windows", "PurePosix")
]
