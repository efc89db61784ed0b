"""The figures of a report. An entry in FIGURES is enough: it is computed with its interval for every condition, printed
in every output form, and compared between systems.
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

# The value of a figure for one condition and system. low, high: its 95 % interval, NaN without one.
Value = namedtuple("Value", "value low high")
NO_VALUE = Value(math.nan, math.nan, math.nan)
# A row of a report. condition: Condition; system: name; figures: {key: Value}, empty if the condition lacks a class;
# bounds: the result of exact_bounds.
Row = namedtuple("Row", "condition system figures bounds", defaults=({},))
# What figures depend on in addition to the countermeasure's scores. record: corpora.Corpus; asv: AsvRates or None;
# miss_rates: --miss_rates, in percent; published: whether to add the published figures; sasv: {column: scores
# (trials,)} of a table with verification scores, else {}.
Setting = namedtuple("Setting", "record asv miss_rates published sasv")


def _once(setting):
    return [("", {})]


@dataclass(frozen=True)
class Figure:
    """A figure of a report.

    key: name in json and csv. title: name in tables.
    function: maps a curves.Curve to the value, or a Curve of replicates to (replicates,).
    point: maps a Curve to the index of the operating point that the figure depends on most; replicates are resolved
    most finely near it.
    scale, digits: a value is printed times `scale`, with so many decimals; show: function of the value that replaces
    both.
    pooled_only: the figure is printed for all trials only, below the tables, and is not compared.
    cllr: the figure needs the Curve's Cllr.
    rates: the error rates at `point` that make up the figure, "frr" or "far"; they get exact bounds if trials are few.
    cases: maps a Setting to pairs (label, keywords). Each pair gives one figure: the label replaces {} in key and
    title, the keywords are passed to function and point.
    of: what `function` takes: "curve", as above; "scores": the scores of both classes (such a figure has no interval);
    "sasv": the target, nontarget and spoof trials of these `columns` of a table with verification scores.
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
    """The t-DCF in the form of the corpus's own challenge, or (own=False) in the other forms."""
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
    """The figures available in a Setting, in the order of FIGURES. pooled: for all trials, not another condition."""
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
    """One Row per condition and system, and the Figures by key.

    systems: {name: scores (trials,)}; asv: verification of all trials, from which each condition selects its own.
    Raises UserError if the verification of all trials makes the t-DCF undefined (see tdcf_weights).
    """
    rows, shown = [], {}
    for condition in conditions:
        pooled = condition.by == "pooled"
        figures = []
        if len(condition.bonafide) and len(condition.spoof):
            setting = setting._replace(asv=asv_rates(asv, condition.filters))
            try:
                figures = figures_of(setting, pooled)
            except UserError:  # the t-DCF is undefined for the few verification trials of this condition
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
    """{key: (Value, its replicates or None)} of the figures of one system, scores (trials,), in one condition."""
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
    """(exact, coarse, replicates) Curves of each array of scores, with the points and Cllr that the figures need."""
    points = [figure.point for figure in figures if figure.point]
    return bootstrap.curves(systems, condition, points, cllr=any(figure.cllr for figure in figures))


def curve_value(
    figure: Figure, exact: curves.Curve, coarse: curves.Curve | None, replicates: curves.Curve | None
) -> tuple[Value, np.ndarray | None]:
    """(Value, its replicates or None) of a figure, from the Curves of one system; see curves_of."""
    if coarse is None:
        return NO_VALUE._replace(value=float(figure.function(exact))), None
    value, drawn = bootstrap_figure(figure.function, exact, coarse, replicates)
    return Value(value, *percentile_interval(drawn)), drawn


def _sasv_value(figure, trials, kind, n_replicates):
    """Value of a figure of spoofing countermeasure and speaker verification together.

    trials: (trials, columns); kind: (trials,), see AsvTrials.
    """
    trials = trials[:, 0] if len(figure.columns) == 1 else trials
    classes = [trials[kind == k] for k in (TARGET, NONTARGET, ASV_SPOOF)]
    value = NO_VALUE._replace(value=figure.function(*classes))
    if not n_replicates:
        return value
    # Each replicate is computed from drawn trials, not from counts, which is slow: at most 200 of them.
    drawn = bootstrap_statistic(figure.function, *classes, n_replicates=min(n_replicates, 200))
    return Value(value.value, *percentile_interval(drawn))


def compare(
    systems: dict[str, np.ndarray],
    pooled: Condition,
    asv: AsvTrials | metrics.AsvRates | None,
    setting: Setting,
    bootstrap: Bootstrap,
) -> list[dict[str, str | float]]:
    """Compare every pair of systems on the same trials and the same bootstrap draws.

    Returns dicts {first, second, figure, difference, low, high, p, p_least}: the difference is first - second;
    p_least: see least_p. pooled: Condition of all trials; the other arguments: see `measure`.
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
    """One element of the list that `compare` returns."""
    low, high = percentile_interval(replicates)
    names = {"first": first, "second": second, "figure": figure}
    p = {"p": p_value(replicates), "p_least": least_p(replicates)}
    return {**names, "difference": difference, "low": low, "high": high, **p}
