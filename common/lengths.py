"""Lengths of waveforms: cut, repeated, put into batches of equal ones."""

from collections.abc import Iterable

import numpy as np

from common.audio import SAMPLE_RATE

# Samples in a batch: the first convolution of a large encoder gives out 0.4 kB a sample in float32, several times.
BATCH_SAMPLES = {"cpu": 20 * SAMPLE_RATE, "cuda": 120 * SAMPLE_RATE}


def repeat_pad(x: np.ndarray, length: int) -> np.ndarray:
    """Repeat a waveform (..., samples) from its start until it has at least `length` samples."""
    return np.tile(x, -(-length // x.shape[-1])) if x.shape[-1] < length else x


def first_samples(x: np.ndarray, length: int) -> np.ndarray:
    """The first `length` samples of a waveform, repeated from its start where it is shorter."""
    return repeat_pad(x, length)[..., :length]


def batches_of(lengths: Iterable[int], batch_samples: int) -> list[list[int]]:
    """Which waveforms are scored together: lists of indexes into `lengths`, each of one length, the longest first.

    lengths: samples of each. batch_samples: samples that a batch may hold; one waveform is a batch whatever its length.
    """
    same_length = {}
    for index, n in enumerate(lengths):
        same_length.setdefault(n, []).append(index)
    batches = []
    for n, indexes in sorted(same_length.items(), reverse=True):
        per_batch = max(batch_samples // max(n, 1), 1)
        batches += [indexes[i : i + per_batch] for i in range(0, len(indexes), per_batch)]
    return batches
