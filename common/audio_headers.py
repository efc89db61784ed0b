"""Lengths in the headers of audio files, to detect truncated files."""

import os
import re
import struct
from io import FileIO

_UNKNOWN = 0x7FF00000  # 32-bit sizes from here on mean "unknown"


def mp3_count(file: FileIO) -> tuple[bytes | None, int]:
    """(b"Xing" or b"VBRI", number of frames) from the first frame of an MP3 file; (None, 0) without such a header."""
    at, head = 0, os.pread(file.fileno(), 10, 0)
    while head[:3] == b"ID3" and len(head) == 10:
        at += 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0)))
        head = os.pread(file.fileno(), 10, at)
    frame = os.pread(file.fileno(), 512, at)
    if frame[:1] != b"\xff":
        return None, 0
    found = re.search(rb"(?:Xing|Info)...[\x01\x03\x05\x07\x09\x0b\x0d\x0f](.{4})|(VBRI).{10}(.{4})", frame, re.DOTALL)
    if not found:
        return None, 0
    return (b"VBRI", int.from_bytes(found[3], "big")) if found[2] else (b"Xing", int.from_bytes(found[1], "big"))


def ogg_ends(file: FileIO) -> bool:
    """Whether the last page of an Ogg file is complete and marked as the end of its stream; True for other files."""
    size = os.fstat(file.fileno()).st_size
    tail = os.pread(file.fileno(), 1 << 17, max(size - (1 << 17), 0))
    if os.pread(file.fileno(), 4, 0) != b"OggS" or (at := tail.rfind(b"OggS")) < 0:
        return True
    page = tail[at:]
    n = page[26] if len(page) > 26 else 255
    return len(page) >= 27 + n + sum(page[27 : 27 + n]) and bool(page[5] & 4)


# Containers in chunks: {magic: (offset of the first chunk, layout of chunk headers, alignment, ids of audio chunks)}.
_CHUNKS = {magic: (12, struct.Struct("<4sI"), 2, (b"data", b"movi")) for magic in (b"RIFF", b"RF64", b"BW64")}
_CHUNKS |= {
    b"FORM": (12, struct.Struct(">4sI"), 2, (b"SSND", b"BODY")),
    b"caff": (8, struct.Struct(">4sq"), 1, (b"data",)),
    b"riff": (40, struct.Struct("<16sq"), 8, (b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a",)),  # W64
}
_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"uuid", b"meta", b"sidx", b"pnot")


def bytes_of_audio(file: FileIO) -> tuple[int, int]:
    """(bytes of audio according to the header of an open file, bytes present); (0, 0) if the header has no size."""

    def read(layout, at):
        data = os.pread(file.fileno(), layout.size, at)
        return layout.unpack(data) if len(data) == layout.size else (b"", 0)

    size = os.fstat(file.fileno()).st_size
    head = os.pread(file.fileno(), 12, 0)
    magic, data64 = head[:4], 0
    if magic == b".snd" and len(head) == 12:
        start, n = struct.unpack(">II", head[4:])
        return (n, max(size - start, 0)) if n < _UNKNOWN else (0, 0)
    if head[4:8] in _BOXES:
        return _bytes_of_boxes(read, size)
    if magic not in _CHUNKS:
        return 0, 0
    at, layout, alignment, audio = _CHUNKS[magic]
    for _ in range(1000):
        name, n = read(layout, at)
        at += layout.size
        n -= layout.size if magic == b"riff" else 0
        if name == b"ds64":  # 64-bit sizes of RF64
            (data64,) = read(struct.Struct("<q"), at + 8)[-1:]
        if name == b"LIST":
            (name,) = read(struct.Struct("4s"), at)[:1]
        if name in audio:
            n = data64 if data64 and n == 0xFFFFFFFF else n
            # Programs that write to a pipe cannot correct the size later and write 0 or the highest number.
            known = 0 < n < (_UNKNOWN if layout.size == 8 and not data64 else 1 << 62)
            return (n, max(size - at, 0)) if known else (0, 0)
        if not name or n < 0:
            break
        at += n + -n % alignment
    return 0, 0


def _bytes_of_boxes(read, size):
    """bytes_of_audio for the MP4 family."""
    at = 0
    while at < size:
        n, name = read(struct.Struct(">I4s"), at)[::1] if at + 8 <= size else (0, b"")
        if n == 1:
            (n,) = read(struct.Struct(">Q"), at + 8)[-1:]
        if name not in _BOXES or n < 8:  # size 0: up to the end of the file
            break
        if at + n > size and name in (b"moov", b"moof", b"mdat"):
            return n, size - at
        at += n
    return 0, 0
