from fractions import Fraction

import numpy as np
import pytest
from conftest import REFERENCE
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve

from common.console import UserError
from reports import bootstrap, calibration, curves, metrics
from reports.bootstrap import bootstrap_eer
from reports.metrics import (
    compute_a_dcf,
    compute_act_dcf,
    compute_auc,
    compute_cllr,
    compute_eer,
    compute_far_at,
    compute_min_cllr,
    compute_min_dcf,
    compute_min_tdcf,
    compute_t_eer,
)
from reports.published import published_asvspoof, published_ctrsvdd, published_in_the_wild

TWO_CLASSES = [compute_eer, compute_min_dcf, compute_act_dcf, compute_cllr, compute_min_cllr, compute_auc]
TWO_CLASSES += [published_asvspoof, published_ctrsvdd, published_in_the_wild, bootstrap_eer]


def reference_scores():
    data = np.load(REFERENCE / "asvspoof5_dev_scores.npz")
    bonafide = data["sasv_label"] > 0
    return data["cm_score"][bonafide], data["cm_score"][~bonafide]


def brute_force(bonafide, spoof):
    """Every threshold tried in turn, in exact fractions: (EER, minDCF)."""
    points = []
    for threshold in [-np.inf, *sorted({*bonafide, *spoof})]:
        frr = Fraction(sum(score <= threshold for score in bonafide), len(bonafide))
        far = Fraction(sum(score > threshold for score in spoof), len(spoof))
        points.append((abs(frr - far), frr, far))
    _, frr, far = min(points, key=lambda point: point[0])
    return float((frr + far) / 2), float(min(Fraction(19, 10) * frr + far for _, frr, far in points))


def brute_force_nearest(bonafide, spoof):
    """The mean of the error rates at every point where they are nearest to each other."""
    points = [(np.mean(bonafide <= t), np.mean(spoof > t)) for t in [-np.inf, *sorted({*bonafide, *spoof})]]
    nearest = min(abs(frr - far) for frr, far in points)
    return [(frr + far) / 2 for frr, far in points if abs(frr - far) < nearest + 1e-9]


def tied_samples():
    """Small classes, drawn from few values: ties within and between the classes, one-element classes."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        yield tuple(rng.integers(0, rng.integers(1, 12), rng.integers(1, 12)).astype(float) for _ in range(2))


def test_reference_figures():
    bonafide, spoof = reference_scores()
    assert compute_eer(bonafide, spoof)[0] == pytest.approx(0.00619731790, abs=5e-12)
    assert compute_min_dcf(bonafide, spoof) == pytest.approx(0.0163198116, abs=5e-11)
    assert compute_act_dcf(bonafide, spoof) == pytest.approx(0.0180241532, abs=5e-11)
    assert compute_cllr(bonafide, spoof) == pytest.approx(0.0281906183, abs=5e-11)
    eer, min_dcf = published_ctrsvdd(bonafide, spoof)
    assert eer == pytest.approx(0.00642157337, abs=5e-12)
    assert min_dcf == pytest.approx(0.00536757265, abs=5e-12)
    assert published_in_the_wild(bonafide, spoof) == pytest.approx(0.00620518478, abs=5e-12)
    assert published_asvspoof(bonafide, spoof) == pytest.approx(0.00619731790, abs=5e-12)


def test_reference_min_tdcf_and_not_that_of_the_published_slip():
    data = np.load(REFERENCE / "asvspoof5_dev_scores.npz")
    asv = [data["asv_score"][data["sasv_label"] == label] for label in (1, 2, 0)]
    found = compute_min_tdcf(*reference_scores(), *asv)
    assert found == pytest.approx(0.108650249, abs=5e-10)
    rates = metrics.asv_error_rates(*asv)
    slip = rates._replace(p_fa_spoof=1 - rates.p_fa_spoof)
    curve = curves.det_curve(*reference_scores())
    assert curves.curve_min_cost(curve, *metrics.tdcf_weights(slip)) == pytest.approx(0.0828333172, abs=5e-11)


def test_organisers_asv_rates_give_their_weights():
    miss, false_alarm, floor = metrics.tdcf_weights(metrics.ASVSPOOF5_ASV_RATES)
    scale = 0.0194696919 + 0.230354145
    assert np.array([floor, miss, false_alarm]) * scale == pytest.approx([0.0194696919, 0.921030308, 0.230354145])


def test_eer_threshold_rejects_itself():
    bonafide, spoof = reference_scores()
    _, threshold = compute_eer(bonafide, spoof)
    assert (np.sum(bonafide <= threshold), np.sum(spoof > threshold)) == (45, 138)


def test_eer_and_min_dcf_equal_brute_force_with_ties():
    for bonafide, spoof in tied_samples():
        expected = brute_force(bonafide, spoof)
        assert (compute_eer(bonafide, spoof)[0], compute_min_dcf(bonafide, spoof)) == pytest.approx(expected)


def test_other_figures_of_one_curve_equal_brute_force_with_ties():
    for bonafide, spoof in tied_samples():
        points = [-np.inf, *sorted({*bonafide, *spoof})]
        threshold = -np.log(1.9)
        expected = 1.9 * np.mean(bonafide < threshold) + np.mean(spoof >= threshold)
        assert compute_act_dcf(bonafide - 4, spoof - 4) == pytest.approx(
            1.9 * np.mean(bonafide - 4 < threshold) + np.mean(spoof - 4 >= threshold)
        )
        assert compute_act_dcf(bonafide, spoof) == pytest.approx(expected)
        labels = np.repeat([1, 0], [len(bonafide), len(spoof)])
        assert compute_auc(bonafide, spoof) == pytest.approx(roc_auc_score(labels, np.concatenate([bonafide, spoof])))
        for rate in (0, 0.1, 1 / 3, 0.5, 1):
            allowed = [np.mean(spoof > t) for t in points if np.mean(bonafide <= t) <= rate + 1e-12]
            assert compute_far_at(bonafide, spoof, rate) == pytest.approx(min(allowed))
        cllr = sum(np.log2(1 + np.exp(-s)) for s in bonafide) / len(bonafide) / 2
        cllr += sum(np.log2(1 + np.exp(s)) for s in spoof) / len(spoof) / 2
        assert compute_cllr(bonafide, spoof) == pytest.approx(cllr)


def test_min_cllr_equals_isotonic_regression():
    for bonafide, spoof in tied_samples():
        scores, labels = np.concatenate([bonafide, spoof]), np.repeat([1.0, 0.0], [len(bonafide), len(spoof)])
        share = np.where(labels == 1, 0.5 / len(bonafide), 0.5 / len(spoof))
        p = IsotonicRegression().fit(scores, labels, sample_weight=share).predict(scores)
        expected = -np.sum(share * np.log2(np.where(labels == 1, p, 1 - p)))
        assert compute_min_cllr(bonafide, spoof) == pytest.approx(expected, abs=1e-9)
        assert compute_min_cllr(bonafide, spoof) <= compute_cllr(bonafide, spoof) + 1e-12


def test_cllr_of_large_scores_does_not_overflow():
    assert compute_cllr([1e4, -2e4], [-1e5]) == pytest.approx(2e4 / np.log(2) / 4)


def test_extremes():
    assert compute_eer([2, 3], [0, 1])[0] == 0
    assert compute_eer([0, 1], [2, 3])[0] == 1
    assert compute_eer([5, 5, 5], [5, 5])[0] == 0.5
    assert (compute_eer([1], [0])[0], compute_eer([0], [1])[0], compute_eer([1], [1])[0]) == (0, 1, 0.5)
    assert compute_min_dcf([5, 5], [5]) == 1
    assert compute_min_dcf([1], [0]) == 0
    assert (compute_auc([2, 3], [0, 1]), compute_auc([0], [1]), compute_auc([1, 1], [1])) == (1, 0, 0.5)
    assert (compute_min_cllr([2, 3], [0, 1]), compute_min_cllr([0, 1], [2, 3])) == (0, 1)
    assert compute_min_cllr([5, 5], [5]) == pytest.approx(1) == compute_cllr([0, 0], [0])
    assert published_asvspoof([5, 5, 5], [5, 5]) == 1  # as published: ties are not treated properly there
    for function in TWO_CLASSES:
        with pytest.raises(UserError, match="no spoof"):
            function([1.0], [])
        with pytest.raises(UserError, match="no bona fide"):
            function([], [1.0])
        for value in (np.nan, np.inf):
            with pytest.raises(UserError, match="finite"):
                function([1.0, value], [0.0])
    for function in (compute_a_dcf, lambda t, n, s: compute_t_eer([[t[0], 1]], [[n[0], 1]], np.zeros((len(s), 2)))):
        with pytest.raises(UserError, match="no spoof"):
            function([1.0], [0.0], [])


RANK_METRICS = {
    "eer": lambda b, s: compute_eer(b, s)[0],
    "min_dcf": compute_min_dcf,
    "min_cllr": compute_min_cllr,
    "auc": compute_auc,
    "far_at": lambda b, s: compute_far_at(b, s, 0.2),
    "published_asvspoof": published_asvspoof,
    "published_ctrsvdd": lambda b, s: published_ctrsvdd(b, s)[0],
    "published_in_the_wild": published_in_the_wild,
    "a_dcf": lambda b, s: compute_a_dcf(b, b - 1, s),
    "min_tdcf": lambda b, s: compute_min_tdcf(b, s, np.arange(9.0) + 4, np.arange(9.0), np.arange(9.0) + 3),
}


@pytest.mark.parametrize("name", RANK_METRICS)
def test_order_shift_and_scale_of_the_scores_change_no_rank_metric(name):
    metric = RANK_METRICS[name]
    rng = np.random.default_rng(1)
    bonafide, spoof = rng.normal(1, 1, 50).round(1), rng.normal(0, 1, 70).round(1)
    shift, scale = (7, 0.5) if name == "a_dcf" else (-7, 4)
    expected = metric(bonafide, spoof)
    if name == "a_dcf":  # one score for all three classes: the shift must be theirs, too
        moved = compute_a_dcf(scale * bonafide + shift, scale * (bonafide - 1) + shift, scale * spoof + shift)
    else:
        moved = metric(scale * rng.permutation(bonafide) + shift, scale * spoof + shift)
    assert moved == pytest.approx(expected, abs=1e-12)


def test_swapping_classes_and_signs_swaps_the_errors():
    for bonafide, spoof in tied_samples():
        # Where two points are equally near, the one of the lower threshold counts: the other one, seen from behind.
        nearest = brute_force_nearest(bonafide, spoof)
        assert any(compute_eer(-spoof, -bonafide)[0] == pytest.approx(eer) for eer in nearest)
        assert any(compute_eer(-bonafide, -spoof)[0] == pytest.approx(1 - eer) for eer in nearest)
        assert compute_auc(-spoof, -bonafide) == pytest.approx(compute_auc(bonafide, spoof))
        assert compute_min_cllr(-spoof, -bonafide) == pytest.approx(compute_min_cllr(bonafide, spoof), abs=1e-9)
        swapped = compute_min_dcf(-spoof, -bonafide, p_spoof=0.95, c_miss=10, c_fa=1)
        assert swapped == pytest.approx(compute_min_dcf(bonafide, spoof))
        assert compute_auc(spoof, bonafide) == pytest.approx(1 - compute_auc(bonafide, spoof))


# ------------------------------------------------------------------------------------------ t-DCF, a-DCF and t-EER


def three_classes():
    rng = np.random.default_rng(5)
    for digits in [0, 1, 1, 2, 9] * 12:
        n = rng.integers(1, 9, 3)
        yield tuple(rng.normal(centre, 1, size).round(digits) for centre, size in zip((1.5, -1, 0.5), n))


def test_tdcf_equals_brute_force():
    for (target, nontarget, asv_spoof), (bonafide, _, spoof) in zip(three_classes(), list(three_classes())[::-1]):
        threshold = compute_eer(target, nontarget)[1]
        p_miss, p_fa = np.mean(target < threshold), np.mean(nontarget >= threshold)
        p_fa_spoof = np.mean(asv_spoof >= threshold)
        legacy, revised = [], []
        for t in [-np.inf, *bonafide, *spoof]:
            frr, far = np.mean(bonafide <= t), np.mean(spoof > t)
            c1, c2 = 0.9405 * (1 - p_miss) - 0.0095 * 10 * p_fa, 10 * 0.05 * p_fa_spoof
            legacy.append((c1 * frr + c2 * far) / min(c1, c2) if min(c1, c2) > 0 else np.nan)
            c0 = 0.9405 * p_miss + 0.0095 * 10 * p_fa
            c1, c2 = 0.9405 - c0, 0.05 * 10 * p_fa_spoof
            revised.append((c0 + c1 * frr + c2 * far) / (c0 + min(c1, c2)))
        if c0 + min(c1, c2) > 0 and c1 >= 0:
            assert compute_min_tdcf(bonafide, spoof, target, nontarget, asv_spoof) == pytest.approx(min(revised))
        if np.isfinite(min(legacy)):
            found = compute_min_tdcf(bonafide, spoof, target, nontarget, asv_spoof, version="2019")
            assert found == pytest.approx(min(legacy))


def test_tdcf_of_a_useless_verification_is_an_error():
    with pytest.raises(UserError, match=r"t-DCF: undefined .*\(1\.0, 0\.0, 0\.0\)"):
        compute_min_tdcf([1.0], [0.0], [0.0], [1.0], [-9.0], version="2019")
    with pytest.raises(ValueError, match="2019"):
        compute_min_tdcf([1.0], [0.0], [1.0], [0.0], [1.0], version="2020")
    assert np.isnan(compute_min_tdcf([1.0], [0.0], [1.0], [0.0], []))  # no verification of spoofs to tell from


def test_a_dcf_equals_brute_force():
    for target, nontarget, spoof in three_classes():
        costs = [
            0.9405 * np.mean(target <= t) + 0.095 * np.mean(nontarget > t) + 0.5 * np.mean(spoof > t)
            for t in [-np.inf, *target, *nontarget, *spoof]
        ]
        assert compute_a_dcf(target, nontarget, spoof) == pytest.approx(min(costs) / 0.595)
    assert compute_a_dcf([2.0], [0.0], [1.0]) == 0
    assert compute_a_dcf([0.0], [0.0], [0.0]) == 1


def test_t_eer_equals_the_search_of_every_pair_of_thresholds():
    rng = np.random.default_rng(6)
    for asv in three_classes():
        classes = [np.column_stack([s, rng.normal(c, 1, len(s)).round(1)]) for s, c in zip(asv, (1.5, 1.2, -1))]
        target, nontarget, spoof = classes
        bonafide_cm = np.concatenate([target[:, 1], nontarget[:, 1]])
        cm_points = sorted({*bonafide_cm, *spoof[:, 1]})
        best = (np.inf, None)
        asv_points = sorted({*np.concatenate(asv)})
        for a in [asv_points[0] - 0.001, *asv_points]:
            p_miss, p_fa, p_spf = np.mean(asv[0] <= a), np.mean(asv[1] > a), np.mean(asv[2] > a)
            if not (p_miss < 0.5 * p_fa + 0.5 * p_spf - 1e-12) or p_spf == 0:
                continue
            path = []
            for t in [cm_points[0] - 0.001, *cm_points]:
                frr, far = np.mean(bonafide_cm <= t), np.mean(spoof[:, 1] > t)
                tandem_miss = frr + (1 - frr) * p_miss
                tandem_fa = 0.5 * (1 - frr) * p_fa + 0.5 * far * p_spf
                path.append((round(abs(tandem_miss - tandem_fa), 12), frr, far))
            _, frr, far = min(path, key=lambda point: point[0])
            if frr < 1:
                best = min(best, (round(abs(p_fa / p_spf - far / (1 - frr)), 12), p_spf * far), key=lambda x: x[0])
        if best[1] is not None:
            assert compute_t_eer(target, nontarget, spoof)[0] == pytest.approx(best[1], abs=1e-9)


# ------------------------------------------------------------------------------------------- as the published programs


def test_published_asvspoof_equals_a_walk_over_every_trial():
    for bonafide, spoof in tied_samples():
        trials = sorted([(s, 0) for s in bonafide] + [(s, 1) for s in spoof])  # bona fide first where scores tie
        points = [(abs(0 - 1), 0, 1)]
        for k in range(1, len(trials) + 1):
            frr = sum(kind == 0 for _, kind in trials[:k]) / len(bonafide)
            far = 1 - sum(kind == 1 for _, kind in trials[:k]) / len(spoof)
            points.append((abs(frr - far), frr, far))
        _, frr, far = min(points, key=lambda point: point[0])
        assert published_asvspoof(bonafide, spoof) == pytest.approx((frr + far) / 2)


def test_published_in_the_wild_equals_a_walk_over_every_trial():
    for bonafide, spoof in tied_samples():
        trials = sorted([(s, 0) for s in bonafide] + [(s, 1) for s in spoof])
        frr = [sum(kind == 0 for _, kind in trials[:i]) / len(bonafide) for i in range(len(trials))]
        far = [sum(kind == 1 for _, kind in trials[i:]) / len(spoof) for i in range(len(trials))]
        d = [round(b - a, 12) for a, b in zip(frr, far)]
        crossing = next((i for i in range(len(d) - 1) if np.sign(d[i]) != np.sign(d[i + 1])), None)
        if crossing is None:
            i = int(np.argmin(np.abs(d)))
            expected = (frr[i] + far[i]) / 2
        else:
            i, p = crossing, abs(d[crossing]) / (abs(d[crossing]) + abs(d[crossing + 1]))
            expected = frr[i] + p * (frr[i + 1] - frr[i])
        assert published_in_the_wild(bonafide, spoof) == pytest.approx(expected, abs=1e-9)


def test_published_ctrsvdd_equals_scikit_learn():
    for bonafide, spoof in tied_samples():
        labels = np.repeat([1, 0], [len(bonafide), len(spoof)])
        fpr, tpr, _ = roc_curve(labels, np.concatenate([bonafide, spoof]), pos_label=1)
        nearest = np.nanargmin(np.abs(fpr - (1 - tpr)))
        expected = (fpr[nearest] + 1 - tpr[nearest]) / 2, np.min(0.5 * fpr + 0.5 * (1 - tpr))
        assert published_ctrsvdd(bonafide, spoof) == pytest.approx(expected)


@pytest.mark.parametrize("n_bonafide, n_spoof, digits", [(300, 500, 1), (300, 6000, 9)])  # with ties; many blocks
def test_bootstrap_has_the_distribution_of_resampling(n_bonafide, n_spoof, digits):
    rng = np.random.default_rng(2)
    bonafide, spoof = rng.normal(1.5, 1, n_bonafide).round(digits), rng.normal(0, 1, n_spoof).round(digits)
    direct = [compute_eer(rng.choice(bonafide, n_bonafide), rng.choice(spoof, n_spoof))[0] for _ in range(2000)]
    for confidence in (0.5, 0.95):
        found = bootstrap_eer(bonafide, spoof, n_replicates=4000, confidence=confidence)
        expected = np.quantile(direct, [(1 - confidence) / 2, (1 + confidence) / 2])
        np.testing.assert_allclose(found, expected, atol=0.004)
        assert found == bootstrap_eer(bonafide, spoof, n_replicates=4000, confidence=confidence)


FIGURES = {
    "eer": (curves.curve_eer, lambda b, s: compute_eer(b, s)[0], curves.eer_point),
    "min_dcf": (
        lambda curve: curves.curve_min_cost(curve, 1.9, 1),
        compute_min_dcf,
        lambda curve: curves.min_cost_point(curve, 1.9, 1),
    ),
    "act_dcf": (curves.curve_act_dcf, compute_act_dcf, curves.bayes_point),
    "cllr": (lambda curve: curve.cllr, compute_cllr, None),
    "min_cllr": (curves.curve_min_cllr, compute_min_cllr, None),
    "auc": (curves.curve_auc, compute_auc, None),
    "far_at": (
        lambda curve: curves.curve_far_at(curve, 0.1),
        lambda b, s: compute_far_at(b, s, 0.1),
        lambda curve: curves.far_at_point(curve, 0.1),
    ),
}
POINTS = [point for _, _, point in FIGURES.values() if point]


def same_distribution(found, direct):
    """Mean, spread and tails within three standard errors of 1,000 and more replicates."""
    assert np.mean(found) == pytest.approx(np.mean(direct), abs=0.15 * np.std(direct))
    assert np.std(found) == pytest.approx(np.std(direct), rel=0.12)
    for q in (0.025, 0.975):
        assert np.quantile(found, q) == pytest.approx(np.quantile(direct, q), abs=0.35 * np.std(direct))


@pytest.mark.parametrize("n_bonafide, n_spoof", [(90, 130), (400, 3000)])  # all points kept; some
def test_every_figure_has_the_distribution_of_resampled_trials(n_bonafide, n_spoof):
    rng = np.random.default_rng(7)
    bonafide, spoof = rng.normal(1.2, 1.5, n_bonafide), rng.normal(-1, 1.2, n_spoof)
    ((exact, coarse, replicates),) = bootstrap.bootstrap_curves(bonafide, spoof, 1500, points=POINTS, cllr=True)
    assert (len(coarse.frr) < len(exact.frr)) == (n_spoof == 3000)
    draws = [(rng.choice(bonafide, len(bonafide)), rng.choice(spoof, n_spoof)) for _ in range(700)]
    for figure, function, _ in FIGURES.values():
        value, found = bootstrap.bootstrap_figure(figure, exact, coarse, replicates)
        assert value == pytest.approx(function(bonafide, spoof))
        same_distribution(found, [function(*draw) for draw in draws])


def test_cllr_of_outliers_within_one_cell_has_the_distribution_of_resampling():
    rng = np.random.default_rng(15)
    bonafide, spoof = rng.normal(3, 1, 2000), rng.normal(-3, 1, 9000)
    bonafide[:12] = -np.geomspace(30, 3000, 12)  # below every spoof: no operating point between them is kept
    ((exact, coarse, replicates),) = bootstrap.bootstrap_curves(bonafide, spoof, 4000, points=POINTS, cllr=True)
    _, found = bootstrap.bootstrap_figure(lambda curve: curve.cllr, exact, coarse, replicates)
    direct = [compute_cllr(rng.choice(bonafide, 2000), spoof) for _ in range(4000)]
    assert np.std(found) == pytest.approx(np.std(direct), rel=0.06)


def test_clusters_are_drawn_whole_within_their_kind():
    rng = np.random.default_rng(8)
    n_clusters = 40
    voices = rng.normal(0, 1, n_clusters)
    clusters_b, clusters_s = rng.integers(0, 25, 500), rng.integers(15, n_clusters, 1500)  # some have both classes
    bonafide = rng.normal(1.5, 1, 500) + voices[clusters_b]
    spoof = rng.normal(-1, 1, 1500) + voices[clusters_s]
    codes, is_bonafide = np.concatenate([clusters_b, clusters_s]), np.arange(2000) < 500
    weights = bootstrap.cluster_weights(codes, is_bonafide, 1500)
    for members in (range(15), range(15, 25), range(25, 40)):
        assert np.all(weights[:, members].sum(axis=1) == len(members))
    stratum = bootstrap.Stratum(clusters=(clusters_b, clusters_s), weights=weights)
    (voiced,) = bootstrap.bootstrap_curves(bonafide, spoof, 1500, points=POINTS, cllr=True, strata=[stratum])
    of_cluster = [(bonafide[clusters_b == c], spoof[clusters_s == c]) for c in range(n_clusters)]
    draws = []
    for _ in range(700):
        drawn = np.concatenate(
            [rng.choice(kind, len(kind)) for kind in (np.arange(15), np.arange(15, 25), np.arange(25, 40))]
        )
        draws.append([np.concatenate([of_cluster[c][i] for c in drawn]) for i in (0, 1)])
    for figure, function, _ in FIGURES.values():
        same_distribution(bootstrap.bootstrap_figure(figure, *voiced)[1], [function(*draw) for draw in draws])
    low, high = bootstrap.percentile_interval(bootstrap.bootstrap_figure(curves.curve_eer, *voiced)[1])
    trial_low, trial_high = bootstrap_eer(bonafide, spoof)
    assert high - low > 1.5 * (trial_high - trial_low)  # what drawing trials would hide


def test_paired_systems_see_the_same_draws():
    rng = np.random.default_rng(9)
    common_b, common_s = rng.normal(1.5, 1, 600), rng.normal(-1.5, 1, 2500)
    first = common_b + rng.normal(0, 0.3, 600), common_s + rng.normal(0, 0.3, 2500)
    second = common_b + rng.normal(0, 0.5, 600), common_s + rng.normal(0, 0.5, 2500)
    both = bootstrap.bootstrap_curves(
        [first[0], second[0]], [first[1], second[1]], n_replicates=1500, points=POINTS, cllr=True
    )
    drawn = [bootstrap.bootstrap_figure(curves.curve_eer, *c)[1] for c in both]
    direct = []
    for _ in range(700):
        i, j = rng.integers(600, size=600), rng.integers(2500, size=2500)
        direct.append(compute_eer(first[0][i], first[1][j])[0] - compute_eer(second[0][i], second[1][j])[0])
    same_distribution(drawn[0] - drawn[1], direct)
    assert np.std(drawn[0] - drawn[1]) < 0.8 * np.hypot(np.std(drawn[0]), np.std(drawn[1]))
    same = bootstrap.bootstrap_curves([first[0]] * 2, [first[1]] * 2, points=POINTS)
    a, b = (bootstrap.bootstrap_figure(curves.curve_eer, *c)[1] for c in same)
    assert np.array_equal(a, b) and bootstrap.p_value(a - b) == 1


def test_p_value_and_interval_agree():
    rng = np.random.default_rng(10)
    for shift in np.linspace(-3, 3, 61):
        differences = np.append(rng.normal(shift, 1, 999), np.nan)
        low, high = bootstrap.percentile_interval(differences)
        if not -0.05 < min(abs(low), abs(high)) < 0.05:
            assert (bootstrap.p_value(differences) < 0.05) == (low > 0 or high < 0)
    assert bootstrap.p_value(np.full(999, 1.0)) == pytest.approx(2 / 1000)


def test_bootstrap_of_separated_classes_is_a_point():
    assert bootstrap_eer([2.0, 3.0], [0.0, 1.0]) == (0, 0)


def test_bootstrap_of_half_a_million_trials_draws_few_counts():
    rng = np.random.default_rng(3)
    bonafide, spoof = rng.normal(2, 1, 15_000), rng.normal(0, 1, 500_000)
    ((exact, coarse, replicates),) = bootstrap.bootstrap_curves(bonafide, spoof, points=[curves.eer_point])
    assert len(exact.frr) > 100_000 and len(coarse.frr) < 100 and replicates.frr.shape == (1000, len(coarse.frr))
    low, high = bootstrap_eer(bonafide, spoof)
    assert 0.15 < low < 0.158655 < high < 0.17  # the true EER: both normal, two deviations apart


def test_a_paired_comparison_of_half_a_million_trials_draws_few_counts():
    rng = np.random.default_rng(11)
    bonafide, spoof = rng.normal(2, 1, 20_000), rng.normal(-2, 1, 580_000)
    systems = [[x + rng.normal(0, noise, len(x)) for noise in (0.3, 0.32)] for x in (bonafide, spoof)]
    drawn = bootstrap.bootstrap_curves(*systems, 1000, points=[curves.eer_point])
    assert all(replicates.frr.shape[1] < 100 for _, _, replicates in drawn)
    first, second = (bootstrap.bootstrap_figure(curves.curve_eer, *c)[1] for c in drawn)
    assert 0 < np.std(first - second) < np.std(first)


# -------------------------------------------------------------------------------------------- calibration and fusion


def test_calibration_is_logistic_regression_with_classes_of_equal_weight():
    rng = np.random.default_rng(12)
    bonafide, spoof = rng.normal([3, 10], [1, 4], (300, 2)), rng.normal([1, 6], [1, 5], (900, 2))
    weights, offset = calibration.train_calibration(bonafide, spoof)
    x, y = np.concatenate([bonafide, spoof]), np.repeat([1, 0], [300, 900])
    model = LogisticRegression(C=1e9, class_weight="balanced", tol=1e-10, max_iter=1000).fit(x, y)
    assert weights == pytest.approx(model.coef_[0], rel=1e-4)
    assert offset == pytest.approx(model.intercept_[0], rel=1e-4)
    fused = compute_cllr(bonafide @ weights + offset, spoof @ weights + offset)
    for k in (0, 1):
        w, b = calibration.train_calibration(bonafide[:, k], spoof[:, k])
        assert fused < compute_cllr(w * bonafide[:, k] + b, spoof[:, k] * w + b)


def test_calibration_of_likelihood_ratios_leaves_them():
    rng = np.random.default_rng(13)
    bonafide, spoof = rng.normal(2, 2, 200_000), rng.normal(-2, 2, 200_000)  # these are their own log-likelihood ratios
    weights, offset = calibration.train_calibration(bonafide, spoof)
    assert (weights[0], offset) == pytest.approx((1, 0), abs=0.02)
    weights, offset = calibration.train_calibration(100 * bonafide - 50, 100 * spoof - 50)
    assert (weights[0], offset) == pytest.approx((0.01, 0.5), abs=0.02)


def test_calibration_of_separated_constant_or_double_scores_stays_finite():
    weights, offset = calibration.train_calibration([2.0, 3.0], [0.0, 1.0])
    assert 0 < weights[0] < 1e3 and compute_cllr(weights * [2, 3] + offset, weights * [0, 1] + offset) < 1e-3
    assert calibration.train_calibration([1.0, 1.0], [1.0])[0] == pytest.approx(0)
    x = np.random.default_rng(14).normal(0, 1, (200, 1))
    weights, _ = calibration.train_calibration(np.hstack([x, x]) + 1, np.hstack([x, x]))
    assert np.all(np.isfinite(weights)) and weights.sum() == pytest.approx(1, rel=0.3)


def test_of_points_equally_near_the_first_is_taken_whatever_the_rounding():
    # 17/140 and 18/140 are both 1/280 away from 4/32 = 1/8, which floating point does not see.
    bonafide = np.arange(140.0)
    spoof = np.array([16.5] * 28 + [200.0] * 4)
    expected = (17 / 140 + 4 / 32) / 2
    assert metrics.compute_eer(bonafide, spoof)[0] == pytest.approx(expected, abs=1e-12)
    assert curves.curve_eer(curves.det_curve(bonafide, spoof)) == pytest.approx(expected, abs=1e-12)
