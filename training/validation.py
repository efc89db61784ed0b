"""Figures of a dev set: from a detector's outputs to losses, error rates and their words."""

import torch
from torch.nn import functional as F

import checkpoints
from corpora import BONAFIDE, SPOOF
from model import Detector
from reports.metrics import compute_eer
from training.objective import Loss


def dev_figures(detector: Detector, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """checkpoints.dev_figures of logits and labels as Training.validate collects them; if units are scored, unit_eer
    and unit_threshold too.
    """
    scores = detector.scores_of(logits).numpy()
    if detector.config.unit is None:
        return checkpoints.dev_figures(scores[labels == BONAFIDE], scores[labels == SPOOF])
    units, of_units, labels = detector.unit_scores_of(logits).numpy(), labels[:, 1:], labels[:, 0]
    eer, threshold = compute_eer(units[of_units == BONAFIDE], units[of_units == SPOOF])
    figures = checkpoints.dev_figures(scores[labels == BONAFIDE], scores[labels == SPOOF])
    return {**figures, "unit_eer": eer, "unit_threshold": threshold}


def published_mean(criterion: Loss, outputs: torch.Tensor, labels: torch.Tensor, batch_size: int) -> float:
    """The dev loss as the published programs take it: the mean over batches, each counted by its number of trials.

    outputs (N, n_outputs), labels (N,), in the order of the dev list. With class weights each batch is divided by its
    own weight, so that this depends on batch_size and is not the loss of all trials. Source: main.py of Liu et
    al., 2025.
    """
    batches = list(zip(outputs.split(batch_size), labels.split(batch_size)))
    means = torch.stack([criterion(*batch) for batch in batches]).double().cpu()
    sizes = torch.tensor([len(batch) for _, batch in batches], dtype=torch.float64)
    return (means @ sizes / sizes.sum()).item()


def joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """Tensors joined along their first axis; units, the second axis, are padded where there are fewer: logits with 0,
    labels with -1.
    """
    if parts[0].dim() < 2 or len({part.shape[1] for part in parts}) == 1:
        return torch.cat(parts)
    most, padding = max(part.shape[1] for part in parts), 0 if parts[0].is_floating_point() else -1
    last = [0, 0] * (parts[0].dim() - 2)
    return torch.cat([F.pad(part, (*last, 0, most - part.shape[1]), value=padding) for part in parts])


def in_words(figures: dict[str, float], average_by: str) -> str:
    """The dev figures as the line of an epoch prints them."""
    names = [name for name in ("loss", "loss_augmented") if name in figures]
    names += [average_by] if average_by.endswith("_published") else []
    text = [f"dev_{name} {figures[name]:.5f}" for name in names]
    names = [name for name in ("eer", "unit_eer") if name in figures]
    return " ".join([*text, *(f"dev_{name} {100 * figures[name]:.3f}%" for name in names)])
