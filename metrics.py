"""Error rates of a detector from its scores: bona fide is the positive class, a higher score more bona fide.

Every function takes the scores of each class as a one-dimensional array, in any order. A threshold is a score that
is itself rejected: trials above it are accepted as bona fide.
"""

import numpy as np

from console import UserError


def _error_rates(bonafide, spoof):
    """The DET curve: FRR, FAR and threshold at every operating point, each (points,), thresholds ascending.

    Trials of equal score move together, so the curve does not depend on the order of the trials.
    """
    bonafide, spoof = np.asarray(bonafide, dtype=np.float64), np.asarray(spoof, dtype=np.float64)
    for name, scores in [("bona fide", bonafide), ("spoof", spoof)]:
        if not len(scores):
            raise UserError(f"an error rate needs both classes; found no {name} trial")
        if not np.all(np.isfinite(scores)):
            raise UserError(f"expected finite scores, found {np.sum(~np.isfinite(scores))} {name} ones that are not")
    thresholds = np.unique(np.concatenate([bonafide, spoof]))
    thresholds = np.concatenate([[thresholds[0] - 0.001], thresholds])
    rejected_bonafide = np.searchsorted(np.sort(bonafide), thresholds, side="right")
    rejected_spoof = np.searchsorted(np.sort(spoof), thresholds, side="right")
    return rejected_bonafide / len(bonafide), 1 - rejected_spoof / len(spoof), thresholds


def compute_eer(bonafide, spoof):
    """Equal error rate, a fraction, and its threshold.

    The mean of the two error rates where they are nearest to each other, without interpolation. All scores equal
    gives 0.5. Source: ASVspoof 5 evaluation plan, 2024; ties grouped, which the published code does not.
    Raises UserError for an empty class or a score that is not finite.
    """
    frr, far, thresholds = _error_rates(bonafide, spoof)
    # The difference times both class sizes is a whole number: rounded to it, equal differences are equal.
    nearest = np.argmin(np.abs(np.rint((frr - far) * len(bonafide) * len(spoof))))
    return float(frr[nearest] + far[nearest]) / 2, float(thresholds[nearest])


def compute_min_dcf(bonafide, spoof, p_spoof=0.05, c_miss=1, c_fa=10):
    """Minimum normalised detection cost: 1 is what a detector that ignores its input costs.

    min over thresholds of c_miss (1 - p_spoof) FRR + c_fa p_spoof FAR, over the cheaper of its two weights.
    Source: ASVspoof 5 evaluation plan, 2024. Raises UserError as compute_eer.
    """
    frr, far, _ = _error_rates(bonafide, spoof)
    miss, false_alarm = c_miss * (1 - p_spoof), c_fa * p_spoof
    return float(np.min(miss * frr + false_alarm * far) / min(miss, false_alarm))


def published_ctrsvdd(bonafide, spoof):
    """EER, a fraction, and minDCF as the published CtrSVDD script computes them, to print its figures again.

    It walks a ROC curve from which scikit-learn has dropped collinear points, so that the EER is the midpoint at
    what are mostly corners of the staircase, not the point where the rates are nearest; its minDCF is
    min (FPR + FNR) / 2, not normalised. Raises UserError as compute_eer.
    """
    frr, far, _ = _error_rates(bonafide, spoof)
    n_bonafide, n_spoof = len(bonafide), len(spoof)
    # Counts from the highest threshold down, without the point that rejects nothing: the ROC's own order.
    accepted_bonafide = np.rint((1 - frr[::-1]) * n_bonafide)
    accepted_spoof = np.rint(far[::-1] * n_spoof)
    bends = (np.diff(accepted_bonafide[1:], 2) != 0) | (np.diff(accepted_spoof[1:], 2) != 0)
    kept = np.concatenate([[True], [True], bends, [True]]) if len(frr) > 2 else np.full(len(frr), True)
    fnr = 1 - accepted_bonafide[kept] / n_bonafide
    fpr = accepted_spoof[kept] / n_spoof
    nearest = np.argmin(np.abs(fpr - fnr))
    return float(fpr[nearest] + fnr[nearest]) / 2, float(np.min(fpr + fnr) / 2)


def bootstrap_eer(bonafide, spoof, n_replicates=1000, seed=0, confidence=0.95):
    """Percentile bootstrap interval of the EER: (low, high), fractions.

    Trials are drawn with replacement within each class, so the interval speaks of other trials from the same
    speakers and attacks, not of other speakers. Source: Efron & Tibshirani, "An introduction to the bootstrap",
    1993, chapter 13. Raises UserError as compute_eer.

    FRR - FAR grows with the threshold, so that a replicate needs its counts in detail only where it changes sign:
    counts are drawn for blocks of neighbouring scores first, then within the one block that matters. This is the
    same distribution as drawing every trial, at a small part of the work.
    """
    _error_rates(bonafide, spoof)  # the checks
    points = np.unique(np.concatenate([bonafide, spoof]))
    edges = np.linspace(0, len(points), min(len(points), 2048) + 1).astype(int)
    rng = np.random.default_rng(seed)
    n_trials, counts, below = [], [], []
    for scores in (bonafide, spoof):
        n_trials.append(len(scores))
        counts.append(np.bincount(np.searchsorted(points, scores), minlength=len(points)))
        share = np.add.reduceat(counts[-1], edges[:-1]) / len(scores)
        rejected = np.cumsum(rng.multinomial(len(scores), share, size=n_replicates), axis=1)
        below.append(np.pad(rejected, ((0, 0), (1, 0))))  # rejected below each edge, (replicates, blocks + 1)

    # FRR >= FAR, in whole numbers so that no rounding hides an exact crossing.
    crossed = below[0] * n_trials[1] + below[1] * n_trials[0] >= n_trials[0] * n_trials[1]
    crossing = np.argmax(crossed[:, 1:], axis=1)
    eers = np.empty(n_replicates)
    for replicate, block in enumerate(crossing):
        rates = []
        for n, count, rejected in zip(n_trials, counts, below):
            inside = count[edges[block] : edges[block + 1]]
            drawn = rejected[replicate, block + 1] - rejected[replicate, block]
            steps = rng.multinomial(drawn, inside / max(inside.sum(), 1)) if drawn else np.zeros(len(inside), int)
            rates.append((rejected[replicate, block] + np.concatenate([[0], np.cumsum(steps)])) / n)
        frr, far = rates[0], 1 - rates[1]
        nearest = np.argmin(np.abs(frr - far))
        eers[replicate] = (frr[nearest] + far[nearest]) / 2
    tail = (1 - confidence) / 2
    low, high = np.quantile(eers, [tail, 1 - tail])
    return float(low), float(high)
