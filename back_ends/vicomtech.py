"""Vicomtech's back-end, of the rows FIR-NB and FIR-WB: normalised and weighted layers, attentive statistics, a cosine.

After Martín-Doñas and Álvarez, "The Vicomtech audio deepfake detection system based on wav2vec2 for the 2022 ADD
challenge", ICASSP 2022 (arXiv 2203.01573), by a summary of the paper; no program of theirs was at hand. The sequence of
the parts is theirs; all sizes, the dropout and the attention's tanh are this project's own choice. Axes: B trials,
T frames, C channels, L hidden states.
"""

import torch
from torch import nn

from back_ends.base import BackEnd
from back_ends.common import AttentivePooling, weighted_layer_sum

EPSILON = 1e-5  # added to deviations over time


def temporal_normalisation(x: torch.Tensor) -> torch.Tensor:
    """Mean 0 and population deviation 1 over the frames of every channel, (B, T, C); channels that do not vary: 0."""
    return (x - x.mean(dim=1, keepdim=True)) / (x.std(dim=1, correction=0, keepdim=True) + EPSILON)


class Vicomtech(BackEnd):
    """Hidden states, L + 1 of (B, T, in_channels), to logits (B, n_output_logits).

    size: units of every layer. 197,402 parameters at 25 states of 1024 channels with one cosine as output, for which
    the loss OC_softmax trains it.
    """

    takes_hidden_states = True

    def __init__(self, in_channels: int, n_hidden_states: int = 25, n_output_logits: int = 2, size: int = 128) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(n_hidden_states))
        self.feed_forward = nn.Sequential(
            nn.Linear(in_channels, size), nn.ReLU(), nn.Dropout(0.2), nn.Linear(size, size), nn.ReLU(), nn.Dropout(0.2)
        )
        self.pool = AttentivePooling(size, size)
        self.embedding = nn.Linear(2 * size, size)
        self.output = nn.Linear(size, n_output_logits)

    def forward(self, states: list[torch.Tensor]) -> torch.Tensor:
        x = weighted_layer_sum([temporal_normalisation(state) for state in states], self.weights)
        return self.output(self.embedding(self.pool(self.feed_forward(x))))
