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
    if not torch.compiler.is_exporting():
        if n_frames >= least:
            return features
        return features[:, torch.arange(least, device=features.device) % n_frames]
    # The same without a choice, which an exported graph would have made for good.
    return features[:, torch.arange(torch.sym_max(n_frames, least)) % torch.scalar_tensor(n_frames, dtype=torch.long)]


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


def lstm_outputs(lstm: nn.LSTM, x: torch.Tensor) -> torch.Tensor:
    """Outputs (B, T, D H) of an LSTM with one layer, of H units in D directions, that takes (B, T, C)."""
    if not torch.compiler.is_exporting():
        return lstm(x)[0]
    # ONNX's own operator, time first, which runs over any length where a traced loop has one. Its gates are input,
    # output, forget, cell, torch's input, forget, cell, output.
    directions = ["", "_reverse"][: 1 + lstm.bidirectional]

    def weights(*names):
        """Those of all directions, (D, ...)."""
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


class AttentivePooling(nn.Module):
    """Attentive statistics over the second axis, (B, N, C) -> (B, 2 C): weighted means and deviations.

    e = v.tanh(W h + b) + c, the weights are the softmax of e. width: rows of W; 0: e = v.h + c.
    Source: Okabe et al., "Attentive statistics pooling for deep speaker embedding", Interspeech 2018, eq. 3 to 6.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        hidden = [nn.Linear(channels, width), nn.Tanh()] if width else []
        self.attention = nn.Sequential(*hidden, nn.Linear(width or channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(self.attention(x), dim=1)  # (B, N, 1)
        mean = (weights * x).sum(dim=1)
        # Of x - mean: a difference of squares would leave rounding errors where x does not vary.
        variance = (weights * (x - mean.unsqueeze(1)) ** 2).sum(dim=1)
        return torch.cat([mean, variance.clamp(min=1e-10).sqrt()], dim=1)
