"""The threshold and calibration that a checkpoint keeps of its scores on a dev set."""

from pathlib import Path

import numpy as np

import corpora
from checkpoints.detectors import check_weights, read_detector
from checkpoints.format import save_checkpoint
from common.console import UserError
from corpora import BONAFIDE, SPOOF
from model import ModelConfig
from reports import metrics
from reports.calibration import train_calibration

# Affine calibration, and the numbers of dev trials that it was fitted on.
CALIBRATION = ("calibration_slope", "calibration_offset", "calibration_n_bonafide", "calibration_n_spoof")


def dev_figures(bonafide: np.ndarray, spoof: np.ndarray) -> dict[str, float]:
    """What a checkpoint keeps in `valid` of its scores on a dev set: {eer, threshold, and what CALIBRATION names}.

    bonafide, spoof: scores (trials,). The calibration's slope times a score plus its offset is the log-likelihood
    ratio. Raises UserError for an empty class or a score that is not finite.
    """
    eer, threshold = metrics.compute_eer(bonafide, spoof)
    (slope,), offset = train_calibration(bonafide, spoof)
    calibration = zip(CALIBRATION, (float(slope), float(offset), len(bonafide), len(spoof)))
    return {"eer": eer, "threshold": threshold, **dict(calibration)}


def calibrate(
    source: Path | str, out: Path | str, scores: Path | str, key: Path | str, **flags: object
) -> dict[str, float]:
    """Write a checkpoint with the dev_figures of a score file and its key. flags and errors as load_detector."""
    content = read_detector(source, **flags)
    check_weights(source, content)
    found = corpora.read_scores(scores)
    trials = [trial for trial in corpora.read_protocol(key) if trial.label is not None]
    missing = [trial.utt_id for trial in trials if trial.utt_id not in found]
    if missing:
        raise UserError(f"{scores}: {len(missing)} of {len(trials)} trials of {key} have no score, first {missing[0]}")
    by_label = {label: [found[t.utt_id] for t in trials if t.label == label] for label in (BONAFIDE, SPOOF)}
    figures = dev_figures(np.array(by_label[BONAFIDE]), np.array(by_label[SPOOF]))
    facts = {name: value for name, value in content.items() if name not in ("format", "config", "model")}
    facts["valid"] = {**facts.get("valid", {}), **figures, "key": str(key)}
    save_checkpoint(out, ModelConfig(**content["config"]), content["model"], **facts)
    return figures
