"""The mean of checkpoints."""

import contextlib
import os
from pathlib import Path

from checkpoints.detectors import check_weights, detector_from, read_detector
from checkpoints.format import save_checkpoint
from common.console import UserError
from model import ModelConfig


def load_average(paths, **flags):
    """The average of checkpoints as a Detector in evaluation mode; flags and errors as load_detector."""
    content = average(paths, **flags)
    return detector_from("the average", content["config"], content["model"])


def average_checkpoints(paths):
    """The arithmetic mean of checkpoints: the state dict of floating-point means, integers of the latest epoch.

    Accumulated in float64, one file at a time, in an order of its own: the order of `paths` does not matter.
    Raises UserError for no file, a file named twice (links included), checkpoints of different networks, and weights
    that are NaN or infinite.
    """
    return average(paths)["model"]


def average(paths, **flags):
    """The averaged checkpoint as save_checkpoint would write it, without dev figures."""
    paths = [Path(path) for path in paths]
    if not paths:
        raise UserError("averaging needs checkpoints, each named once; found none")
    files = {}
    for path in paths:
        with contextlib.suppress(OSError):  # reading it says why
            file = os.stat(path)
            before = files.setdefault((file.st_dev, file.st_ino), [])
            if before:
                raise UserError(
                    f"averaging needs checkpoints, each named once; found {before[0]} twice, also as {path}"
                )
            before.append(path)
    paths = sorted(paths, key=lambda path: (read_detector(path, **flags).get("epoch") or 0, str(path)))
    total = config = None
    for path in paths:
        content = read_detector(path, **flags)
        check_weights(path, content)
        state = content["model"]
        if total is None:
            config = content["config"]
            total = {key: value.double() if value.is_floating_point() else value for key, value in state.items()}
            continue
        if content["config"] != config or state.keys() != total.keys():
            raise UserError(f"{path}: holds another network than {paths[0]}; only the same network can be averaged")
        for key, value in state.items():
            if value.is_floating_point():
                total[key] += value
            else:
                total[key] = value
    for key, value in state.items():
        total[key] = (total[key] / len(paths)).to(value.dtype) if value.is_floating_point() else value.clone()
    return {"config": config, "model": total, "epoch": content.get("epoch"), "averaged": [path.name for path in paths]}


def average_to(out, paths, **flags):
    """Average checkpoints into the file `out`, a checkpoint like any other."""
    content = average(paths, **flags)
    config = ModelConfig(**content.pop("config"))
    save_checkpoint(out, config, content.pop("model"), **content)
