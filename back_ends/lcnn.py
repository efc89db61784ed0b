"""LLGF (LCNN, LSTMs, mean over time), LGF (LSTMs, mean over time) and GF (mean over time).

Source: Wang and Yamagishi, "Investigating self-supervised front ends for speech spoofing countermeasures", Odyssey
2022; the light CNN (LCNN) is that of Lavrentyeva et al., Interspeech 2019. Axes: B trials, T frames, C channels.
Attribute names are those of the published checkpoints.
"""

import torch
from torch import nn

from back_ends.base import BackEnd
from back_ends.common import logit_difference, lstm_outputs, repeat_frames

HALVINGS = 4  # LLGF's max-poolings, each halving time and channels


class MaxFeatureMap(nn.Module):
    """Elementwise maximum of the two halves of the channels, (B, 2 C, ...) -> (B, C, ...)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=1)
        return first.maximum(second)


def _convolution(in_channels, out_channels, kernel, pool=False, norm=False):
    """Layers, in the published order: convolution to 2 out_channels, max-feature-map, optional pooling and norm."""
    yield nn.Conv2d(in_channels, 2 * out_channels, kernel, padding=kernel // 2)
    yield MaxFeatureMap()
    if pool:
        yield nn.MaxPool2d(2)
    if norm:
        yield nn.BatchNorm2d(out_channels, affine=False)


class Recurrent(nn.Module):
    """Bidirectional LSTM, (B, T, C) -> (B, T, C)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.l_blstm = nn.LSTM(size, size // 2, batch_first=True, bidirectional=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return lstm_outputs(self.l_blstm, x)


class GF(BackEnd):
    """Features (B, T, in_channels) to logits (B, n_output_logits): the mean of the projected features over time.

    size: channels of the projected features. 131,458 parameters at 1024 channels, 2 outputs.
    """

    # Normalisation that the authors' toolkit stores in every checkpoint but these networks do not use.
    unused_tensors = ("input_mean", "input_std", "output_mean", "output_std")
    score = staticmethod(logit_difference)

    def __init__(self, in_channels: int, n_output_logits: int = 2, size: int = 128) -> None:
        super().__init__()
        self.m_frontend = nn.ModuleList([nn.Linear(in_channels, size)])
        self.m_output_act = nn.ModuleList([nn.Linear(self.embedding(size), n_output_logits)])

    @staticmethod
    def embedding(size: int) -> int:
        """Channels of the output of `embed`."""
        return size

    def embed(self, features: torch.Tensor) -> torch.Tensor:
        return features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        embedded = self.embed(self.m_frontend[0](features))
        return self.m_output_act[0](embedded.mean(dim=1))


class LGF(GF):
    """Two bidirectional LSTMs with a residual connection, then the mean over time. 330,114 parameters."""

    not_compiled = "its LSTMs"

    def __init__(self, in_channels: int, n_output_logits: int = 2, size: int = 128) -> None:
        super().__init__(in_channels, n_output_logits, size)
        embedding = self.embedding(size)
        if embedding % 2:
            raise ValueError(f"size {size}: expected an even number, half of it for each direction of the LSTMs")
        self.m_before_pooling = nn.ModuleList([nn.Sequential(Recurrent(embedding), Recurrent(embedding))])

    def embed(self, features: torch.Tensor) -> torch.Tensor:
        return features + self.m_before_pooling[0](features)


class LLGF(LGF):
    """LCNN, then two bidirectional LSTMs and the mean over time. 1,079,746 parameters.

    dropout: dropout probability after the LCNN.
    """

    def __init__(self, in_channels: int, n_output_logits: int = 2, size: int = 128, dropout: float = 0.7) -> None:
        if size >> HALVINGS == 0:
            raise ValueError(f"size {size}: expected at least {1 << HALVINGS}, as the LCNN halves it {HALVINGS} times")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout {dropout}: expected at least 0 and below 1")
        super().__init__(in_channels, n_output_logits, size)
        convolutions = nn.Sequential(
            *_convolution(1, 32, 5, pool=True),
            *_convolution(32, 32, 1, norm=True),
            *_convolution(32, 48, 3, pool=True, norm=True),
            *_convolution(48, 48, 1, norm=True),
            *_convolution(48, 64, 3, pool=True),
            *_convolution(64, 64, 1, norm=True),
            *_convolution(64, 32, 3, norm=True),
            *_convolution(32, 32, 1, norm=True),
            *_convolution(32, 32, 3, pool=True),
            nn.Dropout(dropout),
        )
        self.m_transform = nn.ModuleList([convolutions])

    @staticmethod
    def embedding(size: int) -> int:
        return 32 * (size >> HALVINGS)

    def embed(self, features: torch.Tensor) -> torch.Tensor:
        image = repeat_frames(features, 1 << HALVINGS).unsqueeze(1)
        image = self.m_transform[0](image)  # (B, 32, T / 16, size / 16)
        return super().embed(image.transpose(1, 2).flatten(2))
