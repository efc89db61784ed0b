"""Text to trials: the trial lists and keys of every corpus as columns."""

import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np

from common.console import UserError, shown
from corpora.records import CORPORA, SUBSETS, Corpus
from corpora.text import ID_NAMES, LABEL_NAMES, Column, Index, read_text, split_csv, split_words, without_endings

BONAFIDE, SPOOF, UNKNOWN = 1, 0, -1

TABLE_LABELS = {"bonafide": BONAFIDE, "bona-fide": BONAFIDE, "1": BONAFIDE}
TABLE_LABELS |= {"spoof": SPOOF, "deepfake": SPOOF, "0": SPOOF}


@dataclass(frozen=True, slots=True)
class Trial:
    """One utterance to be judged. label: 1 bona fide, 0 spoof, None unknown. `-` stands for a value not given."""

    utt_id: str
    label: int | None = None
    attack: str = "-"
    speaker: str = "-"
    dataset: str = "-"
    path: str | None = None
    codec: str = "-"


@dataclass
class TrialTable:
    """The trials of a list or key as columns, which is how 600,000 of them are read and counted in seconds.

    label: (trials,) int8, 1 bona fide, 0 spoof, -1 unknown. columns: by name. names: those of all columns that the file
    has.
    """

    path: str
    corpus: str
    utt_id: list[str]
    label: np.ndarray
    columns: dict[str, Column] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    @property
    def record(self) -> Corpus:
        """The corpora.Corpus that it is of."""
        return CORPORA[self.corpus]

    def __len__(self):
        return len(self.utt_id)

    def select(self, mask: np.ndarray) -> "TrialTable":
        """The trials where mask (trials,) holds, in their order."""
        return TrialTable(
            self.path,
            self.corpus,
            [self.utt_id[i] for i in np.flatnonzero(mask)],
            self.label[mask],
            {name: Column(codes[mask], values) for name, (codes, values) in self.columns.items()},
            self.names,
        )

    def subset_mask(self, name: str) -> np.ndarray:
        """(trials,) where an ASVspoof 2021 subset is, a name of SUBSETS; other corpora have none and are whole."""
        if "subset" not in self.columns or SUBSETS[name] is None:
            return np.ones(len(self), bool)
        codes, values = self.columns["subset"]
        if SUBSETS[name] not in values:
            raise UserError(f"{self.path}: expected trials of the subset {name}, found {', '.join(values)}")
        return codes == values.index(SUBSETS[name])

    def in_order(self, name: str, values: Iterable[str]) -> list[str]:
        """Values of a column sorted: the published order first, then numbers by value, so that A2 is before A10."""
        published = {value: i for i, value in enumerate(self.record.breakdowns.get(name, ()))}

        def key(value):
            parts = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", value)]
            return published.get(value, len(published)), parts

        return sorted(values, key=key)

    def has(self, marks: dict[str, Collection[str]]) -> bool:
        """Whether it has each of these columns, {name: values}, and in it one of those values."""
        return all(
            name in self.columns and not set(values).isdisjoint(self.columns[name].values)
            for name, values in marks.items()
        )

    def trials(self) -> list[Trial]:
        """The same as a list of Trial."""
        names = [name for name in ("attack", "speaker", "dataset", "codec") if name in self.columns]
        words = [[self.columns[name].values[code] for code in self.columns[name].codes] for name in names]
        labels = [None if label == UNKNOWN else label for label in self.label.tolist()]
        return [
            Trial(utt_id, label, **dict(zip(names, row)))
            for utt_id, label, *row in zip(self.utt_id, labels, *words, strict=True)
        ]


def read_table(
    path: str | os.PathLike, corpus: str | None = None, columns: Collection[str] | None = None
) -> TrialTable:
    """Read a trial list or a key of any corpus as a TrialTable.

    path: a text file with one trial a line, its columns separated by blanks; or a table with a header, separated by
    commas or tabs, of which path (or file, filename, utt_id) and label have a meaning and every other column is kept.
    An audio ending of an utterance's name is dropped. corpus: a name from CORPORA; None: it is recognised from the
    first line. columns: names of those that are wanted, if the file has them; None: all. `bonafide` as an attack, codec
    or vocoder is read as `-`.
    Raises UserError, naming file and line, for a wrong column count, an unknown label, a duplicate id, no trial.
    """
    text = read_text(path)
    line = re.search(r"[^\n]*\S[^\n]*", text)
    if not line:
        raise UserError(f"{path}: expected a trial a line, found none")
    number, first = text.count("\n", 0, line.start()) + 1, line[0]
    header = _header(path, number, first, corpus)
    if header:
        separator, names = header
        tables = {record.columns: name for name, record in CORPORA.items() if record.header}
        corpus = tables.get(tuple(names), "csv")
        record = CORPORA[corpus]
        labels = TABLE_LABELS | {record.bonafide: BONAFIDE, record.spoof: SPOOF}
        label_words = "one of " + ", ".join(labels)
        names = ["utt_id" if name in ID_NAMES else "key" if name in LABEL_NAMES else name for name in names]
        pieces = split_csv(path, text, number, separator, names)
    else:
        corpus = corpus or _recognise(path, number, first.split())
        record = CORPORA[corpus]
        names = record.columns
        labels, label_words = {record.bonafide: BONAFIDE, record.spoof: SPOOF}, f"{record.bonafide} or {record.spoof}"
        pieces = split_words(path, text, len(names), f"the {len(names)} columns of {corpus} ({' '.join(names)})")

    utt_ids, label, line_numbers = [], [np.zeros(0, np.int8)], []
    others = [name for name in names if name not in ("utt_id", "key", "-")]
    alike = {name: other for name, other in CORPORA.items() if other.some_line and other.columns == record.columns}
    wanted = others if columns is None else {*columns, *(name for other in alike.values() for name in other.some_line)}
    indices = {name: Index(record.bonafide) for name in others if name in wanted}
    codes = {name: [np.zeros(0, np.int32)] for name in indices}
    for lines, piece in pieces:
        piece = dict(zip(names, piece))
        utt_ids += piece["utt_id"]
        line_numbers.append(lines)
        try:
            label.append(np.fromiter(map(labels.__getitem__, piece.get("key", ())), np.int8))
        except KeyError:
            line, key = next((line, key) for line, key in zip(lines, piece["key"]) if key not in labels)
            raise UserError(f"{path}:{line}: expected {label_words} as the label, found {shown(key)}") from None
        for name, index in indices.items():
            codes[name].append(np.fromiter(map(index.__getitem__, piece[name]), np.int32))
    if not utt_ids:
        raise UserError(f"{path}: expected a trial a line, found none")

    utt_ids = without_endings(utt_ids)
    if len(set(utt_ids)) != len(utt_ids):
        seen = {}
        for utt_id, line in zip(utt_ids, (line for lines in line_numbers for line in lines)):
            if utt_id in seen:
                raise UserError(f"{path}:{line}: {shown(utt_id)} stands already in line {seen[utt_id]}")
            seen[utt_id] = line
    table = TrialTable(
        str(path),
        corpus,
        utt_ids,
        np.concatenate(label) if "key" in names else np.full(len(utt_ids), UNKNOWN, np.int8),
        {name: Column(np.concatenate(codes[name]), index.words) for name, index in indices.items()},
        others,
    )
    for name, other in alike.items():
        if table.has(other.some_line):
            table.corpus = name
    return table


def _header(path, number, first, corpus):
    """(separator, column names) if the first line is the header of a table, None if it is a trial."""
    separator = "," if "," in first else "\t"
    names = [name.strip().strip('"').lower() for name in first.strip().split(separator)]
    may_be_table = corpus is None or CORPORA[corpus].header
    if may_be_table and any(name in ID_NAMES for name in names):
        for words in (ID_NAMES, LABEL_NAMES):
            if sum(name in words for name in names) > 1:
                raise UserError(f"{path}:{number}: expected one of the columns {'|'.join(words)}, found {shown(first)}")
        if len(set(names)) != len(names):
            raise UserError(f"{path}:{number}: expected the name of every column once, found {shown(first)}")
        return separator, names
    if separator == "," or (corpus and may_be_table):
        raise UserError(
            f"{path}:{number}: expected a header with {'|'.join(ID_NAMES)} and {'|'.join(LABEL_NAMES)}, "
            f"found {shown(first)}"
        )
    return None


def _recognise(path, number, values):
    records = {name: record for name, record in CORPORA.items() if not record.header}
    for corpus, record in sorted(records.items(), key=lambda item: not item[1].first_line):  # who asks for more first
        if len(values) == len(record.columns) and not record.some_line:
            line = dict(zip(record.columns, values))
            told = all(line[column] in words for column, words in record.first_line.items())
            if told and line.get("key", record.spoof) in (record.bonafide, record.spoof):
                return corpus
    known = "; ".join(f"{corpus}: {' '.join(record.columns)}" for corpus, record in records.items())
    raise UserError(
        f"{path}:{number}: expected the columns of a known corpus ({known}) or a header with a column path and commas, "
        f"found {len(values)}: {shown(' '.join(values))}"
    )
