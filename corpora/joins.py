"""Ids of one file looked for in another: equal, or alike as paths."""

import itertools
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from common.console import UserError, shown
from corpora.text import AUDIO_EXTENSIONS, stem


def places_of(
    path: str | os.PathLike, names: Sequence[str], utt_ids: Sequence[str]
) -> tuple[np.ndarray, dict[str, str]]:
    """(places (utt_ids,) in `names`, -1 where an id is not there; {name: id} of those that are alike, not equal).

    Equal ones belong together; of a name that stands twice the last counts. Those left of both are then compared as
    paths: a name and an id are alike if the last parts of one are the other; first with their endings, then without
    those of audio files. path: the file that the names are of.
    Raises UserError where a name is like several ids, or several names like one id.
    """
    if names == utt_ids:
        return np.arange(len(utt_ids)), {}
    place = dict(zip(names, range(len(names))))
    places = np.fromiter(map(place.get, utt_ids, itertools.repeat(-1)), np.int64, len(utt_ids))
    absent = np.flatnonzero(places < 0)
    alike = {}
    if len(absent) and len(utt_ids) - len(absent) < len(place):
        ids, taken = {utt_ids[i]: i for i in absent}, set(utt_ids)
        names_left = [name for name in place if name not in taken]
        for form in (_as_path, _without_ending):
            pairs = _alike(path, names_left, ids, form)
            names_left = [name for name in names_left if name not in pairs]
            for name, utt_id in pairs.items():
                places[ids.pop(utt_id)] = place[name]
            alike |= pairs
    return places, alike


def _as_path(name):
    return unicodedata.normalize("NFC", name).replace("\\", "/")


def _without_ending(name):
    return stem(_as_path(name)) if name.lower().endswith(AUDIO_EXTENSIONS) else _as_path(name)


def _ends(name):
    """A path without its first 0, 1, ... parts."""
    parts = name.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _alike(path, names, utt_ids, form: Callable[[str], str]):
    """{name: id} of names and ids that are alike in that form."""
    whole, ends = defaultdict(list), defaultdict(list)
    for utt_id in utt_ids:
        whole[form(utt_id)].append(utt_id)
        for end in _ends(form(utt_id)):
            ends[end].append(utt_id)
    pairs, name_of = {}, {}
    for name in names:
        formed = form(name)
        # The name is the end of an id, or an id that of the name.
        found = dict.fromkeys([*ends.get(formed, ()), *(i for end in _ends(formed) for i in whole.get(end, ()))])
        if not found:
            continue
        utt_id, *others = found
        if others:
            ids = f"{shown(utt_id)} and {shown(others[0])}"
            raise UserError(f"{path}: {shown(name)} may be either of the trials {ids}; expected their ids")
        if utt_id in name_of:
            both = f"{shown(name_of[utt_id])} and {shown(name)}"
            raise UserError(f"{path}: {both} may both be the trial {shown(utt_id)}; expected its id")
        pairs[name], name_of[utt_id] = utt_id, name
    return pairs
