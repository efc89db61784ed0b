"""Systems to report on: score files joined with a key, and the verification scores next to the key."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

import corpora
from common.console import UserError, warn
from reports import metrics


def join(
    path: str | os.PathLike, scored: corpora.ScoreColumns, table: corpora.TrialTable
) -> tuple[np.ndarray, dict[str, str]]:
    """corpora.places_of for a score file and a table, with a warning if ids match only by the end of their paths.

    Raises UserError if a label in the file differs from the table's.
    """
    places, alike = corpora.places_of(path, scored.utt_ids, table.utt_id)
    if alike:
        name, utt_id = next(iter(alike.items()))
        warn(
            f"{path}: {len(alike)} ids match the key only by the end of their paths (first {name}, matched to {utt_id})"
        )
    if scored.labels is not None:
        wrong = np.flatnonzero((places >= 0) & (table.label >= 0) & (scored.labels[places] != table.label))
        if len(wrong):
            i = wrong[np.argmin(places[wrong])]
            here, there = ("bona fide" if x else "spoof" for x in (scored.labels[places[i]], table.label[i]))
            line = f"{path}:{scored.lines[places[i]]}"
            more = f"; {len(wrong)} labels differ" if len(wrong) > 1 else ""
            raise UserError(f"{line}: {table.utt_id[i]} is {here} here and {there} in {table.path}{more}")
    return places, alike


def align(
    files: Sequence[tuple[str | os.PathLike, corpora.ScoreColumns]],
    table: corpora.TrialTable,
    allow_missing: bool | None,
    wanted: np.ndarray | None = None,
) -> tuple[np.ndarray, Sequence[np.ndarray], Sequence[dict[str, int]]]:
    """Join score files with a table: (scores (trials, files), NaN if missing; places per file; counts per file).

    files: pairs (path, ScoreColumns). wanted: (trials,) mask of the trials that need a score. places: (trials,) index
    of each trial's score in the file, -1 if missing. Raises UserError for labels that differ from the table's, and for
    missing, unknown, duplicate, NaN or infinite scores; with allow_missing the latter are warnings. allow_missing None:
    the same as False, for commands without that flag, which the message then does not suggest.
    """
    wanted = np.ones(len(table), bool) if wanted is None else wanted
    columns, places, counts, problems = zip(*(_align_one(path, scored, table, wanted) for path, scored in files))
    scores = np.column_stack(columns)
    empty = np.all(np.isnan(scores[wanted]), axis=0)
    if allow_missing and empty.any():
        raise UserError(problems[np.argmax(empty)])
    for problem in filter(None, problems):
        if not allow_missing:
            left = table.label[wanted & np.all(np.isfinite(scores), axis=1)]
            helps = allow_missing is not None and {corpora.BONAFIDE, corpora.SPOOF} <= set(left.tolist())
            raise UserError(problem + ("; --allow_missing reports on the rest" if helps else ""))
        warn(problem)
    return scores, places, counts


def _align_one(path, scored, table, wanted):
    """(scores (trials,), places, counts, message about mismatches or None) of one file; see `align`."""
    names, values, lines, _ = scored
    places, alike = join(path, scored, table)
    n_different = len(names) if names == table.utt_id else len(set(names))
    n_double, n_unknown = len(names) - n_different, n_different - int(np.sum(places >= 0))
    scores = np.where(places >= 0, values[places], np.nan)
    absent = np.flatnonzero(wanted & (places < 0))
    broken = np.flatnonzero(~np.isfinite(values))
    counts = {
        "trials": int(wanted.sum()),
        "scores": len(names),
        "missing": len(absent),
        "unknown": n_unknown,
        "duplicates": n_double,
        "not_finite": len(broken),
    }
    if alike:
        counts["alike"] = len(alike)
    problems = []
    if len(absent):
        problems.append(f"{len(absent)} trials without a score (first {table.utt_id[absent[0]]})")
    if n_unknown:
        known = {*table.utt_id, *alike}
        first = next(name for name in names if name not in known)
        problems.append(f"{n_unknown} scores without a trial (first {first})")
    if n_double:
        seen = set()
        i = next(i for i, name in enumerate(names) if name in seen or seen.add(name))
        problems.append(f"{n_double} duplicate scores (first {names[i]} in line {lines[i]})")
    if len(broken):
        problems.append(f"{len(broken)} NaN or infinite scores (first {names[broken[0]]} in line {lines[broken[0]]})")
    scores[~np.isfinite(scores)] = np.nan
    problem = f"{path} does not match {table.path}: {counts['trials']} trials, {len(names)} scores, "
    return scores, places, counts, problem + ", ".join(problems) if problems else None


def read_systems(
    key: str | os.PathLike,
    paths: Sequence[str | os.PathLike],
    subset: str | None = None,
    by: Iterable[str | None] = (),
    allow_missing: bool = False,
    read: Callable = corpora.read_score_columns,
    bonafide: str | None = None,
    names: Sequence[str] | None = None,
) -> tuple[corpora.TrialTable, dict[str, np.ndarray], dict[str, dict[str, str | int]], np.ndarray]:
    """Read score files and their key: (table, {system: scores (trials,)}, {system: checks}, places in the first file).

    The table has the trials to report on. key: path of a key or of a folder of keys; paths: score files; subset: one of
    SUBSETS, None: eval; by: columns to read in addition to the breakdowns of the corpora; read: function of a path that
    returns ScoreColumns; bonafide: see corpora.read_table; names: of the systems, None: those of their files.
    Raises UserError for a malformed file, or if score files, key and subset do not match.
    """
    files = [read(path) for path in paths]
    if os.path.isdir(key):
        key = corpora.find_key(key, files[0].utt_ids[0])
    columns = {"subset", *filter(None, by)}
    for record in corpora.CORPORA.values():
        columns |= {record.cluster, *record.breakdowns}
    table = corpora.read_table(key, columns=columns, bonafide=bonafide)
    table.check_labels()
    mask = table.subset_mask(subset or "eval")
    scores, (places, *_), counts = align(list(zip(paths, files)), table, allow_missing, mask)
    mask = mask & np.all(np.isfinite(scores), axis=1)  # all systems are compared on the same trials
    if not mask.all():
        table, places, scores = table.select(mask), places[mask], scores[mask]
    names = names or system_names(paths)
    checks = {name: {"path": str(path), **count} for name, path, count in zip(names, paths, counts)}
    return table, dict(zip(names, np.ascontiguousarray(scores.T))), checks, places


def system_names(paths: Sequence[str | os.PathLike]) -> list[str]:
    """Names of systems: their score files without folder and extension, or the full paths if two would be equal."""
    stems = [Path(path).stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def read_asv(
    table: corpora.TrialTable,
    subset: str | None = None,
    scores: str | os.PathLike | None = None,
    key: str | os.PathLike | None = None,
) -> corpora.AsvTrials | None:
    """Read the AsvTrials of a subset; None if there is no speaker verification.

    scores, key: verification files; None: the organisers' files next to the key of `table`.
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
    """AsvRates for a condition; None if a class of verification trials is empty.

    As in the organisers' package, an attack selects among spoofed trials only, and a codec among all trials. Other
    columns do not select.
    """
    if asv is None or isinstance(asv, metrics.AsvRates):
        return asv
    for name in {"attack", "codec"} & filters.keys() & asv.columns.keys():
        codes, values = asv.columns[name]
        mask = np.isin(codes, [i for i, value in enumerate(values) if value in filters[name]])
        asv = _choose_asv(asv, mask | (asv.kind != corpora.ASV_SPOOF) if name == "attack" else mask)
    classes = [asv.score[asv.kind == kind] for kind in (corpora.TARGET, corpora.NONTARGET, corpora.ASV_SPOOF)]
    return metrics.asv_error_rates(*classes) if all(map(len, classes)) else None
