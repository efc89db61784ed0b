"""RawBoost: data boosting and augmentation on the raw waveform, without torch.

Three types of noise, alone or combined: linear and non-linear convolutive (LnL), impulsive signal-dependent (ISD) and
stationary signal-independent (SSI). Source: Tak et al., "RawBoost: a raw data boosting and augmentation method
applied to automatic speaker verification anti-spoofing", ICASSP 2022, section 3.
"""

import math
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft


def _param(default, description):
    return field(default=default, metadata={"help": description})


@dataclass(frozen=True)
class RawBoostParams:
    """Parameters of the three types of noise, with the names and defaults of the published flags.

    Raises ValueError for a reversed range and for values that the filters do not support.
    """

    LnL_ratio: float = _param(1.0, "probability of LnL noise (algo 10 and 11)")
    ISD_ratio: float = _param(1.0, "probability of ISD noise (algo 10 and 11)")
    SSI_ratio: float = _param(1.0, "probability of SSI noise (algo 11)")
    nBands: int = _param(5, "number of notch filters in a bank")
    minF: float = _param(20, "lowest centre frequency of a notch [Hz]")
    maxF: float = _param(8000, "highest centre frequency of a notch [Hz]")
    minBW: float = _param(100, "smallest width of a notch [Hz]")
    maxBW: float = _param(1000, "largest width of a notch [Hz]")
    minCoeff: int = _param(10, "smallest number of taps of a notch filter")
    maxCoeff: int = _param(100, "largest number of taps of a notch filter")
    minG: float = _param(0, "smallest gain of a filter bank [dB]")
    maxG: float = _param(0, "largest gain of a filter bank [dB]")
    minBiasLinNonLin: float = _param(5, "LnL: lowers minG of the non-linear components by this [dB]")
    maxBiasLinNonLin: float = _param(20, "LnL: lowers maxG of the non-linear components by this [dB]")
    N_f: int = _param(5, "LnL: order of the non-linearity; 1 is linear only")
    P: float = _param(10, "ISD: largest share of samples that are disturbed [%%]")
    g_sd: float = _param(2, "ISD: gain of the disturbance")
    SNRmin: float = _param(10, "SSI: smallest signal-to-noise ratio [dB]")
    SNRmax: float = _param(40, "SSI: largest signal-to-noise ratio [dB]")
    fs: int = _param(16000, "sampling rate [Hz]")

    def __post_init__(self):
        for name in (one.name for one in fields(RawBoostParams)):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be a finite number, found {getattr(self, name)}")
        for low, high in [("minF", "maxF"), ("minBW", "maxBW"), ("minCoeff", "maxCoeff"), ("SNRmin", "SNRmax")]:
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} must be at most {high}, found {getattr(self, low)} and {getattr(self, high)}")
        for name in ("LnL_ratio", "ISD_ratio", "SSI_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, found {getattr(self, name)}")
        if not (0 <= self.minF and self.maxF <= self.fs / 2):
            raise ValueError(f"minF and maxF must be from 0 to {self.fs / 2:g} Hz, found {self.minF} and {self.maxF}")
        if not 0 <= self.P <= 100:
            raise ValueError(f"P must be a percentage from 0 to 100, found {self.P}")
        # minBW > 0.002: a notch is clipped 0.001 Hz inside the band's edges and must keep a positive width.
        for name, least in [("nBands", 1), ("minBW", 0.01), ("minCoeff", 1), ("N_f", 1)]:
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, found {getattr(self, name)}")
        for name, most in [("nBands", 1000), ("maxCoeff", 100_000), ("N_f", 100)]:  # limits the time per trial
            if getattr(self, name) > most:
                raise ValueError(f"{name} must be at most {most}, found {getattr(self, name)}")


def _uniform(rng, low, high):
    # Not rng.uniform: the bias of LnL can reverse a range of gains, which a Generator refuses.
    return low + (high - low) * rng.random()


def _limit_peak(x):
    peak = np.max(np.abs(x))
    return x / peak if peak > 1 else x


def _norm(x):
    # Not np.linalg.norm: its BLAS starts threads in every audio worker, which compete with the training for cores.
    return np.sqrt(np.sum(x * x))


def _notch_banks(rng, params, gain_ranges):
    """Draw a bank of notch filters for each (lowest, highest) gain in dB.

    A notch is a band-stop FIR filter (Hamming window) of odd length. A bank, the convolution of its notches, is
    therefore symmetric, and its frequency response about the middle is real. The published filter has the same response
    with a delay. Returns the responses, (banks, size / 2 + 1), on the bins of an FFT of `size` samples, and the largest
    number of taps of a bank on each side.
    """
    notches, gains_db = [], []
    for low_db, high_db in gain_ranges:
        for _ in range(params.nBands):
            centre = _uniform(rng, params.minF, params.maxF)
            width = _uniform(rng, params.minBW, params.maxBW)
            notches.append((centre, width, int(_uniform(rng, params.minCoeff, params.maxCoeff)) // 2))
        gains_db.append(_uniform(rng, low_db, high_db))
    centre, width, half = np.array(notches).T.reshape(3, len(gain_ranges), params.nBands, 1)
    nyquist = params.fs / 2
    low = np.maximum(centre - width / 2, 0.001) / nyquist
    high = np.minimum(centre + width / 2, nyquist - 0.001) / nyquist
    n = np.arange(half.max() + 1)  # taps right of the middle; the left half mirrors them
    taps = low * np.sinc(low * n) + (n == 0) - high * np.sinc(high * n)
    taps *= np.where(n <= half, 0.54 + 0.46 * np.cos(np.pi * n / np.maximum(half, 1)), 0)
    taps /= taps[..., :1] + 2 * np.sum(taps[..., 1:], axis=-1, keepdims=True)  # gain 1 at 0 Hz

    reach = int(half.sum(axis=1).max())
    size = max(2048, 2 ** int(np.ceil(np.log2(8 * reach + 1))))
    responses = fft.dct(taps, type=1, n=size // 2 + 1).prod(axis=1)
    largest = np.max(np.abs(responses[:, : size // 2 : size // 1024]), axis=1)  # on the 512 points of scipy's freqz
    return responses * (10 ** (np.array(gains_db) / 20) / largest)[:, None], reach


def _filter(signals, responses, reach):
    """Filter each signal (samples,) with its response and sum the results; overlap-save with one inverse FFT.

    Like the published filtering, the output has the length of the input and is one sample early.
    """
    size = 2 * (responses.shape[1] - 1)
    step = size - 2 * reach
    spectrum = 0
    for x, response in zip(signals, responses):
        n_blocks = -(-(len(x) + 1) // step)
        padded = np.zeros(n_blocks * step + 2 * reach)
        padded[reach : reach + len(x)] = x
        blocks = np.lib.stride_tricks.sliding_window_view(padded, size)[::step]
        spectrum = spectrum + fft.rfft(blocks) * response
    return fft.irfft(spectrum, size)[:, reach : reach + step].ravel()[1 : len(x) + 1]


def _powers(x, order):
    power = x
    for _ in range(order):
        yield power
        power = power * x


def _lnl(x, params, rng):
    """Linear and non-linear convolutive noise. Source: eq. 1."""
    linear = (params.minG, params.maxG)
    non_linear = (params.minG - params.minBiasLinNonLin, params.maxG - params.maxBiasLinNonLin)
    responses, reach = _notch_banks(rng, params, [linear] + [non_linear] * (params.N_f - 1))
    y = _filter(_powers(x, params.N_f), responses, reach)
    return _limit_peak(y - np.mean(y))


def _isd(x, params, rng):
    """Impulsive signal-dependent additive noise. Source: eq. 2 and 3."""
    share = _uniform(rng, 0, params.P) / 100
    chosen = rng.permutation(len(x))[: int(len(x) * share)]
    disturbance = (2 * rng.random(len(chosen)) - 1) * (2 * rng.random(len(chosen)) - 1)
    y = x.copy()
    y[chosen] += params.g_sd * x[chosen] * disturbance
    return _limit_peak(y)


def _ssi(x, params, rng):
    """Stationary signal-independent additive noise. Source: eq. 4 and 5."""
    noise = rng.normal(0, 1, len(x))
    noise = _filter([noise], *_notch_banks(rng, params, [(params.minG, params.maxG)]))
    noise /= np.max(np.abs(noise))
    snr_db = _uniform(rng, params.SNRmin, params.SNRmax)
    return x + noise * (_norm(x) / _norm(noise) / 10 ** (snr_db / 20))


_RATIOS = {_lnl: "LnL_ratio", _isd: "ISD_ratio", _ssi: "SSI_ratio"}

# algorithm -> (noises, whether they run in parallel on the clean signal, whether each is applied with its probability)
ALGORITHMS = {
    0: ((), False, False),
    1: ((_lnl,), False, False),
    2: ((_isd,), False, False),
    3: ((_ssi,), False, False),
    4: ((_lnl, _isd, _ssi), False, False),
    5: ((_lnl, _isd), False, False),
    6: ((_lnl, _ssi), False, False),
    7: ((_isd, _ssi), False, False),
    8: ((_lnl, _isd), True, False),
    9: ((_lnl, _isd, _ssi), True, False),
    10: ((_lnl, _isd), True, True),
    11: ((_lnl, _isd, _ssi), False, True),
}


def apply_rawboost(
    x: ArrayLike,
    algo: int,
    params: RawBoostParams | None = None,
    rng: np.random.RandomState | np.random.Generator | None = None,
) -> np.ndarray:
    """Augment a waveform.

    x: (samples,) real, full scale 1. algo: 0 to 11, see ALGORITHMS; 0 changes nothing. rng: None: a new Generator. With
    RandomState(seed), the draws and the output equal those of the published code after np.random.seed(seed).
    Returns a new float64 array (samples,). Raises ValueError for an unknown algorithm or an empty waveform.
    """
    if algo not in ALGORITHMS:
        raise ValueError(f"algo must be one of {', '.join(map(str, ALGORITHMS))}, found {algo}")
    params = params or RawBoostParams()
    rng = rng or np.random.default_rng()
    x = np.array(x, dtype=np.float64)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"x must be one waveform, (samples,), found shape {x.shape}")
    noises, parallel, by_chance = ALGORITHMS[algo]
    if by_chance:
        noises = [noise for noise in noises if rng.random() < getattr(params, _RATIOS[noise])]
    if parallel and noises:
        return _limit_peak(sum(noise(x, params, rng) for noise in noises))
    for noise in noises:
        x = noise(x, params, rng)
    return x
