"""Verdicts from the scores of a detector, as numbers and as words that claim no more than the numbers."""

from collections import namedtuple
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.audio import SAMPLE_RATE
from common.console import shown
from inference.doubts import Doubt, Sound, doubts_of
from inference.headline import LEVEL, SMOOTHED, Stretch, chance_of_count, chance_of_run, smoothed, stretches
from inference.windows import LONGEST_WHOLE

if TYPE_CHECKING:  # it imports torch, which verdicts of ONNX files do not need
    from model import ModelConfig

SHOWN = 10  # number of suspicious stretches in text and page, the most suspicious first
# Thresholds of the authors of the CtrSVDD detectors: about 95 % of real samples score above the first, about 95 % of
# fake ones below the second. Source: the released demo of Liu et al., 2025.
PUBLISHED_REAL, PUBLISHED_FAKE = 0.8, 0.0
# Words for readers; JSON, CSV and reports keep the field's terms.
WORDS = {"bona fide": "likely genuine", "spoof": "likely synthetic", "mostly spoofed": "mostly synthetic"}
WORDS |= dict.fromkeys(("undecided", None), "cannot tell")


@dataclass
class Judged:
    """Results for one file. Times in seconds.

    file: display name. score: higher is more bona fide; None for silence, and if the file could not be read (`error`).
    is_mean: whether the score is the mean over windows. windows: [(start, end, score)], score None for silence; if the
    detector scores units, the units, side by side. silent: every sample is zero. sound: see doubts.Listener.
    """

    file: str
    path: str
    seconds: float = 0.0
    score: float = None
    is_mean: bool = False
    windows: list = field(default_factory=list)
    silent: bool = True
    sound: Sound = Sound()
    took: float = 0.0
    error: str = None


Calibration = namedtuple("Calibration", "slope offset n_bonafide n_spoof")  # see checkpoints.dev_figures
# Test on a long file. low: suspicious windows; scored: all windows; n: windows without overlap; p_genuine: probability
# that a genuine file has as many suspicious windows, or as long a stretch; p_spoof: that a spoofed file has as many
# windows that are not suspicious, or as long a stretch of them.
Chance = namedtuple("Chance", "low scored n p_genuine p_spoof")


class Reader:
    """Threshold and calibration of a detector, and their reliability in words.

    content: result of checkpoints.read_detector; config: its ModelConfig. threshold: scores above it are bona fide;
    None: the checkpoint's own. test_mode: "full", or "4s" for the first four seconds. window, hop: samples.
    """

    unchecked: str | None = None  # why recordings are not checked for speech; None: they are

    def __init__(
        self, content: dict, config: "ModelConfig", threshold: float | None, test_mode: str, window: int, hop: int
    ) -> None:
        self.test_mode, self.window, self.hop = test_mode, window, hop
        valid = content.get("valid", {})
        self.dev_set, self.warning = _name_of_dev_set(content), shown(content.get("note", ""), 300)
        figures = {name: value for name, value in valid.items() if isinstance(value, float | int)}
        self.eer, self.calibration = figures.get("eer"), None
        names = [f"calibration_{field}" for field in Calibration._fields]
        if figures.keys() >= set(names):
            calibration = Calibration(*(figures[name] for name in names))
            # A slope below 0 would swap the classes.
            self.calibration = calibration if calibration.slope > 0 else None
        self.seen = content.get("seen", {})  # statistics of the dev recordings, see checkpoints.measure
        self.dev_scores = None  # the lowest and the highest dev score
        if figures.keys() >= {"score_low", "score_high"}:
            self.dev_scores = figures["score_low"], figures["score_high"]
        self.n_dev = [figures.get(f"calibration_n_{name}") for name in ("bonafide", "spoof")]  # utterances
        self.threshold, self.origin = threshold, "given"
        if threshold is None and figures.keys() >= {"eer", "threshold"}:
            self.threshold, self.origin = figures["threshold"], "dev"
        elif threshold is None and config.model_name.startswith("WavLM_Nes2Net") and config.n_output_logits == 1:
            self.threshold, self.origin = PUBLISHED_FAKE, "published"
        elif threshold is None:
            self.origin = None
        # A window is scored like an utterance; units have their own threshold and EER.
        self.unit = config.unit if test_mode == "full" else None
        self.step, self.window_threshold, self.window_eer = hop / SAMPLE_RATE, self.threshold, None
        if self.origin == "dev":
            self.window_eer = self.eer
        if self.unit:
            self.step = self.unit
            if figures.keys() >= {"unit_eer", "unit_threshold"}:
                self.window_threshold, self.window_eer = figures["unit_threshold"], figures["unit_eer"]

    def verdict(self, judged: Judged) -> str | None:
        """ "bona fide" or "spoof"; "undecided" between the two published thresholds; None if there is no verdict."""
        if judged.score is None or self.origin is None or self.refusal(judged):
            return None
        if self.origin == "published" and PUBLISHED_FAKE <= judged.score <= PUBLISHED_REAL:
            return "undecided"
        return "bona fide" if judged.score > self.threshold else "spoof"

    def doubts(self, judged: Judged) -> list[Doubt]:
        """Reasons to doubt or refuse the verdict."""
        if judged.silent:
            return [Doubt("silence", "every sample is zero", True)]
        return doubts_of(judged.seconds, judged.score, judged.sound, self.seen, self.dev_scores)

    def refusal(self, judged: Judged) -> str | None:
        """Reasons to give no verdict, independent of the score; None if there are none."""
        return "; ".join(doubt.text for doubt in self.doubts(judged) if doubt.refuses) or None

    def probability(self, judged: Judged) -> float | None:
        """Probability of bona fide at even prior odds; None without a calibration that applies to this score.

        The calibration applies to whole utterances, not to means over windows. Scores are clipped to the range of the
        dev scores that it was fitted on. The probability is clipped too: n utterances of a class support no error rate
        below 1 in n + 1.
        """
        if not self.calibration or self.verdict(judged) is None or judged.is_mean:
            return None
        score = np.clip(judged.score, *self.dev_scores) if self.dev_scores else judged.score
        log_odds = self.calibration.slope * score + self.calibration.offset
        rarest = self._rarest_error()
        return float(np.clip(1 / (1 + np.exp(-np.clip(log_odds, -50, 50))), rarest, 1 - rarest))

    def _rarest_error(self):
        return 1 / (min(self.calibration.n_bonafide, self.calibration.n_spoof) + 1)

    def suspicious_windows(self, judged: Judged) -> list[bool]:
        """Windows, or units, that are not above their threshold."""
        threshold = self.window_threshold
        return [None not in (score, threshold) and score <= threshold for *_, score in judged.windows]

    def smooth_scores(self, judged: Judged) -> np.ndarray:
        """Scores that define the stretches, (windows,), NaN for silence: smoothed for units, unchanged for windows."""
        scores = np.array([np.nan if score is None else score for *_, score in judged.windows])
        size = 2 * round(SMOOTHED / self.unit / 2) + 1 if self.unit else 1
        return smoothed(scores, size) if size > 1 and len(scores) else scores

    def stretches(self, judged: Judged, low: bool = True) -> list[Stretch]:
        """The suspicious stretches, in their order (low=False: the others); see headline.stretches."""
        if self.window_threshold is None or self.refusal(judged):
            return []
        return stretches(judged.windows, self.smooth_scores(judged), self.window_threshold, judged.seconds, low)

    def chance(self, judged: Judged) -> Chance | None:
        """Test whether chance explains the number of suspicious windows of a long file; None if it cannot be computed.

        Overlapping windows share audio, and so do units: only one score per window length is counted. The p-value is
        twice the smaller of two probabilities, of the number and of the longest stretch (Bonferroni).
        """
        scored = sum(score is not None for *_, score in judged.windows)
        if judged.seconds <= LONGEST_WHOLE / SAMPLE_RATE or not scored or self.why_no_chance() or self.refusal(judged):
            return None
        low = sum(self.suspicious_windows(judged))
        n = max(1, round(scored * self.step * SAMPLE_RATE / self.window))
        p = []
        for is_low, k in ((True, low), (False, scored - low)):
            longest = max(self.stretches(judged, is_low), key=lambda stretch: stretch.heard, default=None)
            of_run = self.chance_of_stretch(judged, longest, is_low) if longest else 1.0
            of_count = chance_of_count(round(n * k / scored), n, self.window_eer, self.n_dev[not is_low])
            p.append(min(1.0, 2 * min(of_count, of_run)))
        return Chance(low, scored, n, *p)

    def chance_of_stretch(self, judged: Judged, stretch: Stretch, low: bool = True) -> float:
        """Upper bound on the probability that a genuine file (low=False: a spoofed one) has a stretch this long."""
        length = int(stretch.heard * SAMPLE_RATE / self.window + 0.001)  # windows without overlap
        return chance_of_run(length, len(judged.windows), self.window_eer, self.n_dev[not low])

    def why_no_chance(self) -> str | None:
        """Reason why the test of chance cannot be computed; None if it can."""
        if self.test_mode != "full":
            return "only the first 4 s were judged"
        if self.window_eer is None:
            return "no error rate is known for this threshold"
        if None in self.n_dev:
            return "the checkpoint does not say on how many utterances its error rate was measured"
        return None

    def finding(self, judged: Judged) -> str | None:
        """The verdict; or, if a long file has more suspicious windows than chance explains, "mostly genuine", "mostly
        spoofed" or, if chance explains the windows that are not suspicious, "spoof".
        """
        chance = self.chance(judged)
        if chance is None or chance.p_genuine >= LEVEL:
            return self.verdict(judged)
        if chance.low <= chance.scored / 2:
            return "mostly genuine"
        return "mostly spoofed" if chance.p_spoof < LEVEL else "spoof"

    def time(self, judged: Judged, seconds: float) -> str:
        """Time within a file, as precise as its windows allow."""
        return clock(seconds, self.digits, hours=judged.seconds >= 3600)

    @property
    def digits(self) -> int:
        return 0 if self.step >= 1 else 1

    # Sentences for readers. They claim no more than the numbers support.

    def about_threshold(self) -> str:
        """The threshold and its reliability."""
        if self.origin == "given":
            return f"{self.threshold:.4g}, the threshold given"
        if self.origin == "dev":
            return (
                f"{self.threshold:.4g}, the threshold at which this detector errs on {100 * self.eer:.1f} % of either "
                f"class of {self.dev_set}; expect more errors on other recordings"
            )
        if self.origin == "published":
            return (
                f"the authors of the CtrSVDD detectors found about 95 % of real singing above {PUBLISHED_REAL:g} and "
                f"about 95 % of fake singing below {PUBLISHED_FAKE:g}; between the two, and for other recordings, give "
                "a threshold of your own (--threshold)"
            )
        return "this checkpoint has no threshold of its own; give --threshold (higher scores are more genuine)"

    def about_errors(self) -> str:
        """How often this detector is wrong, as far as it is known: the basis of every verdict."""
        if self.origin == "dev":
            wrong = (
                f"is wrong for {one_in(self.eer)} recordings like those" if self.eer else "was wrong for none of those"
            )
            return f"this detector {wrong} it was tested on: {self.dev_set}; expect more errors on others"
        if self.origin == "given":
            return "the error rate of this detector at the given threshold is not known"
        return self.about_threshold()

    def headline(self, judged: Judged) -> str | None:
        """The finding; if it is mixed, also the number of stretches that deviate from it, and the longest one."""
        finding = self.finding(judged)
        if finding is None or not finding.startswith("mostly"):
            return finding
        low = finding == "mostly genuine"
        stretches = self.stretches(judged, low)
        if not stretches:
            return f"{finding}, with scattered parts of less than a second that are not"
        beyond = [one for one in stretches if 2 * self.chance_of_stretch(judged, one, low) < LEVEL]
        stretches = beyond or stretches
        what = f"{'suspicious ' * low}stretch{'es' * (len(stretches) > 1)}{' not suspicious' * (not low)}"
        what += " longer than chance explains" if beyond else ""
        longest = max(stretches, key=lambda stretch: stretch.end - stretch.start)
        length = f"{longest.end - longest.start:.{self.digits}f} s at {self.time(judged, longest.start)}"
        return f"{finding}, with {len(stretches)} {what}, the longest {length}"

    def brief(self, judged: Judged) -> str:
        """The finding in the reader's words."""
        finding = self.finding(judged)
        return WORDS.get(finding, finding)

    def in_words(self, judged: Judged) -> str:
        """The headline in the reader's words."""
        return (self.headline(judged) or "").replace(self.finding(judged) or "", self.brief(judged), 1)

    def reason(self, judged: Judged) -> str:
        """Relation of the score to the threshold, the reason for the headline."""
        verdict = self.verdict(judged)
        if refusal := self.refusal(judged):
            return refusal
        if verdict is None:
            return self.about_threshold()
        if self.finding(judged) != verdict:
            chance = self.chance(judged)
            return (
                f"{chance.low} of its {chance.scored} {self._pieces} are not above {self.window_threshold:.4g}, the "
                f"threshold; in genuine speech {one_in(self.window_eer)} would be expected"
            )
        mean = "the mean score of its windows" if judged.is_mean else "the score"
        if self.origin == "published":
            interval = {
                "bona fide": f"above {PUBLISHED_REAL:g}",
                "spoof": f"below {PUBLISHED_FAKE:g}",
                "undecided": f"between {PUBLISHED_FAKE:g} and {PUBLISHED_REAL:g}",
            }[verdict]
            return f"{mean} is {interval}"
        given = " given" if self.origin == "given" else ""
        return f"{mean} is {'not ' * (verdict == 'spoof')}above {self.threshold:.4g}, the threshold{given}"

    def about_probability(self, judged: Judged) -> str | None:
        """Sentence about the probability, or about why there is none; None if neither is needed."""
        probability = self.probability(judged)
        if probability is not None:
            rarest = self._rarest_error()
            how = "under " if probability <= rarest else "over " if probability >= 1 - rarest else ""
            shown = f"{how}{probability:.3f}"
            return (
                f"{shown} that it is genuine, if both were equally likely beforehand; calibrated on "
                f"{self.calibration.n_bonafide} genuine and {self.calibration.n_spoof} synthetic recordings of "
                f"{self.dev_set}"
            )
        if self.calibration and judged.is_mean:
            return "none: the calibration applies to single utterances, and this score is a mean of windows"
        return None

    def about_windows(self, judged: Judged) -> str | None:
        """Numbers of suspicious windows, or units, observed and expected by chance; None without any."""
        if not judged.windows:
            return None
        n, length = len(judged.windows), self.unit or self.window / SAMPLE_RATE
        text = f"{n} {self._pieces} of {length:g} s" + f" every {self.step:g} s" * (not self.unit)
        if self.window_threshold is None or self.refusal(judged):
            return text
        suspicious = sum(self.suspicious_windows(judged))
        text += f"; {suspicious} not above {self.window_threshold:.4g}"
        if self.window_eer is not None:
            text += (
                f" (expected by chance in genuine speech like that it was tested on: about {self.window_eer * n:.1f}"
            )
            if chance := self.chance(judged):
                p = f"{chance.p_genuine:.2g}" if chance.p_genuine >= 0.001 else "below 0.001"
                text += f"; probability of as many, or of as long a stretch: {p}"
            text += ")"
        if judged.seconds > LONGEST_WHOLE / SAMPLE_RATE and (why := self.why_no_chance()):
            text += f"; whether chance explains them is not known: {why}"
        return text

    @property
    def _pieces(self):
        return "units" if self.unit else "windows"

    def about_stretches(self, judged: Judged) -> list[str]:
        """The most suspicious stretches, one line each, and the number of the others."""
        stretches = sorted(self.stretches(judged), key=lambda stretch: stretch.rank)
        lines = [
            f"{self.time(judged, start)} to {self.time(judged, end)}, mean score {score:.3g}"
            for start, end, score, *_ in stretches[:SHOWN]
        ]
        more = len(stretches) - SHOWN
        return [*lines, f"and {more} less suspicious"] if more > 0 else lines

    def notes(self, judged: Judged) -> list[str]:
        """Further notes for readers of the verdict."""
        notes = [doubt.text for doubt in self.doubts(judged)]
        if self.unchecked and not judged.silent:
            notes.append(self.unchecked)
        if self.test_mode == "4s" and judged.seconds > 4:
            notes.append("only its first 4 s were judged")
        return notes

    def to_dict(self, judged: Judged) -> dict:
        """Everything about a file as plain data for JSON and CSV."""
        if judged.error:
            return {"file": judged.file, "error": judged.error}
        chance = self.chance(judged)
        return {
            "file": judged.file,
            "seconds": round(judged.seconds, 4),
            "score": judged.score,
            "verdict": self.verdict(judged),
            "threshold": self.threshold,
            "probability_bonafide": self.probability(judged),
            "score_is_mean_of_windows": judged.is_mean,
            "headline": self.headline(judged),
            "finding": self.finding(judged),
            "unit_seconds": self.unit,
            "chance": chance and chance._asdict(),
            "windows": [{"start": start, "end": end, "score": score} for start, end, score in judged.windows],
            "suspicious": [
                {
                    "start": round(start, self.digits),
                    "end": round(end, self.digits),
                    "score": float(f"{score:.3g}"),
                    "rank": rank,
                }
                for start, end, score, rank, _ in self.stretches(judged)
            ],
            "doubts": [{"name": name, "text": text} for name, text, _ in self.doubts(judged)],
            "notes": self.notes(judged),
            "seconds_taken": round(judged.took, 4),
        }


def _name_of_dev_set(content):
    """Name of the dev set without folders, which older checkpoints stored."""

    def own(names):
        return ", ".join(Path(name).name for name in str(names).split(", "))

    if name := content.get("tested_on"):
        return shown(name)
    if key := content.get("valid", {}).get("key"):
        return shown(own(key))
    return shown(f"the dev set of {own(content.get('trained_on', 'a corpus not named'))}")


def one_in(rate: float) -> str:
    """Error rate in words: about 1 in 8, about 4 in 10."""
    return f"about {round(10 * rate)} in 10" if rate > 0.25 else f"about 1 in {round(1 / max(rate, 1e-6))}"


def clock(seconds: float, digits: int = 1, hours: bool = False) -> str:
    """Format seconds as a time with this many decimals: 1:02:03.4, or 2:03.4 below an hour; 0:02:03.4 with `hours`."""
    parts = round(10**digits * seconds)
    minutes, parts = divmod(parts, 60 * 10**digits)
    hour, minutes = divmod(minutes, 60)
    rest = f"{parts / 10**digits:0{3 + digits if digits else 2}.{digits}f}"
    return f"{hour}:{minutes:02}:{rest}" if hour or hours else f"{minutes}:{rest}"
