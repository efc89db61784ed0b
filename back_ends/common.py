"""Parts that several back-ends share. Axes: B trials, T frames, C channels, L hidden states."""

import torch
from torch import nn
from torch.nn import functional as F

from back_ends.base import BackEnd


def repeat_frames(features: torch.Tensor, least: int) -> torch.Tensor:
    """Features (B, T, C) repeated from their start until there are at least `least` frames.

    For the few networks that pool over time before anything else, so that no utterance is too short to score.
    """
    n_frames = features.shape[1]
    if n_frames >= least:
        return features
    return features[:, torch.arange(least, device=features.device) % n_frames]


def image_norm(bn: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Batch-normalise (B, T, C) as an image of one channel, whose statistics span time and channels; then SELU."""
    return F.selu(bn(x.unsqueeze(1))).squeeze(1)


def weighted_layer_sum(states: list[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
    """Sum of L hidden states (B, T, C), weighted by the softmax of weights (L,). Nothing of size L is stored."""
    total = torch.zeros_like(states[0])
    for state, weight in zip(states, torch.softmax(weights, dim=0)):
        total = torch.addcmul(total, state, weight)
    return total


def attentive_mean(x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Means over time under H attentions: x (B, T, C), logits (B, T, H) -> (B, H, C)."""
    return torch.softmax(logits, dim=1).transpose(1, 2) @ x


def logit_difference(logits: torch.Tensor) -> torch.Tensor:
    """Scores (B,) of systems that publish bona fide minus spoof: logits (B, 2), column 1 bona fide."""
    return logits[:, 1] - logits[:, 0]


class StemmedBackEnd(BackEnd):
    """What Conformer, TCM and Mamba begin with: features (B, T, C) -> (B, T, size)."""

    test_samples = 66_800

    def __init__(self, in_channels: int, size: int) -> None:
        super().__init__()
        self.LL = nn.Linear(in_channels, size)
        self.first_bn = nn.BatchNorm2d(1)

    def stem(self, features: torch.Tensor) -> torch.Tensor:
        return image_norm(self.first_bn, self.LL(features))
