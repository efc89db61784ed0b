"""Export of detectors to ONNX files, which run without torch.

Input of the graph: a waveform (1, samples) at 16 kHz, not normalised. Outputs: its score (1,); if the detector scores
units, the unit scores (1, U); if its worst units decide on the utterance, also the values (1, U) that rank the units.
The metadata are the facts of the checkpoint and the input requirements, each as JSON: `sample_rate`; `least_samples`
(shorter waveforms are repeated to this length); `samples`, the only accepted length, or null for any length;
`unit_samples`, or null without units; `worst`: one of every `worst` units is used for the score of the utterance.
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

EXAMPLE = 64_600  # samples for tracing, unless the checkpoint or the back-end gives another length
CHECKED = (100_003, 16_000)  # lengths of further waveforms to compare, in addition to the shortest
TOLERANCE = 1e-5  # absolute for scores up to 1, relative above
OUTPUTS = ["score", "unit_scores", "worst_by"]
LARGEST = 2_000_000_000  # bytes in a protocol buffers file


class _Scorer(nn.Module):
    """Module to export: waveforms (1, samples) -> OUTPUTS."""

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
    """Write a detector as an ONNX file, atomically. Returns a sentence on its input lengths and accuracy.

    Before that, onnxruntime scores random waveforms of four lengths. If it fails or is inaccurate at lengths other than
    the training crop, the file is written for that length only. flags and errors: as for load_detector. Also raises
    UserError if the scores of onnxruntime and torch differ by more than TOLERANCE.
    """
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise UserError(f"{out}: not written: {missing[0]} is not installed (pip install -r requirements.txt)")
    content = read_detector(source, **flags)
    check_weights(source, content)
    detector = detector_from(source, content)
    if sum(p.numel() * p.element_size() for p in detector.state_dict().values()) > LARGEST:
        raise UserError(f"{source}: expected less than {LARGEST / 1e9:g} GB of weights, the limit of an ONNX file")
    scorer = _Scorer(detector).eval()
    least = detector.front_end.least_samples
    crop = detector.crop or BACK_ENDS[detector.config.back_end].test_samples or EXAMPLE
    crop, samples, takes = max(crop, least), None, "audio of any length"
    model, found = _checked(scorer, crop, least, [crop, *CHECKED, least])
    if (
        model is None and not detector.frames_per_unit
    ):  # unit scores of one length could not be joined to those of a recording
        samples, takes = crop, f"only audio of {crop} samples, because otherwise {found}"
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
    return f"takes {takes}; its scores differ from torch's by at most {found:.2g}"


def _checked(scorer, crop, least, lengths):
    """(ONNX model, maximum difference between its scores and torch's), or (None, reason of the failure).

    least: minimum number of samples; None: export for the crop only.
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
        except Exception as error:  # onnxruntime's exceptions have no base class of their own
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
    """Context that suppresses the warnings of the exporter."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
