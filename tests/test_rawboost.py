import numpy as np
import pytest
from conftest import read_reference

from RawBoost import ALGORITHMS, RawBoostParams, apply_rawboost
from tools.benchmark_audio import COMPOSITIONS, direct_rawboost

REFERENCE = read_reference("rawboost.json")


def reference_signal(n):
    t = np.arange(n) / 16000
    x = 0.3 * np.sin(2 * np.pi * 220 * t) + 0.2 * np.sin(2 * np.pi * 1330 * t) * np.sin(2 * np.pi * 3 * t)
    return (x + 0.01 * np.random.default_rng(0).standard_normal(n)).astype(np.float32)


@pytest.mark.parametrize("algo", REFERENCE["algorithms"])
def test_reference_vectors(algo):
    entry = REFERENCE["algorithms"][algo]
    y = apply_rawboost(reference_signal(entry["samples"]), int(algo), rng=np.random.RandomState(entry["seed"]))
    middle = len(y) // 2
    for part, found in [("first", y[:16]), ("middle", y[middle : middle + 16]), ("last", y[-16:])]:
        np.testing.assert_allclose(found, entry[part], atol=1e-6, rtol=0)
    summary = [np.mean(y), np.sqrt(np.mean(y**2)), np.max(np.abs(y))]
    np.testing.assert_allclose(summary, [entry["mean"], entry["rms"], entry["max_abs"]], atol=1e-6, rtol=0)


PARAMS = {
    "default": RawBoostParams(),
    "long filters": RawBoostParams(nBands=9, minCoeff=60, maxCoeff=900, minG=-6, maxG=6),
    "one band, linear": RawBoostParams(nBands=1, N_f=1, minF=0, maxF=300, minCoeff=1, maxCoeff=4),
}


@pytest.mark.slow
@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("n", [1, 300, 2047, 2048, 16001])
def test_every_series_and_parallel_equals_direct_filtering(n, params):
    p = PARAMS[params]
    x = 0.4 * np.sin(np.arange(n) / 7) + 0.1
    for algo in COMPOSITIONS:
        expected = direct_rawboost(x, algo, p, np.random.RandomState(algo))
        found = apply_rawboost(x, algo, p, np.random.RandomState(algo))
        np.testing.assert_allclose(found, expected, atol=1e-9, rtol=0, err_msg=f"algo {algo}")


def test_algo_10_and_11_draw_each_noise_by_its_probability():
    x = reference_signal(2000)
    never = RawBoostParams(LnL_ratio=0, ISD_ratio=0, SSI_ratio=0)
    for algo in (10, 11):
        np.testing.assert_array_equal(apply_rawboost(x, algo, never, np.random.default_rng(0)), x)
    # With all ratios 1 they are algo 8 and 4 after two and three draws that decide nothing.
    for algo, plain, draws in [(10, 8, 2), (11, 4, 3)]:
        rng = np.random.RandomState(5)
        rng.random(draws)
        expected = apply_rawboost(x, plain, rng=rng)
        np.testing.assert_array_equal(apply_rawboost(x, algo, rng=np.random.RandomState(5)), expected)
    half = RawBoostParams(LnL_ratio=0.5, ISD_ratio=0)
    changed = [np.any(apply_rawboost(x, 10, half, np.random.default_rng(seed)) != x) for seed in range(200)]
    assert 70 < sum(changed) < 130


def test_the_input_is_left_alone_and_a_generator_serves():
    x = reference_signal(3000)
    before = x.copy()
    for algo in ALGORITHMS:
        first, second = (apply_rawboost(x, algo, rng=np.random.default_rng(9)) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert first.shape == x.shape and np.all(np.isfinite(first))
        assert (algo == 0) == np.array_equal(first, x)
    np.testing.assert_array_equal(x, before)


def test_silence_stays_finite():
    for algo in ALGORITHMS:
        assert np.all(np.isfinite(apply_rawboost(np.zeros(500), algo, rng=np.random.default_rng(0))))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="algo .* 12"):
        apply_rawboost(np.ones(10), 12)
    with pytest.raises(ValueError, match=r"\(samples,\)"):
        apply_rawboost(np.ones((2, 10)), 1)
    with pytest.raises(ValueError, match=r"\(samples,\)"):
        apply_rawboost(np.ones(0), 1)
    for wrong, word in [
        ({"minF": 9000}, "minF"),
        ({"P": 101}, "P"),
        ({"ISD_ratio": 1.5}, "ISD_ratio"),
        ({"N_f": 0}, "N_f"),
    ]:
        with pytest.raises(ValueError, match=word):
            RawBoostParams(**wrong)
