"""Aggregations of an encoder's hidden states into features. Axes: B trials, T frames, C channels, L hidden states."""

import torch
from torch import nn
from torch.nn import functional as F

from common.console import UserError


class Last(nn.Module):
    """The encoder's output alone."""

    def forward(self, hidden_states):
        return hidden_states[-1]


def _gated_sum(gates, hidden_states):
    """Sum of hidden states, L times (B, T, C), under gates (B, L) or (L,), without a copy of all states together."""
    total = None
    for gate, state in zip(gates.unbind(-1), hidden_states):
        gate = gate[..., None, None]
        total = gate * state if total is None else torch.addcmul(total, gate, state)
    return total


class SEA(nn.Module):
    """Squeeze-and-excitation aggregation: a gate per hidden state, from all states' means. L (B, T, C) -> (B, T, C).

    Source: Guragain et al., "Speech foundation model ensembles for the CtrSVDD challenge 2024", arXiv 2409.02302.
    """

    def __init__(self, n_layers):
        super().__init__()
        squeezed = n_layers // 3
        self.fc_att_merge = nn.Sequential(
            nn.Linear(n_layers, squeezed, bias=False),
            nn.ReLU(),
            nn.Linear(squeezed, n_layers, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, hidden_states):
        means = torch.stack([state.mean(dim=(1, 2)) for state in hidden_states], dim=1)  # (B, L)
        return _gated_sum(self.fc_att_merge(means), hidden_states)


class WeightedSum(nn.Module):
    """Hidden states under learnt weights that a softmax makes sum to 1. L (B, T, C) -> (B, T, C).

    Source: Yang et al., "SUPERB", 2021, section 2.
    """

    def __init__(self, n_layers):
        super().__init__()
        self.weight_hidd = nn.Parameter(torch.ones(n_layers))

    def forward(self, hidden_states):
        return _gated_sum(torch.softmax(self.weight_hidd, dim=0), hidden_states)


class AttM(nn.Module):
    """Attentive merging: a gate per hidden state, then one projection of all. L (B, T, C) -> (B, T, C).

    Source: Pan et al., "Attentive merging of hidden embeddings from pre-trained speech model for anti-spoofing
    detection", Interspeech 2024 (arXiv 2406.10283); its projection has one layer here, as published with Nes2Net.
    """

    def __init__(self, n_layers, channels):
        super().__init__()
        self.W = nn.Parameter(torch.randn(channels, 1))
        self.W1 = nn.Parameter(torch.randn(n_layers, n_layers // 2))
        self.W2 = nn.Parameter(torch.randn(n_layers // 2, n_layers))
        self.linear_proj = nn.Linear(n_layers * channels, channels)

    def forward(self, hidden_states):
        means = torch.stack([state.mean(dim=1) for state in hidden_states], dim=1)  # (B, L, C)
        gates = torch.sigmoid(F.silu(F.silu(means @ self.W).squeeze(-1) @ self.W1) @ self.W2)  # (B, L)
        # The projection's input has the layers side by side in every channel: its part for one layer at a time
        # spares a copy of all states.
        weights = self.linear_proj.weight.unflatten(1, (-1, len(hidden_states)))  # (C, C, L)
        return self.linear_proj.bias + sum(
            gates[:, i, None, None] * (state @ weights[..., i].T) for i, state in enumerate(hidden_states)
        )


def build_aggregation(config, n_layers, channels):
    """Build the aggregation that `config.agg` names, over n_layers hidden states of `channels` channels.

    Returns a module from the list of hidden states, each (B, T, C), to features (B, T, C).
    Raises UserError where the encoder has too few hidden states.
    """
    if config.agg == "last":
        return Last()
    if config.agg == "WeightedSum":
        return WeightedSum(n_layers)
    if n_layers < 3:
        raise UserError(f"--agg {config.agg}: expected an encoder of at least 2 layers, found {n_layers - 1}")
    return SEA(n_layers) if config.agg == "SEA" else AttM(n_layers, channels)
