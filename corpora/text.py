"""Text files of corpora: reading, splitting into columns of words, and errors with line numbers."""

import csv
import io
import math
import os
import re
import stat
import unicodedata
from collections import Counter, namedtuple
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from common.console import UserError, shown

# Extensions of the formats that common/audio.py reads. If files of a folder differ only in these, the first is used.
AUDIO_EXTENSIONS = tuple(
    ".flac .wav .mp3 .ogg .opus .m4a .oga .spx .mp4 .m4b .m4v .mov .3gp .3g2 .aac .webm .mkv .mka .wma .wmv .asf .avi "
    ".flv .ts .mpg .mpeg .mp2 .aiff .aif .aifc .caf .au .snd .w64 .rf64 .amr .ac3 .eac3 .sph .nist .voc".split()
)

# Separators of tables, and the names of the columns of audio, id and label in headers, in any letter case.
SEPARATORS = (",", "\t", ";", "|")
FILE_NAMES = ("path", "file", "filename", "file_name", "filepath", "file_path", "audio_path")
ID_NAMES = (*FILE_NAMES, "utt_id", "id", "utt", "utterance")
LABEL_NAMES = ("label", "key", "cm-label", "cm_label")

_PIECE = 1 << 18  # characters to split at once: limits memory and fits the cache
_LINE_END = "\0"  # does not occur in text files, see read_text

# A column with few distinct values: codes (trials,) into values, a list of str in order of appearance.
Column = namedtuple("Column", "codes values")


class Index(dict):
    """Mapping of words to codes; a new word gets the next code. `words` lists the words by code.

    absent: words to be read as "-", such as the word for bona fide, which some keys have as the attack.
    """

    def __init__(self, absent: Collection[str] = ("bonafide", "bona-fide", "")) -> None:
        self.words, self.absent = [], set(absent)

    def __missing__(self, word):
        if word in self.absent:
            self[word] = self["-"]
        else:
            self[word] = len(self.words)
            self.words.append(word)
        return self[word]


def read_text(path: str | os.PathLike) -> str:
    """Text of a file, with line ends of any system converted to "\n".

    Raises UserError if the file is missing, not a regular file, or not text.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a FIFO could block forever
            raise UserError(f"{path}: cannot be read: expected a regular file")
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected a text file, found bytes that are not UTF-8 text") from error
    if _LINE_END in text:
        raise UserError(f"{path}: expected a text file, found a zero byte")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def split_words(
    path: str | os.PathLike, text: str, n: int, expected: str
) -> Iterator[tuple[Sequence[int], list[list[str]]]]:
    """Split a text into n columns of words. Yields (line numbers, columns) for successive pieces of the text.

    Blank lines are skipped. expected: description of the columns, for messages. Raises UserError for a line with
    another number of words.
    """
    start, number = 0, 1
    while start < len(text):
        end = text.find("\n", start + _PIECE) + 1 or len(text)
        piece = text[start:end] if text[end - 1] == "\n" else text[start:end] + "\n"
        n_lines = piece.count("\n")
        # Splitting all lines at once, with line ends as words, takes half the time of splitting line by line.
        words = piece.replace("\n", f" {_LINE_END} ").split()
        if len(words) == n_lines * (n + 1) and words[n :: n + 1].count(_LINE_END) == n_lines:
            yield range(number, number + n_lines), [words[i :: n + 1] for i in range(n)]
        else:
            rows = [(i, line.split()) for i, line in enumerate(piece.split("\n"), number) if line.strip()]
            for i, words in rows:
                if len(words) != n:
                    raise UserError(f"{path}:{i}: expected {expected}, found {len(words)}: {shown(' '.join(words))}")
            if rows:
                yield [i for i, _ in rows], [list(column) for column in zip(*(words for _, words in rows))]
        start, number = end, number + n_lines


def split_csv(
    path: str | os.PathLike, text: str, separator: str, columns: Sequence[str], header: bool = True
) -> Iterator[tuple[Sequence[int], list[list[str]]]]:
    """The same as split_words, for the lines of a table, skipping its header if it has one."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        rows = [(reader.line_num, [word.strip() for word in row]) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: {error}") from error
    titles = rows[0][1] if rows and header else columns
    rows = rows[header:]
    for i, row in rows:
        if len(row) != len(columns):
            raise UserError(
                f"{path}:{i}: expected the {len(columns)} columns {shown(', '.join(titles))}, "
                f"found {len(row)}: {shown(separator.join(row))}"
            )
    if rows:
        yield [i for i, _ in rows], [list(column) for column in zip(*(row for _, row in rows))]


def split_open_ended(
    path: str | os.PathLike, text: str, n: int, expected: str
) -> Iterator[tuple[Sequence[int], list[list[str]]]]:
    """The same as split_words, for lines whose last column has any number of words, including none."""
    rows = [(i, line.split(None, n - 1)) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    for i, words in rows:
        if len(words) < n - 1:
            raise UserError(f"{path}:{i}: expected {expected}, found {len(words)}: {shown(' '.join(words))}")
        words += [""] * (n - len(words))
    if rows:
        yield [i for i, _ in rows], [list(column) for column in zip(*(words for _, words in rows))]


def read_parquet(path: str | os.PathLike) -> tuple[list[str], list[list[str]]]:
    """(names, columns) of the numeric and text columns of a parquet file, as text. Raises UserError for other files."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{path}: reading parquet files needs pyarrow (pip install pyarrow)") from None
    if not os.path.isfile(path):
        raise UserError(f"{path}: cannot be read: expected a regular file")
    try:
        types = pyarrow.types
        plain = [
            field.name
            for field in pyarrow.parquet.read_schema(path)
            if not (types.is_nested(field.type) or types.is_binary(field.type) or types.is_large_binary(field.type))
        ]
        table = pyarrow.parquet.read_table(path, columns=plain)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: expected a parquet file: {shown(str(error))}") from error
    columns = [
        ["" if value is None else str(value).strip() for value in column.to_pylist()] for column in table.columns
    ]
    return table.column_names, columns


def numbers(
    path: str | os.PathLike, lines: Sequence[int], words: Sequence[str], what: str = "the score", finite: bool = False
) -> list[float]:
    """Convert words to numbers. Raises UserError, with the line, for other words; finite: also for NaN and infinity.

    Python's float() alone would accept 1_000 and non-ASCII digits.
    """
    joined = "".join(words)
    try:
        if "_" in joined or not joined.isascii():
            raise ValueError
        values = list(map(float, words))
        if finite and not np.all(np.isfinite(values)):
            raise ValueError
        return values
    except ValueError:
        line, word = next((line, word) for line, word in zip(lines, words) if not is_number(word, finite))
        kind = "a finite number" if finite else "a number"
        raise UserError(f"{path}:{line}: expected {kind} as {what}, found {shown(word)}") from None


def is_number(word: str, finite: bool = False) -> bool:
    try:
        value = float(word)
    except ValueError:
        return False
    return "_" not in word and word.isascii() and (math.isfinite(value) or not finite)


def utterance_names(names: list[str], endings: bool = False) -> list[str]:
    """Convert names of audio files in lists and score files to ids of utterances.

    Backslashes become `/`, the prefixes `./` and `$ROOT/` are dropped, letters are composed (Unicode NFC), and audio
    extensions are dropped. Names that differ only in extension, or only in Unicode form, keep these.
    endings: True keeps all extensions.
    """
    joined = "\n".join(names)
    if "\\" in joined:
        names = [name.replace("\\", "/") for name in names]
    if joined.startswith((".", "$ROOT/")) or "\n." in joined or "\n$ROOT/" in joined:
        names = [re.sub(r"^(\$ROOT/+|\./+)+(?=.)", "", name) for name in names]
    if not joined.isascii():
        composed = [unicodedata.normalize("NFC", name) for name in names]
        if len(set(composed)) == len(set(names)):
            names = composed
    if endings or "." not in joined:
        return names
    stems = [stem(name) if name.lower().endswith(AUDIO_EXTENSIONS) else name for name in names]
    if len(set(stems)) == len(stems):
        return stems
    n_endings = Counter(stem for name, stem in set(zip(names, stems)) if name != stem)
    return [name if n_endings[stem] > 1 else stem for name, stem in zip(names, stems)]


def stem(name: str) -> str:
    return name[: name.rindex(".")]
