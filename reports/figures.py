"""The figures of a report, declared once: an entry in FIGURES is given for every condition, with its interval, in every
form of output, and is compared between systems.
"""

import itertools
import math
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from common.console import UserError
from corpora import ASV_SPOOF, NONTARGET, TARGET, AsvTrials
from reports import curves, metrics
from reports.bootstrap import (
    Bootstrap,
    bootstrap_figure,
    bootstrap_statistic,
    least_p,
    p_value,
    percentile_interval,
)
from reports.conditions import Condition
from reports.exact import exact_bounds
from reports.published import PROGRAMS
from reports.systems import asv_rates

# A figure of one condition and system; low, high: its 95 % interval, NaN if it has none.
Value = namedtuple("Value", "value low high")
NO_VALUE = Value(math.nan, math.nan, math.nan)
# A row of a report. condition: Condition; system: name; figures: {key: Value}, empty if the condition lacks a class;
# bounds: as exact_bounds gives them.
Row = namedtuple("Row", "condition system figures bounds", defaults=({},))
# What figures depend on besides the countermeasure's scores. record: corpora.Corpus; asv: AsvRates or None; miss_rates:
# of --miss_rates, in percent; published: whether the published figures are asked for; sasv: {column: scores (trials,)}
# of a table with verification scores, else {}.
Setting = namedtuple("Setting", "record asv miss_rates published sasv")


def _once(setting):
    return [("", {})]


@dataclass(frozen=True)
class Figure:
    """A figure of a report.

    key: its name in json and csv. title: in tables. function: of a curves.Curve, the value, or (replicates,) of a Curve
    of replicates. point: function of a Curve, the index of the operating point that the figure depends on most; near
    to it the replicates are resolved finest. scale, digits: how it is shown. pooled_only: it is given for all trials
    alone, below the tables, and not compared. cllr: it needs the Curve's Cllr. rates: the error rates at `point` that
    it consists of, "frr" or "far", to be bounded exactly where there are few trials.
    cases: of a Setting, pairs (label, keywords): {} in key and title stands for the label, the keywords go to function
    and point; no pair: no figure.
    show: function of the value, how it is shown, instead of scale and digits.
    of: "curve" as above; "scores": function of the scores of both classes instead, which has no interval; "sasv":
    function of the target, nontarget and spoof trials of these `columns` of a table with verification scores.
    """

    key: str
    title: str
    function: Callable
    point: Callable | None = None
    scale: float = 1
    digits: int = 4
    pooled_only: bool = False
    cllr: bool = False
    rates: tuple = ()
    cases: Callable = _once
    of: str = "curve"
    columns: tuple = ()
    show: Callable | None = None

    @property
    def has_interval(self) -> bool:
        return self.of != "scores"

    def case(self, label: str, keywords: dict[str, object]) -> "Figure":
        """The figure for one of its cases."""
        point = partial(self.point, **keywords) if self.point else None
        key, title = self.key.format(label), self.title.format(label)
        return replace(self, key=key, title=title, function=partial(self.function, **keywords), point=point)


def _dcf_cases(setting):
    return [("", dict(zip(("miss", "false_alarm"), curves.dcf_weights())))]


def _tdcf_cases(setting, own=True):
    """The t-DCF in the form of the corpus's own challenge, or in the others."""
    for version in metrics.TDCF_VERSIONS:
        if setting.asv is not None and (version == setting.record.tdcf) == own:
            yield version, dict(zip(("miss", "false_alarm", "floor"), metrics.tdcf_weights(setting.asv, version)))


def _far_cases(setting):
    return [(f"{rate:g}", {"frr": rate / 100}) for rate in setting.miss_rates]


def _published_cases(setting, name):
    program = PROGRAMS[setting.record.published]
    return [("", {"program": program[name]})] if setting.published and name in program else []


def _as_published(bonafide, spoof, program):
    return program(bonafide, spoof)


TDCF = Figure("min_tdcf_{}", "min t-DCF {}", curves.curve_min_cost, curves.min_cost_point, cases=_tdcf_cases)
FIGURES = [
    Figure("eer", "EER %", curves.curve_eer, curves.eer_point, scale=100, digits=3, rates=("frr", "far")),
    Figure("min_dcf", "minDCF", curves.curve_min_cost, curves.min_cost_point, cases=_dcf_cases),
    TDCF,
    Figure("act_dcf", "actDCF", curves.curve_act_dcf, curves.bayes_point, pooled_only=True),
    Figure("cllr", "Cllr, bits", lambda curve: curve.cllr, pooled_only=True, cllr=True),
    Figure("min_cllr", "min Cllr, bits", curves.curve_min_cllr, pooled_only=True),
    Figure("auc", "AUC", curves.curve_auc, digits=6, pooled_only=True),
    replace(TDCF, cases=partial(_tdcf_cases, own=False), pooled_only=True),
    Figure(
        "far_at_frr_{}",
        "FAR % at FRR {} %",
        curves.curve_far_at,
        curves.far_at_point,
        scale=100,
        digits=3,
        pooled_only=True,
        rates=("far",),
        cases=_far_cases,
    ),
    Figure(
        "published_eer",
        "published EER %",
        _as_published,
        scale=100,
        cases=partial(_published_cases, name="eer"),
        of="scores",
    ),
    Figure(
        "published_min_dcf",
        "published minDCF",
        _as_published,
        digits=6,
        cases=partial(_published_cases, name="min_dcf"),
        of="scores",
    ),
    Figure(
        "t_eer",
        "t-EER %",
        lambda *trials: metrics.compute_t_eer(*trials)[0],
        scale=100,
        digits=3,
        pooled_only=True,
        of="sasv",
        columns=("asv_score", "cm_score"),
    ),
    Figure("a_dcf", "a-DCF", metrics.compute_a_dcf, pooled_only=True, of="sasv", columns=("sasv_score",)),
]


def figures_of(setting: Setting, pooled: bool = True) -> list[Figure]:
    """The figures that a Setting has, of all trials or of another condition, in the order of FIGURES."""
    chosen = [figure for figure in FIGURES if pooled or not figure.pooled_only]
    chosen = [figure for figure in chosen if figure.of != "sasv" or set(figure.columns) <= set(setting.sasv)]
    return [figure.case(*case) for figure in chosen for case in figure.cases(setting)]


def measure(
    systems: dict[str, np.ndarray],
    conditions: list[Condition],
    asv: AsvTrials | metrics.AsvRates | None,
    setting: Setting,
    bootstrap: Bootstrap,
) -> tuple[list[Row], dict[str, Figure]]:
    """One Row a condition and system, and the Figures by key.

    systems: {name: scores (trials,)}; asv: each condition takes its own from it.
    Raises UserError if the verification of all trials leaves the t-DCF no meaning.
    """
    rows, shown = [], {}
    for condition in conditions:
        pooled = condition.by == "pooled"
        figures = []
        if len(condition.bonafide) and len(condition.spoof):
            setting = setting._replace(asv=asv_rates(asv, condition.filters))
            try:
                figures = figures_of(setting, pooled)
            except UserError:  # the verification of this condition's few trials leaves a t-DCF no meaning
                if pooled:
                    raise
                figures = figures_of(setting._replace(asv=None), pooled)
        shown |= {figure.key: figure for figure in figures}
        for name, scores in systems.items():
            values = drawn_values(figures, scores, condition, bootstrap, setting.sasv, asv) if figures else {}
            values = {key: value for key, (value, _) in values.items()}
            rows.append(Row(condition, name, values, exact_bounds(figures, values, scores, condition)))
    return rows, shown


def drawn_values(
    figures: list[Figure],
    scores: np.ndarray,
    condition: Condition,
    bootstrap: Bootstrap,
    sasv: dict[str, np.ndarray] | None = None,
    asv: AsvTrials | metrics.AsvRates | None = None,
) -> dict[str, tuple[Value, np.ndarray | None]]:
    """{key: (Value, its replicates or None)} of figures for one system, scores (trials,), in one condition."""
    (drawn,) = curves_of(figures, [scores], condition, bootstrap)
    values = {}
    for figure in figures:
        if figure.of == "curve":
            values[figure.key] = curve_value(figure, *drawn)
        elif figure.of == "scores":
            value = figure.function(scores[condition.bonafide], scores[condition.spoof])
            values[figure.key] = NO_VALUE._replace(value=value), None
        else:
            trials = np.column_stack([sasv[column] for column in figure.columns])
            values[figure.key] = _sasv_value(figure, trials, asv.kind, bootstrap.n), None
    return values


def curves_of(
    figures: list[Figure], systems: list[np.ndarray], condition: Condition, bootstrap: Bootstrap
) -> list[tuple[curves.Curve, curves.Curve | None, curves.Curve | None]]:
    """(exact, coarse, replicates) Curves of each of several score arrays, as these figures need them."""
    points = [figure.point for figure in figures if figure.point]
    return bootstrap.curves(systems, condition, points, cllr=any(figure.cllr for figure in figures))


def curve_value(
    figure: Figure, exact: curves.Curve, coarse: curves.Curve | None, replicates: curves.Curve | None
) -> tuple[Value, np.ndarray | None]:
    """(Value, its replicates or None)"""
    if coarse is None:
        return NO_VALUE._replace(value=float(figure.function(exact))), None
    value, drawn = bootstrap_figure(figure.function, exact, coarse, replicates)
    return Value(value, *percentile_interval(drawn)), drawn


def _sasv_value(figure, trials, kind, n_replicates):
    """Value of a figure of both detectors. trials: (trials, columns); kind: (trials,) as in AsvTrials."""
    trials = trials[:, 0] if len(figure.columns) == 1 else trials
    classes = [trials[kind == k] for k in (TARGET, NONTARGET, ASV_SPOOF)]
    value = NO_VALUE._replace(value=figure.function(*classes))
    if not n_replicates:
        return value
    # Each replicate is computed anew from drawn trials: fewer of them.
    drawn = bootstrap_statistic(figure.function, *classes, n_replicates=min(n_replicates, 200))
    return Value(value.value, *percentile_interval(drawn))


def compare(
    systems: dict[str, np.ndarray],
    pooled: Condition,
    asv: AsvTrials | metrics.AsvRates | None,
    setting: Setting,
    bootstrap: Bootstrap,
) -> list[dict[str, str | float]]:
    """Every pair of systems on the same trials and the same draws of them: {first, second, figure, difference, low,
    high, p, p_least}, the difference being first - second; p_least: see least_p. pooled: Condition of
    all trials; the rest as for `measure`.
    """
    setting = setting._replace(asv=asv_rates(asv, {}))
    figures = [figure for figure in figures_of(setting, pooled=False) if figure.of == "curve"]
    comparisons = []
    for pair in itertools.combinations(systems, 2):
        drawn = curves_of(figures, [systems[name] for name in pair], pooled, bootstrap)
        for figure in figures:
            (first, drawn_first), (second, drawn_second) = (curve_value(figure, *of_system) for of_system in drawn)
            comparisons.append(comparison(*pair, figure.key, first.value - second.value, drawn_first - drawn_second))
    return comparisons


def comparison(
    first: str, second: str, figure: str, difference: float, replicates: np.ndarray
) -> dict[str, str | float]:
    """An element of what `compare` returns."""
    low, high = percentile_interval(replicates)
    names = {"first": first, "second": second, "figure": figure}
    p = {"p": p_value(replicates), "p_least": least_p(replicates)}
    return {**names, "difference": difference, "low": low, "high": high, **p}
