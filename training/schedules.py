"""Learning-rate schedules by name, and which epochs are validated.

A schedule is a function (config, optimizer, steps per epoch) -> torch scheduler.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

if TYPE_CHECKING:  # it imports this file
    from training.config import TrainingConfig


def constant(config: "TrainingConfig", optimizer: Optimizer, n_steps: int) -> LRScheduler:
    return lr_scheduler.ConstantLR(optimizer, factor=1)


def cosine(config: "TrainingConfig", optimizer: Optimizer, n_steps: int) -> LRScheduler:
    """From the highest rate down to --min_lr in T_max epochs, up again in as many, and so on."""
    return lr_scheduler.CosineAnnealingLR(optimizer, config.T_max, eta_min=config.min_lr)


def cosine_decay(config: "TrainingConfig", optimizer: Optimizer, n_steps: int) -> LRScheduler:
    """Per step, from the highest rate at the first down to --min_lr behind the last, once."""
    return lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * n_steps, eta_min=config.min_lr)


def onecycle(config: "TrainingConfig", optimizer: Optimizer, n_steps: int) -> LRScheduler:
    return lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.epochs * n_steps)


def step(config: "TrainingConfig", optimizer: Optimizer, n_steps: int) -> LRScheduler:
    return lr_scheduler.StepLR(optimizer, config.T_max, config.gamma)


def exponential(config: "TrainingConfig", optimizer: Optimizer, n_steps: int) -> LRScheduler:
    ratio, n_steps = config.min_lr / config.lr, config.epochs * n_steps
    return lr_scheduler.LambdaLR(optimizer, lambda i: ratio ** (i / n_steps))


def warmup_exponential(config: "TrainingConfig", optimizer: Optimizer, n_steps: int) -> LRScheduler:
    return _after_warmup(config, optimizer, lambda epoch: config.gamma**epoch)


def warmup_cosine(config: "TrainingConfig", optimizer: Optimizer, n_steps: int) -> LRScheduler:
    n_epochs = max(config.epochs - config.warmup_epochs, 1)
    return _after_warmup(config, optimizer, lambda epoch: (1 + math.cos(math.pi * min(epoch / n_epochs, 1))) / 2)


def warmup_cosine_decay(config: "TrainingConfig", optimizer: Optimizer, n_steps: int) -> LRScheduler:
    """Per step, from 0 to the highest rate in --warmup_epochs, then half a cosine down to --min_lr behind the last."""
    n_warmup, n_after = config.warmup_epochs * n_steps, max(config.epochs - config.warmup_epochs, 1) * n_steps
    lowest = config.min_lr / config.lr

    def of_step(i):
        if i < n_warmup:
            return i / n_warmup
        return lowest + (1 - lowest) * (1 + math.cos(math.pi * (i - n_warmup) / n_after)) / 2

    return lr_scheduler.LambdaLR(optimizer, of_step)


def _after_warmup(config, optimizer, factor):
    """Up to the highest rate in --warmup_epochs, then times factor(epochs since)."""

    def of_epoch(epoch):
        if epoch < config.warmup_epochs:
            return (epoch + 1) / config.warmup_epochs
        return factor(epoch - config.warmup_epochs)

    return lr_scheduler.LambdaLR(optimizer, of_epoch)


SCHEDULES = {
    function.__name__: function
    for function in (
        *(constant, cosine, cosine_decay, onecycle, step, exponential),
        *(warmup_exponential, warmup_cosine, warmup_cosine_decay),
    )
}
EVERY_STEP = ("cosine_decay", "onecycle", "exponential", "warmup_cosine_decay")  # the others step once per epoch


def rates(config: "TrainingConfig", epochs: int, n_steps: int = 3) -> list[float]:
    """The learning rate at each step of the first `epochs` epochs of a training, which may have more."""
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=config.lr)
    scheduler, found = SCHEDULES[config.schedule](config, optimizer, n_steps), []
    for step in range(1, epochs * n_steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < config.epochs * n_steps and (config.schedule in EVERY_STEP or step % n_steps == 0):
            scheduler.step()
    return found


def validates(config: "TrainingConfig", epoch: int) -> bool:
    """Is this epoch validated? None before --validate_from but the last. With the cosine schedule and EER: the first,
    the last, and around each minimum of the learning rate from the second on, as published; otherwise every epoch.
    """
    if epoch < config.validate_from:
        return epoch == config.epochs
    if config.validation != "eer" or config.schedule != "cosine" or epoch in (1, config.epochs):
        return True
    period = 2 * config.T_max
    return epoch > period + 1 and (epoch - config.T_max) % period in (period - 1, 0, 1)
