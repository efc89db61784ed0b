"""Exact bounds of error rates where the bootstrap has little to draw from: few trials, or no error among them."""

import math
from collections import namedtuple

import numpy as np

from reports.conditions import Condition
from reports.curves import det_curve

FEWEST_TRIALS = 20  # of each class, below which a bootstrap interval is too narrow to be relied on

# An error rate and its 95 % bounds. rate: "frr" or "far"; errors, trials: counts; low, high: fractions.
Bound = namedtuple("Bound", "rate errors trials low high")


def clopper_pearson(errors: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided bounds (low, high), fractions, of an error rate from counts of independent trials.

    Source: Clopper & Pearson, "The use of confidence or fiducial limits", Biometrika 26, 1934.
    """
    from scipy.special import betaincinv  # a report that needs none starts faster

    tail = (1 - confidence) / 2
    low = betaincinv(errors, trials - errors + 1, tail) if errors else 0.0
    high = betaincinv(errors + 1, trials - errors, 1 - tail) if errors < trials else 1.0
    return float(low), float(high)


def exact_bounds(figures: list, values: dict, scores: np.ndarray, condition: Condition) -> dict[str, list[Bound]]:
    """{key: Bounds} of those figures.Figures that are error rates, if their bootstrap interval says too little.

    values: {key: figures.Value} of the figures that are asked for; scores: (trials,). An interval says too little if no
    error was seen or it is a point, and an EER's with fewer than FEWEST_TRIALS of a class. Bounds are those of the
    rates at the threshold that the figure has on these trials, which is taken as given: so a FAR at a given FRR, which
    few bona fide trials leave open, gets none for their sake.
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
