import numpy as np
import pytest

from augmentation.fir import CUTOFFS, apply_fir


@pytest.mark.parametrize("kind", CUTOFFS)
def test_the_filter_is_a_low_pass_of_its_band_without_delay(kind):
    """A sinc under a Hamming window, of gain 1 at 0 Hz and of the cut-off and length that the same draws give."""
    low, high = CUTOFFS[kind]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        cutoff, half = rng.uniform(low, high), int(rng.integers(16, 128, endpoint=True))
        taps = np.sinc(2 * cutoff / 16000 * np.arange(-half, half + 1)) * np.hamming(2 * half + 1)
        taps /= taps.sum()
        x = np.random.default_rng(seed + 100).standard_normal(3000)
        found = apply_fir(x, kind, np.random.default_rng(seed))
        np.testing.assert_allclose(found, np.convolve(x, taps)[half : half + len(x)], atol=1e-9)


@pytest.mark.parametrize("kind", CUTOFFS)
def test_what_it_passes_and_what_it_stops(kind):
    low, high = CUTOFFS[kind]
    impulse = np.zeros(2048)
    impulse[1024] = 1
    cutoffs = set()
    for seed in range(50):
        gains = np.abs(np.fft.rfft(apply_fir(impulse, kind, np.random.default_rng(seed))))
        hz = np.fft.rfftfreq(2048, 1 / 16000)
        assert np.abs(gains[hz < low - 1000] - 1).max() < 0.01
        assert gains[hz > high + 1000].max(initial=0) < 0.01
        cutoffs.add(round(hz[np.argmin(np.abs(gains - 0.5))], -2))
    assert len(cutoffs) > 8  # they differ


def test_short_waveforms_and_wrong_ones():
    for n in (1, 2, 50):
        assert apply_fir(np.ones(n, dtype=np.float32), "FIR-NB", np.random.default_rng(0)).shape == (n,)
    with pytest.raises(ValueError, match="FIR-NB, FIR-WB, found FIR"):
        apply_fir(np.ones(4), "FIR")
    with pytest.raises(ValueError, match="shape"):
        apply_fir(np.ones((2, 4)), "FIR-NB")
