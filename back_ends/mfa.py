"""MFA: attentive statistics over the frames of every layer, then over the layers.

After Guo et al., "Audio deepfake detection with self-supervised WavLM and multi-fusion attentive classifier", ICASSP
2024 (arXiv 2312.08089). From the paper: pooling over time, then over layers. Their code was not available. From a
third-party implementation: the encoder's output is not used, and the linear layers between and after the poolings. The
hidden size of the attention (128) is this project's own choice. Axes: B trials, T frames, C channels, L layers.
"""

import torch
from torch import nn

from back_ends.base import BackEnd
from back_ends.common import AttentivePooling


class MFA(BackEnd):
    """Hidden states, L + 1 of (B, T, in_channels), to logits (B, n_output_logits). The last state is not used.

    attention_size: hidden size of every attention. 7,483,675 parameters at 25 states of 1024 channels.
    """

    takes_hidden_states = True
    least_layers = 1
    uses_last = False
    least_batch = 2  # the batch norm of the embedding sees one vector per trial

    def __init__(
        self, in_channels: int, n_hidden_states: int = 25, n_output_logits: int = 2, attention_size: int = 128
    ) -> None:
        super().__init__()
        if attention_size < 1:
            raise ValueError(f"attention_size {attention_size}: expected at least 1")
        self.over_time = nn.ModuleList(
            AttentivePooling(in_channels, attention_size) for _ in range(n_hidden_states - 1)
        )
        self.projection = nn.Linear(2 * in_channels, in_channels)
        self.over_layers = AttentivePooling(in_channels, attention_size)
        self.embedding = nn.Sequential(nn.Linear(2 * in_channels, in_channels), nn.BatchNorm1d(in_channels))
        self.output = nn.Linear(in_channels, n_output_logits)

    def forward(self, states: list[torch.Tensor]) -> torch.Tensor:
        pooled = torch.stack([pool(state) for pool, state in zip(self.over_time, states)], dim=1)  # (B, L, 2 C)
        return self.output(self.embedding(self.over_layers(self.projection(pooled))))
