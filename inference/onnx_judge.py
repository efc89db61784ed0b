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
    """A Judge whose detector is an ONNX file; options as for Judge.

    Scores differ from the checkpoint's by rounding only, as measured at the export. A detector of fixed input length
    gets the beginning of each piece, repeated if it is shorter. Raises UserError as read_onnx does.
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
        """Run the session on an output (samples,) of `ready`. Returns [score (1,)]; if units are scored, also their
        scores (U,); if the worst units decide on the utterance, also the values (U,) that rank them.
        """
        return [output.reshape(-1) for output in self.session.run(None, {"waveforms": x[None]})]

    def _score_batch(self, waveforms):
        return np.concatenate([self._run(x)[0] for x in waveforms])

    def _units_of(self, path, check, hear, in_turn):
        """See units.score_units."""
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
            notes.append(f"only its first {self.samples / SAMPLE_RATE:.4g} s were judged, this detector's input length")
        return notes
