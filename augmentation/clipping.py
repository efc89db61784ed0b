"""Clipping of peaks, as by an overdriven microphone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from augmentation.settings import Range, check_range, draw, waveform


def clip(x: ArrayLike, level: float) -> np.ndarray:
    """Clip a waveform (samples,) at `level` times its peak; returns float64 (samples,)."""
    x = waveform(x)
    limit = level * np.max(np.abs(x))
    return np.clip(x, -limit, limit)


@dataclass(frozen=True)
class Clip:
    """Clipping at a random level.

    level: fraction of the waveform's peak.
    """

    level: Range = (0.5, 1.0)

    def __post_init__(self) -> None:
        check_range("level", self.level, 0.01, 1)

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return clip(x, draw(self.level, rng))
