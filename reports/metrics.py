"""Error rates of a detector from its scores. Bona fide is the positive class; a higher score means bona fide.

Every function takes the scores of each class as a one-dimensional array, in any order. curves.py defines thresholds
and the treatment of ties.
"""

import math
from collections import namedtuple

import numpy as np
from numpy.typing import ArrayLike

from common.console import UserError
from reports.curves import (
    C_FA,
    C_MISS,
    P_NONTARGET,
    P_SPOOF,
    P_TARGET,
    checked,
    cllr_of,
    curve_act_dcf,
    curve_auc,
    curve_far_at,
    curve_min_cllr,
    curve_min_cost,
    dcf_weights,
    det_curve,
    eer_point,
)

# Error rates of a speaker verification system: nontarget accepted, target rejected, spoof accepted.
AsvRates = namedtuple("AsvRates", "p_fa p_miss p_fa_spoof")

TDCF_VERSIONS = ("2019", "2021")  # the legacy form and the revised one; see tdcf_weights
# Rates that the organisers of ASVspoof 5 assume for submissions without speaker verification.
ASVSPOOF5_ASV_RATES = AsvRates(0.01881016557566423, 0.01880141010575793, 0.4607082907604729)


def compute_eer(bonafide: ArrayLike, spoof: ArrayLike) -> tuple[float, float]:
    """Equal error rate, a fraction, and its threshold.

    The mean of FRR and FAR at the point where they are nearest, without interpolation; 0.5 if all scores are equal.
    Source: ASVspoof 5 evaluation plan, 2024. Unlike the published code, ties are grouped.
    Raises UserError for an empty class, or for NaN or infinite scores.
    """
    curve = det_curve(bonafide, spoof)
    nearest = eer_point(curve)
    return float(curve.frr[nearest] + curve.far[nearest]) / 2, float(curve.thresholds[nearest])


def compute_min_dcf(
    bonafide: ArrayLike, spoof: ArrayLike, p_spoof: float = P_SPOOF, c_miss: float = C_MISS, c_fa: float = C_FA
) -> float:
    """Minimum normalised detection cost (minDCF); a detector that ignores its input has 1.

    The minimum over thresholds of c_miss (1 - p_spoof) FRR + c_fa p_spoof FAR, divided by the smaller of the two
    weights. Source: ASVspoof 5 evaluation plan, 2024. Raises the UserErrors of compute_eer.
    """
    return float(curve_min_cost(det_curve(bonafide, spoof), *dcf_weights(p_spoof, c_miss, c_fa)))


def compute_act_dcf(
    bonafide: ArrayLike, spoof: ArrayLike, p_spoof: float = P_SPOOF, c_miss: float = C_MISS, c_fa: float = C_FA
) -> float:
    """Actual normalised detection cost (actDCF) of log-likelihood ratios at the Bayes threshold.

    The cost of compute_min_dcf if trials with a score of at least -ln(c_miss (1 - p_spoof) / (c_fa p_spoof)) are
    accepted. Its excess over minDCF is the calibration loss. Source and errors: see compute_min_dcf.
    """
    return float(curve_act_dcf(det_curve(bonafide, spoof), p_spoof, c_miss, c_fa))


def compute_cllr(bonafide: ArrayLike, spoof: ArrayLike) -> float:
    """Cllr, the cost of log-likelihood ratios (natural logarithm), in bits.

    (mean log2(1 + e^-bonafide) + mean log2(1 + e^spoof)) / 2; constant scores of 0 have 1.
    Source: Brümmer & du Preez, Computer Speech & Language 20, 2006. Raises the UserErrors of compute_eer.
    """
    return cllr_of(*checked(bonafide, spoof))


def compute_min_cllr(bonafide: ArrayLike, spoof: ArrayLike) -> float:
    """Cllr, in bits, after the best monotonic calibration: isotonic regression (pool adjacent violators).

    Source and errors: see compute_cllr.
    """
    return float(curve_min_cllr(det_curve(bonafide, spoof)))


def compute_auc(bonafide: ArrayLike, spoof: ArrayLike) -> float:
    """Area under the ROC: probability that a bona fide trial scores higher than a spoofed one, ties counting half.

    Raises the UserErrors of compute_eer.
    """
    return float(curve_auc(det_curve(bonafide, spoof)))


def compute_far_at(bonafide: ArrayLike, spoof: ArrayLike, frr: float) -> float:
    """Lowest false acceptance rate with a false rejection rate of at most `frr`; both are fractions.

    Raises the UserErrors of compute_eer.
    """
    return float(curve_far_at(det_curve(bonafide, spoof), frr))


def asv_error_rates(target: ArrayLike, nontarget: ArrayLike, spoof: ArrayLike) -> AsvRates:
    """AsvRates of verification scores at the threshold of the EER between target and nontarget trials.

    A trial whose score equals the threshold is accepted, as in the t-DCF authors' code (on the DET curve it is
    rejected). Without spoof trials p_fa_spoof is NaN. Raises UserError if another class is empty, or for NaN or
    infinite scores.

    The published ASVspoof 5 package uses P_miss of spoofs in place of P_fa of spoofs here; this code does not.
    """
    target, nontarget = checked(target, nontarget, names=("target", "nontarget"))
    _, threshold = compute_eer(target, nontarget)
    spoof = checked(spoof, names=("spoof",))[0] if len(spoof) else spoof
    accepted = float(np.mean(spoof >= threshold)) if len(spoof) else math.nan
    return AsvRates(float(np.mean(nontarget >= threshold)), float(np.mean(target < threshold)), accepted)


def tdcf_weights(asv: AsvRates, version: str = "2021") -> tuple[float, float, float]:
    """Weights (miss, false_alarm, floor) of the normalised t-DCF floor + miss FRR + false_alarm FAR.

    version "2019": the legacy form of Kinnunen et al., Odyssey 2018; "2021": the revised form of Kinnunen et al.,
    IEEE/ACM TASLP 28, 2020, in which floor is the cost of the verification system alone.
    Raises UserError if the verification is so bad that the t-DCF is undefined: a weight is negative or the scale 0.
    """
    if not all(0 <= rate <= 1 for rate in asv if not math.isnan(rate)) or math.isnan(asv.p_fa + asv.p_miss):
        raise UserError(f"t-DCF: expected error rates of speaker verification from 0 to 1, found {tuple(asv)}")
    if version == "2019":
        floor = 0
        miss = P_TARGET * (C_MISS - C_MISS * asv.p_miss) - P_NONTARGET * C_FA * asv.p_fa
        false_alarm = C_FA * P_SPOOF * asv.p_fa_spoof
    elif version == "2021":
        floor = P_TARGET * C_MISS * asv.p_miss + P_NONTARGET * C_FA * asv.p_fa
        miss = P_TARGET * C_MISS - floor
        false_alarm = P_SPOOF * C_FA * asv.p_fa_spoof
    else:
        raise ValueError(f'expected version "2019" or "2021", found {version!r}')
    if miss < 0 or floor + min(miss, false_alarm) <= 0:
        raise UserError(f"t-DCF: undefined for a speaker verification with the error rates {tuple(asv)}")
    scale = floor + min(miss, false_alarm)
    return miss / scale, false_alarm / scale, floor / scale


def compute_min_tdcf(
    bonafide: ArrayLike,
    spoof: ArrayLike,
    target_asv: ArrayLike,
    nontarget_asv: ArrayLike,
    spoof_asv: ArrayLike,
    version: str = "2021",
) -> float:
    """Minimum normalised tandem detection cost (min t-DCF) of a countermeasure in front of speaker verification.

    bonafide, spoof: countermeasure scores; target_asv, nontarget_asv, spoof_asv: verification scores, possibly of
    other trials. Source and version: see tdcf_weights. Raises the UserErrors of compute_eer and tdcf_weights.
    """
    weights = tdcf_weights(asv_error_rates(target_asv, nontarget_asv, spoof_asv), version)
    return float(curve_min_cost(det_curve(bonafide, spoof), *weights))


def compute_a_dcf(target: ArrayLike, nontarget: ArrayLike, spoof: ArrayLike) -> float:
    """Minimum normalised architecture-agnostic detection cost (a-DCF) of one score that must accept only targets.

    ASVspoof 5 priors of target, nontarget, spoof: 0.9405, 0.0095, 0.05; costs 1, 10, 10. Source: Shim et al., "a-DCF",
    Odyssey 2024. Raises UserError for an empty class, or for NaN or infinite scores.
    """
    classes = checked(target, nontarget, spoof, names=("target", "nontarget", "spoof"))
    weights = C_MISS * P_TARGET, C_FA * P_NONTARGET, C_FA * P_SPOOF
    scores = np.concatenate(classes)
    order = np.argsort(scores)
    # Change of cost when one more trial is rejected: positive for a target, negative for a nontarget or a spoof.
    steps = np.repeat(
        [weights[0], -weights[1], -weights[2]] / np.array([len(c) for c in classes]), [*map(len, classes)]
    )
    last = np.append(np.diff(scores[order]) != 0, True)
    cost = weights[1] + weights[2] + np.append(0, np.cumsum(steps[order])[last])
    return float(max(np.min(cost), 0) / min(weights[0], weights[1] + weights[2]))


def compute_t_eer(
    target: ArrayLike, nontarget: ArrayLike, spoof: ArrayLike, rho: float = 0.5
) -> tuple[float, float, float]:
    """Concurrent tandem equal error rate, a fraction, and its two thresholds: (t_eer, asv_threshold, cm_threshold).

    target, nontarget, spoof: (trials, 2), verification and countermeasure score of each trial. rho: prevalence of
    spoofs among the impostors. On the path of threshold pairs at which the tandem's miss and false acceptance rates are
    equal, the t-EER is the point at which nontargets and spoofs are accepted equally often. Source: Kinnunen et al.,
    "t-EER", IEEE TPAMI 46, 2024. Raises UserError for an empty class, or for NaN or infinite scores.

    All pairs of thresholds are searched, not a sample: for each verification threshold, the two rates cross once along
    the countermeasure thresholds, and bisection finds the crossing; O(N log N) in total.
    """
    names = ("target", "nontarget", "spoof")
    target, nontarget, spoof = (
        np.asarray(pairs, dtype=np.float64).reshape(-1, 2) for pairs in (target, nontarget, spoof)
    )
    asv = checked(target[:, 0], nontarget[:, 0], spoof[:, 0], names=names)
    cm = det_curve(np.concatenate([target[:, 1], nontarget[:, 1]]), spoof[:, 1])
    thresholds = np.unique(np.concatenate(asv))
    thresholds = np.append(thresholds[0] - 0.001, thresholds)
    rejected = [np.searchsorted(np.sort(scores), thresholds, side="right") / len(scores) for scores in asv]
    p_miss, p_fa, p_fa_spoof = rejected[0], 1 - rejected[1], 1 - rejected[2]
    useful = (p_miss < (1 - rho) * p_fa + rho * p_fa_spoof - 1e-12) & (p_fa_spoof > 0)
    thresholds, p_miss, p_fa, p_fa_spoof = (x[useful] for x in (thresholds, p_miss, p_fa, p_fa_spoof))

    def imbalance(point):  # tandem miss rate minus false acceptance rate; increases with the countermeasure's threshold
        passed = 1 - cm.frr[point]
        false_alarms = (1 - rho) * passed * p_fa + rho * cm.far[point] * p_fa_spoof
        return np.round(cm.frr[point] + passed * p_miss - false_alarms, 12)  # rounding errors must not break ties

    low, high = np.zeros(len(p_miss), int), np.full(len(p_miss), len(cm.frr) - 1)
    while np.any(low < high):  # bisection for the first point with at least as many misses as false acceptances
        middle = (low + high) // 2
        enough = imbalance(middle) >= 0
        low, high = np.where(enough, low, np.minimum(middle + 1, high)), np.where(enough, middle, high)
    before = np.maximum(low - 1, 0)
    point = np.where(np.abs(imbalance(before)) <= np.abs(imbalance(low)), before, low)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.round(np.abs(p_fa / p_fa_spoof - cm.far[point] / (1 - cm.frr[point])), 12)
    best = int(np.argmin(np.where(np.isnan(gap), np.inf, gap)))
    return float(p_fa_spoof[best] * cm.far[point[best]]), float(thresholds[best]), float(cm.thresholds[point[best]])
