"""Detectors from files, of this project or released: reading and loading."""

import torch

from checkpoints.format import check_content, is_ours, load_file, load_strictly
from checkpoints.published import check_flags, read_published, state_dict_of
from common.console import UserError, shown
from model import ModelConfig, build_detector


def load_detector(path, **flags):
    """Load a Detector, in evaluation mode, on the CPU; its weights are mapped from the file, not copied.

    path: a checkpoint of this project or a published one. flags: model flags that the user gave; each must agree
    with the checkpoint, and they say what a published one does not tell.
    Raises UserError where the file is missing, damaged, of another kind or would run code, for a flag that disagrees,
    and for a weight that is missing, left over or of another shape.
    """
    content = read_detector(path, **flags)
    return detector_from(path, content["config"], content["model"])


def detector_from(path, config, state_dict):
    """Build a Detector from plain configuration and weights that were read from `path`; see load_detector."""
    config = ModelConfig(**config)
    try:
        detector = build_detector(config, empty="all")
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: its configuration describes no network: {shown(str(error))}") from error
    load_strictly(detector, state_dict, path, config.model_name, assign=True)
    return detector.eval()


def read_detector(path, **flags):
    """Read a checkpoint of this project or a published one: {"config": plain data, "model": state dict by our names,
    and what else is known}. flags and errors as load_detector.
    """
    content = load_file(path)
    if is_ours(content):
        check_content(path, content)
        check_flags(path, ModelConfig(**content["config"]), flags)
        return content
    return read_published(path, state_dict_of(path, content), flags)


def check_weights(path, content):
    """Raises UserError where the weights of read_detector's content do not fit its network or are not finite."""
    detector_from(path, content["config"], content["model"])
    for name, tensor in content["model"].items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path}: expected finite weights, found NaN or infinite values in {name}")
