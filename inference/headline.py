"""Suspicious stretches of a long recording, and a test of whether chance explains the number of low scores."""

from collections import namedtuple
from itertools import groupby

import numpy as np
from scipy.special import betaln

LEVEL = 0.01  # significance level, as a share of genuine recordings
SMOOTHED = 1.0  # seconds over which the scores of units are smoothed before they are joined to stretches

# start, end: seconds; score: the mean; rank: 1 is the most suspicious; heard: seconds covered by its windows.
Stretch = namedtuple("Stretch", "start end score rank heard")


def smoothed(scores: np.ndarray, size: int) -> np.ndarray:
    """Running median (n,) of `size` scores, of fewer at the ends. NaN (silence) is ignored and stays NaN.

    A stretch then needs a majority of low scores, and stretches shorter than half of `size` disappear.
    """
    around = np.lib.stride_tricks.sliding_window_view(np.pad(scores, size // 2, constant_values=np.nan), size)
    scores = scores.copy()
    has_score = ~np.isnan(scores)
    scores[has_score] = np.nanmedian(around[has_score], axis=1)
    return scores


def stretches(
    windows: list[tuple[float, float, float]], smooth: np.ndarray, threshold: float, seconds: float, low: bool = True
) -> list[Stretch]:
    """Stretches of neighbouring scores that are not above the threshold (low=False: above it), in order of time.

    windows: [(start, end, score)] of a recording of `seconds`, score None for silence; smooth: their scores after
    `smoothed`. A window stands for its middle, up to half-way to the middles of its neighbours. The ends of a spliced
    stretch are exact to half a hop if the detector follows the larger part of a window. If it already reacts to a small
    part of a window, or only to all of it, the error is up to half a window larger.
    Stretches are ranked by length times mean distance of the scores from the threshold.
    """
    middles = [(start + end) / 2 for start, end, _ in windows]
    edges = [0, *((a + b) / 2 for a, b in zip(middles, middles[1:])), seconds]
    wanted = (smooth <= threshold) if low else (smooth > threshold)  # both comparisons are False for NaN
    places = []
    for is_wanted, same in groupby(range(len(windows)), key=wanted.__getitem__):
        if is_wanted:
            numbers = list(same)
            scores = [windows[i][2] for i in numbers]
            heard = windows[numbers[-1]][1] - windows[numbers[0]][0]
            places.append((edges[numbers[0]], edges[numbers[-1] + 1], float(np.mean(scores)), heard))
    weights = [(end - start) * (threshold - score) * (1 if low else -1) for start, end, score, _ in places]
    ranks = np.argsort(np.argsort(-np.array(weights), kind="stable")) + 1
    return [Stretch(start, end, score, int(rank), heard) for (start, end, score, heard), rank in zip(places, ranks)]


def _posterior(rate, n_dev):
    """Posterior Beta(a, b) of an error rate, by Jeffreys' prior; `rate` was observed on n_dev utterances."""
    return rate * n_dev + 0.5, (1 - rate) * n_dev + 0.5


def chance_of_count(k: int, n: int, rate: float, n_dev: int) -> float:
    """Probability that k or more of n independent scores are on the wrong side of the threshold.

    `rate` is the error rate observed on n_dev utterances of a dev set. With Jeffreys' prior Beta(1/2, 1/2) the number
    of errors is beta-binomial.
    """
    a, b = _posterior(rate, n_dev)
    errors = np.arange(k, n + 1)
    logs = betaln(errors + a, n - errors + b) - betaln(a, b) - np.log(n + 1) - betaln(n - errors + 1, errors + 1)
    return float(min(np.exp(logs).sum(), 1.0))


def chance_of_run(length: int, n_starts: int, rate: float, n_dev: int) -> float:
    """Upper bound on the probability of `length` errors in a row, starting at any of n_starts independent scores.

    The bound is n_starts * E[r ** length]; r has the same posterior as in chance_of_count.
    """
    a, b = _posterior(rate, n_dev)
    return float(min(n_starts * np.exp(betaln(a + length, b) - betaln(a, b)), 1.0))
