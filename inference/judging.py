"""Judging recordings: audio files of any length to scores, verdicts, suspicious stretches, and a picture of them.

A file of at most 30 s is scored in one piece; a longer one in overlapping windows, read and scored a few minutes at
a time so that memory does not grow with its length, and its score is their mean.
"""

import contextlib
import glob
import math
import os
import shutil
import sys
import tempfile
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

import checkpoints
from common.audio import SAMPLE_RATE, audio_blocks, header_seconds
from common.console import UserError, progress, shown
from corpora import list_audio, warn_of_others
from data_utils import first_samples, repeat_pad
from inference.precision import prepare
from inference.scoring import BATCH_SAMPLES, batches_of, score_batch

LONGEST_WHOLE = 30 * SAMPLE_RATE  # samples that are scored in one piece: what attention needs grows with the square
HELD = 300 * SAMPLE_RATE  # samples read ahead, to find equal lengths for a batch
SHORT = 1.0  # seconds below which a verdict carries a warning
# How the authors of the CtrSVDD detectors read their scores: about 95 % of real samples lie above the one, about
# 95 % of fake ones below the other. Source: the released demo of Liu et al., 2025.
PUBLISHED_REAL, PUBLISHED_FAKE = 0.8, 0.0


# ------------------------------------------------------------------------------------------------------ audio files


@contextlib.contextmanager
def find_files(names):
    """The audio files that the names stand for, without doubles: {what to call it: path}.

    names: files, folders (the audio files in them and in their sub-folders), patterns, and `-` for standard input, of
    which a copy exists while the context does. Warns of what it skips in folders but hidden files.
    Raises UserError for a name that stands for none.
    """
    with contextlib.ExitStack() as copies:
        found = {}
        for name in names:
            if name == "-":
                found["standard input"] = copies.enter_context(_copy_of_standard_input()).name
                continue
            if os.path.isfile(name):
                files = [name]
            elif os.path.isdir(name):
                files, others = list_audio(name, recursive=True)
                files = [str(Path(name, file)) for file in files]
                warn_of_others(name, others)
            else:
                files = sorted(file for file in glob.glob(name, recursive=True) if os.path.isfile(file))
            if not files:
                raise UserError(f"{name}: expected a file, a folder with audio files, a pattern or -, found nothing")
            found |= dict(zip(files, files))
        yield found


def _copy_of_standard_input():
    """A temporary file, open, with all of standard input. Raises UserError if it cannot hold it."""
    if sys.stdin is None:
        raise UserError("-: standard input is closed")
    copy = None
    try:
        copy = tempfile.NamedTemporaryFile()
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            copy and copy.close()
        raise UserError(f"standard input: cannot be copied to a temporary file: {error.strerror}") from error
    return copy


# ----------------------------------------------------------------------------------------------------------- judging


@dataclass
class Judged:
    """What is known of one file. Times in seconds.

    file: what to call it. score: higher is more bona fide; None for silence, and where the file could not be read,
    as `error` says. is_mean: the score is the mean of the windows'. windows: [(start, end, score)], the score None
    for silence. silent: every sample is zero.
    """

    file: str
    path: str
    seconds: float = 0.0
    score: float = None
    is_mean: bool = False
    windows: list = field(default_factory=list)
    silent: bool = True
    took: float = 0.0
    error: str = None


Calibration = namedtuple("Calibration", "slope offset n_bonafide n_spoof")  # see checkpoints.dev_figures


class Judge:
    """A detector, and how its scores are read.

    threshold: scores above it are bona fide; None: the checkpoint's own. test_mode: "full", or "4s" for the first
    four seconds. window, hop: seconds; hop None: half a window. precision: fp32 or bf16.
    flags: see checkpoints.load_detector.
    Raises UserError as load_detector, and for a window or a hop that makes no sense.
    """

    def __init__(
        self, model_path, device, threshold=None, test_mode="full", window=4.0, hop=None, precision="fp32", **flags
    ):
        hop = window / 2 if hop is None else hop
        if threshold is not None and not math.isfinite(threshold):
            raise UserError(f"--threshold: expected a finite number, found {threshold}")
        started = time.monotonic()
        content = checkpoints.read_detector(model_path, **flags)
        self.detector = checkpoints.detector_from(model_path, content["config"], content["model"]).to(device)
        least, most = self.detector.front_end.least_samples / SAMPLE_RATE, LONGEST_WHOLE // SAMPLE_RATE
        if not least <= window <= most:
            raise UserError(f"--window: expected {least:g} to {most} seconds, found {window:g}")
        if not 1 / SAMPLE_RATE <= hop <= window:
            raise UserError(f"--hop: expected more than 0 and at most --window {window:g}, found {hop:g}")
        self.loading_took = time.monotonic() - started
        self.device, self.test_mode, self.precision = device, test_mode, precision
        self.difference = None  # of the first scores from those in float32
        self.prepared = False  # for another precision; in fp32 that costs a GB and saves little
        self.turns = ThreadPoolExecutor(1)  # scores a batch at a time, in the order of asking, whoever judges meanwhile
        self.window, self.hop = round(window * SAMPLE_RATE), round(hop * SAMPLE_RATE)
        valid = content.get("valid", {})
        self.dev_set = shown(valid.get("key") or f"the dev set of {content.get('trained_on', 'a corpus not named')}")
        config = self.detector.config
        figures = {name: value for name, value in valid.items() if isinstance(value, float | int)}
        self.eer, self.calibration = figures.get("eer"), None
        if figures.keys() >= set(checkpoints.CALIBRATION):
            calibration = Calibration(*(figures[name] for name in checkpoints.CALIBRATION))
            # With a slope below 0 it would take the one class for the other.
            self.calibration = calibration if calibration.slope > 0 else None
        self.threshold, self.origin = threshold, "given"
        if threshold is None and figures.keys() >= {"eer", "threshold"}:
            self.threshold, self.origin = figures["threshold"], "dev"
        elif threshold is None and config.model_name.startswith("WavLM_Nes2Net") and config.n_output_logits == 1:
            self.threshold, self.origin = PUBLISHED_FAKE, "published"
        elif threshold is None:
            self.origin = None

    def judge(self, files, timeline=False, check=None):
        """Judge files, {what to call it: path}; yields a Judged for each, in their order. Threads may share a Judge.

        timeline: score windows of the short ones too, where they are longer than a window. check: called with the
        seconds of a file that are read, for every block of it and before every batch; what it raises ends the judging.
        With it there is no progress bar.
        """
        read, pieces = [], []
        total = None if check else _seconds_by_headers(files.values())
        with progress(total=total, desc="judging", unit="s", unit_scale=True, disable=check is not None) as bar:
            for name, path in files.items():
                judged = Judged(name, path)
                started = time.monotonic()
                try:
                    for start, x in self._cut(judged, timeline, bar, check):
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

    def _cut(self, judged, timeline, bar, check):
        """Cut a file into what is scored; yields (start, (samples,)), start None for what stands for the whole file.
        Finds the length of `judged` and its silent parts.
        """
        window, n, start, at = self.window, 0, 0, 0  # the next window begins at sample `start`, `held` at sample `at`
        held = head = np.zeros(0, np.float32)
        windowed = timeline or self.test_mode == "full"
        for block in audio_blocks(judged.path):
            bar.update(len(block) / SAMPLE_RATE)
            n += len(block)
            judged.seconds = n / SAMPLE_RATE
            if check:
                check(judged.seconds)
            judged.silent &= not block.any()
            head = np.concatenate([head, block[: 64000 - len(head)]])
            held = np.concatenate([held, block])
            if n <= LONGEST_WHOLE:
                continue
            while windowed and start + window <= n:
                yield from self._window(judged, start, held[start - at : start - at + window])
                start += self.hop
            kept = min(start, n - window)  # the last window ends with the file, wherever that is
            held, at = held[kept - at :], kept
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
        """Score (judged, start, (samples,)), those of equal length together, into their `judged`."""
        prepared = [self.detector.front_end.ready(x) for *_, x in pieces]
        for batch in batches_of(map(len, prepared), BATCH_SAMPLES[self.device.type]):
            if check:
                check(pieces[batch[0]][0].seconds)
            started = time.monotonic()
            waveforms = torch.stack([prepared[i] for i in batch]).to(self.device)
            scores = self.turns.submit(self._score_batch, waveforms).result()
            scores = [None] * len(batch) if scores is None else scores.tolist()
            took = (time.monotonic() - started) / len(batch)
            for i, score in zip(batch, scores):
                judged, start, x = pieces[i]
                judged.took += took
                if score is None:
                    judged.error = f"{judged.file}: more memory needed than there is"
                elif not math.isfinite(score):
                    judged.error = f"{judged.file}: the detector's score is {score}"
                elif start is None:
                    judged.score = score
                else:
                    end = min((start + len(x)) / SAMPLE_RATE, judged.seconds)
                    judged.windows.append((start / SAMPLE_RATE, end, score))

    def _score_batch(self, waveforms):
        """Scores (B,) in the precision asked for; the first ones in float32 as well, to say what it changes."""
        if self.precision == "fp32" or self.prepared:
            return score_batch(self.detector, waveforms, self.precision)
        plain = score_batch(self.detector, waveforms)
        prepare(self.detector, self.precision)
        self.prepared = True
        scores = score_batch(self.detector, waveforms, self.precision)
        if scores is not None and plain is not None:
            self.difference = (scores - plain).abs().max().item()
        return scores

    def verdict(self, judged):
        """ "bona fide" or "spoof"; "undecided" between the published marks; None where nothing can be said."""
        if judged.score is None or self.origin is None:
            return None
        if self.origin == "published" and PUBLISHED_FAKE <= judged.score <= PUBLISHED_REAL:
            return "undecided"
        return "bona fide" if judged.score > self.threshold else "spoof"

    def probability(self, judged):
        """Probability of bona fide for even odds beforehand; None without a calibration that fits this score.

        A calibration is of whole utterances: it says nothing of a mean over windows. And n utterances of a class
        support no error rarer than 1 in n + 1.
        """
        if not self.calibration or self.verdict(judged) is None or judged.is_mean:
            return None
        log_odds = self.calibration.slope * judged.score + self.calibration.offset
        rarest = self._rarest_error()
        return float(np.clip(1 / (1 + np.exp(-np.clip(log_odds, -50, 50))), rarest, 1 - rarest))

    def _rarest_error(self):
        return 1 / (min(self.calibration.n_bonafide, self.calibration.n_spoof) + 1)

    def suspicious_windows(self, judged):
        return [None not in (score, self.threshold) and score <= self.threshold for *_, score in judged.windows]

    def stretches(self, judged):
        """Where neighbouring windows are not above the threshold: [(start, end, mean score)].

        A window speaks for its middle, up to half-way to the middles of its neighbours. Either end of a spliced
        stretch is found to half a hop by a detector that goes by the larger part of a window; by one that gives in to
        a little of it, or only to all of it, to half a window more.
        """
        middles = [(start + end) / 2 for start, end, _ in judged.windows]
        edges = [0, *((a + b) / 2 for a, b in zip(middles, middles[1:])), judged.seconds]
        found = []
        for is_suspicious, same in groupby(
            enumerate(self.suspicious_windows(judged)), key=lambda numbered: numbered[1]
        ):
            if is_suspicious:
                numbers = [i for i, _ in same]
                mean = float(np.mean([judged.windows[i][2] for i in numbers]))
                found.append((edges[numbers[0]], edges[numbers[-1] + 1], mean))
        return found

    # The words. They claim no more than the number does.

    def about_threshold(self):
        """What the threshold is worth."""
        if self.origin == "given":
            return f"{self.threshold:.4g}, the threshold given"
        if self.origin == "dev":
            return (
                f"{self.threshold:.4g}, the threshold where this detector errs on {100 * self.eer:.1f} % of "
                f"either class of {self.dev_set}; expect more errors on other recordings"
            )
        if self.origin == "published":
            return (
                f"the authors of the CtrSVDD detectors found about 95 % of real singing above {PUBLISHED_REAL:g} and "
                f"about 95 % of fake singing below {PUBLISHED_FAKE:g}; between the two, and for other recordings, give "
                "a threshold of your own (--threshold)"
            )
        return "this checkpoint has no threshold of its own; give --threshold (higher scores are more bona fide)"

    def reading(self, judged):
        """The verdict in a sentence, with what it rests on."""
        verdict = self.verdict(judged)
        if judged.silent:
            return "no verdict: every sample is zero"
        if verdict is None:
            return f"no verdict: {self.about_threshold()}"
        mean = "the mean score of its windows" if judged.is_mean else "the score"
        if self.origin == "published":
            where = {
                "bona fide": f"above {PUBLISHED_REAL:g}",
                "spoof": f"below {PUBLISHED_FAKE:g}",
                "undecided": f"between {PUBLISHED_FAKE:g} and {PUBLISHED_REAL:g}",
            }[verdict]
            return f"{'likely ' * (verdict != 'undecided')}{verdict}: {mean} is {where}; {self.about_threshold()}"
        return f"{verdict}: {mean} is {'not ' * (verdict == 'spoof')}above {self.about_threshold()}"

    def about_probability(self, judged):
        """The probability in a sentence, or why there is none; None where that goes without saying."""
        probability = self.probability(judged)
        if probability is not None:
            rarest = self._rarest_error()
            how = "under " if probability <= rarest else "over " if probability >= 1 - rarest else ""
            shown = f"{how}{probability:.3f}"
            return (
                f"{shown} that it is bona fide, if both were equally likely beforehand; calibrated on "
                f"{self.calibration.n_bonafide} bona fide and {self.calibration.n_spoof} spoofed utterances of "
                f"{self.dev_set}"
            )
        if self.calibration and judged.is_mean:
            return "none: the calibration is of single utterances, this score is a mean of windows"
        return None

    def about_windows(self, judged):
        """How many windows are suspicious, beside how many would be so by chance; None without windows."""
        if not judged.windows:
            return None
        n, length, hop = len(judged.windows), self.window / SAMPLE_RATE, self.hop / SAMPLE_RATE
        text = f"{n} windows of {length:g} s every {hop:g} s"
        if self.threshold is None:
            return text
        suspicious = sum(self.suspicious_windows(judged))
        text += f"; {suspicious} not above {self.threshold:.4g}"
        if self.origin == "dev":
            text += f" (of genuine speech as in its dev set about {self.eer * n:.1f} would be, by chance)"
        return text

    def notes(self, judged):
        """What a reader of the verdict should know besides."""
        notes = []
        if judged.seconds < SHORT and not judged.silent:
            notes.append(f"{judged.seconds:.2f} s is little to go by")
        if judged.silent:
            notes.append("every sample is zero")
        if self.test_mode == "4s" and judged.seconds > 4:
            notes.append("judged by its first 4 s alone")
        return notes

    def to_dict(self, judged):
        """Everything about a file as plain data for JSON and CSV."""
        if judged.error:
            return {"file": judged.file, "error": judged.error}
        return {
            "file": judged.file,
            "seconds": round(judged.seconds, 4),
            "score": judged.score,
            "verdict": self.verdict(judged),
            "threshold": self.threshold,
            "probability_bonafide": self.probability(judged),
            "score_is_mean_of_windows": judged.is_mean,
            "windows": [{"start": start, "end": end, "score": score} for start, end, score in judged.windows],
            "suspicious": [
                {"start": start, "end": end, "score": score} for start, end, score in self.stretches(judged)
            ],
            "notes": self.notes(judged),
            "seconds_taken": round(judged.took, 4),
        }


def _finish(judged):
    """Complete what the windows tell, once all of them are scored."""
    if judged.error:
        judged.score, judged.windows = None, []
    judged.windows.sort(key=lambda window: window[0])
    scores = [score for *_, score in judged.windows if score is not None]
    if judged.score is None and scores:
        judged.score, judged.is_mean = float(np.mean(scores)), True
    return judged


def _seconds_by_headers(files):
    """The length of all files together, for a progress bar; None if a header does not tell."""
    seconds = [header_seconds(file) for file in files]
    return None if None in seconds else round(sum(seconds))


def clock(seconds):
    """Seconds as people say them: 1:02:03.4, or 2:03.4 below an hour."""
    tenths = round(10 * seconds)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{tenths / 10:04.1f}" if hours else f"{minutes}:{tenths / 10:04.1f}"
