"""Trial lists of corpora that have none: each file's label, attack, speaker and split from its path."""

import os
import re

from common.console import UserError, shown
from corpora.audio import list_audio, name_problem
from corpora.corpus import Corpus
from corpora.records import CORPORA
from corpora.text import stem

COLUMNS = ("path", "label", "attack", "speaker", "language", "split")


def list_corpus(corpus: str, folder: str | os.PathLike) -> tuple[list[dict], list[str], list[str], list[str]]:
    """List the trials of a corpus of folders, by the rule `paths` of its record.

    folder: the corpus, a folder above it, or one of its own. Returns (trials, misplaced, others, places).
    trials: {column: value} of COLUMNS, `-` if not known, sorted by path, file2 before file10; the path is relative to
    folder, with `/`. misplaced: audio that does not fit the rule. others: what else is there, see list_audio, without
    the corpus's companions.
    places: the folders that the corpus lies in, several if there are copies of it.
    Raises UserError if the corpus has lists of its own, or no file fits.
    """
    record = CORPORA[corpus]
    if record.paths is None:
        folders = " or ".join(record.list_folders) if record.lists else "."
        raise UserError(f"{corpus}: expected a corpus without a list; it has {list_of(record)}, in {folders}")
    rule = re.compile(rf"(?P<place>(?:.*?/)??)(?:{record.paths})", re.IGNORECASE | re.DOTALL)
    above = os.path.abspath(folder) + "/"  # tells the labels where the folder itself is named real, or training
    names, others = list_audio(folder, recursive=True)
    others = [name for name in others if os.path.basename(name) not in record.companions]
    trials, misplaced, places = [], [], set()
    for name in sorted(names, key=_natural):
        path = os.fsencode(name).decode("utf-8", "surrogateescape")  # as lists spell it, whatever the locale
        match = rule.fullmatch(above + stem(path))
        if match is None or name_problem(path):
            misplaced.append(name)
            continue
        groups = match.groupdict()
        places.add(groups["place"])
        label = "bonafide" if groups.get("bonafide") else "spoof"
        trials.append({"path": path, "label": label} | {name: groups.get(name) or "-" for name in COLUMNS[2:]})
    if not trials:
        found = f"{len(names)} audio files elsewhere, first {shown(names[0])}" if names else "no audio file"
        raise UserError(f"{folder}: expected files of {corpus}, such as {record.layout}; found {found}")
    return trials, misplaced, others, sorted(places)


def _natural(name):
    """Sorts file2 before file10, and names that differ in leading zeros alone always alike."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", name))], name


def list_of(record: Corpus) -> str:
    """The names of a corpus's own lists, or their columns if they have no name of their own."""
    names = dict.fromkeys(record.lists.values()) or record.keys
    return ", ".join(names) or f"a list with the columns {', '.join(record.columns) or 'path, label'}"
