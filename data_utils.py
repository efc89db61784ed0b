"""Audio files to tensors: decoding, cropping, augmentation, batches."""

import multiprocessing
import signal
import time

import numpy as np
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from console import UserError
from FIR import CUTOFFS, apply_fir
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

    trials: list of Trial with paths. length: samples of the crop; None keeps the whole utterance, repeated up to
    at_least samples. place: "first" or "random", where the crop is taken. algo, params: RawBoost, before the crop; 0
    is none, a kind of FIR filter instead of a number is that. seed: of augmentation and crop. An item is asked for as
    (epoch, index): its randomness comes from (seed, epoch, index) alone, so that it does not depend on the worker that
    makes it.
    """

    def __init__(self, trials, length=None, place="first", algo=0, params=None, seed=0, at_least=1):
        self.trials = trials
        self.length = length
        self.place = place
        self.algo = algo
        self.params = params
        self.seed = seed
        self.at_least = at_least
        self.busy = multiprocessing.Value("d")  # seconds that all workers together spent on making batches

    def __len__(self):
        return len(self.trials)

    def __getitem__(self, key):
        epoch, index = key
        trial = self.trials[index]
        x = load_audio(trial.path)
        rng = np.random.default_rng([self.seed, epoch, index])
        if self.algo in CUTOFFS:
            x = apply_fir(x, self.algo, rng)
        elif self.algo:
            x = apply_rawboost(x, self.algo, self.params, rng)
        if self.length:
            x = random_samples(x, self.length, rng) if self.place == "random" else first_samples(x, self.length)
        else:
            x = repeat_pad(x, self.at_least)
        # Trials of unknown label have label -1; nothing that is trained on has.
        return (
            torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)),
            -1 if trial.label is None else trial.label,
            index,
        )

    def __getitems__(self, keys):
        """A batch's items, or its UserError in their place: what a worker raises reaches the user as a traceback."""
        start = time.perf_counter()
        try:
            items = [self[key] for key in keys]
        except UserError as error:
            items = [error]
        with self.busy.get_lock():
            self.busy.value += time.perf_counter() - start
        return items


class EpochSampler(Sampler):
    """Batches of (epoch, index), shuffled anew by (seed, epoch); set `epoch` before each pass, `start` to begin
    behind that many batches, `stop` to end before that one. Of each batch a process takes every world-th trial.
    """

    def __init__(self, n, batch_size, shuffle, seed=0, drop_last=False, rank=0, world=1):
        self.n, self.batch_size, self.shuffle, self.seed = n, batch_size, shuffle, seed
        self.rank, self.world = rank, world
        self.epoch, self.start, self.stop = 0, 0, None
        # In training every process has a share in every batch, for they all wait for each other in each.
        least = batch_size if drop_last else world if shuffle else 1
        self.n_batches = n // batch_size + (n % batch_size >= least)

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n) if self.shuffle else range(self.n)
        keys = [(self.epoch, int(index)) for index in order]
        for start in range(self.start * self.batch_size, len(self) * self.batch_size, self.batch_size):
            if share := keys[start : start + self.batch_size][self.rank :: self.world]:
                yield share

    def __len__(self):
        return self.n_batches if self.stop is None else min(self.stop, self.n_batches)


class TrialLoader(DataLoader):
    """A DataLoader over a TrialDataset that raises the dataset's UserError in this process."""

    def __iter__(self):
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            yield batch


def make_loader(
    dataset, batch_size, shuffle=False, seed=0, drop_last=False, num_workers=0, pin_memory=False, rank=0, world=1
):
    """A loader over a TrialDataset; call `loader.batch_sampler.epoch = n` before pass n.

    batch_size: trials of all `world` processes together, of which this is number `rank`.
    """
    return TrialLoader(
        dataset,
        batch_sampler=EpochSampler(len(dataset), batch_size, shuffle, seed, drop_last, rank, world),
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        prefetch_factor=4 if num_workers else None,
        collate_fn=_collate,
        worker_init_fn=_leave_signals_to_the_main_process,
        # Each pass draws a seed for the workers, which need none: not from the generator that the model's dropout uses.
        generator=torch.Generator(),
    )


def _collate(items):
    return items[0] if isinstance(items[0], UserError) else default_collate(items)


def _leave_signals_to_the_main_process(_):
    # Ctrl-C and a cluster's pre-emption reach the whole process group; the main process finishes its step first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
