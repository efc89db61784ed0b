"""A checkpoint as a file: tensors and plain data, written whole, read without running code, loaded without loss.

A checkpoint of this project is a dictionary: `format`, `config` (the ModelConfig as plain data), `model` (the state
dict), and what is known of it: `epoch`, `valid` (figures on the dev set), `trained_on`, `tested_on` (the name of the
dev set), `note` (a warning that goes with every verdict), `averaged` (the files it is the mean of), `crop` (samples of
a training utterance), `seen` (what the recordings of the dev set look like), `adapters` (see adapters.py).
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
    """Write a checkpoint, whole or not at all. facts: plain data, see the module's text."""
    save_file(path, {"format": FORMAT, "config": config.to_dict(), "model": state_dict, **facts})


def save_file(path: Path | str, content: dict, previous: str | None = None) -> None:
    try:
        with atomic_open(path, "wb", previous) as file:
            try:
                torch.save(content, file)
            except RuntimeError as error:
                # What its writer makes of a write that failed; the reason is the error that came first.
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None
    except UserError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        needed = sum(tensor.untyped_storage().nbytes() for tensor in safe_load.tensors(content))
        free = shutil.disk_usage(Path(path).parent).free
        raise UserError(f"{error}; needs {needed / 1e6:,.1f} MB, free are {free / 1e6:,.1f} MB") from error


def read_checkpoint(path: Path | str) -> dict:
    """Read a checkpoint as the dictionary that save_checkpoint wrote, tensors memory-mapped.

    Raises UserError where the file is missing, damaged, no checkpoint of this project, or would run code.
    """
    content = load_file(path)
    if not is_ours(content):
        raise UserError(f"{path}: expected a checkpoint of this project, found another kind of file")
    check_content(path, content)
    return content


def is_ours(content: object) -> bool:
    return isinstance(content, dict) and isinstance(content.get("format"), str) and content["format"] == FORMAT


# What a dev set's figures may be; others are numbers of any kind, a loss may be NaN.
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
    """Raises UserError where a checkpoint does not hold what save_checkpoint writes."""
    for name, kind in _KINDS.items():
        if not isinstance(content.get(name, None if name in ("config", "model") else kind()), kind):
            found = shown(content[name]) if name in content else "none"
            raise UserError(f"{path}: expected a {kind.__name__} as its `{name}`, found {found}")
    content["model"] = weights_of(path, content["model"])
    config = content["config"]
    if unknown := [name for name in config if name not in ModelConfig.__dataclass_fields__]:
        raise UserError(f"{path}: expected a configuration that is known here, found {shown(unknown[0])} in it")
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
                    raise ValueError(f"adapters {name} {shown(value)}, expected a name")
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
                raise ValueError(f"averaged {shown(value)}, expected names")
    except ValueError as error:
        raise UserError(f"{path}: holds no detector of this project: {error}") from error


def check_size(front_end: type[FrontEnd], fields: dict, state_dict: dict[str, torch.Tensor]) -> None:
    """Raises ValueError if a front-end's fields ask for more parameters than a state dict has, before it is built."""
    n, n_found = front_end.least_parameters(fields), sum(tensor.numel() for tensor in state_dict.values())
    if n > n_found:
        raise ValueError(f"settings of at least {n:,} parameters, its weights are {n_found:,}")


def load_file(path: Path | str) -> object:
    """What a file of tensors and plain data holds, tensors memory-mapped where its format allows it."""
    return safe_load.load(path, _HARMLESS)


# What weights_only may build besides tensors and plain containers: fairseq keeps the arguments of its training in a
# Namespace, and HuBERT's files the dictionary of their targets.
_HARMLESS = [argparse.Namespace, (safe_load.Inert, "fairseq.data.dictionary.Dictionary")]
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # torch.compile's and others' of torch


def weights_of(path: Path | str, state_dict: object) -> dict[str, torch.Tensor]:
    """A state dict under the names that its module had before torch and others wrapped it, or parts of it.

    Raises UserError where it is no state dict.
    """
    if not isinstance(state_dict, dict) or not state_dict:
        raise UserError(f"{path}: expected the weights of a network, found none")
    for name, value in state_dict.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            raise UserError(f"{path}: expected named tensors as its weights, found a {kind} as {shown(name)}")
    names = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in state_dict}
    for wrapping in ("module.", "model.", "module."):  # DataParallel's, Lightning's, the one in the other
        if all(name.startswith(wrapping) for name in names.values()):
            names = {name: short.removeprefix(wrapping) for name, short in names.items()}
    if len(set(names.values())) < len(names):
        raise UserError(f"{path}: expected every weight once, found some both with and without {', '.join(_WRAPPERS)}")
    return {names[name]: tensor for name, tensor in state_dict.items()}


def below(prefix: str, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}


_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)  # that weights are stored in


def load_strictly(
    module: torch.nn.Module, state_dict: dict[str, torch.Tensor], path: Path | str, name: str, assign: bool = False
) -> None:
    """Load every weight of a state dict, read from `path`, into a module that the user knows as `name`.

    assign: let the module have the tensors themselves rather than copies.
    Raises UserError that names every weight that is missing, left over or of another shape.
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
    torch.nn.Module.load_state_dict(module, state_dict, assign=assign)  # fairseq's own knows no assigning
