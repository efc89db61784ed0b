"""Losses by name. Inputs: a detector's outputs (B, n_outputs) and labels (B,), 1 bona fide and 0 spoof.

To add a loss, write a class (see training/objective.py) and enter it in LOSSES, the choices of train.py --loss.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from training.compressed import FrequencyTimeDistillation
from training.contrastive import SupervisedContrastive
from training.cross_entropy import WeightedCrossEntropy
from training.distillation import OneClassDistance, OneClassDistillation
from training.ensemble import GatedEnsemble
from training.latent import LatentSpaceAugmentation, LatentSpaceRefinement
from training.objective import Loss
from training.slim import StyleLinguisticsClassifier, StyleLinguisticsDependency


class Focal(Loss):
    """Binary focal loss of one logit against labels 0.05 and 0.95, gamma 2, alpha 0.25. Source: Lin et al., "Focal loss
    for dense object detection", ICCV 2017.
    """

    n_outputs = 1

    def total(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        targets = 0.05 + 0.9 * labels.to(outputs.dtype)
        entropy = F.binary_cross_entropy_with_logits(outputs[:, 0], targets, reduction="none")
        return (0.25 * (1 - torch.exp(-entropy)) ** 2 * entropy).sum()


class WeightedFocal(Loss):
    """Focal loss of two logits with class weights, gamma 2. The mean is taken over trials and classes; as one of the
    two classes contributes zero, it is half the mean over trials. Source: Lin et al. 2017, as in the program of Ng et
    al., "XLSR-MamBo", 2026.
    """

    def total(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        entropy = F.cross_entropy(outputs, labels, reduction="none")
        return (self.class_weights[labels] * (1 - torch.exp(-entropy)) ** 2 * entropy).sum()

    def weight(self, labels: torch.Tensor) -> torch.Tensor:
        return 2 * super().weight(labels)


class OneClassSoftmax(Loss):
    """OC-Softmax of the cosine to a bona fide direction: bona fide is pulled above 0.9, spoof is pushed below 0.2.

    Source: Zhang, Jiang and Duan, "One-class learning towards synthetic voice spoofing detection", IEEE SPL 28, 2021,
    eq. 4.
    """

    n_outputs = 1
    output = "cosine"
    SCALE = 20.0  # of cosines
    MARGINS = (0.2, 0.9)  # spoof, bona fide

    def __init__(self, class_weights: Sequence[float] = (0.1, 0.9)) -> None:
        super().__init__(class_weights)
        self.register_buffer("margins", torch.tensor(self.MARGINS), persistent=False)

    def total(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        wrong_side = (self.margins[labels] - outputs[:, 0]) * (2 * labels - 1)
        return F.softplus(self.SCALE * wrong_side).sum()


class AdditiveMarginSoftmax(Loss):
    """AM-Softmax: softmax of the cosines to two class directions, margin 0.9.

    Source: Wang et al., "Additive margin softmax for face verification", IEEE SPL 25, 2018; scale and margin as in the
    comparison of Zhang et al. 2021.
    """

    output = "cosine"
    SCALE = 20.0  # of cosines
    MARGIN = 0.9

    def __init__(self, class_weights: Sequence[float] = (0.1, 0.9)) -> None:
        super().__init__(class_weights)
        self.register_buffer("margin", torch.tensor(self.MARGIN), persistent=False)

    def total(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        less_margin = outputs - self.margin * F.one_hot(labels, 2)
        return F.cross_entropy(self.SCALE * less_margin, labels, reduction="sum")


class DurationMarginSoftmax(AdditiveMarginSoftmax):
    """AM-Softmax with a margin that grows with the duration of the crop: 0.06 per second plus 0.14. For large-margin
    fine-tuning, the margin is 0.2 during the first three quarters of the epochs.

    After Zhang et al., "Improving short utterance anti-spoofing with AASIST2", ICASSP 2024, who define the margin.
    Scale 15 is a third party's; the initial margin of 0.2 and its duration are this project's own choice.
    """

    by_epochs = True
    SCALE = 15.0
    MARGIN = 0.2  # before fine-tuning
    PER_SECOND, OFFSET = 3 / 50, 7 / 50  # in fine-tuning
    FINE_TUNING = 0.75  # fraction of the epochs after which fine-tuning begins

    def of_batch(self, seconds: float, progress: float = 1.0) -> None:
        grown = self.PER_SECOND * seconds + self.OFFSET
        # In place, because a recorded CUDA graph reads this tensor at every step.
        self.margin.fill_(self.MARGIN if progress < self.FINE_TUNING else grown)


class UnitLoss(Loss):
    """A loss of units (segments of an utterance), plus the same loss of whole utterances if labels is "both".

    Takes outputs (B, 1 + U, n_outputs) of a Detector that scores units, and labels (B, 1 + U): the label of the crop,
    then those of its units, -1 for padding.
    """

    def __init__(self, loss: Loss, labels: str) -> None:
        super().__init__()
        self.loss, self.labels = loss, labels

    def of_batch(self, seconds: float, progress: float = 1.0) -> None:
        self.loss.of_batch(seconds, progress)

    def forward(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (self.total(outputs, labels) / self.weight(labels)).sum()

    def total(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Shape (1,): units; or (2,): units, utterances."""
        units, targets = outputs[:, 1:].flatten(0, 1), labels[:, 1:].flatten()
        totals = [self.loss.total(units[labelled := self._labelled(targets)], targets[labelled])]
        totals += [self.loss.total(outputs[:, 0], labels[:, 0])] if self.labels == "both" else []
        return torch.stack(totals)

    def weight(self, labels: torch.Tensor) -> torch.Tensor:
        targets = labels[:, 1:].flatten()
        weights = [self.loss.weight(targets[self._labelled(targets)])]
        weights += [self.loss.weight(labels[:, 0])] if self.labels == "both" else []
        return torch.stack(weights)

    @staticmethod
    def _labelled(targets):
        # Training crops have a label for every unit, and boolean indexing would synchronise with the GPU.
        return slice(None) if torch.is_grad_enabled() else targets >= 0


LOSSES = {
    "focal": Focal,
    "weighted_CCE": WeightedCrossEntropy,
    "OC_softmax": OneClassSoftmax,
    "AM_softmax": AdditiveMarginSoftmax,
    "duration_AM_softmax": DurationMarginSoftmax,
    "weighted_focal": WeightedFocal,
    "weighted_CCE_SupCon": SupervisedContrastive,
    "LSR": LatentSpaceRefinement,
    "LSR_LSA": LatentSpaceAugmentation,
    "OCKD": OneClassDistillation,
    "OCKD_MSE": OneClassDistance,
    "SLIM_stage1": StyleLinguisticsDependency,
    "SLIM_stage2": StyleLinguisticsClassifier,
    "FTD": FrequencyTimeDistillation,
    "gated_ensemble": GatedEnsemble,
}


def losses_for(n_outputs: int) -> list[str]:
    """Names of the losses for a detector with n_outputs outputs; the first is the default."""
    return [name for name, loss in LOSSES.items() if loss.n_outputs == n_outputs]
