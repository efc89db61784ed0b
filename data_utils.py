"""Audio files to tensors: cropping, augmentation and batches. common/audio.py reads the files."""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from common.audio import SAMPLE_RATE, header_seconds, load_audio
from common.console import UserError, progress, warn
from common.lengths import BATCH_SAMPLES, batches_of, first_samples, repeat_pad
from common.workers import Workers
from corpora import BONAFIDE, SPOOF, Trial
from front_ends import FrontEnd, n_units

LONG = 60  # longer utterances are cut to so many seconds before augmentation
_warned_of = set()


def _warn_of_silence(path, x):
    if path not in _warned_of and not x.any():
        _warned_of.add(path)
        warn(f"{path}: all samples are zero")


def random_samples(x: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """Crop `length` samples of a waveform at a random place; a shorter one is first repeated to more than `length`."""
    n = x.shape[-1]
    if n <= length:
        x = np.tile(x, length // n + 1)
    start = rng.integers(x.shape[-1] - length + 1)
    return x[..., start : start + length]


def expected_samples(path: Path | str) -> int:
    """Approximate number of samples from load_audio, from the header or else by decoding; 0 if unreadable."""
    seconds = header_seconds(path)
    try:
        return len(load_audio(path)) if seconds is None else round(seconds * SAMPLE_RATE)
    except UserError:
        return 0


def plan_batches(
    front_end: FrontEnd, paths: Sequence[Path | str], length: int | None = None, batch_samples: int | None = None
) -> list[list[int]]:
    """Group files into scoring batches: lists of indexes into `paths`, see batches_of.

    A batch has files of which the front-end sees the same number of samples, so batching does not change scores. For a
    front-end that works frame by frame, these are the samples of whole frames; for one that normalises over time (group
    norm), all samples. There is no padding and no mask.

    length: samples to score of each file; None: the whole utterance. batch_samples: None: the default of the device.
    The plan depends only on the files and these arguments, so a resumed run gives the same scores. A wrong length in a
    header only costs time: see score_batches.
    """
    device = next(chain(front_end.parameters(), front_end.buffers())).device.type
    batch_samples = BATCH_SAMPLES[device] if batch_samples is None else batch_samples
    if length:
        return batches_of([length] * len(paths), batch_samples)
    with ThreadPoolExecutor(16) as pool:  # threads, because this mostly waits for the disk
        samples = list(pool.map(expected_samples, paths, chunksize=64))
    repeated = [n * max(math.ceil(front_end.least_samples / max(n, 1)), 1) for n in samples]
    return batches_of(map(front_end.samples_ready, repeated), batch_samples)


class UnitLabels:
    """Labels of the units of a crop, for a detector that gives a score every `unit` seconds.

    Raises ValueError if a unit is not a whole number of frames of the front-end.
    """

    def __init__(self, front_end: FrontEnd, unit: float) -> None:
        self.front_end, self.frames_per_unit = front_end, front_end.frames_per(unit)
        self.samples = self.frames_per_unit * front_end.stride

    def spoofed(self, trial: Trial, n_samples: int) -> np.ndarray:
        """(n_samples,) 1 where a trial is spoofed, else 0; without spans, its label holds for all samples."""
        if trial.spans is None:
            return np.full(n_samples, trial.label == SPOOF, np.float32)
        spoofed = np.zeros(n_samples, np.float32)
        for start, end, label in trial.spans:
            if label == SPOOF:
                spoofed[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)] = 1
        return spoofed

    def __call__(self, spoofed: np.ndarray) -> np.ndarray:
        """Labels (1 + U,) of a crop and its U units. spoofed: (samples,) 1 where the crop is spoofed, else 0.

        A unit with any spoofed sample is spoofed.
        Source: the segment labels of PartialSpoof (Zhang et al., IEEE/ACM TASLP 2023).
        """
        n = n_units(self.front_end.n_frames(len(spoofed)), self.frames_per_unit)
        units = np.maximum.reduceat(spoofed[: n * self.samples], np.arange(n) * self.samples)
        return np.where(np.concatenate([[spoofed.max()], units]) > 0, SPOOF, BONAFIDE)


class TrialDataset:
    """Dataset of trials as (waveform (samples,), label, index).

    trials: with paths. length: samples of the crop; None: the whole utterance, or, with a front_end, its input made
    from it (FrontEnd.ready). The keys of a batch may contain another length, see EpochSampler.
    place: place of the crop, "first", "random", or "random_if_longer" (a shorter utterance is repeated from its start).
    augment: function (x, rng=Generator) of a waveform, applied before the crop; see augmentation.AUGMENTATIONS.
    seed: of augmentation and crop. Items are indexed by (epoch, index). Their randomness depends only on (seed, epoch,
    index), not on the worker. bad_audio: if given, a trial with unreadable audio is replaced by the next readable one.
    units: if given, the label is an array (1 + U,), see UnitLabels.
    """

    def __init__(
        self,
        trials: list[Trial],
        length: int | None = None,
        place: str = "first",
        augment: Callable[..., np.ndarray] | None = None,
        seed: int = 0,
        front_end: FrontEnd | None = None,
        bad_audio: "BadAudio | None" = None,
        units: UnitLabels | None = None,
    ) -> None:
        self.trials = trials
        self.units = units
        self.length = length
        self.place = place
        self.augment = augment
        self.seed = seed
        self.front_end = front_end
        self.bad_audio = bad_audio

    def __len__(self):
        return len(self.trials)

    def __getitem__(self, key):
        epoch, index = key
        index, x, _ = self._read(index)
        return self._item(epoch, index, x, self.length)

    def _item(self, epoch, index, x, length):
        trial = self.trials[index]
        rng = np.random.default_rng([self.seed, epoch, index])
        is_random = self.place == "random" or (self.place == "random_if_longer" and len(x) > length)
        rows = np.stack([x, self.units.spoofed(trial, len(x))]) if self.units else x[None]  # so both get the same crop
        if length and len(x) > max(LONG * SAMPLE_RATE, length):
            longest = max(LONG * SAMPLE_RATE, length)
            rows = random_samples(rows, longest, rng) if is_random else rows[:, :longest]
        if self.augment:
            rows = np.stack([self.augment(rows[0], rng=rng), *rows[1:]])
        if length:
            rows = random_samples(rows, length, rng) if is_random else first_samples(rows, length)
        elif self.front_end:
            rows = repeat_pad(rows, self.front_end.least_samples)
        # The unknown label is -1; it does not occur in training.
        label = self.units(rows[1]) if self.units else -1 if trial.label is None else trial.label
        x = self.front_end.ready(rows[0]) if self.front_end and not length else rows[0]
        return np.ascontiguousarray(x, dtype=np.float32), label, index

    def _read(self, index):
        """The first readable trial from `index` on: (its index, waveform, [(path, error)] of the skipped ones)."""
        skipped = []
        for i in range(len(self)):
            candidate = (index + i) % len(self)
            path = self.trials[candidate].path
            try:
                x = load_audio(path)
            except UserError as error:
                if self.bad_audio is None:
                    raise
                skipped.append((path, str(error)))
                self.bad_audio.check(len(skipped), error)
            else:
                _warn_of_silence(path, x)
                return candidate, x, skipped
        raise UserError("expected audio, found no readable file in the list")

    def batch(self, keys: Iterable[tuple]) -> tuple[list[np.ndarray], tuple]:
        """Make a batch in a worker: [waveforms (B, samples)], and (labels, indices, skipped files) for TrialLoader.

        There is one array of waveforms, or several if whole utterances have other lengths than planned.
        """
        same_length, skipped = {}, []
        for epoch, index, *length in keys:
            readable, x, bad = self._read(index)
            item = self._item(epoch, readable, x, *length or [self.length])
            same_length.setdefault(len(item[0]), []).append(item)
            skipped += bad
        waveforms, labels, indices = zip(*(zip(*items) for items in same_length.values()))
        return [*map(np.stack, waveforms)], (labels, indices, skipped)


class BadAudio:
    """Record of unreadable files that are skipped: at most `allowed`, each logged once."""

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self.skipped = set()

    def check(self, n: int, error: str | UserError) -> None:
        """Raise UserError if n unreadable files are too many. error: of the last one, for the message."""
        if n > self.allowed:
            raise UserError(f"{error}; --skip_bad_audio allows {self.allowed}")

    def skip(self, path: str, error: str) -> None:
        """Record an unreadable file and its error. Raises UserError if it is one too many."""
        if path not in self.skipped:
            self.skipped.add(path)
            self.check(len(self.skipped), error)
            warn(f"skipped: {error} ({len(self.skipped)} of at most {self.allowed})")


def _why_unreadable(path):
    try:
        _warn_of_silence(path, load_audio(path))
    except UserError as error:
        return [], str(error)
    return [], None


def check_audio(trials: list[Trial], num_workers: int, **options: object) -> dict[str, str]:
    """Decode the audio of all trials in parallel: {path: error} of unreadable files. options: of the progress bar."""
    paths = [trial.path for trial in trials]
    checked = Workers(_why_unreadable, num_workers).results(paths)
    bar = progress(checked, total=len(paths), desc="checking audio", unit="file", **options)
    return {path: why for path, (_, why) in zip(paths, bar) if why}


class EpochSampler:
    """Sampler of batches of (epoch, index), shuffled with the seed (seed, epoch).

    Set `epoch` before each pass, `start` to skip so many batches, and `stop` to end before that batch. Each process
    takes every world-th trial of a batch.
    lengths: if given, keys are (epoch, index, length), with one length per batch, drawn from this range with the seed
    (seed, epoch, batch). order: if given, a function of the epoch that returns its n keys, see training.balance.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
        lengths: tuple[int, int] | None = None,
        order: Callable[[int], list[tuple]] | None = None,
    ) -> None:
        self.n, self.batch_size, self.shuffle, self.seed = n, batch_size, shuffle, seed
        self.rank, self.world, self.lengths, self.order = rank, world, lengths, order
        self.epoch, self.start, self.stop = 0, 0, None
        # In training, every process needs trials of every batch because the processes wait for each other.
        least = batch_size if drop_last else world if shuffle else 1
        self.n_batches = n // batch_size + (n % batch_size >= least)

    def __iter__(self):
        keys = self.order(self.epoch) if self.order else self._shuffled()
        for batch in range(self.start, len(self)):
            start = batch * self.batch_size
            if share := keys[start : start + self.batch_size][self.rank :: self.world]:
                yield [(*key, self._length(batch)) for key in share] if self.lengths else share

    def _shuffled(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n) if self.shuffle else range(self.n)
        return [(self.epoch, int(index)) for index in order]

    def _length(self, batch):
        # The 1 separates this seed from those of trials, (seed, epoch, index).
        rng = np.random.default_rng([self.seed, self.epoch, batch, 1])
        return int(rng.integers(*self.lengths, endpoint=True))

    def sizes(self) -> set[int]:
        """Sizes of the batches of a pass: numbers of trials of all processes together."""
        return {min(self.batch_size, self.n - batch * self.batch_size) for batch in (0, len(self) - 1)}

    def __len__(self):
        return self.n_batches if self.stop is None else min(self.stop, self.n_batches)


class PlannedSampler:
    """Sampler of the batches of `plan_batches`, as (epoch, index); each process takes every world-th batch."""

    def __init__(self, batches: list[list[int]], rank: int = 0, world: int = 1) -> None:
        self.batches, self.epoch = batches[rank::world], 0

    def __iter__(self):
        return ([(self.epoch, index) for index in batch] for batch in self.batches)

    def __len__(self):
        return len(self.batches)


class TrialLoader:
    """Loader of batches of a TrialDataset: waveforms (B, samples), labels (B,) or (B, 1 + U), indices (B,)."""

    def __init__(
        self,
        dataset: TrialDataset,
        batch_sampler: EpochSampler | PlannedSampler,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.dataset, self.batch_sampler, self.num_workers = dataset, batch_sampler, num_workers
        self.workers = Workers(dataset.batch, num_workers, pin_memory)

    def __len__(self):
        return len(self.batch_sampler)

    def __iter__(self):
        """Yield batches. Raises UserError for unreadable audio, or for more of it than BadAudio allows."""
        for stacks, (labels, indices, skipped) in self.workers.results(self.batch_sampler):
            for path, error in skipped:
                self.dataset.bad_audio.skip(path, error)
            # np.array, because labels of units are arrays.
            yield from zip(stacks, (torch.from_numpy(np.array(part)) for part in labels), map(torch.tensor, indices))


def make_loader(
    dataset: TrialDataset,
    batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    num_workers: int = 0,
    pin_memory: bool = False,
    rank: int = 0,
    world: int = 1,
    lengths: tuple[int, int] | None = None,
    order: Callable[[int], list[tuple]] | None = None,
) -> TrialLoader:
    """Create a loader of a TrialDataset; set `loader.batch_sampler.epoch = n` before pass n.

    batch_size: trials per batch of all `world` processes together; this process is number `rank`. lengths, order: see
    EpochSampler; len(order) is the number of trials per epoch.
    """
    n = len(dataset if order is None else order)
    sampler = EpochSampler(n, batch_size, shuffle, seed, drop_last, rank, world, lengths, order)
    return TrialLoader(dataset, sampler, num_workers, pin_memory)
