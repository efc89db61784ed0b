"""Processing chain of every trial of the demo corpus: telephone band, no silence, one level, noise."""

import numpy as np
from scipy import signal

from tools.demo_attacks import RATE, resample

RATE_OUT = 16000
SHORTEST = 0.8  # seconds, of a usable recording

_BAND = signal.firwin(257, [250, 3400], pass_zero=False, fs=RATE)


def band(x):
    """The telephone band of samples at RATE, 250 to 3400 Hz."""
    return signal.fftconvolve(x, _BAND, mode="same")


def _squeeze(x, keep=0.06):
    """Cut silence at both ends and shorten every pause to `keep` seconds."""
    hop = RATE // 100
    n = len(x) // hop
    if n < 3:
        return x
    level = 10 * np.log10(np.mean(x[: n * hop].reshape(n, hop) ** 2, axis=1) + 1e-12)
    speech = level > np.percentile(level, 95) - 30
    speech = np.convolve(speech, np.ones(3), "same") > 0  # 10 ms more on each side
    kept, pause = np.zeros(n, bool), 0
    for i in range(n):
        pause = 0 if speech[i] else pause + 1
        kept[i] = pause <= round(keep * 100)
    inside = np.flatnonzero(speech)
    if len(inside):
        kept[: inside[0]] = kept[inside[-1] + 1 :] = False
    return x[: n * hop].reshape(n, hop)[kept].ravel()


def telephone(x, rate, rng):
    """Chain of both classes: samples at any rate to float samples at 16 kHz, 0.8 to 4 s, full scale 1."""
    x = _squeeze(band(resample(np.asarray(x, dtype=np.float64), rate, RATE)))
    length = int(rng.uniform(1.2, 4.0) * RATE)
    if len(x) > length:
        start = rng.integers(len(x) - length + 1)
        x = x[start : start + length]
    if len(x) < SHORTEST * RATE / 2 or not np.any(x):
        return None
    x = x / np.sqrt(np.mean(x**2))
    noise = band(rng.standard_normal(len(x)))
    snr_db = rng.uniform(25, 40)
    x = x + noise / np.sqrt(np.mean(noise**2)) / 10 ** (snr_db / 20)
    gain_db = rng.uniform(-32, -20)  # of the RMS level, relative to full scale
    x = signal.resample_poly(x, RATE_OUT // RATE, 1) * 10 ** (gain_db / 20)
    return x / max(1.0, np.max(np.abs(x)) / 0.99)
