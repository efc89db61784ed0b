"""Gaps: parts of a waveform set to zero, at random places (zero) or as lost packets (packet_loss)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from augmentation.settings import Counts, Range, check_range, draw, waveform
from common.audio import SAMPLE_RATE


def lose_packets(x: ArrayLike, loss: float, rng: np.random.Generator, ms: float = 20) -> np.ndarray:
    """Set packets of `ms` milliseconds of a waveform (samples,) at 16 kHz to zero, each with probability `loss`.

    Returns a new float64 array (samples,).
    """
    x = waveform(x)
    packet = max(round(ms * SAMPLE_RATE / 1000), 1)
    is_lost = rng.random(-(-len(x) // packet)) < loss
    return np.where(np.repeat(is_lost, packet)[: len(x)], 0, x)


@dataclass(frozen=True)
class PacketLoss:
    """Packet loss without concealment: packets are set to zero independently.

    loss: probability that a packet is lost. ms: milliseconds per packet.
    Source: condition of Speech DF Arena (5 % of 20-ms packets).
    """

    loss: Range = (0.01, 0.1)
    ms: float = 20.0

    def __post_init__(self) -> None:
        check_range("loss", self.loss, 0, 1)
        check_range("ms", (self.ms, self.ms), 1, 1000)

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return lose_packets(x, draw(self.loss, rng), rng, self.ms)


@dataclass(frozen=True)
class Zero:
    """Chunks at random places set to zero.

    chunks: number of chunks. samples: length of a chunk, at 16 kHz.
    """

    chunks: Counts = (1, 10)
    samples: Counts = (100, 1000)

    def __post_init__(self) -> None:
        check_range("chunks", self.chunks, 0, 10_000)
        check_range("samples", self.samples, 1, 10_000_000)

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        x = waveform(x).copy()
        for _ in range(draw(self.chunks, rng)):
            n = min(draw(self.samples, rng), len(x))
            start = int(rng.integers(len(x) - n, endpoint=True))
            x[start : start + n] = 0
        return x
