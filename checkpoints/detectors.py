"""Detectors from files, of this project or released: reading and loading."""

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
    """Load a Detector, in evaluation mode, on the CPU; its weights are mapped from the file, not copied.

    path: a checkpoint of this project or a published one. flags: model flags that the user gave; each must agree
    with the checkpoint, and they say what a published one does not tell.
    Raises UserError where the file is missing, damaged, of another kind or would run code, for a flag that disagrees,
    and for a weight that is missing, left over or of another shape.
    """
    content = read_detector(path, **flags)
    return detector_from(path, content)


def detector_from(path: Path | str, content: dict, kind: type[Detector] = Detector) -> Detector:
    """Build a Detector, or a Teacher, from what read_detector read from `path`; see load_detector."""
    config, state_dict = ModelConfig(**content["config"]), content["model"]
    try:
        with _no_larger_than(state_dict) if config.back_end_options or config.members else contextlib.nullcontext():
            detector = build_detector(config, empty="all", kind=kind)
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: its configuration describes no network: {shown(str(error))}") from error
    load_strictly(detector, state_dict, path, config.model_name, assign=True)
    detector.crop = content.get("crop")
    detector.unit_threshold = content.get("valid", {}).get("unit_threshold")
    return detector.eval()


@contextlib.contextmanager
def _no_larger_than(state_dict):
    """Within, building a network fails once it has far more weights than a file, whose options may ask for any number.

    Far more: a network that differs a little is built, so that loading names what differs.
    """
    tensors = 2 * len(state_dict) + 1000
    numbers = 2 * sum(tensor.numel() for tensor in state_dict.values()) + 10**7

    def count(module, name, parameter):
        nonlocal tensors, numbers
        if parameter is not None:
            tensors, numbers = tensors - 1, numbers - parameter.numel()
            if min(tensors, numbers) < 0:
                raise RuntimeError("far more weights than the file holds")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def read_detector(path: Path | str, base: Path | str | None = None, **flags: object) -> dict:
    """Read a checkpoint of this project or a published one: {"config": plain data, "model": state dict by our names,
    and what else is known}. base: of a checkpoint of adapters, see over_base. flags and errors as load_detector.
    """
    return _detector_of(path, load_file(path), flags, base)


def _detector_of(path, content, flags, base=None):
    if is_ours(content):
        check_content(path, content)
        check_flags(path, ModelConfig(**content["config"]), flags)
        return over_base(path, content, base) if "adapters" in content else content
    return read_published(path, state_dict_of(path, content), flags)


def encoder_of_detector(path: Path | str, content: object) -> tuple[str, dict, dict[str, torch.Tensor]]:
    """The encoder in a detector: (front-end, its fields, its state dict). content: of the file.

    Its waveforms are normalised if they were in the detector, and nothing acts in training alone unless a flag says so:
    no checkpoint of a detector holds that. Raises UserError as load_detector.
    """
    try:
        detector = _detector_of(path, content, {})
    except AmbiguousModel as error:  # which all have one encoder
        detector = _detector_of(path, content, {"model_name": error.names[0]})
    config = ModelConfig(**detector["config"])
    kind = FRONT_ENDS[config.front_end]
    fields = config.encoder_fields
    if BACK_ENDS[config.back_end].normalizes and "normalize" in fields:
        fields = fields | {"normalize": True}
    return config.front_end, fields | kind.not_acting, below("front_end.model.", detector["model"])


def check_weights(path: Path | str, content: dict) -> None:
    """Raises UserError where the weights of read_detector's content do not fit its network or are not finite."""
    detector_from(path, content)
    for name, tensor in content["model"].items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path}: expected finite weights, found NaN or infinite values in {name}")
