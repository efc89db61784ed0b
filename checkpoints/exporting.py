"""Detectors as ONNX files, which run without torch.

The graph takes a waveform (1, samples) at 16 kHz, not normalised, and gives its score (1,), and of a detector that
scores units their scores (1, U); if the worst of these speak for the utterance, also (1, U) by which they are the
worst. Its metadata are the facts of the checkpoint, each as JSON, and how to feed it: `sample_rate`, `least_samples`
(shorter waveforms are repeated up to these), `samples`, the one length that it takes, null if it takes any,
`unit_samples`, null if it scores no units, and `worst`: of so many units one, the worst, speaks for the utterance.
"""

import contextlib
import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from back_ends import BACK_ENDS
from checkpoints.detectors import check_weights, detector_from, read_detector
from common.atomic import atomic_open
from common.audio import SAMPLE_RATE
from common.console import UserError
from common.onnx_file import FORMAT, onnx_session
from model import Detector

EXAMPLE = 64_600  # samples that are traced, if neither the checkpoint nor the back-end says another length
CHECKED = (100_003, 16_000)  # samples of other waveforms that are compared, besides the shortest
TOLERANCE = 1e-5  # of a score, or of its absolute value if that is above 1
OUTPUTS = ["score", "unit_scores", "worst_by"]
LARGEST = 2_000_000_000  # bytes of a file of protocol buffers


class _Scorer(nn.Module):
    """What is exported: waveforms (1, samples) to what OUTPUTS names."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, waveforms: torch.Tensor) -> tuple[torch.Tensor, ...]:
        detector = self.detector
        logits = detector(waveforms)
        scores = (detector.scores_of(logits),)
        if detector.frames_per_unit:
            scores += (detector.unit_scores_of(logits),)
            scores += (detector.for_bonafide(logits[:, 1:]),) if detector.config.utterance == "worst" else ()
        return scores


def export(source: Path | str, out: Path | str, **flags: object) -> str:
    """Write a detector as an ONNX file, whole or not at all; what it takes and how exact it is, in words.

    onnxruntime has scored random waveforms of four lengths with it by then. If it fails, or is wrong, for other
    lengths than the crop of the training, it is written for that one. flags and errors as load_detector; UserError also
    where onnxruntime's scores are not torch's, by TOLERANCE.
    """
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise UserError(f"{out}: not written: needs {missing[0]} (pip install -r requirements.txt)")
    content = read_detector(source, **flags)
    check_weights(source, content)
    detector = detector_from(source, content)
    if sum(p.numel() * p.element_size() for p in detector.state_dict().values()) > LARGEST:
        raise UserError(f"{source}: expected less than {LARGEST / 1e9:g} GB of weights, all that an ONNX file holds")
    scorer = _Scorer(detector).eval()
    least = detector.front_end.least_samples
    crop = detector.crop or BACK_ENDS[detector.config.back_end].test_samples or EXAMPLE
    crop, samples, takes = max(crop, least), None, "audio of any length"
    model, found = _checked(scorer, crop, least, [crop, *CHECKED, least])
    if model is None and not detector.frames_per_unit:  # of units in one length, no recording could be made up
        samples, takes = crop, f"audio of {crop} samples alone, because else {found}"
        model, found = _checked(scorer, crop, None, [crop])
    if model is None:
        raise UserError(f"{out}: not written: {found}")
    facts = {name: value for name, value in content.items() if name not in ("format", "model")}
    facts |= {"format": FORMAT, "sample_rate": SAMPLE_RATE, "least_samples": least, "samples": samples}
    unit = detector.frames_per_unit and detector.frames_per_unit * detector.front_end.stride
    facts |= {"unit_samples": unit, "worst": Detector.WORST}
    for name, value in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, json.dumps(value)
    with atomic_open(out, "wb") as file:
        file.write(model.SerializeToString())
    return f"takes {takes}; its scores differ from torch's by {found:.2g} at most"


def _checked(scorer, crop, least, lengths):
    """(ONNX model, the largest difference of its scores from torch's), or (None, why there is none, in words).

    least: the fewest samples that it shall take, None if it is for the crop alone.
    """
    try:
        model = _exported(scorer, crop, least)
    except torch.onnx.OnnxExporterError as error:
        return None, f"the exporter fails: {' '.join(str(error.__cause__ or error).split())[:200]}"
    session = onnx_session(model.SerializeToString())
    largest = 0.0
    for n in lengths:
        waveform = 0.1 * torch.randn(1, n, generator=torch.Generator().manual_seed(n))
        with torch.no_grad():
            expected = [scores.numpy() for scores in scorer(waveform)]
        try:
            found = session.run(None, {"waveforms": waveform.numpy()})
        except Exception as error:  # onnxruntime's have no base class of their own
            return None, f"onnxruntime fails at {n} samples: {' '.join(str(error).split())[:200]}"
        for a, b in zip(expected, found, strict=True):
            difference = np.abs(a - b).max() if a.shape == b.shape else np.inf
            if not difference <= TOLERANCE * max(1, np.abs(a).max()):
                return None, f"at {n} samples its score differs by {difference:.2g}, expected at most {TOLERANCE:g}"
            largest = max(largest, float(difference))
    return model, largest


def _exported(scorer, crop, least):
    shapes = None if least is None else {"waveforms": {1: torch.export.Dim.DYNAMIC(min=least)}}
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            scorer,
            (torch.zeros(1, crop),),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=["waveforms"],
            output_names=OUTPUTS[: len(scorer(torch.zeros(1, crop)))],
            verbose=False,
        )
    return program.model_proto


@contextlib.contextmanager
def _quiet():
    """Within, the exporter says nothing of what it skips and guesses."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
