"""Weighted cross-entropy of two logits, alone or as the first term of a loss."""

import torch
from torch.nn import functional as F

from training.objective import Loss, at_least_tiny


class WeightedCrossEntropy(Loss):
    """Cross-entropy of two logits with class weights. A subclass may add terms in `of_detector` and `weight`; its dev
    loss is still the cross-entropy alone.
    """

    def forward(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.total(outputs, labels) / at_least_tiny(self.weight_of_classes(labels))

    def total(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, labels, weight=self.class_weights, reduction="sum")

    def weight(self, labels: torch.Tensor) -> torch.Tensor:
        return self.weight_of_classes(labels)

    def weight_of_classes(self, labels: torch.Tensor) -> torch.Tensor:
        """The sum of the class weights of labels (B,), a scalar."""
        return self.class_weights[labels].sum()
