"""Text files of corpora: read whole, cut into columns of words, with the line of whatever is wrong."""

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

# Of the formats that common/audio.py reads. If a folder has a name with several of them, the first is its audio.
AUDIO_EXTENSIONS = tuple(
    ".flac .wav .mp3 .ogg .opus .m4a .oga .spx .mp4 .m4b .m4v .mov .3gp .3g2 .aac .webm .mkv .mka .wma .wmv .asf .avi "
    ".flv .ts .mpg .mpeg .mp2 .aiff .aif .aifc .caf .au .snd .w64 .rf64 .amr .ac3 .eac3 .sph .nist .voc".split()
)

# What separates the columns of a table, and how headers call a trial's audio, its name and its label, in any case.
SEPARATORS = (",", "\t", ";", "|")
FILE_NAMES = ("path", "file", "filename", "file_name", "filepath", "file_path", "audio_path")
ID_NAMES = (*FILE_NAMES, "utt_id", "id", "utt", "utterance")
LABEL_NAMES = ("label", "key", "cm-label", "cm_label")

_PIECE = 1 << 18  # characters that are split at once: bounds the memory, and stays in the cache
_LINE_END = "\0"  # no text file holds it

# A column with few different values: codes (trials,) into values, a list of str in the order of their appearance.
Column = namedtuple("Column", "codes values")


class Index(dict):
    """word -> its code; a new word gets the next one. `words` lists them by code.

    absent: words that count as "-": those for bona fide trials, which some keys have as their attack.
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
    """The text of a file, its line ends, of whichever system, as "\n".

    Raises UserError for one that is missing, not a regular file, or no text.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a FIFO would be waited for, perhaps for ever
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
    """Cut a text into n columns of words. Yields (line numbers, the columns) piece by piece.

    Blank lines are skipped. Raises UserError for a line with another number of words.
    """
    start, number = 0, 1
    while start < len(text):
        end = text.find("\n", start + _PIECE) + 1 or len(text)
        piece = text[start:end] if text[end - 1] == "\n" else text[start:end] + "\n"
        n_lines = piece.count("\n")
        # All lines at once, the line ends being words too, take half the time of line by line.
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
    """As split_words, for the lines of a table, without its header if it has one."""
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
    """As split_words, for lines whose last column is any number of words, none included."""
    rows = [(i, line.split(None, n - 1)) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    for i, words in rows:
        if len(words) < n - 1:
            raise UserError(f"{path}:{i}: expected {expected}, found {len(words)}: {shown(' '.join(words))}")
        words += [""] * (n - len(words))
    if rows:
        yield [i for i, _ in rows], [list(column) for column in zip(*(words for _, words in rows))]


def read_parquet(path: str | os.PathLike) -> tuple[list[str], list[list[str]]]:
    """(names, columns) of a parquet file's columns of numbers and text, as text. Raises UserError for another file."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{path}: parquet files are read by pyarrow; expected it (pip install pyarrow)") from None
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
    """Words as numbers. Raises UserError, naming the line, for one that is none; finite: or is NaN or infinite.

    Python's own float() takes 1_000 and the digits of every script, too.
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
    """Names of audio files, as lists and score files have them, as the names of their utterances.

    Folders are separated by `/`, `./` and `$ROOT/` in front are dropped, letters are composed (Unicode's NFC) and the
    ending of an audio file is dropped. Names that differ in their ending, or in their form in Unicode, alone keep it.
    endings: True keeps all endings.
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
