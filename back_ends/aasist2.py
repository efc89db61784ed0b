"""AASIST2: AASIST with Res2Net blocks.

After Zhang et al., "Improving short utterance anti-spoofing with AASIST2", ICASSP 2024 (arXiv 2309.08279). From the
paper: Res2Net blocks replace those of AASIST. Their code was not available; the inside of a block is this project's own
choice. Axes: B trials, S spectral bins, T frames.
"""

import torch
from torch import nn
from torch.nn import functional as F

from back_ends.aasist import AASIST


class Res2NetBlock(nn.Module):
    """Res2Net block with squeeze-excitation and a residual connection, (B, in, S, T) -> (B, out, S, T).

    The channels are divided into `scale` splits x_i: y1 = x1, y2 = K2(x2), y_i = K_i(x_i + y_(i-1)).
    Source: Gao et al., "Res2Net", IEEE TPAMI 2021; Hu et al., "Squeeze-and-excitation", CVPR 2018.
    """

    def __init__(self, in_channels: int, out_channels: int, scale: int = 4) -> None:
        super().__init__()
        if out_channels % scale:
            raise ValueError(f"filters {out_channels}: expected a multiple of {scale}")
        width, squeezed = out_channels // scale, max(out_channels // 8, 1)
        self.conv1, self.bn1 = nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels)
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.SELU())
            for _ in range(scale - 1)
        )
        self.conv3, self.bn3 = nn.Conv2d(out_channels, out_channels, 1), nn.BatchNorm2d(out_channels)
        self.gate = nn.Sequential(
            nn.Linear(out_channels, squeezed), nn.SELU(), nn.Linear(squeezed, out_channels), nn.Sigmoid()
        )
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *others = F.selu(self.bn1(self.conv1(x))).chunk(len(self.convs) + 1, dim=1)
        parts = [first]
        for conv, part in zip(self.convs, others):
            parts.append(conv(part if len(parts) == 1 else part + parts[-1]))
        y = self.bn3(self.conv3(torch.cat(parts, dim=1)))
        y = y * self.gate(y.mean(dim=(2, 3)))[:, :, None, None]
        return F.selu(y + self.shortcut(x))


class AASIST2(AASIST):
    """See AASIST; `filters` must be multiples of 4. 310,882 parameters at 1024 channels, 2 outputs."""

    unused_parameters = ()
    test_samples = 64_600

    @staticmethod
    def block(in_channels: int, out_channels: int) -> nn.Module:
        return Res2NetBlock(in_channels, out_channels)
