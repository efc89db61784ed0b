"""The DET curve of a detector's scores and the figures computed from it, for one curve or its bootstrap replicates.

Bona fide is the positive class; a higher score means bona fide. A trial is accepted as bona fide if its score is above
the threshold, and rejected if it equals it. Trials of equal score move together, so no figure depends on the order of
trials. Each figure has a function of a Curve; if it depends mostly on one operating point, another function returns
the index of that point.
"""

import math
from collections import namedtuple
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from common.console import UserError

# The DET curve: false rejection and false acceptance rates at every operating point, thresholds ascending.
# frr, far: (points,), or (replicates, points) of a bootstrap. cllr: a number, or (replicates,); None if not computed.
# Cllr cannot be computed from the curve, so it is stored with it.
Curve = namedtuple("Curve", "frr far thresholds cllr")

# Priors and costs of the t-DCF and of ASVspoof 5's a-DCF.
P_SPOOF, P_TARGET, P_NONTARGET = 0.05, 0.95 * 0.99, 0.95 * 0.01

C_MISS, C_FA = 1, 10


def det_curve(
    bonafide: ArrayLike, spoof: ArrayLike, cllr: bool = False, masses: Sequence[np.ndarray] | None = None
) -> Curve:
    """DET curve of scores: a Curve with one point per distinct score, after a first point that rejects nothing.

    masses: integer weight of each trial of the two classes; None: 1. cllr: also compute Cllr.
    Raises UserError for an empty class, or for NaN or infinite scores.
    """
    classes = checked(bonafide, spoof)
    scores = np.concatenate(classes)
    order = np.argsort(scores)
    scores, is_bonafide = scores[order], order < len(classes[0])
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # last trial of each run of equal scores
    if masses is None:
        rejected = np.cumsum(is_bonafide)[last]
        rejected = rejected, last + 1 - rejected
    else:
        masses = np.concatenate(masses)[order]
        rejected = [np.cumsum(masses * mask)[last] for mask in (is_bonafide, ~is_bonafide)]
    frr, spoof_rejected = (np.append(0, counts) / counts[-1] for counts in rejected)
    return Curve(
        frr,
        1 - spoof_rejected,
        np.append(scores[0] - 0.001, scores[last]),
        cllr_of(*classes) if cllr else None,
    )


def checked(*classes: ArrayLike, names: Sequence[str] = ("bona fide", "spoof")) -> list[np.ndarray]:
    """The classes as float64 arrays. Raises UserError for an empty class, or for NaN or infinite scores."""
    classes = [np.asarray(scores, dtype=np.float64) for scores in classes]
    for name, scores in zip(names, classes):
        if not len(scores):
            raise UserError(f"expected trials of every class, found no {name} trial")
        if not np.all(np.isfinite(scores)):
            n = np.sum(~np.isfinite(scores))
            raise UserError(f"expected finite scores, found {n} NaN or infinite scores of {name} trials")
    return classes


def eer_point(curve: Curve) -> np.ndarray | np.integer:
    """Index of the point of a Curve with the smallest difference between FRR and FAR; the first if several tie.

    Differences are integer multiples of 1 / (product of the class sizes), so differences within 1e-13 are ties.
    """
    difference = np.abs(curve.frr - curve.far)
    return np.argmax(difference <= difference.min(axis=-1, keepdims=True) + 1e-13, axis=-1)


def curve_eer(curve: Curve) -> np.ndarray | float:
    """EER of a Curve, or of each of its replicates; see compute_eer."""
    nearest = np.expand_dims(eer_point(curve), -1)
    return (np.take_along_axis(curve.frr, nearest, -1) + np.take_along_axis(curve.far, nearest, -1))[..., 0] / 2


def dcf_weights(p_spoof: float = P_SPOOF, c_miss: float = C_MISS, c_fa: float = C_FA) -> tuple[float, float]:
    """Weights (miss, false_alarm) of the normalised detection cost miss FRR + false_alarm FAR."""
    miss, false_alarm = c_miss * (1 - p_spoof), c_fa * p_spoof
    return miss / min(miss, false_alarm), false_alarm / min(miss, false_alarm)


def curve_min_cost(curve: Curve, miss: float, false_alarm: float, floor: float = 0) -> np.ndarray | float:
    """Minimum over thresholds of floor + miss FRR + false_alarm FAR, of a Curve or of each of its replicates."""
    return floor + np.min(miss * curve.frr + false_alarm * curve.far, axis=-1)


def min_cost_point(curve: Curve, miss: float, false_alarm: float, floor: float = 0) -> np.integer:
    """Index of the point of a Curve with the minimum cost; see curve_min_cost."""
    return np.argmin(miss * curve.frr + false_alarm * curve.far)


def bayes_point(curve: Curve, p_spoof: float = P_SPOOF, c_miss: float = C_MISS, c_fa: float = C_FA) -> int | np.integer:
    """Index of the point of a Curve at the Bayes threshold for log-likelihood ratios; see compute_act_dcf."""
    return max(np.searchsorted(curve.thresholds, -math.log(c_miss * (1 - p_spoof) / (c_fa * p_spoof))) - 1, 0)


def curve_act_dcf(
    curve: Curve, p_spoof: float = P_SPOOF, c_miss: float = C_MISS, c_fa: float = C_FA
) -> np.ndarray | float:
    """actDCF of a Curve, or of each of its replicates; see compute_act_dcf."""
    miss, false_alarm = dcf_weights(p_spoof, c_miss, c_fa)
    point = bayes_point(curve, p_spoof, c_miss, c_fa)
    return miss * curve.frr[..., point] + false_alarm * curve.far[..., point]


def curve_auc(curve: Curve) -> np.ndarray | float:
    """AUC of a Curve, or of each of its replicates; see compute_auc."""
    spoof = -np.diff(curve.far)  # share of spoofs at each score; a bona fide trial of the same score counts half
    return np.sum(spoof * (1 - (curve.frr[..., 1:] + curve.frr[..., :-1]) / 2), axis=-1)


def far_at_point(curve: Curve, frr: float) -> np.ndarray | np.integer:
    """Index of the last point whose FRR is at most `frr`, in a Curve or in each of its replicates."""
    return np.sum(curve.frr <= frr + 1e-12, axis=-1) - 1


def curve_far_at(curve: Curve, frr: float) -> np.ndarray | float:
    """FAR at a given FRR, of a Curve or of each of its replicates; see compute_far_at."""
    return np.take_along_axis(curve.far, np.expand_dims(far_at_point(curve, frr), -1), -1)[..., 0]


def curve_min_cllr(curve: Curve) -> np.ndarray | float:
    """min Cllr of a Curve, or of each of its replicates; see compute_min_cllr."""
    bonafide, spoof = np.diff(np.atleast_2d(curve.frr)), -np.diff(np.atleast_2d(curve.far))
    n_replicates, n_cells = bonafide.shape
    bonafide, spoof, first = bonafide.ravel(), spoof.ravel(), np.arange(n_replicates * n_cells) % n_cells == 0
    filled = (bonafide + spoof > 0) | first
    bonafide, spoof, first = bonafide[filled], spoof[filled], first[filled]
    replicate = np.cumsum(first) - 1
    while True:  # isotonic regression: pool runs of decreasing likelihood ratios until none decreases
        falls = (bonafide[:-1] * spoof[1:] >= bonafide[1:] * spoof[:-1]) & (replicate[:-1] == replicate[1:])
        if not falls.any():
            break
        starts = np.flatnonzero(np.append(True, ~falls))
        bonafide, spoof = np.add.reduceat(bonafide, starts), np.add.reduceat(spoof, starts)
        replicate = replicate[starts]
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = np.where(bonafide > 0, bonafide * np.log2(1 + spoof / bonafide), 0)
        bits += np.where(spoof > 0, spoof * np.log2(1 + bonafide / spoof), 0)
    return (np.bincount(replicate, bits, n_replicates) / 2).reshape(curve.frr.shape[:-1])[()]


def cllr_costs(bonafide: np.ndarray, spoof: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Costs of each trial in bits, (bona fide (trials,), spoof (trials,)); Cllr is the mean of the two means."""
    return np.logaddexp(0, -bonafide) / math.log(2), np.logaddexp(0, spoof) / math.log(2)


def cllr_of(bonafide: np.ndarray, spoof: np.ndarray) -> float:
    """Cllr in bits; see metrics.compute_cllr."""
    return sum(float(np.mean(costs)) for costs in cllr_costs(bonafide, spoof)) / 2
