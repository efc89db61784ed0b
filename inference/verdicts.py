"""Verdicts: how the scores of a detector are read, in numbers and in words that claim no more than those do."""

from collections import namedtuple
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

import checkpoints
from common.audio import SAMPLE_RATE
from common.console import shown
from model import ModelConfig

SHORT = 1.0  # seconds below which a verdict carries a warning
# How the authors of the CtrSVDD detectors read their scores: about 95 % of real samples lie above the one, about
# 95 % of fake ones below the other. Source: the released demo of Liu et al., 2025.
PUBLISHED_REAL, PUBLISHED_FAKE = 0.8, 0.0


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


class Reader:
    """How the scores of a detector are read: its threshold and calibration, and what they are worth, in words.

    content: what checkpoints.read_detector gives; config: its ModelConfig. threshold: scores above it are bona fide;
    None: the checkpoint's own. test_mode: "full", or "4s" for the first four seconds. window, hop: samples.
    """

    def __init__(
        self, content: dict, config: ModelConfig, threshold: float | None, test_mode: str, window: int, hop: int
    ) -> None:
        self.test_mode, self.window, self.hop = test_mode, window, hop
        valid = content.get("valid", {})
        self.dev_set = shown(valid.get("key") or f"the dev set of {content.get('trained_on', 'a corpus not named')}")
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

    def verdict(self, judged: Judged) -> str | None:
        """ "bona fide" or "spoof"; "undecided" between the published marks; None where nothing can be said."""
        if judged.score is None or self.origin is None:
            return None
        if self.origin == "published" and PUBLISHED_FAKE <= judged.score <= PUBLISHED_REAL:
            return "undecided"
        return "bona fide" if judged.score > self.threshold else "spoof"

    def probability(self, judged: Judged) -> float | None:
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

    def suspicious_windows(self, judged: Judged) -> list[bool]:
        return [None not in (score, self.threshold) and score <= self.threshold for *_, score in judged.windows]

    def stretches(self, judged: Judged) -> list[tuple[float, float, float]]:
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

    def about_threshold(self) -> str:
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

    def reading(self, judged: Judged) -> str:
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

    def about_probability(self, judged: Judged) -> str | None:
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

    def about_windows(self, judged: Judged) -> str | None:
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

    def notes(self, judged: Judged) -> list[str]:
        """What a reader of the verdict should know besides."""
        notes = []
        if judged.seconds < SHORT and not judged.silent:
            notes.append(f"{judged.seconds:.2f} s is little to go by")
        if judged.silent:
            notes.append("every sample is zero")
        if self.test_mode == "4s" and judged.seconds > 4:
            notes.append("judged by its first 4 s alone")
        return notes

    def to_dict(self, judged: Judged) -> dict:
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


def clock(seconds: float) -> str:
    """Seconds as people say them: 1:02:03.4, or 2:03.4 below an hour."""
    tenths = round(10 * seconds)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{tenths / 10:04.1f}" if hours else f"{minutes}:{tenths / 10:04.1f}"
