"""Band limits: Butterworth filters applied forwards and backwards, without delay."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from augmentation.settings import Range, check_range, draw, waveform
from common.audio import SAMPLE_RATE

ORDER = 6
LOWEST, HIGHEST = 10, SAMPLE_RATE / 2 - 100  # Hz


def limit_band(x: ArrayLike, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Remove frequencies below `low` and above `high` from a waveform.

    x: (samples,) at 16 kHz. low, high: Hz; the attenuation is 6 dB there and 72 dB one octave farther; None: no limit.
    Returns a new float64 array (samples,). Raises ValueError if no limit is given, if a limit is outside 10 to 7900 Hz,
    and if low is not below high.
    """
    from scipy import signal  # imported here: it takes a second, at every start and in every loader process

    x = waveform(x)
    edges = [edge for edge in (low, high) if edge is not None]
    if not edges or any(not LOWEST <= edge <= HIGHEST for edge in edges) or len(set(edges)) < len(edges):
        raise ValueError(f"expected low or high, each {LOWEST} to {HIGHEST:g} Hz, found {low} and {high}")
    if len(edges) == 2 and low >= high:
        raise ValueError(f"expected low below high, found {low:g} and {high:g} Hz")
    kind = "bandpass" if len(edges) == 2 else "lowpass" if low is None else "highpass"
    sections = signal.butter(ORDER, edges if len(edges) == 2 else edges[0], kind, fs=SAMPLE_RATE, output="sos")
    return signal.sosfiltfilt(sections, x, padlen=min(len(x) - 1, SAMPLE_RATE // 10))


@dataclass(frozen=True)
class LowPass:
    """Low-pass filter (Butterworth, order 6, zero phase).

    cutoff: frequency of 6 dB attenuation, Hz.
    """

    cutoff: Range = (3000.0, 7000.0)

    def __post_init__(self) -> None:
        check_range("cutoff", self.cutoff, LOWEST, HIGHEST)

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return limit_band(x, high=draw(self.cutoff, rng))


@dataclass(frozen=True)
class HighPass:
    """High-pass filter (Butterworth, order 6, zero phase).

    cutoff: frequency of 6 dB attenuation, Hz.
    """

    cutoff: Range = (50.0, 500.0)

    def __post_init__(self) -> None:
        check_range("cutoff", self.cutoff, LOWEST, HIGHEST)

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return limit_band(x, low=draw(self.cutoff, rng))


@dataclass(frozen=True)
class BandPass:
    """Band-pass filter (Butterworth, order 6, zero phase), by default about the telephone band.

    low, high: frequencies of 6 dB attenuation, Hz.
    """

    low: Range = (100.0, 500.0)
    high: Range = (3000.0, 4000.0)

    def __post_init__(self) -> None:
        check_range("low", self.low, LOWEST, HIGHEST)
        check_range("high", self.high, LOWEST, HIGHEST)
        if self.low[1] >= self.high[0]:
            raise ValueError(f"expected low below high, found {self.low[1]:g} and {self.high[0]:g} Hz")

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return limit_band(x, draw(self.low, rng), draw(self.high, rng))
