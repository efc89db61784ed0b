"""Several evaluation sets in one table: a line a set, which eval.py scores and EER_minDCF.py reports on."""

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path

from common.console import UserError, shown
from corpora.records import SUBSETS
from corpora.text import read_text

COLUMNS = ("name", "key", "audio_dir", "subset")  # every other column is a system


@dataclass(frozen=True)
class EvalSet:
    """One set. key: path of its key or list; audio_dir: folder of its audio, None: around the key; subset: a name of
    SUBSETS, or None; scores: {system: path of its score file}.
    """

    name: str
    key: str
    audio_dir: str | None
    subset: str | None
    scores: dict[str, str]


def read_sets(path: str | os.PathLike) -> list[EvalSet]:
    """The sets of a table with a header, separated by commas, tabs, semicolons or |, in its order.

    Columns: name, key, and perhaps audio_dir, subset; every other column is a system, named by its title, with the
    set's score file in its cells. A path is looked for from the working directory, then beside the table; one that is
    at neither place (a score file that is yet to be written) is of the working directory.
    Raises UserError, naming file, line and column, for a column that is missing or stands twice, an empty cell, a
    name that stands twice, an unknown subset and a key that is not there.
    """
    text = read_text(path)
    head = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",\t;|", key=head.count))
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: {error}") from error
    if len(rows) < 2:
        raise UserError(f"{path}: expected a header with the columns name and key, and a line a set; found {len(rows)}")
    (number, titles), *rows = rows
    titles = [title.lower() if title.lower() in COLUMNS else title for title in titles]
    for title in titles:
        if not title or titles.count(title) > 1:
            raise UserError(f"{path}:{number}: expected the name of every column once, found {shown(head)}")
    if not {"name", "key"} <= set(titles):
        raise UserError(f"{path}:{number}: expected the columns name and key, found {shown(head)}")
    sets, lines = [], {}
    for number, row in rows:
        if len(row) != len(titles):
            raise UserError(
                f"{path}:{number}: expected the {len(titles)} columns {', '.join(titles)}, found {len(row)}"
            )
        cells = dict(zip(titles, row))
        for title in titles:
            if not cells[title] and title not in ("audio_dir", "subset"):
                raise UserError(f"{path}:{number}: the column {shown(title)} is empty")
        if cells["name"] in lines:
            problem = f"{shown(cells['name'])} stands already in line {lines[cells['name']]}"
            raise UserError(f"{path}:{number}: the column name: {problem}")
        lines[cells["name"]] = number
        subset = cells.get("subset") or None
        if subset not in (None, *SUBSETS):
            expected = f"expected one of {', '.join(SUBSETS)}"
            raise UserError(f"{path}:{number}: the column subset: {expected}, found {shown(subset)}")
        paths = {
            title: _placed(cell, path) for title, cell in cells.items() if cell and title not in ("name", "subset")
        }
        if not os.path.exists(paths["key"]):
            places = f"neither from the working directory nor beside {path}"
            raise UserError(f"{path}:{number}: the column key: {shown(cells['key'])} is not there, {places}")
        scores = {title: place for title, place in paths.items() if title not in COLUMNS}
        sets.append(EvalSet(cells["name"], paths["key"], paths.get("audio_dir"), subset, scores))
    return sets


def _placed(cell, table):
    beside = os.path.join(Path(table).parent, cell)
    return beside if not os.path.exists(cell) and os.path.exists(beside) else cell
