"""Scoring of audio files in batches of equal length, without padding; workers decode while the detector computes."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from common.audio import SAMPLE_RATE, header_seconds, load_audio
from common.console import UserError
from common.workers import Workers, share_of_cores
from data_utils import first_samples, plan_batches, repeat_pad
from front_ends import attention_for_any_length
from inference.precision import autocast
from inference.units import score_units
from inference.windows import LONGEST_WHOLE
from model import Detector


class _Waveforms:
    """Reads batches of files in a worker and prepares them for the encoder.

    longest: files of more samples are not read here, because they are scored in windows; None: no limit. change: see
    score_batches.
    """

    def __init__(self, front_end, paths, length, longest, change=None):
        self.front_end, self.paths, self.length, self.longest = front_end, paths, length, longest
        self.change = change

    def __call__(self, batch):
        """Read the files at these indexes of `paths`.

        Returns stacks of waveforms (B, samples), more than one only if a header stated a wrong length, and (the indexes
        of each stack, {index: why it cannot be read}, [indexes of files of zeros only], [indexes of long files]).
        """
        by_length, failures, silent, long = {}, {}, [], []
        for index in batch:
            if self.longest and (header_seconds(self.paths[index]) or 0) * SAMPLE_RATE > self.longest:
                long.append(index)
                continue
            try:
                x = load_audio(self.paths[index])
            except UserError as error:
                failures[index] = str(error)
                continue
            if self.longest and len(x) > self.longest:
                long.append(index)
                continue
            if not np.any(x):
                silent.append(index)
            x = self.change(x, index) if self.change else x
            x = first_samples(x, self.length) if self.length else repeat_pad(x, self.front_end.least_samples)
            x = self.front_end.ready(x)
            by_length.setdefault(len(x), []).append((index, x))
        same_lengths = [zip(*same) for _, same in sorted(by_length.items())]
        indexes, stacks = zip(*same_lengths) if same_lengths else ((), ())
        return [np.stack(stack) for stack in stacks], (indexes, failures, silent, long)


def score_batch(
    detector: Detector, waveforms: torch.Tensor, precision: str = "fp32", units: bool = False
) -> torch.Tensor | None:
    """Scores (B,) of waveforms (B, samples) that the front-end's `ready` prepared. A batch that does not fit in memory
    is halved; None if a single waveform does not fit. units: (B, 1 + U), the utterance score and then the unit scores.
    """
    try:
        with torch.inference_mode(), autocast(precision, waveforms.device), attention_for_any_length():
            if not units:
                return detector.score(waveforms, normalized=True).float()
            logits = detector(waveforms, normalized=True)
            return torch.cat([detector.scores_of(logits).unsqueeze(1), detector.unit_scores_of(logits)], 1).float()
    except RuntimeError as error:  # torch has a class for this on GPUs only
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
    halves = waveforms.chunk(2) if len(waveforms) > 1 else []
    halves = [score_batch(detector, half, precision, units) for half in halves] or [None]
    return None if any(half is None for half in halves) else torch.cat(halves)


def readers(device: torch.device) -> int:
    """Default number of decoder processes: up to 4 for a GPU; none on a CPU, where they would slow the detector."""
    return share_of_cores(4) if device.type == "cuda" else 0


def score_batches(
    detector: Detector,
    paths: Sequence[Path | str],
    batches: list[list[int]],
    length: int | None = None,
    num_workers: int = 0,
    precision: str = "fp32",
    units: bool = False,
    change: Callable[[np.ndarray, int], np.ndarray] | None = None,
) -> Iterator[tuple[dict[int, float], dict[int, str], list[int]]]:
    """Score files batch by batch. Yields (scores {index: score}, failures {index: why}, silent [index]) per batch.

    Every index of a batch is either in its scores or in its failures; `silent` lists files of zeros only, which have a
    score too. Except for rounding, the scores equal those of one file at a time, even if headers state wrong lengths.

    detector: in evaluation mode, on its device. batches: lists of indexes into `paths`, from plan_batches. length: see
    plan_batches. num_workers: decoder processes. precision: see precision.py; scoring is faster after its `prepare`.
    units: each score is a list, the utterance score and then the unit scores; files longer than 30 s are scored in
    windows, see units.py. change: function (waveform of a whole file (samples,), index) -> waveform to score; not with
    units.
    """
    device = next(detector.parameters()).device

    def launch(stacks, indexes_of_stacks, failures, silent, long):
        values = []
        for indexes, waveforms in zip(indexes_of_stacks, stacks):
            waveforms = waveforms.to(device, non_blocking=True)
            try:
                scores = score_batch(detector, waveforms, precision, units)
            except ValueError as error:  # a single frame has no batch statistics, see use_utterance_batch_norm
                failures |= {index: f"{paths[index]}: {error}" for index in indexes}
                continue
            if scores is None:
                why = f"not enough memory on {device} for {waveforms.shape[1] / SAMPLE_RATE:.0f} s"
                failures |= {index: f"{paths[index]}: {why}" for index in indexes}
            else:
                values.append((indexes, scores))
        for index in long:
            try:
                score, of_units, _, zeros = score_units(detector, paths[index], precision)
            except UserError as error:
                failures[index] = str(error)
                continue
            values.append(([index], torch.tensor([[score, *of_units]])))
            silent += [index] if zeros else []
        return values, failures, silent

    def read(values, failures, silent):
        scores = {index: score for indexes, batch in values for index, score in zip(indexes, batch.tolist())}
        for index in [index for index, score in scores.items() if not np.all(np.isfinite(score))]:
            score = scores.pop(index)
            bad = next(value for value in np.ravel(score).tolist() if not math.isfinite(value))
            failures[index] = f"{paths[index]}: the detector's score is {bad}"
        return scores, failures, [index for index in silent if index in scores]

    # A GPU copies from pinned memory while it computes.
    longest = LONGEST_WHOLE if units and not length else None
    workers = Workers(
        _Waveforms(detector.front_end, paths, length, longest, change), num_workers, pin_memory=device.type == "cuda"
    )
    pending = None
    for stacks, rest in workers.results(batches):
        launched = launch(stacks, *rest)
        if pending:  # a GPU computes the batch just launched while the scores of the previous one are read
            yield read(*pending)
        pending = launched
    if pending:
        yield read(*pending)


def float32_scores(
    detector: Detector,
    paths: Sequence[Path | str],
    batches: list[list[int]],
    length: int | None,
    change: Callable[[np.ndarray, int], np.ndarray] | None = None,
) -> dict[int, float]:
    """Float32 scores {index: score} of one file from each of 8 batches, to compare other precisions with."""
    some = [batch[0] for batch in batches[:: -(-len(batches) // 8)]]
    results = score_batches(detector, paths, [[index] for index in some], length, change=change)
    return {index: score for scores, _, _ in results for index, score in scores.items()}


def score_files(
    detector: Detector,
    paths: Sequence[Path | str],
    length: int | None = None,
    batch_samples: int | None = None,
    num_workers: int = 0,
    precision: str = "fp32",
) -> tuple[dict[int, float], dict[int, str], list[int]]:
    """Score files: ({index: score}, {index: why there is none}, [indexes of all-zero files]); see score_batches."""
    scores, failures, silent = {}, {}, []
    batches = plan_batches(detector.front_end, paths, length, batch_samples)
    for scored, failed, zeros in score_batches(detector, paths, batches, length, num_workers, precision):
        scores |= scored
        failures |= failed
        silent += zeros
    return scores, failures, silent
