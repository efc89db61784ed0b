"""Nes2Net, Nes2Net-X and Nes2Net-X with SELU: nested Res2Net blocks on encoder features, no dimension reduction.

Source: Liu et al., "Nes2Net: a lightweight nested architecture for foundation model driven speech anti-spoofing",
IEEE T-IFS 20, 2025, section III. Axes: B trials, C channels, T frames, W channels of one inner split, S splits seen
so far by Nes2Net-X. Attribute names, and the layers they hold, are those of the published checkpoints.

For speed, tensors are rows (B T, C), a frame each, as the encoder gives them: a convolution over single frames is then
a matrix product, a batch normalisation takes them as they are, and a convolution over neighbouring frames needs no
reordering. The splits of Nes2Net-X are stacked along the batch, where adding one is a plain copy.
"""

from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from back_ends.base import BackEnd


def _pointwise(conv, rows):
    """A convolution over single frames, of rows (..., C)."""
    return F.linear(rows, conv.weight.squeeze(-1), conv.bias)


def _rows(image):
    """(B, W, 1, T) -> (B T, W), the same memory where channels come last in it."""
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])


class SELU(nn.SELU):
    """The same function, which torch.compile makes several times faster on a CPU if written without expm1."""

    def forward(self, x):
        return self.written_out(x) if torch.compiler.is_compiling() else super().forward(x)

    @staticmethod
    def written_out(x):
        negative = 1.6732632423543772 * (x.clamp(max=0).exp() - 1)
        return 1.0507009873554805 * torch.where(x > 0, x, negative)


class SqueezeExcitation(nn.Module):
    """Scale every channel by a gate computed from all channels' means over time. (B T, C) -> (B T, C)."""

    def __init__(self, channels, width):
        super().__init__()
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool1d(1),
            nn.Conv1d(channels, width, 1),
            nn.ReLU(),
            nn.Conv1d(width, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, rows, n_trials):
        _, squeeze, activation, excite, gate = self.se
        x = rows.view(n_trials, -1, rows.shape[-1])
        # A sum, then divided: the gradient of mean() would be divided frame by frame.
        gates = gate(_pointwise(excite, activation(_pointwise(squeeze, x.sum(dim=1) / x.shape[1]))))
        return (x * gates.unsqueeze(1)).flatten(0, 1)


class InnerBlock(nn.Module):
    """A Res2Net block, (B T, C) -> (B T, C): its channels in `scale` splits, each convolved with the ones before.

    weighted_sum False (Nes2Net): a split is added to the output of the one before it, then convolved.
    weighted_sum True (Nes2Net-X): splits stay apart on an axis of their own, share the convolution, and a learnt
    weight sums them only in what the block gives out.
    """

    def __init__(self, channels, scale, dilation, activation, se_width, weighted_sum):
        super().__init__()
        width = channels // scale
        self.width = width
        self.conv1 = nn.Conv1d(channels, channels, 1)
        self.bn1 = nn.BatchNorm1d(channels)
        if weighted_sum:
            # Two-dimensional in the published network, to have an axis for the splits; the kernel spans frames.
            conv = partial(nn.Conv2d, width, width, (3, 1), dilation=(dilation, 1))
            self.weighted_sum = nn.ParameterList(torch.full((1, 1, 1, n), 1 / n) for n in range(2, scale + 1))
        else:
            conv = partial(nn.Conv1d, width, width, 3, dilation=dilation)
            self.weighted_sum = None
        self.convs = nn.ModuleList(conv() for _ in range(scale - 1))
        self.bns = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(scale - 1))
        self.conv3 = nn.Conv1d(channels, channels, 1)
        self.bn3 = nn.BatchNorm1d(channels)
        self.activation = activation
        self.se = SqueezeExcitation(channels, se_width)

    def forward(self, x, n_trials):
        splits = self.bn1(self.activation(_pointwise(self.conv1, x))).split(self.width, dim=1)
        # Images (B, W, 1, T), as a convolution takes them, whose channels still come last in memory.
        splits = [split.reshape(n_trials, 1, -1, self.width).permute(0, 3, 1, 2) for split in splits]
        outputs = self._stacked(splits) if self.weighted_sum is not None else self._summed(splits)
        out = torch.cat([_rows(image) for image in [*outputs, splits[-1]]], dim=1)
        out = self.bn3(self.activation(_pointwise(self.conv3, out)))
        return self.se(out, n_trials) + x

    def _convolved(self, i, image):
        conv, dilation = self.convs[i], self.convs[i].dilation[0]
        weight = conv.weight.view(self.width, self.width, 1, 3)
        image = F.conv2d(image, weight, conv.bias, padding=(0, dilation), dilation=(1, dilation))
        return self.bns[i](self.activation(image))

    def _summed(self, splits):
        outputs = []
        for i in range(len(self.convs)):
            outputs.append(self._convolved(i, outputs[-1] + splits[i] if outputs else splits[i]))
        return outputs

    def _stacked(self, splits):
        outputs = []
        stack = splits[-1]  # (S B, W, 1, T)
        for i, weights in enumerate(self.weighted_sum):
            stack = self._convolved(i, torch.cat([stack, splits[i]]))
            summed = weights.view(1, -1) @ _rows(stack).view(weights.numel(), -1)
            outputs.append(summed.view(len(splits[i]), 1, -1, self.width).permute(0, 3, 1, 2))
        return outputs


class AttentiveStatistics(nn.Module):
    """Attentive statistics pooling: attention-weighted mean and deviation over time. (B, T, C) -> (B, 2 C).

    Source: Okabe et al., "Attentive statistics pooling for deep speaker embedding", 2018; channel-wise attention as
    in ECAPA-TDNN, without its global context.
    """

    def __init__(self, channels, bottleneck=128):
        super().__init__()
        self.linear1 = nn.Conv1d(channels, bottleneck, 1)
        self.linear2 = nn.Conv1d(bottleneck, channels, 1)

    def forward(self, x):
        attention = torch.softmax(_pointwise(self.linear2, torch.tanh(_pointwise(self.linear1, x))), dim=1)
        mean = (attention * x).sum(dim=1)
        variance = (attention * x**2).sum(dim=1) - mean**2
        return torch.cat([mean, variance.clamp(min=1e-10).sqrt()], dim=1)


class NestedRes2Net(BackEnd):
    """The nested network, (B, T, C) -> (B, n_output_logits).

    in_channels: C, divisible by the outer ratio, and C / outer by the inner one. Nes_ratio: (outer, inner).
    dilation: of the inner convolutions. pool_func: "mean" or "ASTP". SE_ratio: channels over width of the gates; as
    published a list, whose first number counts.
    Raises ValueError for channels that the ratios do not divide.
    """

    published_prefix = "Nested_Res2Net_TDNN."
    set_by_front_end = ("dilation", "n_output_logits")
    nonlinearity = nn.ReLU
    least_se_width = 1
    weighted_sum = True  # see InnerBlock

    @staticmethod
    def read_off(state_dict):
        """The fields of ModelConfig that the shapes of its weights tell; all but the dilation."""
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
        in_channels,
        n_output_logits=2,
        Nes_ratio=(8, 8),
        dilation=2,
        pool_func: Literal["mean", "ASTP"] = "mean",
        SE_ratio: tuple[int, ...] = (1,),
    ):
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

    def forward(self, features):
        n_trials, n_frames, _ = features.shape
        splits = features.reshape(n_trials * n_frames, -1).split(self.width, dim=1)
        outputs = []
        for i, (block, bn) in enumerate(zip(self.Build_in_Res2Nets, self.bns)):
            out = outputs[-1] + splits[i] if outputs else splits[i]
            outputs.append(bn(self.activation(block(out, n_trials))))
        out = self.activation(self.bn(torch.cat([*outputs, splits[-1]], dim=1)))
        out = out.view(n_trials, n_frames, -1)
        return self.fc(self.pooling(out) if self.pooling is not None else out.sum(dim=1) / n_frames)


class Nes2Net(NestedRes2Net):
    weighted_sum = False


class Nes2Net_X(NestedRes2Net):
    pass


class Nes2Net_X_SeLU(NestedRes2Net):
    nonlinearity = SELU
    least_se_width = 2
