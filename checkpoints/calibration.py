"""Threshold and calibration of a checkpoint, estimated from its scores on a dev set."""

from pathlib import Path

import numpy as np

import corpora
from checkpoints.detectors import check_weights, read_detector
from checkpoints.format import save_checkpoint
from checkpoints.seen import measure
from common.console import UserError, warn
from corpora import BONAFIDE, SPOOF
from model import ModelConfig
from reports import metrics
from reports.calibration import train_calibration
from reports.systems import join

# Affine calibration and the numbers of dev trials that it was fitted to.
CALIBRATION = ("calibration_slope", "calibration_offset", "calibration_n_bonafide", "calibration_n_spoof")


def dev_figures(bonafide: np.ndarray, spoof: np.ndarray) -> dict[str, float]:
    """Dev figures for the `valid` entry of a checkpoint: {eer, threshold, score_low, score_high, *CALIBRATION}.

    bonafide, spoof: scores (trials,). score_low and score_high are the lowest and highest score. The log-likelihood
    ratio is calibration_slope * score + calibration_offset. Raises UserError if a class is empty or a score is not
    finite.
    """
    eer, threshold = metrics.compute_eer(bonafide, spoof)
    (slope,), offset = train_calibration(bonafide, spoof)
    calibration = zip(CALIBRATION, (float(slope), float(offset), len(bonafide), len(spoof)))
    scores = np.concatenate([bonafide, spoof])
    seen = {"score_low": float(scores.min()), "score_high": float(scores.max())}
    return {"eer": eer, "threshold": threshold, **dict(calibration), **seen}


def calibrate(
    source: Path | str,
    out: Path | str,
    scores: Path | str,
    key: Path | str,
    score_column: str | None = None,
    higher_is: str = "bonafide",
    bonafide: str | None = None,
    **flags: object,
) -> dict[str, float]:
    """Write checkpoint `out`: `source` with the dev_figures of a score file and its key.

    If the audio of the key is in the corpus's folders, the statistics of checkpoints.measure are stored as well.
    score_column, higher_is: as for corpora.read_score_columns; bonafide: as for corpora.read_table; flags and errors:
    as for load_detector.
    """
    content = read_detector(source, **flags)
    check_weights(source, content)
    scored = corpora.read_score_columns(scores, score_column, higher_is)
    corpora.check_scores(scores, scored)
    table = corpora.read_table(key, columns=(), bonafide=bonafide)
    places, _ = join(scores, scored, table)
    labelled = table.label != corpora.UNKNOWN
    missing = np.flatnonzero(labelled & (places < 0))
    if len(missing):
        first = table.utt_id[missing[0]]
        raise UserError(f"{scores}: {len(missing)} of {labelled.sum()} trials of {key} have no score, first {first}")
    figures = dev_figures(*(scored.scores[places[table.label == label]] for label in (BONAFIDE, SPOOF)))
    facts = {name: value for name, value in content.items() if name not in ("format", "config", "model")}
    name, _ = corpora.describe(key)
    facts["valid"] = {**facts.get("valid", {}), **figures, "key": name}
    facts["tested_on"] = name
    try:
        trials = corpora.read_trials(key, bonafide=bonafide, need_labels=False)
    except UserError as error:
        why = str(error).partition(";")[0]
        warn(f"{why}; the checkpoint stores no statistics of the recordings")
    else:
        facts["seen"] = measure([trial.path for trial in trials])
    save_checkpoint(out, ModelConfig(**content["config"]), content["model"], **facts)
    return figures
