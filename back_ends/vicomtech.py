"""Back-end of Vicomtech (rows FIR-NB and FIR-WB): normalised, weighted layers, attentive statistics, one cosine.

After Martín-Doñas and Álvarez, "The Vicomtech audio deepfake detection system based on wav2vec2 for the 2022 ADD
challenge", ICASSP 2022 (arXiv 2203.01573), from a summary of the paper; their code was not available. From the paper:
the sequence of the layers. This project's own choice: all sizes, the dropout, and the tanh in the attention. Axes:
B trials, T frames, C channels, L hidden states.
"""

import torch
from torch import nn

from back_ends.base import BackEnd
from back_ends.common import AttentivePooling, weighted_layer_sum

EPSILON = 1e-5  # added to standard deviations over time


def temporal_normalisation(x: torch.Tensor) -> torch.Tensor:
    """Normalise every channel of (B, T, C) over time to mean 0 and standard deviation 1; constant channels become 0."""
    return (x - x.mean(dim=1, keepdim=True)) / (x.std(dim=1, correction=0, keepdim=True) + EPSILON)


class Vicomtech(BackEnd):
    """Hidden states, L + 1 of (B, T, in_channels), to logits (B, n_output_logits).

    size: hidden size of every layer. 197,402 parameters at 25 states of 1024 channels with one cosine as output, which
    is trained with the loss OC_softmax.
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
