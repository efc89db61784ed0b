"""Detectors on disk: save, load, average, resume. A checkpoint is tensors and plain data, and never runs code.

A checkpoint of this project is a dictionary: `format`, `config` (the ModelConfig as plain data), `model` (the state
dict), and what is known of it: `epoch`, `valid` (figures on the dev set), `trained_on`, `averaged` (the files it is
the mean of).
"""

import argparse
import pickle
import random
import re
from pathlib import Path

import numpy as np
import torch

from atomic import atomic_open
from console import UserError
from front_ends import PRESETS
from model import ModelConfig, build_detector

FORMAT = "speech anti-spoofing detector, 1"
RESUME_NAME = "newest_checkpoint_for_resume.pth"


def save_checkpoint(path, config, state_dict, **facts):
    """Write a checkpoint, whole or not at all. facts: plain data, see the module's text."""
    _save(path, {"format": FORMAT, "config": config.to_dict(), "model": state_dict, **facts})


def _save(path, content):
    with atomic_open(path, "wb") as file:
        torch.save(content, file)


def read_checkpoint(path):
    """Read a checkpoint as the dictionary that save_checkpoint wrote, tensors memory-mapped.

    Raises UserError where the file is missing, damaged, no checkpoint of this project, or would run code.
    """
    content = _load(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: expected a checkpoint of this project, found another kind of file")
    return content


def _load(path):
    try:
        # argparse.Namespace: fairseq keeps the arguments of its training in one.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused: expected a checkpoint of tensors and plain data, found a pickle with other objects, "
            "which could run code"
        ) from error
    except (RuntimeError, ValueError, EOFError, KeyError) as error:
        raise UserError(f"{path}: expected a checkpoint, found a damaged file or one of another kind") from error


def load_detector(path, **flags):
    """Load a Detector, in evaluation mode, on the CPU.

    flags: model flags that the user gave; each must agree with the checkpoint's configuration.
    Raises UserError as read_checkpoint, for a flag that disagrees, and for a key that is missing, left over or of
    another shape.
    """
    content = read_checkpoint(path)
    return detector_from(path, content["config"], content["model"], **flags)


def detector_from(path, config, state_dict, **flags):
    """Build a Detector from plain configuration and weights that were read from `path`; see load_detector."""
    config = ModelConfig(**config)
    for name, value in flags.items():
        trained = getattr(config, name)
        if (tuple(value) if isinstance(value, list) else value) != trained:
            raise UserError(f"--{name}: {path} was trained with {trained}, found {value}")
    detector = build_detector(config)
    load_strictly(detector, state_dict, path, config.model_name)
    return detector.eval()


def load_strictly(module, state_dict, path, name):
    """Load every weight of a state dict, read from `path`, into a module that the user knows as `name`.

    Raises UserError that names every weight that is missing, left over or of another shape.
    """
    expected = module.state_dict()
    problems = [f"missing {key}" for key in expected if key not in state_dict]
    problems += [f"left over {key}" for key in state_dict if key not in expected]
    problems += [
        f"{key} has shape {tuple(state_dict[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in expected
        if key in state_dict and state_dict[key].shape != expected[key].shape
    ]
    if problems:
        raise UserError(
            f"{path}: does not fit {name}: {len(problems)} of {len(expected)} weights, first {problems[0]}",
            details=problems,
        )
    module.load_state_dict(state_dict)


def load_pretrained(detector, path=None):
    """Load pre-trained weights of a fairseq checkpoint into a detector's encoder.

    path: the file; None is the published name in the current folder; "none" keeps the random weights. An encoder
    that has no pre-trained weights (tiny) keeps its random ones. Pre-training heads in the file are dropped.
    Raises UserError where the file is missing or does not fit.
    """
    _, published, _ = PRESETS[detector.config.ssl]
    if path == "none" or (path is None and published is None):
        return
    if path is None and not Path(published).is_file():
        raise UserError(
            f"--ssl {detector.config.ssl}: expected its pre-trained weights as {published} in this folder; "
            "name the file with --ssl_path, or `--ssl_path none` starts from random weights"
        )
    content = _load(path or published)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise UserError(f"{path or published}: expected a fairseq checkpoint with its weights under `model`")
    heads = ("quantizer", "project_q", "target_glu", "final_proj")
    state = {key: value for key, value in content["model"].items() if not key.startswith(heads)}
    load_strictly(detector.front_end.model, state, path or published, f"--ssl {detector.config.ssl}")


def average_checkpoints(paths):
    """The arithmetic mean of checkpoints: the state dict of floating-point means, integers of the latest epoch.

    Accumulated in float64, one file at a time, in an order of its own: the order of `paths` does not matter.
    Raises UserError for fewer than one file, a file named twice, or checkpoints of different networks.
    """
    return _average(paths)["model"]


def _average(paths):
    """The averaged checkpoint as save_checkpoint would write it, without dev figures."""
    paths = [Path(path) for path in paths]
    twice = [path for path in paths if paths.count(path) > 1]
    if not paths or twice:
        raise UserError(f"averaging needs checkpoints, each named once; found {twice[0] if twice else 'none'}")
    paths = sorted(paths, key=lambda path: (read_checkpoint(path).get("epoch", 0), str(path)))
    total = config = None
    for path in paths:
        content = read_checkpoint(path)
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


def average_to(out, paths):
    """Average checkpoints into the file `out`, a checkpoint like any other. Returns its content."""
    content = _average(paths)
    config = ModelConfig(**content.pop("config"))
    save_checkpoint(out, config, content.pop("model"), **content)
    return read_checkpoint(out)


def checkpoints_folder(folder):
    """The folder that holds the checkpoints of a run: `folder`/checkpoints, or `folder` itself."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: expected the folder of a run, found none")
    return folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder


def epoch_checkpoints(folder):
    """{epoch: path} of the checkpoints that a run kept, by their names: epoch_N.pth or model_N_EER_X.pt."""
    found = {}
    for path in checkpoints_folder(folder).iterdir():
        if match := re.fullmatch(r"epoch_(\d+)\.pth|model_(\d+)_EER_.*\.pt", path.name):
            found[int(match[1] or match[2])] = path
    return dict(sorted(found.items()))


def checkpoints_of_epochs(folder, epochs):
    """The checkpoints of the named epochs of a run. Raises UserError naming the epochs that were not kept."""
    kept = epoch_checkpoints(folder)
    absent = [epoch for epoch in epochs if epoch not in kept]
    if absent:
        raise UserError(
            f"{checkpoints_folder(folder)}: no checkpoint of epoch {', '.join(map(str, absent))}; "
            f"kept are {', '.join(map(str, kept)) or 'none'}"
        )
    return [kept[epoch] for epoch in epochs]


def best_checkpoints(folder, n, figure=None):
    """The n checkpoints of a run with the lowest figure on the dev set; the earlier of two equal ones.

    figure: eer, loss or loss_augmented; None is what the run itself selected by.
    Raises UserError where the run kept fewer than n, or knows no such figure.
    """
    ranked = []
    for epoch, path in epoch_checkpoints(folder).items():
        valid = read_checkpoint(path).get("valid", {})
        name = figure or valid.get("selected_by")
        if name not in valid:
            raise UserError(
                f"{path}: expected a dev figure {name or ''} to choose by, found {', '.join(valid) or 'none'}"
            )
        ranked.append((valid[name], epoch, path))
    if len(ranked) < n:
        raise UserError(f"{checkpoints_folder(folder)}: expected {n} checkpoints to average, found {len(ranked)}")
    return [path for _, _, path in sorted(ranked)[:n]]


def save_resume(path, detector, optimizer, scheduler, **facts):
    """Write all that a killed run needs to go on as if it had not been."""
    content = {
        "format": FORMAT,
        "config": detector.config.to_dict(),
        "model": detector.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "random": _random_states(),
        **facts,
    }
    _save(path, content)


def load_resume(path, detector, optimizer, scheduler):
    """Put a run back where save_resume left it. Returns the file's content. Raises UserError as load_detector."""
    content = read_checkpoint(path)
    if "optimizer" not in content:
        raise UserError(f"{path}: expected a file to resume from, found a finished checkpoint without its optimiser")
    if content["config"] != detector.config.to_dict():
        raise UserError(f"{path}: was trained with {content['config']}, found flags for {detector.config.to_dict()}")
    load_strictly(detector, content["model"], path, detector.config.model_name)
    optimizer.load_state_dict(content["optimizer"])
    scheduler.load_state_dict(content["scheduler"])
    states = content["random"]
    random.setstate(tuple(tuple(part) if isinstance(part, list) else part for part in states["python"]))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"].clone())
    if torch.cuda.is_available() and states["cuda"]:
        torch.cuda.set_rng_state_all([state.clone() for state in states["cuda"]])
    return content


def _random_states():
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
