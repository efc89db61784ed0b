"""ECAPA-TDNN after a dimension-reduction layer, a baseline of the Nes2Net paper.

Source: Desplanques et al., "ECAPA-TDNN: emphasized channel attention, propagation and aggregation in TDNN based speaker
verification", Interspeech 2020; batch norm and tanh in the attention as in SpeechBrain. Liu et al. compare Nes2Net
with an ECAPA-TDNN after a layer that reduces the encoder's channels, but do not state its sizes. This project's own
choice: the sizes of Desplanques et al. for 512 channels, scaled to 128 channels, which is close to Nes2Net's half a
million parameters. Axes: B trials, C channels, T frames.
"""

import torch
from torch import nn

from back_ends.base import BackEnd
from back_ends.nes2net import SqueezeExcitation

SCALE = 8  # splits per Res2Net block
DILATIONS = (2, 3, 4)  # one per block


def tdnn(n_in: int, n_out: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """Time-delay layer: convolution, ReLU and batch norm, (B, n_in, T) -> (B, n_out, T)."""
    conv = nn.Conv1d(n_in, n_out, kernel, dilation=dilation, padding=kernel // 2 * dilation)
    return nn.Sequential(conv, nn.ReLU(), nn.BatchNorm1d(n_out))


class SERes2Block(nn.Module):
    """Res2Net block with squeeze-excitation, (B, C, T) -> (B, C, T). The first split is not convolved."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.tdnn1, self.tdnn2 = tdnn(channels, channels), tdnn(channels, channels)
        width = channels // SCALE
        self.convs = nn.ModuleList(tdnn(width, width, 3, dilation) for _ in range(SCALE - 1))
        self.se = SqueezeExcitation(channels, channels // 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *splits = self.tdnn1(x).chunk(SCALE, dim=1)
        outputs = [first]
        for i, (conv, split) in enumerate(zip(self.convs, splits)):
            outputs.append(conv(split + outputs[-1] if i else split))
        return self.se(self.tdnn2(torch.cat(outputs, dim=1))) + x


def statistics(x: torch.Tensor, weights: torch.Tensor | float) -> list[torch.Tensor]:
    """Weighted [means, deviations] of x (B, C, T) over time, each (B, C, 1). The weights sum to 1 over T."""
    mean = (weights * x).sum(dim=2, keepdim=True)
    variance = (weights * (x - mean) ** 2).sum(dim=2, keepdim=True)
    return [mean, variance.clamp(min=1e-10).sqrt()]


class ContextPooling(nn.Module):
    """Attentive statistics pooling with channel-wise attention and global context, (B, C, T) -> (B, 2 C)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(*tdnn(3 * channels, width), nn.Tanh(), nn.Conv1d(width, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        context = torch.cat([x, *(y.expand_as(x) for y in statistics(x, 1 / x.shape[2]))], dim=1)
        weights = torch.softmax(self.attention(context), dim=2)
        return torch.cat(statistics(x, weights), dim=1).squeeze(2)


class ECAPA_TDNN(BackEnd):
    """Features (B, T, in_channels) to logits (B, n_output_logits). 592,418 parameters at 1024 channels, 2 outputs.

    reduced: channels after the dimension reduction. channels: channels C of the frame layers, a multiple of 8. The last
    frame layer has 3 C channels, the attention C / 4 and the embedding 3 C / 8.
    """

    least_batch = 2  # the batch norms after the pooling see one vector per trial

    def __init__(self, in_channels: int, n_output_logits: int = 2, reduced: int = 128, channels: int = 128) -> None:
        super().__init__()
        if channels % SCALE:
            raise ValueError(f"channels {channels}: expected a multiple of {SCALE}")
        wide, embedding = 3 * channels, 3 * channels // 8
        self.reduction = nn.Linear(in_channels, reduced)
        self.first = tdnn(reduced, channels, 5)
        self.blocks = nn.ModuleList(SERes2Block(channels, dilation) for dilation in DILATIONS)
        self.aggregation = nn.Sequential(nn.Conv1d(len(DILATIONS) * channels, wide, 1), nn.ReLU())
        self.pool = nn.Sequential(ContextPooling(wide, channels // 4), nn.BatchNorm1d(2 * wide))
        self.embedding = nn.Sequential(nn.Linear(2 * wide, embedding), nn.BatchNorm1d(embedding))
        self.output = nn.Linear(embedding, n_output_logits)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = self.first(self.reduction(features).transpose(1, 2))  # (B, C, T)
        outputs = []
        for block in self.blocks:
            outputs.append(block(x))
            x = x + outputs[-1]  # the next block's input: the sum of all outputs before it
        return self.output(self.embedding(self.pool(self.aggregation(torch.cat(outputs, dim=1)))))
