"""Averages of checkpoints."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import torch

from checkpoints.detectors import check_weights, detector_from, read_detector
from checkpoints.format import save_checkpoint
from common.console import UserError
from model import Detector, ModelConfig

AS_PUBLISHED = "(2 c2 + c3 + … + cn) / n"


def load_average(paths: Iterable[Path | str], as_published: bool = False, **flags: object) -> Detector:
    """Average checkpoints into a Detector in evaluation mode; see average_checkpoints and load_detector."""
    content = average(paths, as_published, **flags)
    return detector_from("the average", content)


def average_checkpoints(paths: Iterable[Path | str], as_published: bool = False) -> dict[str, torch.Tensor]:
    """State dict of the arithmetic mean of checkpoints. Integer tensors are those of the latest epoch.

    The mean is accumulated in float64, one file at a time, sorted by epoch: the order of `paths` does not matter.
    as_published: compute AS_PUBLISHED instead, from at least two files in the order of `paths`. The code of Liu et al.
    (2025) adds to a state dict that its next load overwrites, so that the first checkpoint is lost and the second
    counts twice.
    Raises UserError if there is no file, a file is given twice (also by a link), the networks differ, or weights are
    NaN or infinite.
    """
    return average(paths, as_published)["model"]


def average(paths: Iterable[Path | str], as_published: bool = False, **flags: object) -> dict:
    """Content of the averaged checkpoint as for save_checkpoint, without dev figures."""
    paths = _distinct(paths)
    if as_published and len(paths) < 2:
        raise UserError("the published average expects at least two checkpoints, found one")
    if not as_published:
        paths = sorted(paths, key=lambda path: (read_detector(path, **flags).get("epoch") or 0, str(path)))
    total, epochs, crops, notes = {}, [], set(), {}
    for number, content in enumerate(_of_one_network(paths, **flags)):
        epochs.append(content.get("epoch"))
        crops.add(content.get("crop"))
        notes[content.get("note")] = None
        for key, value in content["model"].items():
            if as_published:  # in the precision of the weights; integer tensors are averaged too
                total[key] = 0 if number == 0 else value + (value if number == 1 else total[key])
            elif value.is_floating_point():
                total[key] = value.double() + total.get(key, 0)
            else:
                total[key] = value
    for key, value in content["model"].items():
        if as_published or value.is_floating_point():
            total[key] = (total[key] / len(paths)).to(value.dtype)
        else:
            total[key] = value.clone()
    epochs = [epoch for epoch in epochs if epoch is not None]
    facts = {"epoch": max(epochs, default=None), "averaged": [path.name for path in paths]}
    if len(crops) == 1 and None not in crops:
        facts["crop"] = crops.pop()
    if notes := [note for note in notes if note]:
        facts["note"] = "; ".join(notes)
    if as_published:
        facts["average"] = f"as published: {AS_PUBLISHED}"
    return {"config": content["config"], "model": total, **facts}


def _distinct(paths):
    """Paths as a list. Raises UserError if there is none or a file is given twice."""
    paths = [Path(path) for path in paths]
    if not paths:
        raise UserError("averaging: expected distinct checkpoints, found none")
    files = {}
    for path in paths:
        with contextlib.suppress(OSError):  # reported when the file is read
            file = os.stat(path)
            before = files.setdefault((file.st_dev, file.st_ino), path)
            if before is not path:
                raise UserError(f"averaging: expected distinct checkpoints, found {before} again as {path}")
    return paths


def _of_one_network(paths, **flags):
    """Read checkpoints one at a time and yield their contents. Raises UserError if their networks differ."""
    config = names = None
    for path in paths:
        content = read_detector(path, **flags)
        check_weights(path, content)
        config, names = config or content["config"], names or content["model"].keys()
        if content["config"] != config or content["model"].keys() != names:
            raise UserError(f"{path}: expected the same network as in {paths[0]}, found another")
        yield content


def average_to(out: Path | str, paths: Iterable[Path | str], as_published: bool = False, **flags: object) -> None:
    """Average checkpoints and save the result as checkpoint `out`. See average_checkpoints."""
    content = average(paths, as_published, **flags)
    config = ModelConfig(**content.pop("config"))
    save_checkpoint(out, config, content.pop("model"), **content)
