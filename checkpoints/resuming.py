"""Saving and restoring the state of a training run, so that an interrupted run continues bit for bit."""

import random
from pathlib import Path

import numpy as np
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from checkpoints.format import FORMAT, load_strictly, read_checkpoint, save_file
from common.console import UserError
from model import Detector

RESUME_NAME = "newest_checkpoint_for_resume.pth"
PREVIOUS_NAME = "previous_checkpoint_for_resume.pth"


def save_resume(
    path: Path | str,
    detector: Detector,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    states: list[dict] | None = None,
    **facts: object,
) -> None:
    """Write the state of a training run atomically. The preceding file is kept as PREVIOUS_NAME.

    states: the random_states() of each process; None: this is the only process. facts: further plain data.
    """
    content = {
        "format": FORMAT,
        "config": detector.config.to_dict(),
        "model": detector.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "random": states or [random_states()],
        **facts,
    }
    save_file(path, content, previous=PREVIOUS_NAME)


def load_resume(
    path: Path | str, detector: Detector, optimizer: Optimizer, scheduler: LRScheduler, process: int = 0
) -> dict:
    """Restore the state that save_resume wrote. Returns the file's content. Raises UserError as load_detector does.

    process: rank whose random states are restored; a rank that the saved run did not have keeps its own.
    """
    content = read_checkpoint(path)
    if "optimizer" not in content:
        raise UserError(f"{path}: expected a file to resume from, found a checkpoint without optimizer state")
    if content["config"] != detector.config.to_dict():
        raise UserError(f"{path}: was trained with {content['config']}, found flags for {detector.config.to_dict()}")
    load_strictly(detector, content["model"], path, detector.config.model_name)
    try:
        optimizer.load_state_dict(content["optimizer"])
        for parameter, moments in optimizer.state.items():
            if any(value.shape not in ((), parameter.shape) for value in moments.values()):
                raise ValueError("optimizer moments and weights differ in shape")
        scheduler.load_state_dict(content["scheduler"])
        for states in content["random"][process : process + 1]:
            random.setstate(tuple(tuple(part) if isinstance(part, list) else part for part in states["python"]))
            name, keys, *rest = states["numpy"]
            np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
            torch.set_rng_state(states["torch"].clone())
            if torch.cuda.is_available() and states["cuda"] is not None:
                torch.cuda.set_rng_state(states["cuda"].clone())
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: expected a file to resume from, found a damaged one: {error}") from error
    return content


def random_states() -> dict:
    """States of the random generators of Python, numpy and torch, as plain data and tensors."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }
