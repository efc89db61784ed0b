"""Error rates of a detector from its scores: bona fide is the positive class, a higher score more bona fide.

Every function takes the scores of each class as a one-dimensional array, in any order. A threshold is a score that
is itself rejected: trials above it are accepted as bona fide. Trials of equal score move together, so that no figure
depends on the order of the trials.
"""

import math
from collections import namedtuple

import numpy as np

from common.console import UserError

# The DET curve: false rejection and false acceptance rate at every operating point, thresholds ascending.
# frr, far: (points,), or (replicates, points) for a bootstrap. cllr, which no curve tells, stands with it where it was
# asked for: a number, or (replicates,).
Curve = namedtuple("Curve", "frr far thresholds cllr")

# Priors and costs of the t-DCF and of ASVspoof 5's a-DCF.
P_SPOOF, P_TARGET, P_NONTARGET = 0.05, 0.95 * 0.99, 0.95 * 0.01
C_MISS, C_FA = 1, 10

# Error rates of a speaker verification system: nontarget accepted, target rejected, spoof accepted.
AsvRates = namedtuple("AsvRates", "p_fa p_miss p_fa_spoof")
# What the organisers of ASVspoof 5 assume where a submission brings no speaker verification.
ASVSPOOF5_ASV_RATES = AsvRates(0.01881016557566423, 0.01880141010575793, 0.4607082907604729)


# ------------------------------------------------------------------------------------------------------- the curve


def det_curve(bonafide, spoof, cllr=False):
    """The DET curve of scores, a Curve of as many points as there are distinct scores, and one that rejects nothing.

    Raises UserError for an empty class or a score that is not finite.
    """
    classes = _checked(bonafide, spoof)
    n_bonafide, n_spoof = map(len, classes)
    scores = np.concatenate(classes)
    order = np.argsort(scores)
    scores = scores[order]
    rejected_bonafide = np.cumsum(order < n_bonafide)
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # of each run of equal scores
    return Curve(
        np.append(0, rejected_bonafide[last]) / n_bonafide,
        1 - np.append(0, last + 1 - rejected_bonafide[last]) / n_spoof,
        np.append(scores[0] - 0.001, scores[last]),
        _cllr(*classes) if cllr else None,
    )


def _checked(*classes, names=("bona fide", "spoof")):
    classes = [np.asarray(scores, dtype=np.float64) for scores in classes]
    for name, scores in zip(names, classes):
        if not len(scores):
            raise UserError(f"an error rate needs every class; found no {name} trial")
        if not np.all(np.isfinite(scores)):
            raise UserError(f"expected finite scores, found {np.sum(~np.isfinite(scores))} {name} ones that are not")
    return classes


def eer_point(curve):
    """Index of the point of a Curve where its rates are nearest to each other; the first of several.

    Differences are whole numbers over the product of the class sizes: what is nearer to each other than 1e-13 is
    equal, but for rounding.
    """
    difference = np.abs(curve.frr - curve.far)
    return np.argmax(difference <= difference.min(axis=-1, keepdims=True) + 1e-13, axis=-1)


def curve_eer(curve):
    """EER of a Curve, or of each of its replicates; see compute_eer."""
    nearest = np.expand_dims(eer_point(curve), -1)
    return (np.take_along_axis(curve.frr, nearest, -1) + np.take_along_axis(curve.far, nearest, -1))[..., 0] / 2


def curve_min_cost(curve, miss, false_alarm, floor=0):
    """min over thresholds of floor + miss FRR + false_alarm FAR of a Curve, or of each of its replicates."""
    return floor + np.min(miss * curve.frr + false_alarm * curve.far, axis=-1)


def min_cost_point(curve, miss, false_alarm, floor=0):
    """Index of the point of a Curve where curve_min_cost is attained."""
    return np.argmin(miss * curve.frr + false_alarm * curve.far)


def bayes_point(curve, p_spoof=P_SPOOF, c_miss=C_MISS, c_fa=C_FA):
    """Index of the point of a Curve that a log-likelihood ratio is judged at; see compute_act_dcf."""
    return max(np.searchsorted(curve.thresholds, -math.log(c_miss * (1 - p_spoof) / (c_fa * p_spoof))) - 1, 0)


def curve_act_dcf(curve, p_spoof=P_SPOOF, c_miss=C_MISS, c_fa=C_FA):
    """actDCF of a Curve, or of each of its replicates; see compute_act_dcf."""
    miss, false_alarm = dcf_weights(p_spoof, c_miss, c_fa)
    point = bayes_point(curve, p_spoof, c_miss, c_fa)
    return miss * curve.frr[..., point] + false_alarm * curve.far[..., point]


def curve_auc(curve):
    """AUC of a Curve, or of each of its replicates; see compute_auc."""
    spoof = -np.diff(curve.far)  # share of spoofs at each score; those of bona fide above it, and half of those at it
    return np.sum(spoof * (1 - (curve.frr[..., 1:] + curve.frr[..., :-1]) / 2), axis=-1)


def far_at_point(curve, frr):
    """Index of the last point of a Curve, or of each of its replicates, with no more than that FRR."""
    return np.sum(curve.frr <= frr + 1e-12, axis=-1) - 1


def curve_far_at(curve, frr):
    """FAR at an FRR of a Curve, or of each of its replicates; see compute_far_at."""
    return np.take_along_axis(curve.far, np.expand_dims(far_at_point(curve, frr), -1), -1)[..., 0]


def curve_min_cllr(curve):
    """min Cllr of a Curve, or of each of its replicates; see compute_min_cllr."""
    bonafide, spoof = np.diff(np.atleast_2d(curve.frr)), -np.diff(np.atleast_2d(curve.far))
    n_replicates, n_cells = bonafide.shape
    bonafide, spoof, first = bonafide.ravel(), spoof.ravel(), np.arange(n_replicates * n_cells) % n_cells == 0
    filled = (bonafide + spoof > 0) | first
    bonafide, spoof, first = bonafide[filled], spoof[filled], first[filled]
    replicate = np.cumsum(first) - 1
    while True:  # pool every run of falling likelihood ratios into one, until none falls: isotonic regression
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


# ----------------------------------------------------------------------------------------------------- the figures


def compute_eer(bonafide, spoof):
    """Equal error rate, a fraction, and its threshold.

    The mean of the two error rates where they are nearest to each other, without interpolation. All scores equal
    gives 0.5. Source: ASVspoof 5 evaluation plan, 2024; ties grouped, which the published code does not.
    Raises UserError for an empty class or a score that is not finite.
    """
    curve = det_curve(bonafide, spoof)
    nearest = eer_point(curve)
    return float(curve.frr[nearest] + curve.far[nearest]) / 2, float(curve.thresholds[nearest])


def dcf_weights(p_spoof=P_SPOOF, c_miss=C_MISS, c_fa=C_FA):
    """(miss, false alarm): the normalised detection cost is miss FRR + false_alarm FAR."""
    miss, false_alarm = c_miss * (1 - p_spoof), c_fa * p_spoof
    return miss / min(miss, false_alarm), false_alarm / min(miss, false_alarm)


def compute_min_dcf(bonafide, spoof, p_spoof=P_SPOOF, c_miss=C_MISS, c_fa=C_FA):
    """Minimum normalised detection cost: 1 is what a detector that ignores its input costs.

    min over thresholds of c_miss (1 - p_spoof) FRR + c_fa p_spoof FAR, over the cheaper of its two weights.
    Source: ASVspoof 5 evaluation plan, 2024. Raises UserError as compute_eer.
    """
    return float(curve_min_cost(det_curve(bonafide, spoof), *dcf_weights(p_spoof, c_miss, c_fa)))


def compute_act_dcf(bonafide, spoof, p_spoof=P_SPOOF, c_miss=C_MISS, c_fa=C_FA):
    """Actual normalised detection cost of scores that are log-likelihood ratios, at the threshold of Bayes.

    The cost of compute_min_dcf where a trial is accepted from -ln(c_miss (1 - p_spoof) / (c_fa p_spoof)) on: what
    badly calibrated scores lose shows in its distance to minDCF. Source and errors as compute_min_dcf.
    """
    return float(curve_act_dcf(det_curve(bonafide, spoof), p_spoof, c_miss, c_fa))


def _cllr_costs(bonafide, spoof):
    return np.logaddexp(0, -bonafide) / math.log(2), np.logaddexp(0, spoof) / math.log(2)


def _cllr(bonafide, spoof):
    return sum(float(np.mean(costs)) for costs in _cllr_costs(bonafide, spoof)) / 2


def compute_cllr(bonafide, spoof):
    """Cost of log-likelihood ratios in bits: scores taken as natural-logarithm likelihood ratios.

    (mean log2(1 + e^-bonafide) + mean log2(1 + e^spoof)) / 2; 1 is what a score that is always 0 costs.
    Source: Brümmer & du Preez, Computer Speech & Language 20, 2006. Raises UserError as compute_eer.
    """
    return _cllr(*_checked(bonafide, spoof))


def compute_min_cllr(bonafide, spoof):
    """Cllr, in bits, after the best calibration that keeps the order of the scores.

    That calibration is isotonic regression (pool adjacent violators). Source and errors as compute_cllr.
    """
    return float(curve_min_cllr(det_curve(bonafide, spoof)))


def compute_auc(bonafide, spoof):
    """Probability that a bona fide trial scores higher than a spoofed one, ties counting half: area under the ROC.

    Raises UserError as compute_eer.
    """
    return float(curve_auc(det_curve(bonafide, spoof)))


def compute_far_at(bonafide, spoof, frr):
    """The lowest false acceptance rate at which no more than `frr`, a fraction, of bona fide trials are rejected.

    Raises UserError as compute_eer.
    """
    return float(curve_far_at(det_curve(bonafide, spoof), frr))


# ------------------------------------------------------------------ with speaker verification: t-DCF, a-DCF, t-EER


def asv_error_rates(target, nontarget, spoof):
    """AsvRates of verification scores at the threshold of the EER between target and nontarget trials.

    A trial is accepted from the threshold on, as the t-DCF's authors count (not as on the DET curve). An empty spoof
    class gives p_fa_spoof NaN. Raises UserError for another empty class or a score that is not finite.

    The published ASVspoof 5 package takes P_miss of spoofs for P_fa of spoofs here; that slip is not repeated.
    """
    target, nontarget = _checked(target, nontarget, names=("target", "nontarget"))
    _, threshold = compute_eer(target, nontarget)
    spoof = _checked(spoof, names=("spoof",))[0] if len(spoof) else spoof
    accepted = float(np.mean(spoof >= threshold)) if len(spoof) else math.nan
    return AsvRates(float(np.mean(nontarget >= threshold)), float(np.mean(target < threshold)), accepted)


def tdcf_weights(asv, version="2021"):
    """(miss, false alarm, floor): the normalised t-DCF is floor + miss FRR + false_alarm FAR.

    asv: AsvRates. version "2019": the legacy form of Kinnunen et al., Odyssey 2018; "2021": the revised one of
    Kinnunen et al., IEEE/ACM TASLP 28, 2020, whose floor is the cost of the verification system alone.
    Raises UserError where verification is so bad that a countermeasure has no cost to weigh.
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
        raise UserError(f"t-DCF: expected a speaker verification that is of use, found the error rates {tuple(asv)}")
    scale = floor + min(miss, false_alarm)
    return miss / scale, false_alarm / scale, floor / scale


def compute_min_tdcf(bonafide, spoof, target_asv, nontarget_asv, spoof_asv, version="2021"):
    """Minimum normalised tandem detection cost of a countermeasure before a speaker verification system.

    bonafide, spoof: countermeasure scores; target_asv, nontarget_asv, spoof_asv: verification scores, which need not
    be of the same trials. Source and version: tdcf_weights. Raises UserError as compute_eer and tdcf_weights.
    """
    weights = tdcf_weights(asv_error_rates(target_asv, nontarget_asv, spoof_asv), version)
    return float(curve_min_cost(det_curve(bonafide, spoof), *weights))


def compute_a_dcf(target, nontarget, spoof):
    """Minimum normalised architecture-agnostic detection cost of one score that must accept target trials alone.

    Priors and costs of ASVspoof 5: 0.9405, 0.0095, 0.05; 1, 10, 10. Source: Shim et al., "a-DCF", Odyssey 2024.
    Raises UserError for an empty class or a score that is not finite.
    """
    classes = _checked(target, nontarget, spoof, names=("target", "nontarget", "spoof"))
    weights = C_MISS * P_TARGET, C_FA * P_NONTARGET, C_FA * P_SPOOF
    scores = np.concatenate(classes)
    order = np.argsort(scores)
    # Rejecting one more trial: a target costs its share, a nontarget or a spoof saves it.
    steps = np.repeat(
        [weights[0], -weights[1], -weights[2]] / np.array([len(c) for c in classes]), [*map(len, classes)]
    )
    last = np.append(np.diff(scores[order]) != 0, True)
    cost = weights[1] + weights[2] + np.append(0, np.cumsum(steps[order])[last])
    return float(max(np.min(cost), 0) / min(weights[0], weights[1] + weights[2]))


def compute_t_eer(target, nontarget, spoof, rho=0.5):
    """Concurrent tandem equal error rate, a fraction, and its two thresholds: (t_eer, asv_threshold, cm_threshold).

    target, nontarget, spoof: (trials, 2), verification and countermeasure score of each trial. On the path of
    threshold pairs where the tandem's miss and false acceptance rates meet, the point where nontarget trials and
    spoofs are accepted equally often. rho: prevalence of spoofs among the impostors. Source: Kinnunen et al.,
    "t-EER", IEEE TPAMI 46, 2024. Raises UserError for an empty class or a score that is not finite.

    Every pair of thresholds is searched, not a sample of them: for each verification threshold the two rates cross
    once along the countermeasure's, so that bisection finds it, O(N log N) in all.
    """
    names = ("target", "nontarget", "spoof")
    target, nontarget, spoof = (
        np.asarray(pairs, dtype=np.float64).reshape(-1, 2) for pairs in (target, nontarget, spoof)
    )
    asv = _checked(target[:, 0], nontarget[:, 0], spoof[:, 0], names=names)
    cm = det_curve(np.concatenate([target[:, 1], nontarget[:, 1]]), spoof[:, 1])
    thresholds = np.unique(np.concatenate(asv))
    thresholds = np.append(thresholds[0] - 0.001, thresholds)
    rejected = [np.searchsorted(np.sort(scores), thresholds, side="right") / len(scores) for scores in asv]
    p_miss, p_fa, p_fa_spoof = rejected[0], 1 - rejected[1], 1 - rejected[2]
    useful = (p_miss < (1 - rho) * p_fa + rho * p_fa_spoof - 1e-12) & (p_fa_spoof > 0)
    thresholds, p_miss, p_fa, p_fa_spoof = (x[useful] for x in (thresholds, p_miss, p_fa, p_fa_spoof))

    def imbalance(point):  # tandem misses less its false acceptances; grows with the countermeasure's threshold
        passed = 1 - cm.frr[point]
        false_alarms = (1 - rho) * passed * p_fa + rho * cm.far[point] * p_fa_spoof
        return np.round(cm.frr[point] + passed * p_miss - false_alarms, 12)  # so that equal ones are equal

    low, high = np.zeros(len(p_miss), int), np.full(len(p_miss), len(cm.frr) - 1)
    while np.any(low < high):  # the first point of no less misses than false acceptances
        middle = (low + high) // 2
        enough = imbalance(middle) >= 0
        low, high = np.where(enough, low, np.minimum(middle + 1, high)), np.where(enough, middle, high)
    before = np.maximum(low - 1, 0)
    point = np.where(np.abs(imbalance(before)) <= np.abs(imbalance(low)), before, low)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.round(np.abs(p_fa / p_fa_spoof - cm.far[point] / (1 - cm.frr[point])), 12)
    best = int(np.argmin(np.where(np.isnan(gap), np.inf, gap)))
    return float(p_fa_spoof[best] * cm.far[point[best]]), float(thresholds[best]), float(cm.thresholds[point[best]])


# ------------------------------------------------------------------------------------ as the published programs do


def published_asvspoof(bonafide, spoof):
    """EER, a fraction, as the programs of ASVspoof 2019, 2021 and 5 compute it.

    Their curve has a point for every trial: where scores tie, bona fide trials are rejected first, so that ties make
    the figure worse, up to 1 where all scores are equal. Raises UserError as compute_eer.
    """
    bonafide, spoof = _checked(bonafide, spoof)
    order = np.argsort(np.concatenate([bonafide, spoof]), kind="stable")
    rejected = np.append(0, np.cumsum(order < len(bonafide)))
    frr = rejected / len(bonafide)
    far = 1 - (np.arange(len(order) + 1) - rejected) / len(spoof)
    nearest = np.argmin(np.abs(frr - far))
    return float(frr[nearest] + far[nearest]) / 2


def published_ctrsvdd(bonafide, spoof):
    """EER, a fraction, and minDCF as the published CtrSVDD script computes them, to print its figures again.

    It walks a ROC curve from which scikit-learn has dropped collinear points, so that the EER is the midpoint at
    what are mostly corners of the staircase, not the point where the rates are nearest; its minDCF is
    min (FPR + FNR) / 2, not normalised. Raises UserError as compute_eer.
    """
    curve = det_curve(bonafide, spoof)
    n_bonafide, n_spoof = len(bonafide), len(spoof)
    # Counts from the highest threshold down, without the point that rejects nothing: the ROC's own order.
    accepted_bonafide = np.rint((1 - curve.frr[::-1]) * n_bonafide)
    accepted_spoof = np.rint(curve.far[::-1] * n_spoof)
    bends = (np.diff(accepted_bonafide[1:], 2) != 0) | (np.diff(accepted_spoof[1:], 2) != 0)
    kept = np.concatenate([[True], [True], bends, [True]]) if len(curve.frr) > 2 else np.full(len(curve.frr), True)
    fnr = 1 - accepted_bonafide[kept] / n_bonafide
    fpr = accepted_spoof[kept] / n_spoof
    nearest = np.argmin(np.abs(fpr - fnr))
    return float(fpr[nearest] + fnr[nearest]) / 2, float(np.min(fpr + fnr) / 2)


def published_in_the_wild(bonafide, spoof):
    """EER, a fraction, as the published In-the-Wild script computes it: interpolated where the rates cross.

    At each trial in turn, itself accepted; FRR is interpolated between the two points around the first change of
    sign. Tied trials stand in the order of the score file there; here bona fide ones first. Raises UserError as
    compute_eer.
    """
    bonafide, spoof = _checked(bonafide, spoof)
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


# ----------------------------------------------------------------------------------------------------- uncertainty


def cluster_weights(clusters, is_bonafide, n_replicates=1000, seed=0):
    """How often each cluster is drawn in each bootstrap replicate, (replicates, clusters) float32.

    clusters: (trials,) codes from 0; is_bonafide: (trials,). Clusters are drawn with replacement, apart those that
    have bona fide trials alone, spoofed ones alone, and both.
    Source: Davison & Hinkley, "Bootstrap methods and their application", 1997, section 3.8.
    """
    n_clusters = int(clusters.max()) + 1
    kinds = sum(
        (np.bincount(clusters[mask], minlength=n_clusters) > 0) * w for w, mask in ((1, is_bonafide), (2, ~is_bonafide))
    )
    rng = np.random.default_rng(seed)
    weights = np.zeros((n_replicates, n_clusters), np.float32)
    for kind in (1, 2, 3):
        members = np.flatnonzero(kinds == kind)
        if len(members):
            share = np.full(len(members), 1 / len(members))
            weights[:, members] = rng.multinomial(len(members), share, size=n_replicates)
    return weights


def bootstrap_curves(bonafide, spoof, n_replicates=1000, seed=0, clusters=None, weights=None, points=(), cllr=False):
    """DET curves of bootstrap replicates of the same trials, for one or several systems.

    bonafide, spoof: (systems, trials) scores of each class. Without clusters, trials are drawn with replacement
    within each class; with clusters, a pair of (trials,) codes for the classes, and weights from cluster_weights,
    whole clusters are. All systems see the same draws, so that their figures may be subtracted.
    points: functions of a Curve; near to the operating points that they return, a curve is resolved finest.
    Returns for each system (exact, coarse, replicates): Curves of all trials at all points, of all trials at the
    replicates' points, and of the replicates (replicates, points); cllr: whether with Cllr.
    Source: Efron & Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.

    What a replicate needs of the trials is how many fall between two operating points. So those counts are drawn,
    which has the distribution of drawing the trials, at a small part of the work. Of a long curve 64 points around
    each of `points` are kept, their distance growing with that from it: about a tenth of a standard error nearby.
    """
    rng = np.random.default_rng(seed)
    classes = [np.atleast_2d(scores) for scores in (bonafide, spoof)]
    exact = [det_curve(*scores, cllr=cllr) for scores in zip(*classes)]
    coarse = []
    for curve in exact:
        kept = kept_points(curve, *(scores.shape[1] for scores in classes), points)
        coarse.append(Curve(curve.frr[kept], curve.far[kept], curve.thresholds[kept], curve.cllr))
    sizes = [len(curve.thresholds) for curve in coarse]

    rejected, costs = [], np.zeros((len(coarse), n_replicates))  # of each class; of both together
    for i, scores in enumerate(classes):
        cells = [np.searchsorted(curve.thresholds, x) for curve, x in zip(coarse, scores)]
        if clusters is None:
            drawn = _draw_trials(cells, sizes, n_replicates, rng)
        else:
            drawn = [weights @ _table(clusters[i], weights.shape[1], c, size) for c, size in zip(cells, sizes)]
        total = drawn[0].sum(axis=1, dtype=np.float64)
        total[total == 0] = np.nan  # no trial of the class was drawn: the replicate tells nothing
        rejected.append([np.cumsum(counts, axis=1, dtype=np.float64) / total[:, None] for counts in drawn])
        for k in range(len(coarse) if cllr else 0):  # from the mean and the variance of the costs in each cell
            cost = _cllr_costs(scores[k], scores[k])[i]
            n = np.maximum(np.bincount(cells[k], minlength=sizes[k]), 1)
            mean = np.bincount(cells[k], cost, sizes[k]) / n
            variance = np.maximum(np.bincount(cells[k], cost**2, sizes[k]) / n - mean**2, 0)
            noise = rng.standard_normal(n_replicates) * np.sqrt(drawn[k] @ variance)
            costs[k] += (drawn[k] @ mean + noise) / total / 2
    replicates = [
        Curve(frr, 1 - spoofs, curve.thresholds, cost if cllr else None)
        for frr, spoofs, curve, cost in zip(*rejected, coarse, costs)
    ]
    return list(zip(exact, coarse, replicates))


def kept_points(curve, n_bonafide, n_spoof, points, n=64):
    """Indices of the points of a curve that its replicates are computed at: all, or those of most interest."""
    if len(curve.frr) <= 4 * n:
        return np.arange(len(curve.frr))
    difference = curve.frr - curve.far  # from -1 to 1, never falling
    kept = [[0, len(curve.frr) - 1]]
    for point in points:
        i = int(point(curve))
        error = (
            sum(max(r * (1 - r), 1 / m) / m for r, m in ((curve.frr[i], n_bonafide), (curve.far[i], n_spoof))) ** 0.5
        )
        reach = math.asinh(2 / error)
        targets = difference[i] + error * np.sinh(np.linspace(-reach, reach, n))
        kept += [[i], np.clip(np.searchsorted(difference, targets), 0, len(curve.frr) - 1)]
    return np.unique(np.concatenate(kept))


def _draw_trials(cells, sizes, n_replicates, rng):
    """Trials drawn with replacement, as counts in the cells of each system: list of (replicates, sizes[k])."""
    n_trials = len(cells[0])
    if len(cells) == 1:
        return [rng.multinomial(n_trials, np.bincount(cells[0], minlength=sizes[0]) / n_trials, size=n_replicates)]
    joint, counts = np.unique(np.ravel_multi_index(cells, sizes), return_counts=True)
    of_system = np.unravel_index(joint, sizes)
    order = [np.argsort(cell, kind="stable") for cell in of_system]
    drawn = [np.zeros((n_replicates, size)) for size in sizes]
    for start in range(0, n_replicates, 100):  # bounds the memory
        draws = rng.multinomial(n_trials, counts / n_trials, size=min(100, n_replicates - start))
        for k, cell in enumerate(of_system):
            filled, first = np.unique(cell[order[k]], return_index=True)
            drawn[k][start : start + 100, filled] = np.add.reduceat(draws[:, order[k]], first, axis=1)
    return drawn


def _table(rows, n_rows, columns, n_columns):
    counts = np.bincount(rows.astype(np.int64) * n_columns + columns, minlength=n_rows * n_columns)
    return counts.reshape(n_rows, n_columns).astype(np.float32)


def bootstrap_figure(figure, exact, coarse, replicates):
    """(value, replicates (n,)) of a function of a Curve; what the coarse curve misses is put back. NaNs left out."""
    with np.errstate(invalid="ignore"):
        values = np.asarray(figure(replicates))
    value = float(figure(exact))
    return value, values + (value - float(figure(coarse)))


def percentile_interval(replicates, confidence=0.95):
    """Percentile interval (low, high) of bootstrap replicates, NaN ones left out. (NaN, NaN) where none is left."""
    replicates = replicates[np.isfinite(replicates)]
    if not len(replicates):
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return float(low), float(high)


def p_value(differences):
    """Two-sided p-value of "there is no difference" from bootstrap replicates of it: below 0.05 where the 95 %
    interval leaves 0 out. Source: Davison & Hinkley, 1997, section 4.4 (with one added to the counts).
    """
    differences = differences[np.isfinite(differences)]
    less, more = np.sum(differences <= 0), np.sum(differences >= 0)
    return float(min(1, 2 * (min(less, more) + 1) / (len(differences) + 1)))


def bootstrap_statistic(statistic, *classes, n_replicates=200, seed=0):
    """Replicates (n,) of any function of the trials of some classes, drawn with replacement within each class."""
    rng = np.random.default_rng(seed)
    draws = ([trials[rng.integers(len(trials), size=len(trials))] for trials in classes] for _ in range(n_replicates))
    return np.array([statistic(*draw) for draw in draws])


def bootstrap_eer(bonafide, spoof, n_replicates=1000, seed=0, confidence=0.95):
    """Percentile bootstrap interval of the EER: (low, high), fractions.

    Trials are drawn with replacement within each class, so the interval speaks of other trials from the same
    speakers and attacks, not of other speakers. Raises UserError as compute_eer.
    """
    curves = bootstrap_curves(*_checked(bonafide, spoof), n_replicates, seed, points=[eer_point])
    _, replicates = bootstrap_figure(curve_eer, *curves[0])
    return percentile_interval(replicates, confidence)


# -------------------------------------------------------------------------------------------- calibration and fusion


def train_calibration(bonafide, spoof):
    """(weights (systems,), offset) that turn scores into log-likelihood ratios: scores @ weights + offset.

    bonafide, spoof: (trials, systems) or (trials,) scores of development trials. Logistic regression in which both
    classes weigh the same, which minimises Cllr: affine calibration of one system, fusion of several.
    Source: Brümmer et al., "Fusion of heterogeneous speaker recognition systems", IEEE TASLP 15, 2007.
    Raises UserError as compute_eer. Where the classes are separated without error no finite answer is best; a ridge
    of 1e-9 then keeps it finite.
    """
    _checked(*(np.ravel(x) for x in (bonafide, spoof)))
    bonafide, spoof = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (bonafide, spoof))
    x = np.concatenate([bonafide, spoof])
    with np.errstate(over="ignore", invalid="ignore"):
        mean, scale = x.mean(axis=0), x.std(axis=0)
    if not np.all(np.isfinite([mean, scale])):
        raise UserError(f"expected scores whose variance is a number, found some of {np.max(np.abs(x)):g}")
    scale[scale == 0] = 1
    x = np.column_stack([(x - mean) / scale, np.ones(len(x))])
    sign = np.repeat([1.0, -1.0], [len(bonafide), len(spoof)])
    share = np.repeat([0.5 / len(bonafide), 0.5 / len(spoof)], [len(bonafide), len(spoof)])
    ridge = np.append(np.full(x.shape[1] - 1, 1e-9), 0)

    def loss(w):
        return share @ np.logaddexp(0, -sign * (x @ w)) + ridge @ w**2 / 2

    w = np.zeros(x.shape[1])
    for _ in range(100):  # Newton's steps, halved where one does not lead down
        wrong = 1 / (1 + np.exp(np.clip(sign * (x @ w), -700, 700)))
        gradient = -(x.T @ (share * sign * wrong)) + ridge * w
        hessian = (x.T * (share * wrong * (1 - wrong))) @ x + np.diag(ridge + 1e-15)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while loss(w - size * step) > loss(w) and size > 1e-6:
            size /= 2
        w = w - size * step
        if gradient @ step < 1e-16:
            break
    weights = w[:-1] / scale
    return weights, float(w[-1] - weights @ mean)
