"""Audio files to tensors: decoding, cropping, augmentation, batches."""

import numpy as np
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from console import UserError
from RawBoost import apply_rawboost

SAMPLE_RATE = 16000


def load_audio(path):
    """Read an audio file as float32 (samples,), 16 kHz, full scale 1; channels are averaged.

    Any format that libsndfile reads; other rates are resampled by soxr at its high quality, librosa's default.
    Raises UserError for a file that is missing, is no audio or holds no sample.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise UserError(f"{path}: cannot be read as audio: {getattr(error, 'error_string', error)}") from error
    if not len(samples):
        raise UserError(f"{path}: expected audio, found a file without a single sample")
    samples = samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0]
    if rate != SAMPLE_RATE:
        import soxr

        samples = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    return samples


def repeat_pad(x, length):
    """Repeat a waveform (samples,) from its start until it has at least `length` samples."""
    return np.tile(x, -(-length // len(x))) if len(x) < length else x


def first_samples(x, length):
    """The first `length` samples of a waveform, repeated from its start where it is shorter."""
    return repeat_pad(x, length)[:length]


def random_samples(x, length, rng):
    """`length` samples of a waveform from a random place; a shorter one is repeated first, past `length`."""
    if len(x) <= length:
        x = np.tile(x, length // len(x) + 1)
    start = rng.integers(len(x) - length + 1)
    return x[start : start + length]


class TrialDataset(Dataset):
    """Trials as (waveform (samples,), label, index).

    trials: list of Trial with paths. length: samples of the crop; None keeps the whole utterance. place: "first" or
    "random", where the crop is taken. algo, params: RawBoost, before the crop; 0 is none. seed: of augmentation and
    crop. An item is asked for as (epoch, index): its randomness comes from (seed, epoch, index) alone, so that it
    does not depend on the worker that makes it.
    """

    def __init__(self, trials, length=None, place="first", algo=0, params=None, seed=0):
        self.trials = trials
        self.length = length
        self.place = place
        self.algo = algo
        self.params = params
        self.seed = seed

    def __len__(self):
        return len(self.trials)

    def __getitem__(self, key):
        epoch, index = key
        trial = self.trials[index]
        x = load_audio(trial.path)
        rng = np.random.default_rng([self.seed, epoch, index])
        if self.algo:
            x = apply_rawboost(x, self.algo, self.params, rng)
        if self.length:
            x = random_samples(x, self.length, rng) if self.place == "random" else first_samples(x, self.length)
        # Trials of unknown label have label -1; nothing that is trained on has.
        return (
            torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)),
            -1 if trial.label is None else trial.label,
            index,
        )


class EpochSampler(Sampler):
    """Batches of (epoch, index), shuffled anew by (seed, epoch); set `epoch` before each pass."""

    def __init__(self, n, batch_size, shuffle, seed=0, drop_last=False):
        self.n, self.batch_size, self.shuffle, self.seed, self.drop_last = n, batch_size, shuffle, seed, drop_last
        self.epoch = 0

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n) if self.shuffle else range(self.n)
        keys = [(self.epoch, int(index)) for index in order]
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield keys[start : start + self.batch_size]

    def __len__(self):
        return self.n // self.batch_size if self.drop_last else -(-self.n // self.batch_size)


def make_loader(dataset, batch_size, shuffle=False, seed=0, drop_last=False, num_workers=0, pin_memory=False):
    """A DataLoader over a TrialDataset; call `loader.batch_sampler.epoch = n` before pass n."""
    return DataLoader(
        dataset,
        batch_sampler=EpochSampler(len(dataset), batch_size, shuffle, seed, drop_last),
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
    )
