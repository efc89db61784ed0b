"""Score files: a line `utt_id score` a trial."""

import os

import numpy as np

from common.atomic import atomic_open
from common.console import UserError, shown
from corpora.text import ID_NAMES, numbers, read_text, split_words, without_endings


def read_score_columns(path: str | os.PathLike) -> tuple[list[str], np.ndarray, list[int]]:
    """Read a score file without judging it: (utt_ids, scores (trials,) float64, line numbers).

    A line is `utt_id score`; or `utt_id source key score`, as ASVspoof 2019 has it; or, below a header, two columns
    separated by a comma or a tab. Ids may hold blanks. Raises UserError, naming file and line, for another form.
    """
    text = read_text(path)
    try:
        pieces = [
            (lines, names, numbers(path, lines, values)) for lines, (names, values) in split_words(path, text, 2, "")
        ]
    except ValueError:  # UserError is one, too: not simply a word and a number a line
        pieces = [_score_lines(path, text)]
    lines = [line for lines, _, _ in pieces for line in lines]
    if not lines:
        raise UserError(f"{path}: expected a score a line, found none")
    names = [name for _, names, _ in pieces for name in names]
    return without_endings(names), np.concatenate([values for _, _, values in pieces]), lines


def _score_lines(path, text):
    rows = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    separator = next((character for character in ",\t" if rows and character in rows[0][1]), None)
    if separator and rows[0][1].split(separator)[0].strip().lower() in ID_NAMES:
        rows = rows[1:]
    else:
        separator = None
    names, scores = [], []
    for number, line in rows:
        *words, score = line.rsplit(separator, 1) if separator else line.split()
        if not words:
            raise UserError(f"{path}:{number}: expected `utt_id score`, found 1 columns: {shown(line)}")
        name = words[0] if len(words) == 3 and words[2] in ("bonafide", "spoof") else line[: -len(score)].rstrip()
        names.append(name.removesuffix(separator or "").strip())
        scores += numbers(path, [number], [score], f"the score of {shown(names[-1])}")
    return [number for number, _ in rows], names, scores


def read_scores(path: str | os.PathLike) -> dict[str, float]:
    """Read a score file. Returns {utt_id: score}, in the order of the file.

    Raises UserError, naming file and line, as read_score_columns and for a score that is no finite number or an id
    that stands twice.
    """
    names, values, lines = read_score_columns(path)
    scores = {}
    for number, utt_id, score in zip(lines, names, values.tolist()):
        if score - score != 0:  # infinite or not a number
            raise UserError(f"{path}:{number}: expected a finite score for {shown(utt_id)}, found {score}")
        if utt_id in scores:
            raise UserError(f"{path}:{number}: {shown(utt_id)} has a score already; was the file appended to?")
        scores[utt_id] = score
    return scores


def write_scores(path: str | os.PathLike, scores: dict[str, float]) -> None:
    """Write {utt_id: score} as a score file, whole or not at all. Nine digits keep a float32 exactly."""
    with atomic_open(path) as file:
        file.writelines(f"{utt_id} {score:.9g}\n" for utt_id, score in scores.items())
