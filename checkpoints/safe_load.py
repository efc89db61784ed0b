"""Files of tensors and plain data from strangers: read without running code, hanging, or filling the memory.

torch's own reader with weights_only runs no code, but its unpickler still allocates what a pickle tells it to, unpacks
what is compressed, and takes a tensor's shape on trust; and it does not notice a flipped bit.
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

MEMORY = 2 << 30  # bytes that reading a file may take beside its tensors, which stay on the disk until used
LONGEST_PICKLE = 16 << 20  # bytes, of a safetensors header as well; those of a detector have a tenth of a million


def load(path: Path | str, harmless: Sequence[type | tuple[type, str]] = ()) -> object:
    """Read a safetensors file, or what torch.save wrote: tensors in plain data, memory-mapped where the format allows.

    The format is told by the content, not by the name. Numpy's numbers become Python's.
    harmless: classes, or (class, name that stands for it), that may be built besides.
    Raises UserError where the file is missing, damaged, of another kind, would run code, or promises more than it has.
    """
    problem = "a damaged file"
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise UserError(f"{path}: expected a checkpoint, found {_kind_of_folder(path)}")
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: expected a checkpoint, found no regular file")
        with open(path, "rb") as file:
            head = file.read(1024)
        with limited_memory(status.st_size + MEMORY), contextlib.ExitStack() as stack:
            if _header_length(head) is not None:
                _check_header(path, _header_length(head), status.st_size)
                content = safetensors.torch.load_file(path)
            else:
                # Only files since torch 1.6, which are zip archives, can be mapped.
                is_archive = head.startswith(b"PK\x03\x04")
                if is_archive:
                    _check_archive(path, status.st_size, status.st_mtime_ns)
                elif head.startswith(b"\x80"):
                    problem = "a damaged pickle, or one that torch.save did not write"
                else:
                    raise UserError(f"{path}: expected a checkpoint, found {_kind_of_file(head)}")
                # torch goes by this ending where it has a name to go by.
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
        # torch says which it was in the message alone.
        if name := re.search(r"GLOBAL (\S+)|unrecognized function (\S+)", str(error)):
            raise UserError(
                f"{path}: refused: expected a checkpoint of tensors and plain data, found a pickle with "
                f"{shown(name[1] or name[2])}, which could run code"
            ) from error
        raise UserError(f"{path}: expected a checkpoint, found {problem}") from error
    except MemoryError as error:
        raise UserError(f"{path}: refused: reading it takes more memory than its size accounts for") from error
    except Exception as error:  # whatever a damaged file makes of the reader; the file is at fault, not the program
        raise UserError(f"{path}: expected a checkpoint, found {problem}") from error


def tensors(value: object) -> list[torch.Tensor]:
    """Every tensor somewhere in plain data, as a list."""
    found, waiting, seen = [], [value], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            found.append(value)
        # A pickle may hold one list a billion times, or within itself: each is looked at once.
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value
    return found


# ------------------------------------------------------------------------------------------------- what else it may be

_SIGNATURES = (  # where it stands, its bytes, what has it
    (0, b"\x1f\x8b", "a gzip file; unpack it first"),
    (0, b"BZh", "a bzip2 file; unpack it first"),
    (0, b"\xfd7zXZ\0", "an xz file; unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file; unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (0, b"Rar!", "a rar archive; unpack it first"),
    (257, b"ustar", "a tar archive; unpack it first"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"version https://git-lfs", "a Git LFS pointer, which only stands for the file: `git lfs pull` fetches it"),
    (0, b"/annex/objects/", "a git-annex pointer, which only stands for the file: `git annex get` fetches it"),
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
    (0, b"\x89HDF\r\n", "an HDF5 file, as Keras writes it"),
    (0, b"\x93NUMPY", "a numpy array (.npy)"),
    (0, b"GGUF", "a GGUF model"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (2, b"\x12\x07pytorch", "an ONNX model"),
)


def _kind_of_file(head: bytes) -> str:
    """What a file is that is no checkpoint, in words, by its first bytes (1024 or all)."""
    if not head:
        return "an empty file"
    if not head.strip(b"\0"):
        return "zero bytes: a download or copy that was not completed"
    for at, signature, kind in _SIGNATURES:
        if head.startswith(signature, at):
            return kind
    text = _text_of(head)
    if text is None:
        mpeg = head[0] == 0xFF and head[1:2] >= b"\xe0"  # the sync word of MP3 and AAC frames
        return "audio (MP3 or AAC)" if mpeg else "a damaged file or one of another kind"
    text = text.strip()
    if not text:
        return "a text file of blanks"
    if text.startswith("<"):
        title = re.search(r"<title[^>]*>([^<]+)", text, re.IGNORECASE)
        title = f" ({shown(title[1].strip(), 60)})" if title else ""
        if re.search(r"<!doctype html|<html|<head|<body|<script|<meta", text, re.IGNORECASE):
            return f"a web page{title}: what was saved is a page, not the file that it leads to"
        return "an XML file, perhaps a server's error message"
    return f"a {'JSON' if text[0] in '{[' else 'text'} file that begins: {shown(text, 40)}"


def _text_of(head):
    """The first bytes of a file as text; None where they are none."""
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    for cut in range(4):  # the last character may be cut
        with contextlib.suppress(UnicodeDecodeError):
            text = head[: len(head) - cut].decode(encoding)
            return text if all(c.isprintable() or c.isspace() for c in text) else None
    return None


def _kind_of_folder(path):
    names = set(os.listdir(path))
    if "data.pkl" in names:
        return "a folder that a checkpoint was unpacked to; name the file that it came from"
    if "config.json" in names:
        return "a Hugging Face folder, of an encoder; train.py --ssl_path takes it"
    if "checkpoints" in names:
        return "the folder of a run; name a file in its checkpoints/"
    return "a folder"


def _kind_of_archive(path, names):
    """What a zip archive is that torch.save did not write, in words; None where it did."""
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
        return f"a zip archive that holds {shown(inner[0])}; unpack it and name that file"
    first = f", first {shown(names[0])}" if names else ""
    return f"a zip archive of {len(names)} other files{first}"


# ------------------------------------------------------------------------------------------------- what it claims to be


def _header_length(head):
    """The length in bytes that a safetensors file says its header has; None where it is another kind of file."""
    length = int.from_bytes(head[:8], "little")
    return length if head[8:9] == b"{" and length < 1 << 48 else None


def _check_header(path, length, size):
    if length > size - 8:
        raise UserError(f"{path}: damaged: its header claims {length:,} bytes, the file has {size:,}")
    if length > LONGEST_PICKLE:
        raise UserError(f"{path}: refused: expected a header of at most {LONGEST_PICKLE:,} bytes, found {length:,}")


@functools.lru_cache(64)
def _check_archive(path, size, modified):
    """Raises UserError for a zip archive that is no checkpoint, is damaged or unpacks to more than it is, once for
    each state of it.
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
                raise UserError(f"{path}: refused: expected the size of a checkpoint, its archive promises more")
            damaged = archive.testzip()  # reads it all, at the speed of the disk
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{path}: damaged: the directory at the end of its archive is missing or wrong, as where a download or "
            "copy ended early"
        ) from error
    if damaged:
        raise UserError(f"{path}: damaged: the checksum of {shown(damaged)} in it is wrong")


def _check_tensors(path, found, size):
    for tensor in found:
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain or tensor.is_nested or type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            raise UserError(f"{path}: refused: expected dense tensors, found another kind")
    # By strides of 0 one value may stand for a tensor of any size, and a storage may serve any number of tensors.
    if sum(tensor.nbytes for tensor in found) > size + MEMORY:
        raise UserError(f"{path}: refused: its tensors promise more values than the file has")


# --------------------------------------------------------------- what may be built besides tensors and plain containers


class Inert:
    """Stands for a class that says nothing of the weights."""


_HARMLESS = [datetime.datetime, datetime.date, datetime.timedelta]
_HARMLESS += [  # pathlib._local: as Python 3.13 writes them
    (PurePosixPath, f"{module}.{system}Path")
    for module in ("pathlib", "pathlib._local")
    for system in ("Posix", "Windows", "PurePosix")
]
