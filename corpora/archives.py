"""Locations of lists, audio and keys in the archives of the corpora and in the published scripts."""

import os
from pathlib import Path

from common.console import UserError, shown
from corpora.records import CORPORA
from corpora.text import read_text


def official_files(
    corpus: str, split: str, folder: str | os.PathLike, list_folder: str | os.PathLike | None = None
) -> tuple[Path, Path]:
    """(trial list, audio folder) of a split of a corpus, in the layout of its archive or of the published scripts.

    folder: the corpus; list_folder: the folder of its lists, None: `folder`. Raises UserError with the places searched,
    or with the corpus's splits if it has no list of this split.
    """
    record = CORPORA[corpus]
    if split not in record.lists:
        splits = ", ".join(record.lists) or "none"
        raise UserError(f"{folder}: expected a corpus with a {split} list, found {corpus} with lists for: {splits}")
    name, roots = record.lists[split], [Path(list_folder or folder) / root for root in record.roots]
    return (
        _first("protocol", (root / part / name for root in roots for part in record.list_folders)),
        _first("audio", (Path(folder) / root / part for root in record.roots for part in record.audio[split])),
    )


def _first(what, places):
    places = list(places)
    for place in places:
        if place.exists():
            return place
    raise UserError(f"{what} not found; searched {', '.join(map(str, places))}")


def key_places() -> list[str]:
    """Places of an evaluation set's key within a folder of keys."""
    return list(dict.fromkeys(place for record in CORPORA.values() for place in record.keys))


def find_key(folder: str | os.PathLike, utt_id: str) -> Path:
    """The key that contains utt_id, in a folder of keys. Raises UserError with the places searched."""
    places = [Path(folder) / place for place in key_places()]
    keys = [place for place in places if place.is_file()]
    if len(keys) == 1:
        return keys[0]
    for place in keys:
        if f"{utt_id} " in read_text(place) or f"{utt_id}." in read_text(place):
            return place
    problem = f"{shown(utt_id)} is not in {', '.join(map(str, keys))}" if keys else "found none"
    raise UserError(f"{folder}: expected a key; {problem}; searched {', '.join(map(str, places))}")
