"""Judging by an ONNX file that `checkpoint.py export` wrote: onnxruntime computes, torch is not imported."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from common.audio import SAMPLE_RATE, audio_blocks
from common.lengths import first_samples, repeat_pad
from common.onnx_file import read_onnx
from inference.judging import Judge
from inference.verdicts import Judged
from inference.windows import windows_of


class OnnxJudge(Judge):
    """A Judge whose detector is an ONNX file; options as there. Its verdicts are the checkpoint's: scores differ by the
    rounding that the export had found. A detector that takes a single length gets the beginning of what it scores,
    repeated if that is shorter. Raises UserError as read_onnx.
    """

    def __init__(self, model_path: Path | str, **options: object) -> None:
        super().__init__(model_path, SimpleNamespace(type="cpu"), **options)

    def _load(self, model_path):
        self.session, facts = read_onnx(model_path)
        self.samples, self.unit_samples, self.worst = (facts[key] for key in ("samples", "unit_samples", "worst"))
        least = facts["least_samples"]

        def ready(x):
            return first_samples(x, self.samples) if self.samples else repeat_pad(x, least)

        # The attributes of a model.Detector that Judge and the commands use.
        config = SimpleNamespace(**{"unit": None, "utterance": "pooled"} | facts["config"])
        config.to_dict = lambda: facts["config"]
        self.detector = SimpleNamespace(config=config, front_end=SimpleNamespace(least_samples=least, ready=ready))
        return facts

    def _run(self, x):
        """Of what `ready` made, (samples,): its score (1,); if units are scored, theirs (U,); if the worst of them
        speak for the utterance, also (U,) by which they are the worst.
        """
        return [output.reshape(-1) for output in self.session.run(None, {"waveforms": x[None]})]

    def _score_batch(self, waveforms):
        return np.concatenate([self._run(x)[0] for x in waveforms])

    def _units_of(self, path, check, hear, in_turn):
        """As units.score_units."""
        n_samples, silent, scored = 0, True, []

        def read():
            nonlocal n_samples, silent
            for block in audio_blocks(path):
                n_samples += len(block)
                silent = silent and not block.any()
                check(n_samples / SAMPLE_RATE)
                hear(block)
                yield block

        def score(window):
            x, lead, n = window
            utterance, *units = self._run(self.detector.front_end.ready(x))
            last = None if lead + n == len(x) else (lead + n) // self.unit_samples
            scored.append(([n], utterance, *(of_units[lead // self.unit_samples : last] for of_units in units)))

        for window in windows_of(read(), self.unit_samples):
            in_turn(score, window)
        if not scored:
            return math.nan, np.zeros(0, np.float32), 0, True
        lengths, utterances, units, *worst_by = map(np.concatenate, zip(*scored))
        score = np.average(utterances, weights=lengths)
        if worst_by and len(scored) > 1:
            n_worst = -(-len(units) // self.worst)
            score = units[np.argsort(worst_by[0], kind="stable")[:n_worst]].mean()
        return float(score), units, n_samples, silent

    def notes(self, judged: Judged) -> list[str]:
        notes = super().notes(judged)
        if self.samples and judged.seconds > self.samples / SAMPLE_RATE and not (judged.is_mean or judged.silent):
            notes.append(f"judged by its first {self.samples / SAMPLE_RATE:.4g} s alone: the detector takes no more")
        return notes
