"""Fake-Mamba (PN-BiMamba): pre-norm layers with one bidirectional Mamba mixer each.

Source: Xuan et al., "Fake-Mamba: real-time speech deepfake detection using bidirectional Mamba as self-attention's
alternative", ASRU 2025 (arXiv 2508.09294), and its released code. Axes: B trials, T frames, C channels. Attribute
names are those of the published checkpoints.
"""

import torch
from torch import nn

from back_ends.common import StemmedBackEnd, attentive_mean
from back_ends.mamba import Mixer


class BidirectionalLayer(nn.Module):
    """Pre-norm bidirectional Mamba layer, (B, T, C) -> (B, T, C). One residual connection spans mixer and MLP."""

    def __init__(self, size: int, state: int, kernel: int) -> None:
        super().__init__()
        self.mamba = Mixer(size, 1, state, kernel)
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.feed_forward = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm1(x)
        both = self.mamba(torch.cat([normed, normed.flip(1)]))  # both directions in one batch need one scan
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

    state: state size per inner channel of a mixer. kernel: convolution size in frames. Reversing the frames does not
    change the logits.
    """

    not_compiled = "Fake_Mamba (a loop over frames, which takes minutes to compile)"

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
