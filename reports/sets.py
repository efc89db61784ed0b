"""Report over several evaluation sets: one row per set, the macro mean over the sets, and all trials pooled."""

import itertools
from collections import namedtuple
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import corpora
from common.console import UserError
from corpora import BONAFIDE, SPOOF, EvalSet
from reports import metrics
from reports.bootstrap import Bootstrap, BootstrapWithin, percentile_interval
from reports.conditions import Condition, conditions_of
from reports.exact import exact_bounds
from reports.figures import (
    NO_VALUE,
    Figure,
    Row,
    Setting,
    Value,
    compare,
    comparison,
    curve_value,
    curves_of,
    drawn_values,
    figures_of,
    measure,
)
from reports.systems import asv_rates, read_asv, read_systems

# A set after reading. table: its trials; asv: see figures.measure; trials: slice of its trials in the pooled ones.
SetTrials = namedtuple("SetTrials", "name table asv trials")

# Shown for every set, including those of one class; without an interval.
FRR_AT_POOLED = Figure("frr_at_pooled_eer", "FRR % at pooled EER", None, scale=100, digits=3, of="scores")
FAR_AT_POOLED = Figure("far_at_pooled_eer", "FAR % at pooled EER", None, scale=100, digits=3, of="scores")


def sets_of_flags(groups: Sequence[Sequence[str]]) -> list[EvalSet]:
    """The sets of `--set NAME KEY SCORES [SCORES ...]`.

    A system is named after its score files, without folder and extension, if they have the same name in every set;
    otherwise the systems are numbered. Raises UserError if the sets differ in their number of score files or share a
    name.
    """
    files = [scores for _, _, *scores in groups]
    if len(set(map(len, files))) > 1:
        found = ", ".join(f"{len(scores)} in {name}" for (name, *_), scores in zip(groups, files))
        raise UserError(f"--set: expected the same number of score files in every set, found {found}")
    stems = [{Path(path).stem for path in system} for system in zip(*files)]
    names = [min(stem) if len(stem) == 1 else f"system {i}" for i, stem in enumerate(stems, 1)]
    if len(set(names)) < len(names):
        names = [f"system {i}" for i in range(1, len(names) + 1)]
    names = ["scores"] if names == ["system 1"] else names
    seen = [name for name, *_ in groups]
    for name in seen:
        if seen.count(name) > 1:
            raise UserError(f"--set {name}: expected different names, found this one {seen.count(name)} times")
    return [EvalSet(name, key, None, None, dict(zip(names, scores))) for name, key, *scores in groups]


def read_set_systems(
    sets: Sequence[EvalSet],
    subset: str | None = None,
    by: Sequence[str | None] = (),
    allow_missing: bool = False,
    read: Callable = corpora.read_score_columns,
    rates: metrics.AsvRates | None = None,
    bonafide: str | None = None,
) -> tuple[list[SetTrials], dict[str, np.ndarray], dict[str, dict]]:
    """Read all sets: (the sets, {system: scores (trials,) of all sets, concatenated}, {"set, system": checks}).

    subset: for sets without an entry of their own; rates: verification error rates for every set, None: from the
    organisers' scores next to its key; the other arguments: see read_systems. Raises the UserErrors of read_systems,
    and UserError if a set has no score file.
    """
    parts, columns, checks, start = [], [], {}, 0
    for one in sets:
        if not one.scores:
            raise UserError(f"{one.name}: expected a column of score files, found only name, key, audio_dir, subset")
        subset_of_set = one.subset or subset
        table, scores, checks_of_set, _ = read_systems(
            one.key, list(one.scores.values()), subset_of_set, by, allow_missing, read, bonafide, list(one.scores)
        )
        asv = rates or read_asv(table, subset_of_set)
        parts.append(SetTrials(one.name, table, asv, slice(start, start + len(table))))
        columns.append(list(scores.values()))
        checks |= {f"{one.name}, {name}": check for name, check in checks_of_set.items()}
        start += len(table)
    systems = {name: np.concatenate(column) for name, column in zip(sets[0].scores, zip(*columns))}
    return parts, systems, checks


def pooled_condition(parts: Sequence[SetTrials]) -> Condition:
    """Condition of all trials of all sets. Raises UserError if they belong to one class."""
    label = np.concatenate([part.table.label for part in parts])
    classes = [np.flatnonzero(label == wanted) for wanted in (BONAFIDE, SPOOF)]
    for indices, name in zip(classes, ("bona fide", "spoof")):
        if not len(indices):
            raise UserError(f"all sets together: expected scored trials of both classes, found no {name} trial")
    return Condition("pooled", "pooled", {}, *classes)


def measure_sets(
    parts: Sequence[SetTrials],
    systems: dict[str, np.ndarray],
    bootstraps: Sequence[Bootstrap],
    setting: Setting,
    by: Sequence[Sequence[str]] = (),
) -> tuple[list[Row], dict[str, Figure], list[dict], str]:
    """Measure all sets: (rows, Figures by key, comparisons, description of the intervals).

    Rows are those of the sets, their macro mean, the pooled trials, and the breakdowns within the sets. Comparisons
    of systems are those of figures.compare, with `over`: "macro mean" or "pooled". Every row of a set has its error
    rates at the threshold of the pooled EER. A set with one class has no EER: its trials are pooled, but the macro
    mean excludes it. The macro mean has the figures that all sets with two classes have.
    setting: of the pooled trials; by: lists of one column, which at least one set must have.
    """
    pooled = pooled_condition(parts)
    within = BootstrapWithin({part.name: (b, len(part.table)) for part, b in zip(parts, bootstraps)})
    pooled_rows, figures = measure(systems, [pooled], setting.asv, setting, within)
    sets = [(part, bootstrap, _condition(part)) for part, bootstrap in zip(parts, bootstraps)]
    both = [one for one in sets if len(one[2].bonafide) and len(one[2].spoof)]
    thresholds = {
        name: metrics.compute_eer(scores[pooled.bonafide], scores[pooled.spoof])[1] for name, scores in systems.items()
    }

    rows, drawn, shown = [], {}, {}
    for part, bootstrap, condition in sets:
        chosen = _figures_of_set(part, setting) if len(condition.bonafide) and len(condition.spoof) else []
        # The tables show a t-DCF if it is the form of at least one set's own challenge.
        shown |= {f.key: f for f in chosen if f.key not in shown or not f.pooled_only}
        for name, scores in systems.items():
            values = drawn_values(chosen, scores[part.trials], condition, bootstrap) if chosen else {}
            drawn[part.name, name] = values
            own = {key: value for key, (value, _) in values.items()}
            bounds = exact_bounds(chosen, own, scores[part.trials], condition)
            own |= _rates_at(thresholds[name], scores[part.trials], condition)
            rows.append(Row(condition, name, own, bounds))
    for name in systems if both else ():
        rows.append(_macro_row(name, [drawn[part.name, name] for part, *_ in both], both, rows))
    for row in pooled_rows:
        rates = _rates_at(thresholds[row.system], systems[row.system], pooled)
        rows.append(row._replace(figures=row.figures | rates))
    shown = figures | shown | {figure.key: figure for figure in (FRR_AT_POOLED, FAR_AT_POOLED)}
    comparisons = []
    if within.n:
        comparisons += [{**c, "over": "macro mean"} for c in _compare_macro(systems, both, setting)] if both else []
        comparisons += [{**c, "over": "pooled"} for c in compare(systems, pooled, setting.asv, setting, within)]
    for columns in by:
        broken_down, more = _break_down(parts, systems, bootstraps, setting, columns)
        rows += broken_down
        shown = more | shown
    return rows, shown, comparisons, within.text


def _condition(part):
    classes = (np.flatnonzero(part.table.label == label) for label in (BONAFIDE, SPOOF))
    return Condition("set", part.name, {}, *classes)


def _figures_of_set(part, setting):
    setting = setting._replace(record=part.table.record)
    try:
        return figures_of(setting._replace(asv=asv_rates(part.asv, {})))
    except UserError:  # the t-DCF is undefined for the verification of this set
        return figures_of(setting._replace(asv=None))


def _rates_at(threshold, scores, condition):
    """Error rates of a set at the threshold of the pooled EER, for the classes that it has."""
    values = {}
    if len(condition.bonafide):
        values[FRR_AT_POOLED.key] = NO_VALUE._replace(value=float(np.mean(scores[condition.bonafide] <= threshold)))
    if len(condition.spoof):
        values[FAR_AT_POOLED.key] = NO_VALUE._replace(value=float(np.mean(scores[condition.spoof] > threshold)))
    return values


def _macro_row(system, drawn, both, rows):
    """Row with the mean over sets of each figure of one system. drawn: results of drawn_values, one per set."""
    values = {}
    for key in drawn[0]:
        if all(key in of_set for of_set in drawn):
            each = [of_set[key] for of_set in drawn]
            interval = (np.nan, np.nan)
            if all(replicates is not None for _, replicates in each):
                interval = percentile_interval(np.mean([replicates for _, replicates in each], axis=0))
            values[key] = Value(float(np.mean([value.value for value, _ in each])), *interval)
    names = {part.name for part, *_ in both}
    for key in (FRR_AT_POOLED.key, FAR_AT_POOLED.key):
        own = [row.figures[key].value for row in rows if row.system == system and row.condition.name in names]
        values[key] = NO_VALUE._replace(value=float(np.mean(own)))
    classes = []
    for k in ("bonafide", "spoof"):
        classes.append(np.concatenate([getattr(condition, k) + part.trials.start for part, _, condition in both]))
    return Row(Condition("macro", "macro mean", {}, *classes), system, values)


def _compare_macro(systems, both, setting):
    """Comparisons of systems by the mean over sets; see figures.compare."""
    comparisons = []
    of_sets = [
        {f.key: f for f in _figures_of_set(part, setting) if f.of == "curve" and not f.pooled_only} for part, *_ in both
    ]
    shared = [key for key in of_sets[0] if all(key in figures for figures in of_sets)]
    for pair in itertools.combinations(systems, 2):
        differences = {key: [] for key in shared}
        for (part, bootstrap, condition), figures in zip(both, of_sets):
            chosen = [figures[key] for key in shared]
            drawn = curves_of(chosen, [systems[name][part.trials] for name in pair], condition, bootstrap)
            for figure in chosen:
                (first, of_first), (second, of_second) = (curve_value(figure, *of_system) for of_system in drawn)
                differences[figure.key].append((first.value - second.value, of_first - of_second))
        for key, each in differences.items():
            value, replicates = (np.mean([x[i] for x in each], axis=0) for i in (0, 1))
            comparisons.append(comparison(*pair, key, float(value), replicates))
    return comparisons


def _break_down(parts, systems, bootstraps, setting, columns):
    """(rows, Figures by key) of the breakdown by one column, within each set that has it."""
    rows, shown = [], {}
    (column,) = columns
    have = [(part, b) for part, b in zip(parts, bootstraps) if column in part.table.columns]
    if not have:
        raise UserError(f"--by {column}: expected a column of at least one set's key, found it in none")
    for part, bootstrap in have:
        conditions = [
            c._replace(by=f"set x {column}", name=f"{part.name.replace(' / ', '/')} / {c.name}")
            for c in conditions_of(part.table, [[column]])[1:]
        ]
        own = {name: scores[part.trials] for name, scores in systems.items()}
        setting_of_set = setting._replace(record=part.table.record)
        more, figures = measure(own, conditions, part.asv, setting_of_set, bootstrap)
        rows += more
        shown |= figures
    return rows, shown
