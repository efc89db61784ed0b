"""Scores of speaker verification systems, for the tandem metrics."""

import csv
import io
import os
from collections import namedtuple
from pathlib import Path

import numpy as np

from common.console import UserError, shown
from corpora.records import CORPORA
from corpora.tables import TrialTable
from corpora.text import Column, Index, numbers, read_text, split_words

TARGET, NONTARGET, ASV_SPOOF = 1, 0, 2
# Trials of speaker verification: score (trials,) float64; kind (trials,) TARGET, NONTARGET or ASV_SPOOF; columns: see
# TrialTable.
AsvTrials = namedtuple("AsvTrials", "score kind columns")


def read_asv_trials(scores: str | os.PathLike, key: str | os.PathLike | None = None) -> AsvTrials:
    """Read the scores of a speaker verification system as AsvTrials.

    scores: lines `source target|nontarget|spoof score` (ASVspoof 2019); or lines `speaker trial score`, together with
    an ASVspoof 2021 key of eight columns whose lines are in the same order. Raises UserError for a malformed line.
    """
    columns = _word_columns(scores, ("attack", "kind", "score") if key is None else ("-", "-", "score"))
    score = columns.pop("score")
    if key is not None:
        names = ["kind" if name == "key" else name for name in CORPORA["ASVspoof2021_LA"].columns]
        columns = _word_columns(key, [name if name in ("codec", "attack", "kind", "subset") else "-" for name in names])
    codes, words = columns.pop("kind")
    if len(score) != len(codes):
        raise UserError(f"{scores}: expected one line for each of the {len(codes)} trials of {key}, found {len(score)}")
    kinds = {"target": TARGET, "nontarget": NONTARGET, "spoof": ASV_SPOOF}
    if strange := set(words) - set(kinds):
        raise UserError(f"{key or scores}: expected target, nontarget or spoof, found {shown(min(strange))}")
    return AsvTrials(score, np.array([kinds[word] for word in words])[codes], columns)


def _word_columns(path, names):
    """The columns of a text file except "-": `score` as numbers, the others as Columns."""
    indices = {name: Index() for name in names if name != "-"}
    pieces = {name: [] for name in indices}
    for lines, piece in split_words(path, read_text(path), len(names), f"{len(names)} columns ({' '.join(names)})"):
        for name, words in zip(names, piece):
            if name == "score":
                pieces[name].append(np.array(numbers(path, lines, words, finite=True)))
            elif name != "-":
                pieces[name].append(np.fromiter(map(indices[name].__getitem__, words), np.int32))
    if not pieces["score" if "score" in pieces else "kind"]:
        raise UserError(f"{path}: expected one trial per line, found none")
    joined = {name: np.concatenate(parts) for name, parts in pieces.items()}
    return {name: x if name == "score" else Column(x, indices[name].words) for name, x in joined.items()}


def read_sasv(path: str | os.PathLike) -> tuple[TrialTable, dict[str, np.ndarray], AsvTrials]:
    """Read a table with a header and the columns asv_score, cm_score and sasv_label, one trial per line.

    sasv_label: 1 target and 2 nontarget, both bona fide; 0 spoof. Returns (TrialTable, {name: scores (trials,)} of all
    columns whose names end in _score, AsvTrials). Raises UserError, with file and line, for any other form.
    """
    try:
        rows = list(csv.reader(io.StringIO(read_text(path), newline="")))
    except csv.Error as error:
        raise UserError(f"{path}: {error}") from error
    needed = {"asv_score", "cm_score", "sasv_label"}
    if not rows or not needed <= set(rows[0]):
        found = shown(",".join(rows[0])) if rows else "an empty file"
        raise UserError(f"{path}:1: expected a header with {', '.join(sorted(needed))}, found {found}")
    if len(set(rows[0])) < len(rows[0]):
        raise UserError(f"{path}:1: expected different column names, found {shown(','.join(rows[0]))}")
    names, rows = rows[0], [(number, row) for number, row in enumerate(rows[1:], 2) if row]
    for number, row in rows:
        if len(row) != len(names):
            raise UserError(f"{path}:{number}: expected {len(names)} columns, found {len(row)}")
    values = {}
    for name, column in zip(names, zip(*(row for _, row in rows))):
        if name in needed or name.endswith("_score"):
            values[name] = np.array(numbers(path, [number for number, _ in rows], column, name, finite=True))
    if not rows or not np.all(np.isin(values["sasv_label"], (0, 1, 2))):
        raise UserError(f"{path}: expected trials with sasv_label 0, 1 or 2, found none or other labels")
    label = values.pop("sasv_label").astype(int)
    kind = np.array([ASV_SPOOF, TARGET, NONTARGET])[label]
    table = TrialTable(str(path), "SASV", [str(number) for number, _ in rows], (label > 0).astype(np.int8))
    return table, values, AsvTrials(values["asv_score"], kind, {})


def find_asv(key: str | os.PathLike, corpus: str) -> tuple[Path, Path | None] | None:
    """The organisers' verification files next to a key: (scores, key or None); None if there are none."""
    record, key = CORPORA[corpus], Path(key).absolute()
    split = next((split for split in record.lists if f".{split}." in key.name), None)
    found = sorted(key.parent.parent.glob(record.asv_scores.format(split=split))) if record.asv_scores else []
    return (found[0], key.parent.parent / record.asv_key if record.asv_key else None) if found else None
