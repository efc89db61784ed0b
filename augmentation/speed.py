"""Speed perturbation by resampling, which changes pitch and tempo together."""

from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import ArrayLike

from augmentation.settings import waveform
from common.audio import SAMPLE_RATE


def at_speed(x: np.ndarray, factor: float) -> np.ndarray:
    """Resample a waveform (samples,) to `factor` times its speed and pitch: (samples / factor,)."""
    y = soxr.resample(x, SAMPLE_RATE * factor, SAMPLE_RATE)
    return y if len(y) else x


def change_speed(x: ArrayLike, factor: float) -> np.ndarray:
    """Resample a waveform (samples,) to `factor` times its speed at the same length: cut, or repeated from its start.

    Returns a new float64 array (samples,).
    """
    return np.resize(at_speed(waveform(x), factor), len(x))


@dataclass(frozen=True)
class Speed:
    """Speed perturbation by resampling, at the same length: cut at the end, or repeated from the start.

    factors: one is drawn uniformly; above 1 is faster and higher.
    Source: Ko et al., "Audio augmentation for speech recognition", Interspeech 2015.
    """

    factors: tuple[float, ...] = (0.9, 1.0, 1.1)
    keeps_time = False  # sounds move in time: segment labels no longer match

    def __post_init__(self) -> None:
        for factor in self.factors:
            if not 0.25 <= factor <= 4:
                raise ValueError(f"factors: expected 0.25 to 4, found {factor:g}")

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        factor = self.factors[int(rng.integers(len(self.factors)))]
        return x if factor == 1 else change_speed(x, factor)
