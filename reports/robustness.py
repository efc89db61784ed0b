"""Robustness report: one row per condition of eval.py --condition, compared with the clean recordings."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

import corpora
from common.console import UserError
from corpora import AsvTrials
from reports import metrics
from reports.bootstrap import Bootstrap
from reports.conditions import Condition
from reports.exact import exact_bounds
from reports.figures import (
    NO_VALUE,
    Figure,
    Row,
    Setting,
    Value,
    comparison,
    curve_value,
    curves_of,
    drawn_values,
    figures_of,
)
from reports.systems import asv_rates, read_systems
from reports.tables import shown_p

CLEAN = "clean"
DIFFERENCE = Figure("eer_above_clean", "EER % above clean", None, scale=100, digits=3)
PAIRED = "differences from clean on the same draws; p two-sided, not corrected for the number of conditions"
P_VALUE = Figure("p", "p", None, of="scores")


def read_conditions(
    key: str | os.PathLike,
    systems: dict[str, str | os.PathLike],
    subset: str | None = None,
    by: Sequence[str | None] = (),
    allow_missing: bool = False,
    read: Callable = corpora.read_score_columns,
    bonafide: str | None = None,
) -> tuple[corpora.TrialTable, dict[tuple[str, str], np.ndarray], dict[str, dict]]:
    """Read score files of all conditions: (table of the trials, {(condition, system): scores (trials,)}, checks).

    systems: {name: clean score file}; the files of the other conditions are searched for next to it. checks: {system:
    counts of its files}. The other arguments: see read_systems. Raises the UserErrors of read_systems, and UserError if
    a clean file is missing or has no other condition next to it.
    """
    files = {(CLEAN, system): path for system, path in systems.items()}
    for system, path in systems.items():
        if not os.path.isfile(path):
            raise UserError(f"--conditions {path}: expected the score file of eval.py --condition clean, found no file")
        beside = corpora.condition_files(path)
        if not beside:
            example = corpora.condition_file(path, "mp3_16")
            raise UserError(f"--conditions {path}: expected score files such as {example} next to it, found none")
        files |= {(condition, system): file for condition, file in beside.items()}
    order = list(dict.fromkeys(condition for condition, _ in files))
    files = dict(sorted(files.items(), key=lambda item: order.index(item[0][0])))
    names = [f"{system}, {condition}" for condition, system in files]
    table, scores, counts, _ = read_systems(key, list(files.values()), subset, by, allow_missing, read, bonafide, names)
    checks = {}
    for (condition, system), count in zip(files, counts.values()):
        if condition == CLEAN:
            checks[system] = {**count, "conditions": {}}
        else:
            checks[system]["conditions"][condition] = count
    return table, dict(zip(files, scores.values())), checks


def measure_conditions(
    scores: dict[tuple[str, str], np.ndarray],
    pooled: Condition,
    asv: AsvTrials | metrics.AsvRates | None,
    setting: Setting,
    bootstrap: Bootstrap,
) -> tuple[list[Row], dict[str, Figure]]:
    """One Row per condition and system, and the Figures by key.

    scores: {(condition, system): (trials,)}, with `clean` for every system; pooled: Condition of all trials. Every row
    except `clean` has the difference between its EER and the clean EER, with interval and p-value. Both EERs are
    computed on the same bootstrap draws. The other arguments: see figures.measure.
    """
    all_figures = figures_of(setting._replace(asv=asv_rates(asv, {})))  # those of any report, hence the same draws
    figures = [figure for figure in all_figures if not figure.pooled_only]
    of_curve = [figure for figure in figures if figure.of == "curve"]
    rows, least = [], 2 / (bootstrap.n + 1)
    for (condition, system), own in scores.items():
        drawn = drawn_values(all_figures, own, pooled, bootstrap)
        values = {figure.key: drawn[figure.key][0] for figure in figures}
        bounds = exact_bounds(figures, values, own, pooled)
        if condition != CLEAN and bootstrap.n:
            both = curves_of(of_curve, [own, scores[CLEAN, system]], pooled, bootstrap)
            (here, drawn_here), (clean, drawn_clean) = (curve_value(of_curve[0], *one) for one in both)  # the EER
            c = comparison(condition, CLEAN, "eer", here.value - clean.value, drawn_here - drawn_clean)
            values[DIFFERENCE.key] = Value(c["difference"], c["low"], c["high"])
            values[P_VALUE.key] = NO_VALUE._replace(value=c["p"])
        rows.append(Row(pooled._replace(by="condition", name=condition), system, values, bounds))
    shown = [*figures, *([DIFFERENCE, replace(P_VALUE, show=partial(shown_p, least=least))] if bootstrap.n else [])]
    return rows, {figure.key: figure for figure in shown}
