"""What training minimises: from a detector's outputs and the labels of a batch to one number."""

import torch
from torch import nn
from torch.nn import functional as F

# name -> (outputs that the detector must have, kind of its output layer, see ModelConfig.output)
LOSSES = {
    "focal": (1, "linear"),
    "weighted_CCE": (2, "linear"),
    "OC_softmax": (1, "cosine"),
    "AM_softmax": (2, "cosine"),
}


class Loss(nn.Module):
    """Outputs (B, outputs), labels (B,), 1 bona fide and 0 spoof -> scalar: the (weighted) mean. name: one of LOSSES.

    focal: binary focal loss (Lin et al., 2017; gamma 2, alpha 0.25) of one logit against labels 0.05 and 0.95.
    weighted_CCE: cross-entropy of two logits with a weight a class, class_weights: spoof, bona fide.
    OC_softmax: one-class softmax of the cosine to the one bona fide direction: bona fide is drawn above 0.9, spoof
    pushed below 0.2. Source: Zhang, Jiang and Duan, "One-class learning towards synthetic voice spoofing detection",
    IEEE SPL 28, 2021, eq. 4.
    AM_softmax: additive-margin softmax of the cosines to two directions, margin 0.9. Source: Wang et al., "Additive
    margin softmax for face verification", IEEE SPL 25, 2018; scale and margin as Zhang et al. 2021 compare with it.
    """

    SCALE = 20.0  # of cosines
    MARGINS = (0.2, 0.9)  # OC_softmax: spoof, bona fide
    MARGIN = 0.9  # AM_softmax

    def __init__(self, name, class_weights=(0.1, 0.9)):
        super().__init__()
        self.name = name
        self.register_buffer("class_weights", torch.tensor(class_weights))
        self.register_buffer("margins", torch.tensor(self.MARGINS))

    def forward(self, outputs, labels):
        return self.total(outputs, labels) / self.weight(labels)

    def total(self, outputs, labels):
        """The sum over trials, each with its weight; of a batch, it may be taken in parts."""
        if self.name == "focal":
            targets = 0.05 + 0.9 * labels.to(outputs.dtype)
            entropy = F.binary_cross_entropy_with_logits(outputs[:, 0], targets, reduction="none")
            return (0.25 * (1 - torch.exp(-entropy)) ** 2 * entropy).sum()
        if self.name == "OC_softmax":
            wrong_side = (self.margins[labels] - outputs[:, 0]) * (2 * labels - 1)
            return F.softplus(self.SCALE * wrong_side).sum()
        if self.name == "AM_softmax":
            less_margin = outputs - self.MARGIN * F.one_hot(labels, 2)
            return F.cross_entropy(self.SCALE * less_margin, labels, reduction="sum")
        return F.cross_entropy(outputs, labels, weight=self.class_weights, reduction="sum")

    def weight(self, labels):
        """The sum of the trials' weights, which the mean divides by."""
        if self.name == "weighted_CCE":
            return self.class_weights[labels].sum()
        return torch.ones_like(labels, dtype=torch.float32).sum()
