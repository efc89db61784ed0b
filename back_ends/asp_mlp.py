"""Attentive statistics pooling (ASP) and an MLP, on the weighted sum of the hidden states or on every layer.

LayerASP_MLP follows Tran et al., "Spoofed speech detection with a focus on speaker embedding", Interspeech 2024, who
pool every layer; their code was not available. ASP_MLP, which pools the weighted sum, was written before that source
was known and is kept for its checkpoints. All sizes are this project's own choice. Axes: B trials, T frames,
C channels, L hidden states.
"""

import torch
from torch import nn

from back_ends.base import BackEnd
from back_ends.common import AttentivePooling, attentive_mean, weighted_layer_sum


class ASP_MLP(BackEnd):
    """Hidden states, L + 1 of (B, T, in_channels), to logits (B, n_output_logits).

    attention_size, hidden: hidden sizes of the attention and of the MLP.
    """

    takes_hidden_states = True

    def __init__(
        self,
        in_channels: int,
        n_hidden_states: int = 25,
        n_output_logits: int = 2,
        attention_size: int = 128,
        hidden: int = 256,
    ) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(n_hidden_states))
        self.attention = nn.Sequential(nn.Linear(in_channels, attention_size), nn.Tanh(), nn.Linear(attention_size, 1))
        self.mlp = nn.Sequential(nn.Linear(2 * in_channels, hidden), nn.ReLU(), nn.Linear(hidden, n_output_logits))

    def embed(self, states: list[torch.Tensor]) -> torch.Tensor:
        """Embeddings (B, hidden): the output of the MLP's first layer."""
        x = weighted_layer_sum(states, self.weights)
        mean, square = attentive_mean(torch.cat([x, x**2], dim=2), self.attention(x)).squeeze(1).chunk(2, dim=1)
        deviation = (square - mean**2).clamp(min=1e-10).sqrt()
        return self.mlp[0](torch.cat([mean, deviation], dim=1))

    def decide(self, embeddings: torch.Tensor) -> torch.Tensor:
        return self.mlp[2](self.mlp[1](embeddings))


class LayerASP_MLP(BackEnd):
    """Hidden states, L of (B, T, in_channels), to logits (B, n_output_logits).

    Every layer is pooled over time with one shared attention; the pooled layers are summed with learned weights.
    hidden: hidden size of the MLP. 1,051,164 parameters at 25 states of 1024 channels; the paper's table says 1,051k.
    """

    takes_hidden_states = True

    def __init__(
        self, in_channels: int, n_hidden_states: int = 25, n_output_logits: int = 2, hidden: int = 512
    ) -> None:
        super().__init__()
        self.pool = AttentivePooling(in_channels, 0)
        self.weights = nn.Parameter(torch.zeros(n_hidden_states))
        self.mlp = nn.Sequential(nn.Linear(2 * in_channels, hidden), nn.ReLU(), nn.Linear(hidden, n_output_logits))

    def embed(self, states: list[torch.Tensor]) -> torch.Tensor:
        """Embeddings (B, hidden): the output of the MLP's first layer."""
        return self.mlp[0](weighted_layer_sum([self.pool(state) for state in states], self.weights))

    def decide(self, embeddings: torch.Tensor) -> torch.Tensor:
        return self.mlp[2](self.mlp[1](embeddings))
