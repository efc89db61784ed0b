"""Aggregations of an encoder's hidden states into features. Axes: B trials, T frames, C channels, L hidden states."""

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from common.console import UserError

if TYPE_CHECKING:  # model.py imports this package
    from model import ModelConfig


class Aggregation(nn.Module):
    """Base class: hidden states, n_layers tensors (B, T, channels), to features (B, T, channels)."""

    published_name = None  # name of a weight that identifies it in a published checkpoint
    least_states = 1  # minimum number of hidden states

    def __init__(self, n_layers: int, channels: int | None) -> None:
        super().__init__()


class Last(Aggregation):
    """The last hidden state only, which is the encoder's output."""

    def forward(self, hidden_states: list[torch.Tensor]) -> torch.Tensor:
        return hidden_states[-1]


def _gated_sum(gates, hidden_states):
    """Sum of hidden states, L of (B, T, C), times gates (B, L) or (L,), without stacking the states."""
    total = None
    for gate, state in zip(gates.unbind(-1), hidden_states):
        gate = gate[..., None, None]
        total = gate * state if total is None else torch.addcmul(total, gate, state)
    return total


class SEA(Aggregation):
    """Squeeze-and-excitation aggregation: one gate per hidden state from the means of all. L of (B, T, C) -> (B, T, C).

    Source: Guragain et al., "Speech foundation model ensembles for the CtrSVDD challenge 2024", arXiv 2409.02302.
    """

    published_name = "fc_att_merge.0.weight"
    least_states = 3  # the hidden size is a third of their number

    def __init__(self, n_layers: int, channels: int | None = None) -> None:
        super().__init__(n_layers, channels)
        squeezed = n_layers // 3
        self.fc_att_merge = nn.Sequential(
            nn.Linear(n_layers, squeezed, bias=False),
            nn.ReLU(),
            nn.Linear(squeezed, n_layers, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, hidden_states: list[torch.Tensor]) -> torch.Tensor:
        means = torch.stack([state.mean(dim=(1, 2)) for state in hidden_states], dim=1)  # (B, L)
        return _gated_sum(self.fc_att_merge(means), hidden_states)


class WeightedSum(Aggregation):
    """Sum of hidden states with learned softmax weights. L of (B, T, C) -> (B, T, C).

    Source: Yang et al., "SUPERB", 2021, section 2.
    """

    published_name = "weight_hidd"

    def __init__(self, n_layers: int, channels: int | None = None) -> None:
        super().__init__(n_layers, channels)
        self.weight_hidd = nn.Parameter(torch.ones(n_layers))

    def forward(self, hidden_states: list[torch.Tensor]) -> torch.Tensor:
        return _gated_sum(torch.softmax(self.weight_hidd, dim=0), hidden_states)


class AttM(Aggregation):
    """Attentive merging: one gate per hidden state, then a joint projection. L of (B, T, C) -> (B, T, C).

    Source: Pan et al., "Attentive merging of hidden embeddings from pre-trained speech model for anti-spoofing
    detection", Interspeech 2024 (arXiv 2406.10283); its projection has one layer here, as published with Nes2Net.
    """

    published_name = "linear_proj.weight"
    least_states = 3

    def __init__(self, n_layers: int, channels: int) -> None:
        super().__init__(n_layers, channels)
        self.W = nn.Parameter(torch.randn(channels, 1))
        self.W1 = nn.Parameter(torch.randn(n_layers, n_layers // 2))
        self.W2 = nn.Parameter(torch.randn(n_layers // 2, n_layers))
        self.linear_proj = nn.Linear(n_layers * channels, channels)

    def forward(self, hidden_states: list[torch.Tensor]) -> torch.Tensor:
        means = torch.stack([state.mean(dim=1) for state in hidden_states], dim=1)  # (B, L, C)
        gates = torch.sigmoid(F.silu(F.silu(means @ self.W).squeeze(-1) @ self.W1) @ self.W2)  # (B, L)
        # The input of the projection interleaves the layers within each channel. Projecting one layer at a time avoids
        # a copy of all states.
        weights = self.linear_proj.weight.unflatten(1, (-1, len(hidden_states)))  # (C, C, L)
        return self.linear_proj.bias + sum(
            gates[:, i, None, None] * (state @ weights[..., i].T) for i, state in enumerate(hidden_states)
        )


AGGREGATIONS = {
    "last": Last,
    "SEA": SEA,
    "AttM": AttM,
    "WeightedSum": WeightedSum,
}


def build_aggregation(config: "ModelConfig", n_layers: int, channels: int) -> Aggregation:
    """Build the aggregation `config.agg` for n_layers hidden states with `channels` channels.

    Returns a module that maps the list of hidden states, each (B, T, C), to features (B, T, C).
    Raises UserError if the encoder has too few hidden states.
    """
    aggregation = AGGREGATIONS[config.agg]
    if n_layers < aggregation.least_states:
        least = aggregation.least_states - 1
        raise UserError(f"--agg {config.agg}: expected an encoder of at least {least} layers, found {n_layers - 1}")
    return aggregation(n_layers, channels)
