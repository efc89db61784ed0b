"""What training a large encoder on a CPU takes, said before it starts."""

import os
import time

import torch

from common.audio import SAMPLE_RATE
from model import Detector, count_parameters
from training import distributed, memory
from training.config import TrainingConfig

LARGE = 20_000_000  # parameters from which there is a warning
BACKWARD = 3  # a training step takes about as long as this many forward passes


def warnings(config: TrainingConfig, detector: Detector, device: torch.device, n_steps: int) -> list[str]:
    """Lines that say how long a training of n_steps steps per epoch takes and how much memory; none on a GPU or for a
    small encoder.

    Times the detector on one trial of at most a second. Changes neither it nor the state of random numbers.
    """
    n_parameters = count_parameters(detector)
    if device.type != "cpu" or n_parameters < LARGE:
        return []
    trials = -(-config.batch_size // distributed.world_size())
    frozen = config.SSL_freeze_epoch >= config.epochs
    seconds = (1 if frozen else BACKWARD) * trials * seconds_per_trial(detector, config.longest_crop)
    needed = memory.step_bytes(config, detector, distributed.world_size())
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = f"{n_parameters / 1e6:.0f} million parameters on a CPU: about {seconds:.0f} s per step"
    text += f", {_duration(n_steps * seconds)} per epoch, {_duration(config.epochs * n_steps * seconds)} in all"
    if needed:
        text += f", {needed / 2**30:.0f} GiB of memory" + (" (more than there is)" if needed > there else "")
    freeze = "" if frozen else f"; --SSL_freeze_epoch {config.epochs} trains the back-end alone, in a third of the time"
    return [text, f"--recipe small trains a small detector in minutes to hours{freeze}"]


def seconds_per_trial(detector: Detector, n_samples: int) -> float:
    """Seconds of a forward pass of one trial of n_samples samples, from one of at most a second."""
    timed = max(min(n_samples, SAMPLE_RATE), detector.front_end.least_samples)
    x, was_training = torch.zeros(1, timed), detector.training
    detector.eval()
    with torch.random.fork_rng([]), torch.no_grad():
        detector(x)  # the first pass allocates
        start = time.monotonic()
        detector(x)
        seconds = time.monotonic() - start
    detector.train(was_training)
    return seconds * n_samples / timed


def _duration(seconds):
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
