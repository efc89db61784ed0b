"""Figures of a dev set: from a detector's outputs to losses, error rates and their words."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

import checkpoints
from corpora import BONAFIDE, SPOOF
from model import Detector
from reports.metrics import compute_eer
from training.objective import Loss

NOT_LOGGED = {*checkpoints.CALIBRATION, "score_low", "score_high"}


def dev_figures(
    detector: Detector, logits: torch.Tensor, labels: torch.Tensor, corpora: Sequence[str]
) -> dict[str, float]:
    """checkpoints.dev_figures of logits and labels as Training.validate collects them, and eer_by_corpus; if units are
    scored, unit_eer and unit_threshold too. corpora: (trials,).
    """
    scores, labels, has_units = detector.scores_of(logits).numpy(), labels.numpy(), detector.config.unit is not None
    of_trials = labels[:, 0] if has_units else labels
    figures = checkpoints.dev_figures(scores[of_trials == BONAFIDE], scores[of_trials == SPOOF])
    if has_units:
        units, labels = detector.unit_scores_of(logits).numpy(), labels[:, 1:]
        eer, threshold = compute_eer(units[labels == BONAFIDE], units[labels == SPOOF])
        figures |= {"unit_eer": eer, "unit_threshold": threshold}
    return {**figures, **eer_by_corpus(scores, of_trials, corpora)}


def eer_by_corpus(scores: np.ndarray, labels: np.ndarray, corpora: Sequence[str]) -> dict[str, float]:
    """{eer_NAME: EER of the corpus NAME, macro_eer: their mean}, if trials are of several corpora, else {}.

    scores, labels, corpora: (trials,). A corpus of one class has no EER and does not count.
    """
    corpora = np.array(corpora)
    names = list(dict.fromkeys(corpora.tolist()))
    classes = [[scores[(corpora == name) & (labels == label)] for label in (BONAFIDE, SPOOF)] for name in names]
    eers = {f"eer_{name}": compute_eer(*pair)[0] for name, pair in zip(names, classes) if all(map(len, pair))}
    return {**eers, "macro_eer": sum(eers.values()) / len(eers)} if len(names) > 1 and eers else {}


def is_rate(name: str) -> bool:
    """Is a dev figure an error rate, which is printed and logged in percent?"""
    return name in ("eer", "unit_eer", "macro_eer") or name.startswith("eer_")


def tags(figures: dict[str, float], percent: bool = True) -> dict[str, float]:
    """Dev figures as TensorBoard gets them: {dev/NAME: value}, of error rates {dev/NAME_percent: value in percent}.

    percent: False as runs logged them that began earlier: rates from 0 to 1 as dev/NAME.
    """
    logged = {name: figures[name] for name in figures.keys() - NOT_LOGGED}
    rates = {name for name in logged if percent and is_rate(name)}
    plain = {f"dev/{name}": value for name, value in logged.items() if name not in rates}
    return plain | {f"dev/{name}_percent": 100 * logged[name] for name in rates}


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
    return " ".join([*text, *(f"dev_{name} {100 * figures[name]:.3f}%" for name in figures if is_rate(name))])
