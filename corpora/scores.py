"""Score files: lines `utt_id score`, as this project writes them, and the forms of other programs."""

import csv
import glob
import io
import os
import re
from collections import namedtuple
from pathlib import Path

import numpy as np

from common.atomic import atomic_open
from common.console import UserError, shown
from common.flags import FlagGroup
from corpora.labels import WORDS, add_label_flag
from corpora.text import ID_NAMES, LABEL_NAMES, is_number, numbers, read_text, split_words, utterance_names

# A score file. utt_ids: list of str; scores: (trials,) float64, higher for bona fide; lines: line numbers; labels:
# (trials,) labels in the file, 1 bona fide, 0 spoof, or None.
ScoreColumns = namedtuple("ScoreColumns", "utt_ids scores lines labels")

SCORE_NAMES = ("score", "scores", "cm_score", "cm_scores", "llr", "cm_llr")  # in any case, with - or blank for _


def read_score_columns(path: str | os.PathLike, column: str | None = None, higher_is: str = "bonafide") -> ScoreColumns:
    """Read a score file as ScoreColumns, without checking for duplicate ids or non-finite scores (see check_scores).

    A line is `utt_id score`, or has three or more columns in any order: labels are recognised by their words, the id as
    text that differs between lines, and the score as the only other numeric column. Columns are separated by blanks
    (ids may then contain blanks), commas, tabs, semicolons or |. With a header, column names take precedence. A pandas
    index is skipped. column: name, or number from 1, of the score column; None: recognise it. higher_is: "spoof"
    negates the scores.
    Raises UserError, with file and line, for another form, and if several columns may be the scores.
    """
    text = read_text(path)
    try:
        if column is not None:
            raise ValueError
        pieces = [
            (lines, names, numbers(path, lines, values)) for lines, (names, values) in split_words(path, text, 2, "")
        ]
        lines = [line for lines, _, _ in pieces for line in lines]
        names = [name for _, names, _ in pieces for name in names]
        scores, labels = np.concatenate([values for _, _, values in pieces] or [[]]), None
    except ValueError:  # includes UserError: the lines are not simply a word and a number
        lines, names, scores, labels = _told_columns(path, text, column)
    if not lines:
        raise UserError(f"{path}: expected one score per line, found none")
    return ScoreColumns(utterance_names(names), -scores if higher_is == "spoof" else scores, lines, labels)


def _told_columns(path, text, wanted):
    """(lines, ids, scores, labels or None) of a file whose columns are recognised by their titles and contents."""
    titles, rows, separated = _rows(path, text)
    if not rows:
        return [], [], np.zeros(0), None
    lines, columns = [line for line, _ in rows], list(zip(*(cells for _, cells in rows)))
    if len({len(cells) for _, cells in rows}) > 1:
        if wanted is None:
            return _last_words(path, text)
        line, cells = next(row for row in rows if len(row[1]) != len(rows[0][1]))
        raise UserError(f"{path}:{line}: --score_column: expected {len(columns)} columns, found {len(cells)}")
    names = [title.lower() for title in titles or [""] * len(columns)]
    is_text = [not _mostly_numbers(cells) for cells in columns]
    words = [i for i in range(len(columns)) if is_text[i] and all(word.lower() in WORDS for word in set(columns[i]))]
    label = next((i for i in words if names[i] in LABEL_NAMES), words[0] if words else None)
    score = _column_number(path, wanted, titles, len(columns)) if wanted is not None else None
    others = [i for i in range(len(columns)) if i not in (label, score)]
    named = [i for i in others if re.sub("[- ]", "_", names[i]) in SCORE_NAMES]
    may_be_id = [i for i in others if i not in named]
    utt_id = next((i for i in may_be_id if names[i] in ID_NAMES), None)
    if utt_id is None and may_be_id:  # text that differs most between lines; max takes the first of several
        utt_id = max(may_be_id, key=lambda i: (is_text[i], is_text[i] and len(set(columns[i]))))
    index = 0 if utt_id != 0 and _is_index(names[0], columns[0], titles) else None
    scores = [i for i in others if i not in (utt_id, index) and not is_text[i]]
    if score is None and not titles and not separated and label is None:
        in_ids = [i for i in scores[:-1] if all(map(str.isdecimal, columns[i])) and not {*columns[i]} <= {"0", "1"}]
        if len(scores) < 2 or in_ids or len(set(columns[utt_id])) < len(lines):
            return _last_words(path, text)  # ids with blanks and numbers, such as "take 3"
    candidates = [score] if score is not None else named or scores
    if len(candidates) != 1 or utt_id is None:
        found = f"none in {shown(' '.join(rows[0][1]))}"
        if candidates:
            which = ", ".join(shown(titles[i]) if titles else str(i + 1) for i in candidates)
            found = f"{len(candidates)}: {which}; --score_column selects one"
        if utt_id is None:
            found = "no column of ids next to it"
        raise UserError(f"{path}:{lines[0]}: expected one column of scores, found {found}")
    labels = None if label is None else np.array([WORDS[word.lower()] for word in columns[label]], np.int8)
    what = f"the score ({titles[candidates[0]] if titles else f'column {candidates[0] + 1}'})"
    return lines, list(columns[utt_id]), np.array(numbers(path, lines, columns[candidates[0]], what)), labels


def _rows(path, text):
    """(titles or None, [(line, cells)], whether separated by something other than blanks)"""
    first = next((line for line in text.splitlines() if line.strip()), "").strip(" ")
    decimal_comma = re.search(r"[\s;][+-]?\d+,\d+$", first)
    for separator in "\t;,|":
        cells = [cell.strip().strip('"') for cell in first.split(separator)]
        if len(cells) > 1 and (_is_header(cells) or any(map(is_number, cells))) and not decimal_comma:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
            try:
                rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
            except csv.Error as error:
                raise UserError(f"{path}:{reader.line_num}: {error}") from error
            break
    else:
        separator = None
        rows = [(number, line.split()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    titles = rows[0][1] if rows and _is_header(rows[0][1]) else None
    n = len(rows[0][1]) if rows else 0
    wrong = next(((line, cells) for line, cells in rows if len(cells) != n), None) if titles or separator else None
    if wrong and separator == "\t" and not titles:  # occasional tabs between words, not a table
        return None, [(number, line.split()) for number, line in enumerate(text.split("\n"), 1) if line.strip()], False
    if wrong:
        line, cells = wrong
        raise UserError(f"{path}:{line}: expected {n} columns, as in the first line, found {len(cells)}")
    return titles, rows[1:] if titles else rows, separator is not None


def _is_header(cells):
    names = {re.sub("[- ]", "_", cell.lower()) for cell in cells} | {cell.lower() for cell in cells}
    return not any(map(is_number, cells)) and not names.isdisjoint((*ID_NAMES, *SCORE_NAMES))


def _mostly_numbers(words):
    try:
        return bool(list(map(float, words)))
    except ValueError:
        return 2 * sum(map(is_number, words)) > len(words)


def _is_index(name, words, titles):
    if titles:
        return name == "" or name.startswith("unnamed:")
    return list(words) in ([str(i + start) for i in range(len(words))] for start in (0, 1))


def _column_number(path, wanted, titles, n):
    if titles and wanted in titles:
        return titles.index(wanted)
    if wanted.isdecimal() and 1 <= int(wanted) <= n:
        return int(wanted) - 1
    have = f"the columns {', '.join(map(shown, titles))}" if titles else f"{n} columns without a header"
    raise UserError(f"{path}: --score_column {shown(wanted)}: expected a column of this file, found {have}")


def _last_words(path, text):
    """The same as _told_columns, for lines whose last word is the score; everything before it is the id."""
    lines, names, scores = [], [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not (line := line.strip()):
            continue
        *words, score = line.split()
        if not words:
            raise UserError(f"{path}:{number}: expected `utt_id score`, found one word: {shown(line)}")
        # Some lines may have the form of ASVspoof 2019.
        name = words[0] if len(words) == 3 and words[2] in ("bonafide", "spoof") else line[: -len(score)].strip()
        lines.append(number)
        names.append(name)
        scores += numbers(path, [number], [score], f"the score of {shown(name)}")
    return lines, names, np.array(scores), None


def add_score_flags(group: FlagGroup) -> None:
    """Add the flags of read_score_columns, and --bonafide for the key, to a command that reads score files."""
    add_label_flag(group)
    group.add_argument(
        "--score_column",
        metavar="NAME|NUMBER",
        rare=True,
        help="column of the scores in files with several columns (recognised, and reported)",
    )
    group.add_argument(
        "--higher_is",
        choices=["bonafide", "spoof"],
        default="bonafide",
        metavar="CLASS",
        help="class with the higher scores\nbonafide or spoof",
    )


def condition_file(path: str | os.PathLike, condition: str) -> Path:
    """Path of a condition's score file, next to the clean one: scores.txt and mp3_16 give scores@mp3_16.txt."""
    return Path(path).with_name(f"{Path(path).stem}@{condition}{Path(path).suffix}")


def condition_files(path: str | os.PathLike) -> dict[str, Path]:
    """{condition: score file} of all conditions next to a clean score file, sorted by name, numbers by value."""
    stem, suffix = Path(path).stem, Path(path).suffix
    beside = Path(path).parent.glob(f"{glob.escape(stem)}@*{glob.escape(suffix)}")
    files = {file.name.removeprefix(f"{stem}@").removesuffix(suffix): file for file in beside}
    order = {name: [part.zfill(9) if part.isdecimal() else part for part in re.split(r"(\d+)", name)] for name in files}
    return {name: files[name] for name in sorted(files, key=order.get)}


def check_scores(path: str | os.PathLike, scored: ScoreColumns) -> None:
    """Raise UserError, with file and line, for a NaN or infinite score or a duplicate id."""
    seen = set()
    for number, utt_id, score in zip(scored.lines, scored.utt_ids, scored.scores.tolist()):
        if score - score != 0:  # infinite or NaN
            raise UserError(f"{path}:{number}: expected a finite score for {shown(utt_id)}, found {score}")
        if utt_id in seen:
            raise UserError(f"{path}:{number}: duplicate score for {shown(utt_id)}; was the file appended to?")
        seen.add(utt_id)


def read_scores(path: str | os.PathLike) -> dict[str, float]:
    """Read a score file as {utt_id: score}, in the order of the file.

    Raises the UserErrors of read_score_columns and check_scores.
    """
    scored = read_score_columns(path)
    check_scores(path, scored)
    return dict(zip(scored.utt_ids, scored.scores.tolist()))


def write_scores(path: str | os.PathLike, scores: dict[str, float]) -> None:
    """Write {utt_id: score} atomically as a score file, with nine digits, which represent a float32 exactly."""
    with atomic_open(path) as file:
        file.writelines(f"{utt_id} {score:.9g}\n" for utt_id, score in scores.items())
