"""Checkpoints with LoRA adapters only; the weights of their encoder are in another file, the base.

The entry `adapters` of such a checkpoint holds `alpha`, the scale of the adapters; `base`, the file or folder name of
the encoder or detector that training started from; and `sha256`, the digest of that encoder's weights.
"""

import hashlib
from pathlib import Path

import torch

from checkpoints.format import below, check_size
from common.console import UserError, shown
from front_ends import FRONT_ENDS, lora
from model import Detector, ModelConfig

ENCODER = "front_end.model."  # prefix of its weights


def adapters_alone(detector: Detector, alpha: float, base: str) -> tuple[dict[str, torch.Tensor], dict]:
    """(state dict of a detector without the base encoder's weights, `adapters` entry of the checkpoint)."""
    state_dict = detector.state_dict()
    own = {name for name in state_dict if name.startswith(ENCODER) and not lora.is_adapter(name)}
    encoder = below(ENCODER, {name: state_dict[name] for name in own})
    facts = {"alpha": alpha, "base": base, "sha256": _digest(encoder)}
    return {name: tensor for name, tensor in state_dict.items() if name not in own}, facts


def _digest(state_dict):
    """sha256 of the sorted names, the shapes and the float32 values of a state dict."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state_dict.items()):
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy())
    return digest.hexdigest()


def over_base(path: Path | str, content: dict, base: Path | str | None) -> dict:
    """Merge a checkpoint of adapters with its base encoder. Returns the content of a full checkpoint.

    base: file or folder of the encoder; None: search the stored name next to the checkpoint, then in the current
    folder. Raises UserError if it is missing or differs from the encoder of the training run.
    """
    from checkpoints.pretrained import read_pretrained  # imported here because it imports checkpoints.detectors

    adapters, config = content.pop("adapters"), ModelConfig(**content["config"])
    name = adapters["base"]
    if base is None:
        places = [Path(path).parent / name, Path(name)]
        base = next((place for place in places if place.is_file() or place.is_dir()), None)
    if base is None:
        raise UserError(
            f"{path}: holds LoRA adapters only, expected their encoder as {shown(name)} next to it or in the current "
            "folder; `checkpoint.py convert IN OUT --base FILE` merges them with an encoder at another path"
        )
    kind, fields = FRONT_ENDS[config.front_end], config.encoder_fields
    _, encoder = read_pretrained(base, config.front_end)
    try:
        check_size(kind, fields, encoder)
    except ValueError as error:
        raise UserError(f"{path}: not a valid checkpoint of this project: {error}") from error
    encoder = kind.own_layers(encoder, fields)
    found = _digest(encoder)
    if found != adapters["sha256"]:
        raise UserError(
            f"{path}: its adapters were trained on an encoder with sha256 {shown(adapters['sha256'][:12])}, found "
            f"{found[:12]} in {base}"
        )
    state_dict = {ENCODER + name: tensor.float() for name, tensor in encoder.items()} | content["model"]
    content["model"] = _merged(path, state_dict, adapters["alpha"])
    return content


def _merged(path, state_dict, alpha):
    """Add the adapters in a state dict to their weights, and remove them."""
    for a in [name for name in state_dict if name.endswith(lora.ADAPTERS[0])]:
        stem = a.removesuffix(lora.ADAPTERS[0])
        b, weight = stem + lora.ADAPTERS[1], stem + ".weight"
        try:
            factors = state_dict.pop(a), state_dict.pop(b)
            scale = alpha / len(factors[0])
            state_dict[weight] = lora.low_rank_sum(state_dict[weight], *factors, scale)
        except (KeyError, RuntimeError, ZeroDivisionError) as error:
            raise UserError(f"{path}: its adapters do not fit {shown(weight)}: {error}") from error
    return state_dict
