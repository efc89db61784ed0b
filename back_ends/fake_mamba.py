"""Fake-Mamba (PN-BiMamba): pre-norm layers whose one Mamba mixer reads the frames along time and against it.

Source: Xuan et al., "Fake-Mamba: real-time speech deepfake detection using bidirectional Mamba as self-attention's
alternative", ASRU 2025 (arXiv 2508.09294), and its released program. Axes: B trials, T frames, C channels. Attribute
names are those of the published checkpoints.
"""

import torch
from torch import nn

from back_ends.common import StemmedBackEnd, attentive_mean
from back_ends.mamba import Mixer


class BidirectionalLayer(nn.Module):
    """(B, T, C) -> (B, T, C). The one residual is around all of it: the mixer's output itself is not added."""

    def __init__(self, size: int, state: int, kernel: int) -> None:
        super().__init__()
        self.mamba = Mixer(size, 1, state, kernel)
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.feed_forward = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm1(x)
        both = self.mamba(torch.cat([normed, normed.flip(1)]))  # as one batch: one scan
        mixed = both[: len(x)] + both[len(x) :].flip(1)
        return x + self.feed_forward(self.norm2(mixed))


class Encoder(nn.Module):
    def __init__(self, layers: int, *sizes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(BidirectionalLayer(*sizes) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Fake_Mamba(StemmedBackEnd):
    """Features (B, T, in_channels) to logits (B, n_output_logits). 2,336,405 parameters at 1024 channels, 2 outputs.

    state: numbers that each inner channel of a mixer keeps. kernel: frames of the convolutions. The logits are those
    of the frames in reverse order.
    """

    not_compiled = "Fake_Mamba, a loop over frames, of which a translation takes minutes"

    def __init__(
        self,
        in_channels: int,
        n_output_logits: int = 2,
        size: int = 144,
        layers: int = 7,
        state: int = 16,
        kernel: int = 4,
    ) -> None:
        super().__init__(in_channels, size)
        self.encoder = Encoder(layers, size, state, kernel)
        self.attention_pool = nn.Linear(size, 1)
        self.fc5 = nn.Linear(size, n_output_logits)

    def parts_to_compile(self) -> list[tuple[nn.Module, str]]:
        return []

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = self.encoder(self.stem(features))
        return self.fc5(attentive_mean(x, self.attention_pool(x)).squeeze(1))
