"""Checkpoints: saving, resuming, loading, published layouts, averaging, calibration and export."""

from checkpoints.adapters import adapters_alone
from checkpoints.averaging import AS_PUBLISHED, average_checkpoints, average_to, load_average
from checkpoints.calibration import CALIBRATION, calibrate, dev_figures
from checkpoints.detectors import check_weights, detector_from, load_detector, read_detector
from checkpoints.exporting import export
from checkpoints.folders import best_checkpoints, checkpoints_folder, checkpoints_of_epochs, epoch_checkpoints
from checkpoints.format import FORMAT, load_strictly, read_checkpoint, save_checkpoint
from checkpoints.hub import FORM, fetch
from checkpoints.pretrained import (
    detector_to_fine_tune,
    new_detector,
    pretrained_path,
    read_pretrained,
    resolve_encoder,
)
from checkpoints.published import AmbiguousModel
from checkpoints.resuming import PREVIOUS_NAME, RESUME_NAME, load_resume, random_states, save_resume
from checkpoints.seen import measure
from checkpoints.showing import show

__all__ = [
    "AmbiguousModel",
    "adapters_alone",
    "average_checkpoints",
    "average_to",
    "best_checkpoints",
    "calibrate",
    "check_weights",
    "checkpoints_folder",
    "checkpoints_of_epochs",
    "detector_from",
    "detector_to_fine_tune",
    "dev_figures",
    "epoch_checkpoints",
    "export",
    "fetch",
    "load_average",
    "load_detector",
    "load_resume",
    "load_strictly",
    "measure",
    "new_detector",
    "pretrained_path",
    "random_states",
    "read_checkpoint",
    "read_detector",
    "read_pretrained",
    "resolve_encoder",
    "save_checkpoint",
    "save_resume",
    "show",
    "AS_PUBLISHED",
    "CALIBRATION",
    "FORM",
    "FORMAT",
    "PREVIOUS_NAME",
    "RESUME_NAME",
]
