"""Lengths of waveforms: cutting, repeating, and batches of equal length."""

from collections.abc import Iterable

import numpy as np

from common.audio import SAMPLE_RATE

# Samples per batch: the first convolution of a large encoder needs several times 0.4 kB per sample in float32.
BATCH_SAMPLES = {"cpu": 20 * SAMPLE_RATE, "cuda": 120 * SAMPLE_RATE}


def repeat_pad(x: np.ndarray, length: int) -> np.ndarray:
    """Repeat a waveform (..., samples) from its start until it has at least `length` samples."""
    return np.tile(x, -(-length // x.shape[-1])) if x.shape[-1] < length else x


def first_samples(x: np.ndarray, length: int) -> np.ndarray:
    """The first `length` samples of a waveform; a shorter one is repeated from its start."""
    return repeat_pad(x, length)[..., :length]


def batches_of(lengths: Iterable[int], batch_samples: int) -> list[list[int]]:
    """Group waveforms of equal length into batches: lists of indexes into `lengths`, the longest first.

    lengths: samples of each waveform. batch_samples: largest number of samples per batch; a longer waveform is a batch
    of its own.
    """
    same_length = {}
    for index, n in enumerate(lengths):
        same_length.setdefault(n, []).append(index)
    batches = []
    for n, indexes in sorted(same_length.items(), reverse=True):
        per_batch = max(batch_samples // max(n, 1), 1)
        batches += [indexes[i : i + per_batch] for i in range(0, len(indexes), per_batch)]
    return batches
