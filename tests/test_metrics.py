import time
from fractions import Fraction

import numpy as np
import pytest
from conftest import REFERENCE
from sklearn.metrics import roc_curve

from console import UserError
from metrics import bootstrap_eer, compute_eer, compute_min_dcf, published_ctrsvdd


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


def tied_samples():
    """Small classes, drawn from few values: ties within and between the classes, one-element classes."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        yield tuple(rng.integers(0, rng.integers(1, 12), rng.integers(1, 12)).astype(float) for _ in range(2))


def test_reference_figures():
    bonafide, spoof = reference_scores()
    assert compute_eer(bonafide, spoof)[0] == pytest.approx(0.00619731790, abs=5e-12)
    assert compute_min_dcf(bonafide, spoof) == pytest.approx(0.0163198116, abs=5e-11)
    eer, min_dcf = published_ctrsvdd(bonafide, spoof)
    assert eer == pytest.approx(0.00642157337, abs=5e-12)
    assert min_dcf == pytest.approx(0.00536757265, abs=5e-12)


def test_eer_threshold_rejects_itself():
    bonafide, spoof = reference_scores()
    _, threshold = compute_eer(bonafide, spoof)
    assert (np.sum(bonafide <= threshold), np.sum(spoof > threshold)) == (45, 138)


def test_eer_and_min_dcf_equal_brute_force_with_ties():
    for bonafide, spoof in tied_samples():
        expected = brute_force(bonafide, spoof)
        assert (compute_eer(bonafide, spoof)[0], compute_min_dcf(bonafide, spoof)) == pytest.approx(expected)


def test_extremes():
    assert compute_eer([2, 3], [0, 1])[0] == 0
    assert compute_eer([0, 1], [2, 3])[0] == 1
    assert compute_eer([5, 5, 5], [5, 5])[0] == 0.5
    assert compute_min_dcf([5, 5], [5]) == 1
    assert compute_min_dcf([1], [0]) == 0
    for function in (compute_eer, compute_min_dcf, published_ctrsvdd, bootstrap_eer):
        with pytest.raises(UserError, match="no spoof"):
            function([1.0], [])
        with pytest.raises(UserError, match="finite"):
            function([1.0, np.nan], [0.0])


def test_order_and_scale_of_the_scores_do_not_matter():
    rng = np.random.default_rng(1)
    bonafide, spoof = rng.normal(1, 1, 50), rng.normal(0, 1, 70)
    eer, min_dcf = compute_eer(bonafide, spoof)[0], compute_min_dcf(bonafide, spoof)
    assert compute_eer(3 * rng.permutation(bonafide) - 7, 3 * spoof - 7)[0] == eer
    assert compute_min_dcf(3 * rng.permutation(bonafide) - 7, 3 * spoof - 7) == min_dcf
    assert compute_eer(-spoof, -bonafide)[0] == pytest.approx(eer)


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


def test_bootstrap_of_separated_classes_is_a_point():
    assert bootstrap_eer([2.0, 3.0], [0.0, 1.0]) == (0, 0)


def test_bootstrap_of_half_a_million_trials_takes_seconds():
    rng = np.random.default_rng(3)
    start = time.monotonic()
    low, high = bootstrap_eer(rng.normal(2, 1, 15_000), rng.normal(0, 1, 500_000))
    assert time.monotonic() - start < 20
    assert 0.15 < low < 0.158655 < high < 0.17  # the true EER: both normal, two deviations apart
