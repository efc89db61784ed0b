"""Exact bounds of error rates for cases in which the bootstrap is unreliable: few trials or no observed error."""

import math
from collections import namedtuple

import numpy as np

from reports.conditions import Condition
from reports.curves import det_curve

FEWEST_TRIALS = 20  # in each class; with fewer, a bootstrap interval is too narrow

# An error rate and its 95 % bounds. rate: "frr" or "far"; errors, trials: counts; low, high: fractions.
Bound = namedtuple("Bound", "rate errors trials low high")


def clopper_pearson(errors: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided bounds (low, high), fractions, of an error rate measured on independent trials.

    Source: Clopper & Pearson, "The use of confidence or fiducial limits", Biometrika 26, 1934.
    """
    from scipy.special import betaincinv  # imported here: reports without exact bounds start faster

    tail = (1 - confidence) / 2
    low = betaincinv(errors, trials - errors + 1, tail) if errors else 0.0
    high = betaincinv(errors + 1, trials - errors, 1 - tail) if errors < trials else 1.0
    return float(low), float(high)


def exact_bounds(figures: list, values: dict, scores: np.ndarray, condition: Condition) -> dict[str, list[Bound]]:
    """Exact bounds {key: Bounds} of the figures that are error rates and whose bootstrap interval is unreliable.

    figures: figures.Figures; values: {key: figures.Value}; scores: (trials,). An interval is unreliable if no error was
    observed or its ends are equal; that of an EER also if a class has fewer than FEWEST_TRIALS trials. Bounds hold at
    the figure's threshold on these trials, which is taken as given. A FAR at a given FRR therefore gets no bounds
    merely because few bona fide trials leave its threshold uncertain.
    """
    classes = [scores[index] for index in (condition.bonafide, condition.spoof)]
    is_few = min(map(len, classes)) < FEWEST_TRIALS
    bounds, curve = {}, None
    for figure in figures:
        value = values[figure.key]
        says_little = value.value == 0 or value.low == value.high or (is_few and len(figure.rates) == 2)
        if not figure.rates or math.isnan(value.low) or not says_little:
            continue
        curve = curve or det_curve(*classes)
        point = figure.point(curve)
        bounds[figure.key] = []
        for rate in figure.rates:
            trials = len(classes[rate == "far"])
            errors = round(float(getattr(curve, rate)[point]) * trials)
            bounds[figure.key].append(Bound(rate, errors, trials, *clopper_pearson(errors, trials)))
    return bounds
