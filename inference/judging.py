"""Judging recordings: audio files of any length to scores and verdicts.

A file of at most 30 s is scored in one piece. A longer file is scored in overlapping windows, and its score is their
mean; it is read and scored a few minutes at a time, so memory does not grow with its length. Detectors that score units
of an utterance do so for files of any length, see units.py.
"""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.audio import SAMPLE_RATE, audio_blocks, header_seconds
from common.console import UserError, audio_progress
from common.lengths import BATCH_SAMPLES, batches_of, first_samples, repeat_pad
from inference import doubts
from inference.verdicts import Judged, Reader
from inference.windows import LONGEST_WHOLE

if TYPE_CHECKING:  # otherwise imported below, where a checkpoint needs it: OnnxJudge works without torch
    import torch

HELD = 300 * SAMPLE_RATE  # samples read ahead, to batch pieces of equal length


class Judge(Reader):
    """A detector with the settings of its verdicts.

    threshold: scores above it are bona fide; None: the checkpoint's own. test_mode: "full", or "4s" for the first
    four seconds. window, hop: seconds; hop None: half a window. precision: fp32 or bf16.
    flags: see checkpoints.load_detector.
    Raises UserError as load_detector does, and for an invalid threshold, window or hop.
    """

    def __init__(
        self,
        model_path: Path | str,
        device: "torch.device",
        threshold: float | None = None,
        test_mode: str = "full",
        window: float = 4.0,
        hop: float | None = None,
        precision: str = "fp32",
        **flags: object,
    ) -> None:
        hop = window / 2 if hop is None else hop
        if threshold is not None and not math.isfinite(threshold):
            raise UserError(f"--threshold: expected a finite number, found {threshold}")
        started = time.monotonic()
        self.device, self.precision = device, precision
        content = self._load(model_path, **flags)
        least, most = self.detector.front_end.least_samples / SAMPLE_RATE, LONGEST_WHOLE // SAMPLE_RATE
        if not least <= window <= most:
            raise UserError(f"--window: expected {least:g} to {most} seconds, found {window:g}")
        if not 1 / SAMPLE_RATE <= hop <= window:
            raise UserError(f"--hop: expected more than 0 and at most --window {window:g}, found {hop:g}")
        self.loading_took = time.monotonic() - started
        super().__init__(
            content, self.detector.config, threshold, test_mode, round(window * SAMPLE_RATE), round(hop * SAMPLE_RATE)
        )
        if not doubts.speech_model():
            self.unchecked = "not checked for speech (for the check: pip install silero-vad onnxruntime)"
        self.difference = None  # largest difference of the first scores from float32 ones
        self.prepared = False  # prepared for another precision; in fp32, preparation costs a GB and saves little
        self.turns = ThreadPoolExecutor(1)  # one batch at a time, first come, first served, for all threads

    def _load(self, model_path, **flags):
        """Load `self.detector` and return the checkpoint's content, see Reader. Subclasses for other kinds of detectors
        override this method, _score_batch and _units_of.
        """
        import checkpoints

        content = checkpoints.read_detector(model_path, **flags)
        self.detector = checkpoints.detector_from(model_path, content).to(self.device)
        return content

    def judge(
        self, files: dict[str, str], timeline: bool = False, check: Callable[[float], None] | None = None
    ) -> Iterator[Judged]:
        """Judge files, {display name: path}; yields a Judged per file, in order. Threads may share a Judge.

        timeline: score windows of short files too, if they are longer than a window. check: called with the seconds of
        the file read so far, for every block and before every batch; an exception that it raises ends the judging. With
        `check` there is no progress bar.
        """
        read, pieces = [], []
        total = None if check else _seconds_by_headers(files.values())
        with audio_progress(total, "judging", disable=check is not None) as bar:
            for name, path in files.items():
                judged = Judged(name, path)
                started = time.monotonic()
                try:
                    if self.unit:
                        self._score_units(judged, timeline, bar, check)
                    for start, x in () if self.unit else self._cut(judged, timeline, bar, check):
                        pieces.append((judged, start, x))
                        if sum(len(x) for *_, x in pieces) >= HELD:
                            judged.took += time.monotonic() - started
                            self._score(pieces, check)
                            pieces = []
                            started = time.monotonic()
                except UserError as error:
                    judged.error = str(error).replace(path, name)
                    pieces = [piece for piece in pieces if piece[0] is not judged]
                judged.took += time.monotonic() - started
                read.append(judged)
                if not pieces:
                    yield from map(_finish, read)
                    read = []
            self._score(pieces, check)
        yield from map(_finish, read)

    def _score_units(self, judged, timeline, bar, check):
        """Score a file and its units into `judged`; the units of a short file are kept for a timeline only."""

        def count(seconds):
            bar.update((seconds - judged.seconds) / 60)
            judged.seconds = seconds
            if check:
                check(seconds)

        def in_turn(score, windows):
            self.turns.submit(score, windows).result()

        listener = doubts.Listener()
        score, units, _, judged.silent = self._units_of(judged.path, count, listener.hear, in_turn)
        judged.sound = listener.sound(judged.seconds)
        if judged.silent:
            return
        if not np.all(np.isfinite([score, *units])):
            raise UserError(f"{judged.path}: the detector's score is not a finite number")
        is_long = judged.seconds * SAMPLE_RATE > LONGEST_WHOLE
        judged.score, judged.is_mean = score, is_long and self.detector.config.utterance == "pooled"
        if timeline or is_long:
            starts = self.unit * np.arange(len(units))
            ends = np.minimum(starts + self.unit, judged.seconds)
            judged.windows = list(zip(starts.tolist(), ends.tolist(), units.tolist()))

    def _cut(self, judged, timeline, bar, check):
        """Cut a file into pieces to score; yields (start, (samples,)), start None for the piece that gives the file's
        score. Sets the length of `judged` and its silent windows.
        """
        window, n, start, at = self.window, 0, 0, 0  # the next window begins at sample `start`, `held` at sample `at`
        held = head = np.zeros(0, np.float32)
        windowed = timeline or self.test_mode == "full"
        listener = doubts.Listener()
        for block in audio_blocks(judged.path):
            bar.update(len(block) / SAMPLE_RATE / 60)
            n += len(block)
            judged.seconds = n / SAMPLE_RATE
            if check:
                check(judged.seconds)
            judged.silent &= not block.any()
            listener.hear(block if self.test_mode == "full" else block[: 64000 - len(head)])
            head = np.concatenate([head, block[: 64000 - len(head)]])
            held = np.concatenate([held, block])
            if n <= LONGEST_WHOLE:
                continue
            while windowed and start + window <= n:
                yield from self._window(judged, start, held[start - at : start - at + window])
                start += self.hop
            kept = min(start, n - window)  # the last window ends with the file
            held, at = held[kept - at :], kept
        judged.sound = listener.sound(judged.seconds if self.test_mode == "full" else len(head) / SAMPLE_RATE)
        if judged.silent:
            return
        if self.test_mode == "4s":
            yield None, first_samples(head, 64000)
        elif n <= LONGEST_WHOLE:
            yield None, repeat_pad(held, self.detector.front_end.least_samples)
        if n > LONGEST_WHOLE:
            if windowed and start - self.hop + window < n:
                yield from self._window(judged, n - window, held[-window:])
        elif timeline and n > window:
            for start in [*range(0, n - window, self.hop), n - window]:
                yield from self._window(judged, start, held[start : start + window])

    def _window(self, judged, start, x):
        if x.any():
            yield start, x
        else:
            judged.windows.append((start / SAMPLE_RATE, (start + len(x)) / SAMPLE_RATE, None))

    def _score(self, pieces, check):
        """Score pieces (judged, start, (samples,)) into their `judged`, pieces of equal length in one batch."""
        prepared = [self.detector.front_end.ready(x) for *_, x in pieces]
        for batch in batches_of(map(len, prepared), BATCH_SAMPLES[self.device.type]):
            if check:
                check(pieces[batch[0]][0].seconds)
            started = time.monotonic()
            scores = self.turns.submit(self._score_batch, [prepared[i] for i in batch]).result()
            scores = [None] * len(batch) if scores is None else scores.tolist()
            took = (time.monotonic() - started) / len(batch)
            for i, score in zip(batch, scores):
                judged, start, x = pieces[i]
                judged.took += took
                if score is None:
                    judged.error = f"{judged.file}: not enough memory to score it"
                elif not math.isfinite(score):
                    judged.error = f"{judged.file}: the detector's score is {score}"
                elif start is None:
                    judged.score = score
                else:
                    end = min((start + len(x)) / SAMPLE_RATE, judged.seconds)
                    judged.windows.append((start / SAMPLE_RATE, end, score))

    def _score_batch(self, waveforms):
        """Scores (B,) in the chosen precision; None if there is too little memory. The first batch is also scored in
        float32, to measure the difference. waveforms: outputs of the front-end's `ready`, each (samples,).
        """
        import torch

        from inference.precision import prepare
        from inference.scoring import score_batch

        waveforms = torch.stack(waveforms).to(self.device)
        if self.precision == "fp32" or self.prepared:
            return score_batch(self.detector, waveforms, self.precision)
        plain = score_batch(self.detector, waveforms)
        prepare(self.detector, self.precision)
        self.prepared = True
        scores = score_batch(self.detector, waveforms, self.precision)
        if scores is not None and plain is not None:
            self.difference = (scores - plain).abs().max().item()
        return scores

    def _units_of(self, path, check, hear, in_turn):
        """See units.score_units."""
        from inference.units import score_units

        return score_units(self.detector, path, self.precision, check, hear, in_turn)


def _finish(judged):
    """Compute the results that need all windows."""
    if judged.error:
        judged.score, judged.windows = None, []
    judged.windows.sort(key=lambda window: window[0])
    scores = [score for *_, score in judged.windows if score is not None]
    if judged.score is None and scores:
        judged.score, judged.is_mean = float(np.mean(scores)), True
    return judged


def _seconds_by_headers(files):
    """Total duration of the files, for a progress bar; None if a header has none."""
    seconds = [header_seconds(file) for file in files]
    return None if None in seconds else sum(seconds)
