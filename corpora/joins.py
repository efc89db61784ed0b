"""Matching of ids between files: equal ids, or ids that match as paths."""

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
    """Match names to ids: (places (utt_ids,) in `names`, -1 without a match; {name: id} of path matches).

    Equal names and ids are matched first; the last of duplicate names is used. The remaining ones are compared as
    paths: a name matches an id if one is the end of the other, first with extensions, then without audio extensions.
    path: the file of the names, for messages.
    Raises UserError if a name matches several ids, or several names match one id.
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
    """The ends of a path: without its first 0, 1, ... parts."""
    parts = name.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _alike(path, names, utt_ids, form: Callable[[str], str]):
    """{name: id} of names and ids that match as paths, after applying `form` to both."""
    whole, ends = defaultdict(list), defaultdict(list)
    for utt_id in utt_ids:
        whole[form(utt_id)].append(utt_id)
        for end in _ends(form(utt_id)):
            ends[end].append(utt_id)
    pairs, name_of = {}, {}
    for name in names:
        formed = form(name)
        # The name is the end of an id, or an id is the end of the name.
        found = dict.fromkeys([*ends.get(formed, ()), *(i for end in _ends(formed) for i in whole.get(end, ()))])
        if not found:
            continue
        utt_id, *others = found
        if others:
            ids = f"{shown(utt_id)} and {shown(others[0])}"
            raise UserError(f"{path}: {shown(name)} matches the trials {ids}; expected unambiguous ids")
        if utt_id in name_of:
            both = f"{shown(name_of[utt_id])} and {shown(name)}"
            raise UserError(f"{path}: {both} both match the trial {shown(utt_id)}; expected unambiguous ids")
        pairs[name], name_of[utt_id] = utt_id, name
    return pairs
