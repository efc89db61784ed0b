"""Where the archives of the corpora, and the published scripts, keep lists, audio and keys."""

import os
from pathlib import Path

from common.console import UserError, shown
from corpora.records import CORPORA
from corpora.text import read_text


def official_files(
    corpus: str, split: str, folder: str | os.PathLike, list_folder: str | os.PathLike | None = None
) -> tuple[Path, Path]:
    """(trial list, audio folder) of a split of a corpus in `folder`, as the official archive or the published scripts
    lay it out. list_folder: where its lists are; None: in folder. Raises UserError listing the places looked at, or
    the splits if the corpus has no such list.
    """
    record = CORPORA[corpus]
    if split not in record.lists:
        splits = ", ".join(record.lists) or "none"
        raise UserError(f"{folder}: expected a corpus with a {split} list, found {corpus}, which has {splits}")
    if split not in record.lists:
        raise UserError(f"{folder}: expected a {split} list, which the archive of {corpus} has not")
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
    raise UserError(f"{what} not found; looked for {', '.join(map(str, places))}")


def key_places() -> list[str]:
    """Where a folder of keys may hold that of an evaluation set."""
    return list(dict.fromkeys(place for record in CORPORA.values() for place in record.keys))


def find_key(folder: str | os.PathLike, utt_id: str) -> Path:
    """The key in a folder of keys that names utt_id. Raises UserError that lists the places looked at."""
    places = [Path(folder) / place for place in key_places()]
    keys = [place for place in places if place.is_file()]
    if len(keys) == 1:
        return keys[0]
    for place in keys:
        if f"{utt_id} " in read_text(place) or f"{utt_id}." in read_text(place):
            return place
    looked = f"none of {', '.join(map(str, keys))} names {shown(utt_id)}" if keys else "found none"
    raise UserError(f"{folder}: expected a key; {looked}; looked for {', '.join(map(str, places))}")
