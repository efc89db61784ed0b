"""Nes2Net, Nes2Net-X and Nes2Net-X with SELU: nested Res2Net blocks on encoder features without dimension reduction.

Source: Liu et al., "Nes2Net: a lightweight nested architecture for foundation model driven speech anti-spoofing",
IEEE T-IFS 20, 2025, section III. Axes: B trials, C channels, T frames, W channels of an inner split, S splits stacked
so far in Nes2Net-X. Attribute names and layers are those of the published checkpoints.
"""

from functools import partial
from typing import Literal

import torch
from torch import nn

from back_ends.base import BackEnd


class SqueezeExcitation(nn.Module):
    """Scale every channel by a gate computed from all channels' means over time. (B, C, T) -> (B, C, T)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool1d(1),
            nn.Conv1d(channels, width, 1),
            nn.ReLU(),
            nn.Conv1d(width, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.se(x)


class InnerBlock(nn.Module):
    """Res2Net block: `scale` splits of the channels, each convolved with those before it, (B, C, T) -> (B, C, T).

    weighted_sum False (Nes2Net): a split is added to the output of the split before it, then convolved.
    weighted_sum True (Nes2Net-X): splits are stacked on a separate axis and share the convolution; learned weights sum
    them only in the output of the block.
    """

    def __init__(
        self, channels: int, scale: int, dilation: int, activation: nn.Module, se_width: int, weighted_sum: bool
    ) -> None:
        super().__init__()
        width = channels // scale
        self.width = width
        self.conv1 = nn.Conv1d(channels, channels, 1)
        self.bn1 = nn.BatchNorm1d(channels)
        if weighted_sum:
            # Conv2d, as published, for the axis of splits; the kernel spans frames only.
            conv = partial(nn.Conv2d, width, width, (3, 1), padding=(dilation, 0), dilation=(dilation, 1))
            norm = nn.BatchNorm2d
            self.weighted_sum = nn.ParameterList(torch.full((1, 1, 1, n), 1 / n) for n in range(2, scale + 1))
        else:
            conv = partial(nn.Conv1d, width, width, 3, padding=dilation, dilation=dilation)
            norm = nn.BatchNorm1d
            self.weighted_sum = None
        self.convs = nn.ModuleList(conv() for _ in range(scale - 1))
        self.bns = nn.ModuleList(norm(width) for _ in range(scale - 1))
        self.conv3 = nn.Conv1d(channels, channels, 1)
        self.bn3 = nn.BatchNorm1d(channels)
        self.activation = activation
        self.se = SqueezeExcitation(channels, se_width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        splits = self.bn1(self.activation(self.conv1(x))).split(self.width, dim=1)
        outputs = self._summed(splits) if self.weighted_sum is None else self._stacked(splits)
        out = torch.cat([*outputs, splits[-1]], dim=1)
        return self.se(self.bn3(self.activation(self.conv3(out)))) + x

    def _summed(self, splits):
        outputs = []
        for conv, bn, split in zip(self.convs, self.bns, splits):
            out = outputs[-1] + split if outputs else split
            outputs.append(bn(self.activation(conv(out))))
        return outputs

    def _stacked(self, splits):
        outputs = []
        stack = splits[-1].unsqueeze(-1)  # (B, W, T, S)
        for conv, bn, weights, split in zip(self.convs, self.bns, self.weighted_sum, splits):
            stack = torch.cat([stack, split.unsqueeze(-1)], dim=-1)
            stack = bn(self.activation(conv(stack)))
            outputs.append((stack * weights).sum(dim=-1))
        return outputs


class AttentiveStatistics(nn.Module):
    """Attentive statistics pooling: attention-weighted mean and deviation over time. (B, C, T) -> (B, 2 C).

    Source: Okabe et al., "Attentive statistics pooling for deep speaker embedding", 2018; channel-wise attention as
    in ECAPA-TDNN, without its global context.
    """

    def __init__(self, channels: int, bottleneck: int = 128) -> None:
        super().__init__()
        self.linear1 = nn.Conv1d(channels, bottleneck, 1)
        self.linear2 = nn.Conv1d(bottleneck, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attention = torch.softmax(self.linear2(torch.tanh(self.linear1(x))), dim=2)
        mean = (attention * x).sum(dim=2)
        variance = (attention * x**2).sum(dim=2) - mean**2
        return torch.cat([mean, variance.clamp(min=1e-10).sqrt()], dim=1)


class NestedRes2Net(BackEnd):
    """Nested Res2Net network, (B, T, C) -> (B, n_output_logits).

    in_channels: C, divisible by outer x inner. Nes_ratio: (outer, inner), numbers of splits. dilation: dilation of the
    inner convolutions. pool_func: "mean" or "ASTP". SE_ratio: channels / bottleneck size of squeeze-excitation; a list
    as published, of which only the first number is used.
    Raises ValueError if Nes_ratio does not divide in_channels.
    """

    published_prefix = "Nested_Res2Net_TDNN."
    set_by_front_end = ("dilation", "n_output_logits")
    nonlinearity = nn.ReLU
    least_se_width = 1
    weighted_sum = True  # see InnerBlock

    @staticmethod
    def read_off(state_dict: dict[str, torch.Tensor]) -> dict:
        """Infer fields of ModelConfig from the shapes of the weights. Dilation cannot be inferred."""
        outer = 1 + len({name.split(".")[1] for name in state_dict if name.startswith("Build_in_Res2Nets.")})
        first = "Build_in_Res2Nets.0."
        inner = 1 + len({name.split(".")[3] for name in state_dict if name.startswith(first + "convs.")})
        se_width, width, _ = state_dict[first + "se.se.1.weight"].shape
        return {
            "Nes_ratio": (outer, inner),
            "SE_ratio": (width // se_width,),
            "pool_func": "ASTP" if "pooling.linear1.weight" in state_dict else "mean",
            "n_output_logits": len(state_dict["fc.weight"]),
        }

    def __init__(
        self,
        in_channels: int,
        n_output_logits: int = 2,
        Nes_ratio: tuple[int, int] = (8, 8),
        dilation: int = 2,
        pool_func: Literal["mean", "ASTP"] = "mean",
        SE_ratio: tuple[int, ...] = (1,),
    ) -> None:
        super().__init__()
        outer, inner = Nes_ratio
        if in_channels % (outer * inner) or min(outer, inner) < 2:
            raise ValueError(
                f"Nes_ratio {outer} {inner}: expected ratios of at least 2 whose product divides the "
                f"encoder's {in_channels} channels"
            )
        width = in_channels // outer
        se_width = max(width // SE_ratio[0], self.least_se_width)
        self.width = width
        self.activation = self.nonlinearity(inplace=True)
        self.Build_in_Res2Nets = nn.ModuleList(
            InnerBlock(width, inner, dilation, self.activation, se_width, self.weighted_sum) for _ in range(outer - 1)
        )
        self.bns = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(outer - 1))
        self.bn = nn.BatchNorm1d(in_channels)
        self.pooling = AttentiveStatistics(in_channels) if pool_func == "ASTP" else None
        self.fc = nn.Linear(in_channels * (2 if pool_func == "ASTP" else 1), n_output_logits)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.fc(self._pooled(self._nested(features)))

    def forward_with_frames(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Frame logits come from the same output layer; with mean pooling, their mean is the utterance logits."""
        out = self._nested(features)
        return self.fc(self._pooled(out)), self.fc(out.transpose(1, 2))

    def why_no_frames(self) -> str:
        return "pools statistics over time with pool_func ASTP" if self.pooling is not None else ""

    def _pooled(self, out):
        return self.pooling(out) if self.pooling is not None else out.mean(dim=2)

    def _nested(self, features):
        """(B, T, C) -> (B, C, T)."""
        splits = features.transpose(1, 2).split(self.width, dim=1)  # (B, W, T) each
        outputs = []
        for block, bn, split in zip(self.Build_in_Res2Nets, self.bns, splits):
            out = outputs[-1] + split if outputs else split
            outputs.append(bn(self.activation(block(out))))
        return self.activation(self.bn(torch.cat([*outputs, splits[-1]], dim=1)))


class Nes2Net(NestedRes2Net):
    weighted_sum = False


class Nes2Net_X(NestedRes2Net):
    pass


class Nes2Net_X_SeLU(NestedRes2Net):
    nonlinearity = nn.SELU
    least_se_width = 2
