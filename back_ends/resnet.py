"""ResNet and Res2Net after a dimension-reduction layer, baselines of the Nes2Net paper.

Source: He et al., "Deep residual learning for image recognition", CVPR 2016; Gao et al., "Res2Net: a new multi-scale
backbone architecture", IEEE TPAMI 2021, with the blocks of its released code, 26 channels in 4 splits. Liu et al.
compare Nes2Net with such networks after a layer that reduces the encoder's channels, but do not state depth, sizes and
pooling. This project's own choice: the reduced features form a one-channel image; two blocks per stage, as in
ResNet-18; sizes close to Nes2Net's half a million parameters. Axes: B trials, T frames, C channels, F reduced channels,
N channels of the image.
"""

import torch
from torch import nn
from torch.nn import functional as F

from back_ends.base import BackEnd

BLOCKS = 2  # per stage


def shortcut(n_in: int, n_out: int, stride: int) -> nn.Module:
    """Residual connection of a block from n_in to n_out channels."""
    if n_in == n_out and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))


class BasicBlock(nn.Module):
    """Two convolutions and a residual connection, (B, n_in, F, T) -> (B, channels, F / stride, T / stride)."""

    expansion = 1  # output channels / `channels`

    def __init__(self, n_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = shortcut(n_in, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class Bottle2neck(nn.Module):
    """Res2Net bottleneck block with 4 splits, (B, n_in, F, T) -> (B, 4 channels, F / stride, T / stride).

    The output of a split is added to the next split before its convolution, except in the first block of a stage, which
    changes the sizes. The last split is not convolved.
    """

    expansion = 4
    scale = 4

    def __init__(self, n_in: int, channels: int, stride: int) -> None:
        super().__init__()
        width, n_out = max(channels * 26 // 64, 1), self.expansion * channels
        self.conv1 = nn.Conv2d(n_in, width * self.scale, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width * self.scale)
        convs = (nn.Conv2d(width, width, 3, stride, padding=1, bias=False) for _ in range(self.scale - 1))
        self.convs = nn.ModuleList(convs)
        self.bns = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(self.scale - 1))
        self.conv3 = nn.Conv2d(width * self.scale, n_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(n_out)
        self.downsample = shortcut(n_in, n_out, stride)
        self.first = isinstance(self.downsample, nn.Sequential)
        self.pool = nn.AvgPool2d(3, stride, padding=1) if self.first else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *splits, last = F.relu(self.bn1(self.conv1(x))).chunk(self.scale, dim=1)
        outputs = []
        for conv, bn, split in zip(self.convs, self.bns, splits):
            split = split + outputs[-1] if outputs and not self.first else split
            outputs.append(F.relu(bn(conv(split))))
        out = torch.cat([*outputs, self.pool(last)], dim=1)
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class ResNet(BackEnd):
    """Features (B, T, in_channels) to logits (B, n_output_logits). 526,038 parameters at 1024 channels, 2 outputs.

    reduced: channels after the dimension reduction. channels: channels of the first stage, doubled in each of the other
    three stages.
    """

    block = BasicBlock

    def __init__(self, in_channels: int, n_output_logits: int = 2, reduced: int = 128, channels: int = 12) -> None:
        super().__init__()
        self.reduction = nn.Linear(in_channels, reduced)
        self.conv1 = nn.Conv2d(1, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        n_in = channels
        for i in range(4):
            stage = []
            for stride in [1 if i == 0 else 2] + [1] * (BLOCKS - 1):
                stage.append(self.block(n_in, channels << i, stride))
                n_in = self.block.expansion * (channels << i)
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
        self.fc = nn.Linear(n_in, n_output_logits)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = self.reduction(features).transpose(1, 2).unsqueeze(1)  # (B, 1, F, T)
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, N, F / 32, T / 32)
        return self.fc(x.mean(dim=(2, 3)))


class Res2Net(ResNet):
    """See ResNet. 618,428 parameters at 1024 channels, 2 outputs."""

    block = Bottle2neck
