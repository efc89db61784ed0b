"""Figures as the published programs compute them, including their errors, to reproduce published numbers."""

import numpy as np
from numpy.typing import ArrayLike

from reports.curves import checked, det_curve


def published_asvspoof(bonafide: ArrayLike, spoof: ArrayLike) -> float:
    """EER, a fraction, as the programs of ASVspoof 2019, 2021 and 5 compute it.

    Their curve has one point per trial. Among tied scores, bona fide trials are rejected first, so ties raise the EER,
    up to 1 if all scores are equal. Raises the UserErrors of compute_eer.
    """
    bonafide, spoof = checked(bonafide, spoof)
    order = np.argsort(np.concatenate([bonafide, spoof]), kind="stable")
    rejected = np.append(0, np.cumsum(order < len(bonafide)))
    frr = rejected / len(bonafide)
    far = 1 - (np.arange(len(order) + 1) - rejected) / len(spoof)
    nearest = np.argmin(np.abs(frr - far))
    return float(frr[nearest] + far[nearest]) / 2


def published_ctrsvdd(bonafide: ArrayLike, spoof: ArrayLike) -> tuple[float, float]:
    """EER, a fraction, and minDCF as the published CtrSVDD script computes them.

    The script uses a ROC curve from which scikit-learn has dropped collinear points. Most remaining points are corners
    of the staircase, so its EER is not always taken at the point where the rates are nearest. Its minDCF is
    min (FPR + FNR) / 2, without normalisation. Raises the UserErrors of compute_eer.
    """
    curve = det_curve(bonafide, spoof)
    n_bonafide, n_spoof = len(bonafide), len(spoof)
    # Counts in the order of the ROC: from the highest threshold down, without the point that rejects nothing.
    accepted_bonafide = np.rint((1 - curve.frr[::-1]) * n_bonafide)
    accepted_spoof = np.rint(curve.far[::-1] * n_spoof)
    bends = (np.diff(accepted_bonafide[1:], 2) != 0) | (np.diff(accepted_spoof[1:], 2) != 0)
    kept = np.concatenate([[True], [True], bends, [True]]) if len(curve.frr) > 2 else np.full(len(curve.frr), True)
    fnr = 1 - accepted_bonafide[kept] / n_bonafide
    fpr = accepted_spoof[kept] / n_spoof
    nearest = np.argmin(np.abs(fpr - fnr))
    return float(fpr[nearest] + fnr[nearest]) / 2, float(np.min(fpr + fnr) / 2)


def published_in_the_wild(bonafide: ArrayLike, spoof: ArrayLike) -> float:
    """EER, a fraction, as the published In-the-Wild script computes it: interpolated where the rates cross.

    The curve has one point per trial, at which this trial is accepted. FRR is interpolated between the two points
    around the first sign change of FAR - FRR. Ties: the script keeps the order of the score file; this function puts
    bona fide trials first. Raises the UserErrors of compute_eer.
    """
    bonafide, spoof = checked(bonafide, spoof)
    is_bonafide = np.argsort(np.concatenate([bonafide, spoof]), kind="stable") < len(bonafide)
    frr = (np.cumsum(is_bonafide) - is_bonafide) / len(bonafide)
    far = 1 - (np.cumsum(~is_bonafide) - ~is_bonafide) / len(spoof)
    difference = far - frr
    changes = np.flatnonzero(np.diff(np.sign(difference)))
    if not len(changes):
        nearest = np.argmin(np.abs(difference))
        return float(far[nearest] + frr[nearest]) / 2
    i = changes[0]
    share = abs(difference[i]) / (abs(difference[i]) + abs(difference[i + 1]))
    return float(frr[i] + share * (frr[i + 1] - frr[i]))


# {program named in a corpus's record: {figure: function of the scores of bona fide and of spoofed trials}}
PROGRAMS = {
    "asvspoof": {"eer": published_asvspoof},
    "in_the_wild": {"eer": published_in_the_wild},
    "ctrsvdd": {
        "eer": lambda bonafide, spoof: published_ctrsvdd(bonafide, spoof)[0],
        "min_dcf": lambda bonafide, spoof: published_ctrsvdd(bonafide, spoof)[1],
    },
}
