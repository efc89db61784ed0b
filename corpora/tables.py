"""Reading of trial lists and keys of all corpora, as columns (TrialTable) or as Trials."""

import itertools
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np

from common.console import UserError, shown
from corpora.corpus import Corpus
from corpora.forms import read_form
from corpora.labels import UNKNOWN, label_problem, labels_of_words
from corpora.records import CORPORA, SUBSETS
from corpora.text import LABEL_NAMES, Column, Index, utterance_names


@dataclass(frozen=True, slots=True)
class Trial:
    """One utterance of a list. label: 1 bona fide, 0 spoof, None unknown. `-` means that a value is not given."""

    utt_id: str
    label: int | None = None
    attack: str = "-"
    speaker: str = "-"
    dataset: str = "-"
    path: str | None = None
    codec: str = "-"
    file: str | None = field(default=None, compare=False)  # its audio as named in the list, if this is not utt_id
    spans: tuple | None = None  # segment labels of a partially spoofed utterance, see segments.py
    corpus: str = field(default="-", compare=False)  # name of its list, if several lists are joined


@dataclass
class TrialTable:
    """The trials of a list or key as columns: 600,000 trials are read and counted in seconds.

    label: (trials,) int8, 1 bona fide, 0 spoof, -1 unknown. columns: {name: Column}. names: all columns of the file.
    file: the audio of each trial as named in the list, None if these are the utt_ids.
    """

    path: str
    corpus: str
    utt_id: list[str]
    label: np.ndarray
    columns: dict[str, Column] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    file: list[str] | None = None

    @property
    def record(self) -> Corpus:
        """The record of its corpus."""
        return CORPORA[self.corpus]

    def __len__(self):
        return len(self.utt_id)

    def select(self, mask: np.ndarray) -> "TrialTable":
        """The trials selected by mask (trials,), in their order."""
        chosen = np.flatnonzero(mask)
        return TrialTable(
            self.path,
            self.corpus,
            [self.utt_id[i] for i in chosen],
            self.label[mask],
            {name: Column(codes[mask], values) for name, (codes, values) in self.columns.items()},
            self.names,
            [self.file[i] for i in chosen] if self.file else None,
        )

    def subset_mask(self, name: str) -> np.ndarray:
        """Mask (trials,) of an ASVspoof 2021 subset, one of SUBSETS; all trials for corpora without subsets."""
        if "subset" not in self.columns or SUBSETS[name] is None:
            return np.ones(len(self), bool)
        codes, values = self.columns["subset"]
        if SUBSETS[name] not in values:
            raise UserError(f"{self.path}: expected trials of the subset {name}, found {', '.join(values)}")
        return codes == values.index(SUBSETS[name])

    def in_order(self, name: str, values: Iterable[str]) -> list[str]:
        """Sort values of a column: published order first, then the others, with numbers by value (A2 before A10)."""
        published = {value: i for i, value in enumerate(self.record.breakdowns.get(name, ()))}

        def key(value):
            parts = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", value)]
            return published.get(value, len(published)), parts

        return sorted(values, key=key)

    def check_labels(self) -> None:
        """Raise UserError if no trial has a label; the message names the columns of the file."""
        if np.all(self.label == UNKNOWN):
            found = f"the columns {shown(', '.join(self.names))}" if self.names else "only names"
            raise UserError(f"{self.path}: expected labels, in a column {'|'.join(LABEL_NAMES)}; found {found}")

    def has(self, marks: dict[str, Collection[str]]) -> bool:
        """Whether each of these columns, {name: values}, exists and has at least one of the values."""
        return all(
            name in self.columns and not set(values).isdisjoint(self.columns[name].values)
            for name, values in marks.items()
        )

    def trials(self) -> list[Trial]:
        """The table as a list of Trials."""
        names = [name for name in ("attack", "speaker", "dataset", "codec") if name in self.columns]
        words = [[self.columns[name].values[code] for code in self.columns[name].codes] for name in names]
        if self.file:
            names, words = [*names, "file"], [*words, self.file]
        labels = [None if label == UNKNOWN else label for label in self.label.tolist()]
        return [
            Trial(utt_id, label, **dict(zip(names, row)))
            for utt_id, label, *row in zip(self.utt_id, labels, *words, strict=True)
        ]


def read_table(
    path: str | os.PathLike,
    corpus: str | None = None,
    columns: Collection[str] | None = None,
    bonafide: str | None = None,
    need_labels: bool = True,
) -> TrialTable:
    """Read a trial list or a key of any corpus as a TrialTable.

    path: a text file with one trial per line and columns separated by blanks; or a table with a header, separated by
    commas, tabs, semicolons or `|`, or in a .parquet file; or lines of a name and a label. In a table, path (or file,
    filename, utt_id ...) and label are interpreted, and all other columns are kept. corpus: a name in CORPORA; None:
    recognise it from the first line. columns: names of the columns to read, if the file has them; None: all. The word
    for bona fide in a column such as attack, codec or vocoder is read as `-`. Names of utterances: see utterance_names.
    bonafide: the label that means bona fide, if the user gives it. need_labels False: ambiguous labels in tables are
    read as unknown. Raises UserError, with file and line, for a wrong number of columns, an unknown label, a duplicate
    id, or an empty list.
    """
    corpus, names, pieces = read_form(path, corpus, bonafide)
    record = CORPORA[corpus]
    key = "key" if "key" in names else record.label_column if record.label_column in names else None
    others = [name for name in names if name not in ("utt_id", "file", "key", "-")]
    alike = {name: other for name, other in CORPORA.items() if other.some_line and other.columns == record.columns}
    wanted = others if columns is None else {*columns, *(name for other in alike.values() for name in other.some_line)}
    absent = {"bonafide", "bona-fide", "", record.bonafide, *record.absent}
    indices = {name: Index(absent) for name in others if name in wanted}
    codes = {name: [] for name in indices}
    label_words, label_codes = Index(()), []
    utt_ids, files, line_numbers = [], [], []
    for lines, piece in pieces:
        piece = dict(zip(names, piece))
        utt_ids += piece["utt_id"]
        files += piece.get("file", ())
        line_numbers.append(lines)
        if key:
            label_codes.append(np.fromiter(map(label_words.__getitem__, piece[key]), np.int32))
        for name, index in indices.items():
            codes[name].append(np.fromiter(map(index.__getitem__, piece[name]), np.int32))
    if not utt_ids:
        raise UserError(f"{path}: expected one trial per line, found none")

    def line_of(i):
        return next(itertools.islice(itertools.chain(*line_numbers), int(i), None))

    label = np.full(len(utt_ids), UNKNOWN, np.int8)
    if key:
        meanings = labels_of_words(label_words.words, record, bonafide)
        label_codes = np.concatenate(label_codes)
        if None in meanings and (need_labels or not record.header):
            word = meanings.index(None)
            problem = label_problem(label_words.words[word], label_words.words, record, bonafide)
            raise UserError(f"{path}:{line_of(np.argmax(label_codes == word))}: {problem}")
        label = np.array([UNKNOWN if meaning is None else meaning for meaning in meanings], np.int8)[label_codes]
    if "" in utt_ids:
        raise UserError(f"{path}:{line_of(utt_ids.index(''))}: expected the name of an utterance, found none")
    listed, utt_ids = files or utt_ids, utterance_names(utt_ids)
    if len(set(utt_ids)) != len(utt_ids):
        seen = {}
        for i, utt_id in enumerate(utt_ids):
            if utt_id in seen:
                raise UserError(
                    f"{path}:{line_of(i)}: duplicate id {shown(utt_id)}, first in line {line_of(seen[utt_id])}"
                )
            seen[utt_id] = i
    table = TrialTable(
        str(path),
        corpus,
        utt_ids,
        label,
        {name: Column(np.concatenate(codes[name]), index.words) for name, index in indices.items()},
        others,
        None if listed == utt_ids else listed,
    )
    for name, other in alike.items():
        if table.has(other.some_line):
            table.corpus = name
    return table
