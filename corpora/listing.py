"""Trial lists for corpora without any: label, attack, speaker and split of each file from its path."""

import os
import re

from common.console import UserError, shown
from corpora.audio import list_audio, name_problem
from corpora.corpus import Corpus
from corpora.records import CORPORA
from corpora.text import stem

COLUMNS = ("path", "label", "attack", "speaker", "language", "split")


def list_corpus(corpus: str, folder: str | os.PathLike) -> tuple[list[dict], list[str], list[str], list[str]]:
    """List the trials of a corpus without lists, by the rule `paths` of its record.

    folder: the corpus, a folder above it, or one of its sub-folders. Returns (trials, misplaced, others, places).
    trials: {column: value} for COLUMNS, `-` if unknown, sorted by path, file2 before file10; paths are relative to
    `folder`, with `/`. misplaced: audio that does not match the rule. others: other files, see list_audio, without the
    corpus's companions. places: the folders that contain the corpus, several if there are copies of it.
    Raises UserError if the corpus has lists of its own, or if no file matches.
    """
    record = CORPORA[corpus]
    if record.paths is None:
        folders = " or ".join(record.list_folders) if record.lists else "."
        raise UserError(f"{corpus}: expected a corpus without lists, found one with {list_of(record)}, in {folders}")
    rule = re.compile(rf"(?P<place>(?:.*?/)??)(?:{record.paths})", re.IGNORECASE | re.DOTALL)
    above = os.path.abspath(folder) + "/"  # the folder's own name (real, training) may carry the label or split
    names, others = list_audio(folder, recursive=True)
    others = [name for name in others if os.path.basename(name) not in record.companions]
    trials, misplaced, places = [], [], set()
    for name in sorted(names, key=_natural):
        path = os.fsencode(name).decode("utf-8", "surrogateescape")  # lists are UTF-8, whatever the locale
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
    """Sort key: file2 before file10; names that differ only in leading zeros have a fixed order."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", name))], name


def list_of(record: Corpus) -> str:
    """Names of a corpus's own lists, or their columns if the lists have no fixed names."""
    names = dict.fromkeys(record.lists.values()) or record.keys
    return ", ".join(names) or f"a list with the columns {', '.join(record.columns) or 'path, label'}"
