"""Systems to report on: score files joined with a key, and the verification trials beside it."""

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

import corpora
from common.console import UserError, warn
from reports import metrics


def align(
    path: str | os.PathLike,
    read: tuple[list[str], np.ndarray, list[int]],
    table: corpora.TrialTable,
    allow_missing: bool,
    wanted: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """The scores of a file in the order of a table: (scores (trials,), NaN where there is none; places; counts).

    read: the file as read_score_columns gives it. places: (trials,) where in it a score stands. wanted: (trials,) mask
    of the trials that must have one. Raises UserError that counts what does not fit, unless allow_missing: then it is
    counted and printed as a warning.
    """
    names, values, lines = read
    wanted = np.ones(len(table), bool) if wanted is None else wanted
    place = None
    if names == table.utt_id:
        places, n_double, unknown = np.arange(len(table)), 0, []
    else:
        place = dict(zip(names, range(len(names))))  # of a name that stands twice the last counts
        n_double = len(names) - len(place)
        places = np.fromiter(map(place.get, table.utt_id, itertools.repeat(-1)), np.int64, len(table))
        unknown = []
        if np.sum(places >= 0) < len(place):
            known = set(table.utt_id)
            unknown = [name for name in place if name not in known]
    scores = np.where(places >= 0, values[places], np.nan)
    absent = np.flatnonzero(wanted & (places < 0))
    broken = np.flatnonzero(~np.isfinite(values))
    counts = {
        "trials": int(wanted.sum()),
        "scores": len(names),
        "missing": len(absent),
        "unknown": len(unknown),
        "duplicates": n_double,
        "not_finite": len(broken),
    }
    problems = []
    if len(absent):
        problems.append(f"{len(absent)} trials without a score (first {table.utt_id[absent[0]]})")
    if unknown:
        problems.append(f"{len(unknown)} scores without a trial (first {unknown[0]})")
    if n_double:
        seen = set()
        i = next(i for i, name in enumerate(names) if name in seen or seen.add(name))
        problems.append(f"{n_double} scores of trials that have one already (first {names[i]} in line {lines[i]})")
    if len(broken):
        problems.append(
            f"{len(broken)} scores that are NaN or infinite (first {names[broken[0]]} in line {lines[broken[0]]})"
        )
    if problems:
        problem = f"{path} does not match {table.path}: {counts['trials']} trials, {len(names)} scores, " + ", ".join(
            problems
        )
        if not allow_missing or not np.any(np.isfinite(scores[wanted])):
            raise UserError(f"{problem}; --allow_missing reports on the rest")
        warn(problem)
    scores[~np.isfinite(scores)] = np.nan
    return scores, places, counts


def read_systems(
    key: str | os.PathLike,
    paths: Sequence[str | os.PathLike],
    subset: str | None = None,
    by: Iterable[str | None] = (),
    allow_missing: bool = False,
) -> tuple[corpora.TrialTable, dict[str, np.ndarray], dict[str, dict[str, str | int]], np.ndarray]:
    """(table of the trials to report on, {system: scores (trials,)}, {system: checks}, places in the first file).

    key: path of a key or of a folder of keys; paths: score files; subset: a name of SUBSETS, None: eval; by: columns
    to read besides those that corpora are broken down by. Raises UserError where a file, key or subset does not fit.
    """
    read = [corpora.read_score_columns(path) for path in paths]
    if os.path.isdir(key):
        key = corpora.find_key(key, read[0][0][0])
    columns = {"subset", *filter(None, by)}
    for record in corpora.CORPORA.values():
        columns |= {record.cluster, *record.breakdowns}
    table = corpora.read_table(key, columns=columns)
    if np.all(table.label == corpora.UNKNOWN):
        raise UserError(f"{table.path}: expected labels, found a list of ids without")
    mask = table.subset_mask(subset or "eval")
    systems, checks, places = {}, {}, None
    for name, path, scored in zip(_system_names(paths), paths, read):
        scores, where, counts = align(path, scored, table, allow_missing, mask)
        systems[name], checks[name] = scores, {"path": str(path), **counts}
        places = where if places is None else places
    mask = mask & np.all(np.isfinite(list(systems.values())), axis=0)  # every system on the same trials
    if not mask.all():
        table, places = table.select(mask), places[mask]
        systems = {name: scores[mask] for name, scores in systems.items()}
    return table, systems, checks, places


def _system_names(paths):
    stems = [Path(path).stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def read_asv(
    table: corpora.TrialTable,
    subset: str | None = None,
    scores: str | os.PathLike | None = None,
    key: str | os.PathLike | None = None,
) -> corpora.AsvTrials | None:
    """AsvTrials of a subset, or None where there is no speaker verification.

    scores, key: its files; None: those that the organisers keep beside the key of `table`.
    """
    files = (scores, key) if scores else corpora.find_asv(table.path, table.corpus)
    if not files:
        return None
    asv = corpora.read_asv_trials(*files)
    if "subset" in asv.columns and subset != "all":
        codes, values = asv.columns["subset"]
        subset = corpora.SUBSETS[subset or "eval"]
        asv = _choose_asv(asv, codes == (values.index(subset) if subset in values else -1))
    return asv


def _choose_asv(asv, mask):
    columns = {name: corpora.Column(codes[mask], values) for name, (codes, values) in asv.columns.items()}
    return corpora.AsvTrials(asv.score[mask], asv.kind[mask], columns)


def asv_rates(
    asv: corpora.AsvTrials | metrics.AsvRates | None, filters: dict[str, set[str]]
) -> metrics.AsvRates | None:
    """AsvRates for a condition, None where there are none: an attack chooses among the spoofs alone, a codec among all
    trials, as the organisers' package has it; other columns choose none.
    """
    if asv is None or isinstance(asv, metrics.AsvRates):
        return asv
    for name in {"attack", "codec"} & filters.keys() & asv.columns.keys():
        codes, values = asv.columns[name]
        mask = np.isin(codes, [i for i, value in enumerate(values) if value in filters[name]])
        asv = _choose_asv(asv, mask | (asv.kind != corpora.ASV_SPOOF) if name == "attack" else mask)
    classes = [asv.score[asv.kind == kind] for kind in (corpora.TARGET, corpora.NONTARGET, corpora.ASV_SPOOF)]
    return metrics.asv_error_rates(*classes) if all(map(len, classes)) else None
