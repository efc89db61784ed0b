"""Layers and functions shared by several back-ends. Axes: B trials, T frames, C channels, L hidden states."""

import torch
from torch import nn
from torch.nn import functional as F

from back_ends.base import BackEnd


def repeat_frames(features: torch.Tensor, least: int) -> torch.Tensor:
    """Repeat features (B, T, C) from their start until there are at least `least` frames.

    Networks whose first layers pool over time use it to score utterances of any length.
    """
    n_frames = features.shape[1]
    if not torch.compiler.is_exporting():
        if n_frames >= least:
            return features
        return features[:, torch.arange(least, device=features.device) % n_frames]
    # The same without a branch on n_frames: an exported graph would keep the branch taken during tracing.
    return features[:, torch.arange(torch.sym_max(n_frames, least)) % torch.scalar_tensor(n_frames, dtype=torch.long)]


def image_norm(bn: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Batch-normalise (B, T, C) as a one-channel image (statistics over time and channels), then apply SELU."""
    return F.selu(bn(x.unsqueeze(1))).squeeze(1)


def weighted_layer_sum(states: list[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
    """Sum of L hidden states (B, T, C), weighted by the softmax of weights (L,), without stacking them in memory."""
    total = torch.zeros_like(states[0])
    for state, weight in zip(states, torch.softmax(weights, dim=0)):
        total = torch.addcmul(total, state, weight)
    return total


def attentive_mean(x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Attention-weighted means over time with H heads: x (B, T, C), logits (B, T, H) -> (B, H, C)."""
    return torch.softmax(logits, dim=1).transpose(1, 2) @ x


def lstm_outputs(lstm: nn.LSTM, x: torch.Tensor) -> torch.Tensor:
    """Outputs (B, T, D H) of a one-layer LSTM with H units and D directions on x (B, T, C)."""
    if not torch.compiler.is_exporting():
        return lstm(x)[0]
    # ONNX's LSTM operator (time first) takes any length; a traced loop would have a fixed one. Its gates are in the
    # order input, output, forget, cell; those of torch are input, forget, cell, output.
    directions = ["", "_reverse"][: 1 + lstm.bidirectional]

    def weights(*names):
        """Named weights of all directions in ONNX's gate order, (D, ...)."""
        by_direction = []
        for direction in directions:
            gates = [getattr(lstm, f"{name}_l0{direction}").unflatten(0, (4, -1)) for name in names]
            by_direction.append(torch.cat([gate[[0, 3, 1, 2]].flatten(0, 1) for gate in gates]))
        return torch.stack(by_direction)

    y = torch.onnx.ops.symbolic(
        "LSTM",
        (x.transpose(0, 1), weights("weight_ih"), weights("weight_hh"), weights("bias_ih", "bias_hh")),
        {"hidden_size": lstm.hidden_size, "direction": "bidirectional" if lstm.bidirectional else "forward"},
        dtype=x.dtype,
        shape=(x.shape[1], len(directions), x.shape[0], lstm.hidden_size),
    )
    return y.permute(2, 0, 1, 3).flatten(2)  # (T, D, B, H) -> (B, T, D H)


def logit_difference(logits: torch.Tensor) -> torch.Tensor:
    """Scores (B,), the bona fide logit minus the spoof logit, from logits (B, 2) with bona fide in column 1."""
    return logits[:, 1] - logits[:, 0]


class StemmedBackEnd(BackEnd):
    """Base class with the stem of Conformer, TCM and Mamba: projection, norm and SELU, (B, T, C) -> (B, T, size)."""

    test_samples = 66_800

    def __init__(self, in_channels: int, size: int) -> None:
        super().__init__()
        self.LL = nn.Linear(in_channels, size)
        self.first_bn = nn.BatchNorm2d(1)

    def stem(self, features: torch.Tensor) -> torch.Tensor:
        return image_norm(self.first_bn, self.LL(features))


class AttentivePooling(nn.Module):
    """Attentive statistics pooling over the second axis, (B, N, C) -> (B, 2 C): weighted means and deviations.

    The weights are the softmax of e = v.tanh(W h + b) + c, with `width` rows in W; of e = v.h + c if `width` is 0.
    Source: Okabe et al., "Attentive statistics pooling for deep speaker embedding", Interspeech 2018, eq. 3 to 6.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        hidden = [nn.Linear(channels, width), nn.Tanh()] if width else []
        self.attention = nn.Sequential(*hidden, nn.Linear(width or channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(self.attention(x), dim=1)  # (B, N, 1)
        mean = (weights * x).sum(dim=1)
        # Not mean(x^2) - mean^2, which leaves rounding errors if x is constant.
        variance = (weights * (x - mean.unsqueeze(1)) ** 2).sum(dim=1)
        return torch.cat([mean, variance.clamp(min=1e-10).sqrt()], dim=1)
