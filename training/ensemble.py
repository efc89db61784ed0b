"""Gated ensemble: a small network weights the scores of trained detectors per utterance."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from training.objective import Loss


class GatedEnsemble(Loss):
    """Class-weighted binary cross-entropy of the score of an ensemble, whose members stay frozen. A scale and an offset
    trained with the gate map the score to a logit, because the scale of the members' scores is arbitrary.

    After Rosello et al., "Anti-spoofing ensembling model: dynamic weight allocation in ensemble models for improved
    voice biometrics security", Interspeech 2024, who propose weights that a small network computes per utterance. Their
    gate, members, loss and recipe are unknown; those used here are this project's own choice.
    """

    n_outputs = 1
    output = "mixture"
    needs_members = True

    def __init__(self, class_weights: Sequence[float] = (0.1, 0.9)) -> None:
        super().__init__(class_weights)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.offset = nn.Parameter(torch.zeros(()))

    def total(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = self.log_scale.exp() * outputs[:, 0] + self.offset
        targets, weights = labels.to(logits.dtype), self.class_weights[labels]
        return F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="sum")

    def weight(self, labels: torch.Tensor) -> torch.Tensor:
        return self.class_weights[labels].sum()
