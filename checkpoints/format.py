"""File format of checkpoints: atomic writing, reading without running code, checks, and strict loading.

A checkpoint of this project is a dictionary of `format`, `config` (the ModelConfig as plain data), `model` (the state
dict), and optional facts: `epoch`, `valid` (dev figures), `trained_on`, `tested_on` (name of the dev set), `note` (a
warning that is printed with every verdict), `averaged` (names of the averaged files), `crop` (samples of a training
utterance), `seen` (statistics of the dev set's recordings), `adapters` (see adapters.py).
"""

import argparse
import shutil
from pathlib import Path

import torch

from checkpoints import safe_load
from common.atomic import atomic_open
from common.console import ABOVE_0, Number, UserError, check, shown
from front_ends import FRONT_ENDS, FrontEnd
from model import ModelConfig

FORMAT = "speech anti-spoofing detector, 1"


def save_checkpoint(
    path: Path | str, config: ModelConfig, state_dict: dict[str, torch.Tensor], **facts: object
) -> None:
    """Write a checkpoint atomically. facts: plain data, see the docstring of this module."""
    save_file(path, {"format": FORMAT, "config": config.to_dict(), "model": state_dict, **facts})


def save_file(path: Path | str, content: dict, previous: str | None = None) -> None:
    try:
        with atomic_open(path, "wb", previous) as file:
            try:
                torch.save(content, file)
            except RuntimeError as error:
                # torch's zip writer hides a failed write behind a RuntimeError; the cause is the OSError before it.
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None
    except UserError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        needed = sum(tensor.untyped_storage().nbytes() for tensor in safe_load.tensors(content))
        free = shutil.disk_usage(Path(path).parent).free
        raise UserError(f"{error}; {needed / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB are free") from error


def read_checkpoint(path: Path | str) -> dict:
    """Read the dictionary that save_checkpoint wrote, with memory-mapped tensors.

    Raises UserError if the file is missing, damaged, not a checkpoint of this project, or could run code.
    """
    content = load_file(path)
    if not is_ours(content):
        raise UserError(f"{path}: expected a checkpoint of this project, found another kind of file")
    check_content(path, content)
    return content


def is_ours(content: object) -> bool:
    return isinstance(content, dict) and isinstance(content.get("format"), str) and content["format"] == FORMAT


# Valid ranges of dev figures. Other figures may be any number; a loss may be NaN.
_FIGURES = {
    "eer": Number(float, 0, 1),
    "threshold": Number(),
    "unit_eer": Number(float, 0, 1),
    "unit_threshold": Number(),
    "calibration_slope": Number(),
    "calibration_offset": Number(),
    "score_low": Number(),
    "score_high": Number(),
}
_FIGURES |= {"calibration_n_bonafide": Number(int, 1), "calibration_n_spoof": Number(int, 1)}


_KINDS = {"config": dict, "model": dict, "valid": dict, "seen": dict, "adapters": dict, "averaged": list}
_KINDS |= {"trained_on": str, "tested_on": str, "note": str}


def check_content(path: Path | str, content: dict) -> None:
    """Raise UserError if the content of a checkpoint is not as save_checkpoint writes it."""
    for name, kind in _KINDS.items():
        if not isinstance(content.get(name, None if name in ("config", "model") else kind()), kind):
            found = shown(content[name]) if name in content else "none"
            raise UserError(f"{path}: expected a {kind.__name__} as its `{name}`, found {found}")
    content["model"] = weights_of(path, content["model"])
    config = content["config"]
    if unknown := [name for name in config if name not in ModelConfig.__dataclass_fields__]:
        raise UserError(f"{path}: expected known settings in its configuration, found {shown(unknown[0])}")
    if "model_name" not in config:
        raise UserError(f"{path}: expected a model_name in its configuration, found none")
    try:
        network = ModelConfig.from_dict(config)
        content["config"] = network.to_dict()
        if "adapters" in content:
            check("adapters alpha", content["adapters"].get("alpha"), ABOVE_0)
            for name in ("base", "sha256"):
                value = content["adapters"].get(name)
                if not isinstance(value, str) or Path(value).name != value:
                    raise ValueError(f"adapters {name} {shown(value)}, expected a name without folders")
        elif network.ssl_config is not None:
            check_size(FRONT_ENDS[network.front_end], network.ssl_config, content["model"])
        if content.get("epoch") is not None:
            check("epoch", content["epoch"], Number(int, 0, 10**9))
        if content.get("crop") is not None:
            check("crop", content["crop"], Number(int, 1, 10**9))
        for name, value in content.get("valid", {}).items():
            if name in _FIGURES:
                check(f"valid {name}", value, _FIGURES[name])
            elif not isinstance(value, float | int | str):
                raise ValueError(f"valid {shown(name)} {shown(value)}, expected a number")
        for name, value in content.get("seen", {}).items():
            check(f"seen {shown(name)}", value, Number())
        for value in content.get("averaged", []):
            if not isinstance(value, str):
                raise ValueError(f"averaged {shown(value)}, expected file names")
    except ValueError as error:
        raise UserError(f"{path}: not a valid checkpoint of this project: {error}") from error


def check_size(front_end: type[FrontEnd], fields: dict, state_dict: dict[str, torch.Tensor]) -> None:
    """Raise ValueError if a front-end with these fields would have more parameters than the state dict."""
    n, n_found = front_end.least_parameters(fields), sum(tensor.numel() for tensor in state_dict.values())
    if n > n_found:
        raise ValueError(f"settings for at least {n:,} parameters, but only {n_found:,} weights")


def load_file(path: Path | str) -> object:
    """Content of a file of tensors and plain data. Tensors are memory-mapped if its format allows it."""
    return safe_load.load(path, _HARMLESS)


# Classes that weights_only may build in addition to tensors and plain containers: fairseq stores its training arguments
# in a Namespace; HuBERT's files contain the dictionary of their targets.
_HARMLESS = [argparse.Namespace, (safe_load.Inert, "fairseq.data.dictionary.Dictionary")]
_WRAPPERS = {
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
}  # of torch.compile, FSDP, activation checkpointing


def weights_of(path: Path | str, state_dict: object) -> dict[str, torch.Tensor]:
    """State dict without the name parts that wrappers of the module or its parts have added.

    Raises UserError if it is not a state dict.
    """
    if not isinstance(state_dict, dict) or not state_dict:
        raise UserError(f"{path}: expected the weights of a network, found none")
    for name, value in state_dict.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            raise UserError(f"{path}: expected named tensors as its weights, found a {kind} as {shown(name)}")
    names = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in state_dict}
    for wrapping in ("module.", "model.", "module."):  # of DataParallel and Lightning, in either order
        if all(name.startswith(wrapping) for name in names.values()):
            names = {name: short.removeprefix(wrapping) for name, short in names.items()}
    if len(set(names.values())) < len(names):
        raise UserError(f"{path}: expected every weight once, found some both with and without {', '.join(_WRAPPERS)}")
    return {names[name]: tensor for name, tensor in state_dict.items()}


def below(prefix: str, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}


_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)  # accepted as stored precisions of each other


def load_strictly(
    module: torch.nn.Module, state_dict: dict[str, torch.Tensor], path: Path | str, name: str, assign: bool = False
) -> None:
    """Load a state dict, read from `path`, into a module, without missing or unexpected weights.

    name: how messages name the module. assign: use the tensors themselves instead of copies.
    Raises UserError with every weight that is missing, left over, or has another shape or type.
    """
    expected = module.state_dict()
    problems = [f"missing {key}" for key in expected if key not in state_dict]
    problems += [f"left over {shown(key)}" for key in state_dict if key not in expected]
    for key in expected:
        found, wanted = state_dict.get(key, expected[key]), expected[key]
        if found.shape != wanted.shape:
            problems.append(f"{key} has shape {tuple(found.shape)}, expected {tuple(wanted.shape)}")
        elif found.dtype not in (_FLOATS if wanted.dtype in _FLOATS else (wanted.dtype,)):
            problems.append(f"{key} holds {found.dtype}, expected {wanted.dtype}")
    if problems:
        raise UserError(
            f"{path}: does not fit {name}: {len(problems)} of {len(expected)} weights, first {problems[0]}",
            details=problems,
        )
    if assign:
        state_dict = {key: tensor.to(expected[key].dtype) for key, tensor in state_dict.items()}
    torch.nn.Module.load_state_dict(module, state_dict, assign=assign)  # fairseq's override has no `assign`
