"""Table of several evaluation sets, one per line, for eval.py --sets and EER_minDCF.py --sets."""

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
    """One evaluation set.

    key: path of its key or list; audio_dir: folder of its audio, None: search around the key; subset: one of SUBSETS,
    or None; scores: {system: path of its score file}.
    """

    name: str
    key: str
    audio_dir: str | None
    subset: str | None
    scores: dict[str, str]


def read_sets(path: str | os.PathLike) -> list[EvalSet]:
    """Read a table of sets with a header, separated by commas, tabs, semicolons or |, in its order.

    Columns: name, key, optional audio_dir and subset. Every other column is a system, named by its title, with one
    score file per set. Paths are relative to the working directory, or else to the table if they exist there. A file
    that does not exist yet (a score file to be written) is relative to the working directory.
    Raises UserError, with file, line and column, for a missing or duplicate column, an empty cell, a duplicate name,
    an unknown subset and a missing key.
    """
    text = read_text(path)
    head = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",\t;|", key=head.count))
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: {error}") from error
    if len(rows) < 2:
        found = "only one line" if rows else "no line"
        raise UserError(f"{path}: expected a header with name and key, then one line per set; found {found}")
    (number, titles), *rows = rows
    titles = [title.lower() if title.lower() in COLUMNS else title for title in titles]
    for title in titles:
        if not title or titles.count(title) > 1:
            raise UserError(f"{path}:{number}: expected different, non-empty column names, found {shown(head)}")
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
            problem = f"duplicate name {shown(cells['name'])}, first in line {lines[cells['name']]}"
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
            places = f"neither in the working directory nor next to {path}"
            raise UserError(f"{path}:{number}: the column key: {shown(cells['key'])} does not exist, {places}")
        scores = {title: place for title, place in paths.items() if title not in COLUMNS}
        sets.append(EvalSet(cells["name"], paths["key"], paths.get("audio_dir"), subset, scores))
    return sets


def _placed(cell, table):
    beside = os.path.join(Path(table).parent, cell)
    return beside if not os.path.exists(cell) and os.path.exists(beside) else cell
