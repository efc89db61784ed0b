"""Reading and loading of detectors from checkpoints of this project and published ones."""

import contextlib
from pathlib import Path

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from back_ends import BACK_ENDS
from checkpoints.adapters import over_base
from checkpoints.format import below, check_content, is_ours, load_file, load_strictly
from checkpoints.published import AmbiguousModel, check_flags, read_published, state_dict_of
from common.console import UserError, shown
from front_ends import FRONT_ENDS
from model import Detector, ModelConfig, build_detector


def load_detector(path: Path | str, **flags: object) -> Detector:
    """Load a Detector in evaluation mode on the CPU. Its weights are memory-mapped, not copied.

    path: a checkpoint of this project or a published one. flags: model flags given by the user. Each must agree with
    the checkpoint; for a published checkpoint they also set what cannot be inferred from it.
    Raises UserError if the file is missing, damaged, of another kind or could run code, if a flag disagrees, and for
    missing or unexpected weights and wrong shapes.
    """
    content = read_detector(path, **flags)
    return detector_from(path, content)


def detector_from(path: Path | str, content: dict, kind: type[Detector] = Detector) -> Detector:
    """Build a Detector, or a Teacher, from `content`, the output of read_detector for `path`; see load_detector."""
    config, state_dict = ModelConfig(**content["config"]), content["model"]
    try:
        with _no_larger_than(state_dict) if config.back_end_options or config.members else contextlib.nullcontext():
            detector = build_detector(config, empty="all", kind=kind)
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot build a network from its configuration: {shown(str(error))}") from error
    load_strictly(detector, state_dict, path, config.model_name, assign=True)
    detector.crop = content.get("crop")
    detector.unit_threshold = content.get("valid", {}).get("unit_threshold")
    return detector.eval()


@contextlib.contextmanager
def _no_larger_than(state_dict):
    """Context in which building a network with far more weights than the state dict raises RuntimeError.

    Options in a file may request a network of any size. A network that is only a little larger is still built, so that
    loading names the weights that differ.
    """
    tensors = 2 * len(state_dict) + 1000
    numbers = 2 * sum(tensor.numel() for tensor in state_dict.values()) + 10**7

    def count(module, name, parameter):
        nonlocal tensors, numbers
        if parameter is not None:
            tensors, numbers = tensors - 1, numbers - parameter.numel()
            if min(tensors, numbers) < 0:
                raise RuntimeError("far more weights than the file has")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def read_detector(path: Path | str, base: Path | str | None = None, **flags: object) -> dict:
    """Read a checkpoint of this project or a published one.

    Returns {"config": plain data, "model": state dict with this project's names, and further facts}. base: encoder for
    a checkpoint of adapters, see over_base. flags and errors: as for load_detector.
    """
    return _detector_of(path, load_file(path), flags, base)


def _detector_of(path, content, flags, base=None):
    if is_ours(content):
        check_content(path, content)
        check_flags(path, ModelConfig(**content["config"]), flags)
        return over_base(path, content, base) if "adapters" in content else content
    return read_published(path, state_dict_of(path, content), flags)


def encoder_of_detector(path: Path | str, content: object) -> tuple[str, dict, dict[str, torch.Tensor]]:
    """Encoder of a detector: (front-end, its fields, its state dict). content: the content of the file.

    Waveforms are normalised if the detector normalises them. Dropout and other training-only settings are off unless a
    flag sets them, because checkpoints of detectors do not store them. Raises UserError as load_detector does.
    """
    try:
        detector = _detector_of(path, content, {})
    except AmbiguousModel as error:  # all candidates have the same encoder
        detector = _detector_of(path, content, {"model_name": error.names[0]})
    config = ModelConfig(**detector["config"])
    kind = FRONT_ENDS[config.front_end]
    fields = config.encoder_fields
    if BACK_ENDS[config.back_end].normalizes and "normalize" in fields:
        fields = fields | {"normalize": True}
    return config.front_end, fields | kind.not_acting, below("front_end.model.", detector["model"])


def check_weights(path: Path | str, content: dict) -> None:
    """Raise UserError if the weights in the output of read_detector do not fit its network or are not finite."""
    detector_from(path, content)
    for name, tensor in content["model"].items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path}: expected finite weights, found NaN or infinite values in {name}")
