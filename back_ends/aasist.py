"""AASIST: graph attention over the spectral and temporal axes of encoder features.

Source: Jung et al., "AASIST: audio anti-spoofing using integrated spectro-temporal graph attention networks", ICASSP
2022 (arXiv 2110.01200), on the wav2vec 2.0 stem of Tak et al., Odyssey 2022. Axes: B trials, T frames, C channels,
N nodes of a graph, D features of a node, S spectral bins. Attribute names are those of the published checkpoints.
"""

import torch
from torch import nn
from torch.nn import functional as F

from back_ends.base import BackEnd
from back_ends.common import repeat_frames


class ResidualBlock(nn.Module):
    """Two convolutions with a residual connection, (B, in, S, T) -> (B, out, S, T).

    The published network applies `bn1` to its input but then convolves the unnormalised input. This network convolves
    the input as well: the `bn1` tensors of the checkpoint are unused and get no gradient.
    """

    def __init__(self, in_channels: int, out_channels: int, first: bool = False) -> None:
        super().__init__()
        if not first:
            self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, (2, 3), padding=(1, 1))
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, (2, 3), padding=(0, 1))
        self.conv_downsample = None
        if in_channels != out_channels:
            self.conv_downsample = nn.Conv2d(in_channels, out_channels, (1, 3), padding=(0, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.conv_downsample is None else self.conv_downsample(x)
        return shortcut + self.conv2(F.selu(self.bn2(self.conv1(x))))


def _attention_weight(size):
    return nn.Parameter(nn.init.xavier_normal_(torch.empty(size, 1)))


def _normalise_nodes(bn, x):
    """Batch-normalise (B, N, D) over trials and nodes."""
    return bn(x.transpose(1, 2)).transpose(1, 2)


class GraphAttention(nn.Module):
    """Attention of every node to all nodes of its graph, (B, N, in) -> (B, N, out)."""

    def __init__(self, in_size: int, out_size: int, temperature: float = 2.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.att_proj = nn.Linear(in_size, out_size)
        self.att_weight = _attention_weight(out_size)
        self.proj_with_att = nn.Linear(in_size, out_size)
        self.proj_without_att = nn.Linear(in_size, out_size)
        self.bn = nn.BatchNorm1d(out_size)
        self.input_drop = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.input_drop(x)
        pairs = torch.tanh(self.att_proj(x.unsqueeze(2) * x.unsqueeze(1)))  # (B, N, N, out)
        attention = torch.softmax((pairs @ self.att_weight).squeeze(-1) / self.temperature, dim=2)
        x = self.proj_with_att(attention @ x) + self.proj_without_att(x)
        return F.selu(_normalise_nodes(self.bn, x))


class HeterogeneousGraphAttention(nn.Module):
    """Attention over the joined nodes of two graphs, and a master node that attends to them but is not attended to.

    (B, N1, in), (B, N2, in), (B, 1, in) -> (B, N1, out), (B, N2, out), (B, 1, out). Pairs within the first graph,
    within the second, and across the two have separate attention vectors.
    """

    def __init__(self, in_size: int, out_size: int, temperature: float = 100.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.proj_type1 = nn.Linear(in_size, in_size)
        self.proj_type2 = nn.Linear(in_size, in_size)
        self.att_proj = nn.Linear(in_size, out_size)
        self.att_projM = nn.Linear(in_size, out_size)
        self.att_weight11 = _attention_weight(out_size)
        self.att_weight22 = _attention_weight(out_size)
        self.att_weight12 = _attention_weight(out_size)
        self.att_weightM = _attention_weight(out_size)
        self.proj_with_att = nn.Linear(in_size, out_size)
        self.proj_without_att = nn.Linear(in_size, out_size)
        self.proj_with_attM = nn.Linear(in_size, out_size)
        self.proj_without_attM = nn.Linear(in_size, out_size)
        self.bn = nn.BatchNorm1d(out_size)
        self.input_drop = nn.Dropout(0.2)

    def forward(
        self, first: torch.Tensor, second: torch.Tensor, master: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        n_first = first.shape[1]
        x = self.input_drop(torch.cat([self.proj_type1(first), self.proj_type2(second)], dim=1))

        pairs = torch.tanh(self.att_proj(x.unsqueeze(2) * x.unsqueeze(1)))  # (B, N, N, out)
        vectors = torch.cat([self.att_weight11, self.att_weight22, self.att_weight12], dim=1)
        within_first, within_second, across = (pairs @ vectors).unbind(dim=-1)
        is_first = torch.arange(x.shape[1], device=x.device) < n_first
        same = is_first.unsqueeze(0) == is_first.unsqueeze(1)
        logits = torch.where(same, torch.where(is_first, within_first, within_second), across)
        attention = torch.softmax(logits / self.temperature, dim=2)

        to_master = torch.tanh(self.att_projM(x * master)) @ self.att_weightM
        to_master = torch.softmax(to_master / self.temperature, dim=1)  # (B, N, 1)
        master = self.proj_with_attM(to_master.transpose(1, 2) @ x) + self.proj_without_attM(master)

        x = self.proj_with_att(attention @ x) + self.proj_without_att(x)
        x = F.selu(_normalise_nodes(self.bn, x))
        return x[:, :n_first], x[:, n_first:], master


class GraphPool(nn.Module):
    """Keep the highest-scoring nodes, times their scores, (B, N, D) -> (B, max(N * ratio, 1), D), highest first."""

    def __init__(self, size: int, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio
        self.proj = nn.Linear(size, 1)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = torch.sigmoid(self.proj(self.drop(x)))
        kept = scores.topk(self._n_kept(x.shape[1]), dim=1).indices
        return (x * scores).gather(1, kept.expand(-1, -1, x.shape[2]))

    def _n_kept(self, n_nodes):
        if not torch.compiler.is_exporting():
            return max(int(n_nodes * self.ratio), 1)
        # Integer arithmetic alone: in an exported graph, int() of a float product would become a constant.
        thousandths = round(1000 * self.ratio)
        if any(int(n * self.ratio) != n * thousandths // 1000 for n in range(10_000)):
            raise ValueError(f"pool_ratio {self.ratio}: expected a multiple of 0.001 for an export")
        return torch.sym_max(n_nodes * thousandths // 1000, 1)


class AASIST(BackEnd):
    """Features (B, T, in_channels) to logits (B, n_output_logits). 447,242 parameters at 1024 channels, 2 outputs.

    size: channels of the projected features. filters: channels of the first two residual blocks, and of the other four.
    gat_dims: features per node in the spectral and temporal graphs, and in the joint graph. pool_ratio: share of the
    nodes that each graph pooling keeps.
    """

    unused_parameters = tuple(f"encoder.{i}.0.bn1." for i in range(1, 6))  # see ResidualBlock

    @staticmethod
    def block(in_channels: int, out_channels: int) -> nn.Module:
        """Build a block (B, in_channels, S, T) -> (B, out_channels, S, T). Only the first block has in_channels 1."""
        return ResidualBlock(in_channels, out_channels, first=in_channels == 1)

    @staticmethod
    def read_off(state_dict: dict[str, torch.Tensor]) -> dict:
        """Infer fields of ModelConfig from the shapes of the weights."""
        return {"n_output_logits": len(state_dict["out_layer.weight"])}

    def __init__(
        self,
        in_channels: int,
        n_output_logits: int = 2,
        size: int = 128,
        filters: tuple[int, int] = (32, 64),
        gat_dims: tuple[int, int] = (64, 32),
        pool_ratio: float = 0.5,
    ) -> None:
        super().__init__()
        if size < 3:
            raise ValueError(f"size {size}: expected at least 3, the size of the max-pooling")
        if not 0 < pool_ratio <= 1:
            raise ValueError(f"pool_ratio {pool_ratio}: expected above 0 and at most 1")
        first, last = filters
        part, joint = gat_dims
        self.LL = nn.Linear(in_channels, size)
        self.first_bn = nn.BatchNorm2d(1)
        self.first_bn1 = nn.BatchNorm2d(last)
        channels = [1, first, first, last, last, last, last]
        self.encoder = nn.Sequential(*(nn.Sequential(self.block(a, b)) for a, b in zip(channels, channels[1:])))
        self.attention = nn.Sequential(nn.Conv2d(last, 128, 1), nn.SELU(), nn.BatchNorm2d(128), nn.Conv2d(128, last, 1))
        self.pos_S = nn.Parameter(torch.randn(1, size // 3, last))
        self.master1 = nn.Parameter(torch.randn(1, 1, part))
        self.master2 = nn.Parameter(torch.randn(1, 1, part))
        self.GAT_layer_S = GraphAttention(last, part)
        self.GAT_layer_T = GraphAttention(last, part)
        self.HtrgGAT_layer_ST11 = HeterogeneousGraphAttention(part, joint)
        self.HtrgGAT_layer_ST12 = HeterogeneousGraphAttention(joint, joint)
        self.HtrgGAT_layer_ST21 = HeterogeneousGraphAttention(part, joint)
        self.HtrgGAT_layer_ST22 = HeterogeneousGraphAttention(joint, joint)
        self.pool_S = GraphPool(part, pool_ratio)
        self.pool_T = GraphPool(part, pool_ratio)
        self.pool_hS1 = GraphPool(joint, pool_ratio)
        self.pool_hT1 = GraphPool(joint, pool_ratio)
        self.pool_hS2 = GraphPool(joint, pool_ratio)
        self.pool_hT2 = GraphPool(joint, pool_ratio)
        self.drop_way = nn.Dropout(0.2)
        self.drop = nn.Dropout(0.5)
        self.out_layer = nn.Linear(5 * joint, n_output_logits)

    def embed(self, features: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, 5 joint): maximum and mean of the temporal and of the spectral nodes, and the master node."""
        x = self.LL(repeat_frames(features, 3)).transpose(1, 2).unsqueeze(1)  # (B, 1, size, T)
        x = F.selu(self.first_bn(F.max_pool2d(x, 3)))
        x = F.selu(self.first_bn1(self.encoder(x)))  # (B, last, S, T / 3)
        attention = self.attention(x)
        spectral = (x * torch.softmax(attention, dim=3)).sum(dim=3).transpose(1, 2) + self.pos_S
        temporal = (x * torch.softmax(attention, dim=2)).sum(dim=2).transpose(1, 2)
        spectral = self.pool_S(self.GAT_layer_S(spectral))
        temporal = self.pool_T(self.GAT_layer_T(temporal))

        ways = [
            self._way(temporal, spectral, self.master1, 1),
            self._way(temporal, spectral, self.master2, 2),
        ]
        temporal, spectral, master = (torch.maximum(*map(self.drop_way, pair)) for pair in zip(*ways))
        return torch.cat(
            [
                temporal.abs().amax(dim=1),
                temporal.mean(dim=1),
                spectral.abs().amax(dim=1),
                spectral.mean(dim=1),
                master.squeeze(1),
            ],
            dim=1,
        )

    def decide(self, embeddings: torch.Tensor) -> torch.Tensor:
        return self.out_layer(self.drop(embeddings))

    def _way(self, temporal, spectral, master, number):
        """One of two parallel branches of joint graph layers; `embed` takes the elementwise maximum of the two."""
        inner, outer = (getattr(self, f"HtrgGAT_layer_ST{number}{layer}") for layer in (1, 2))
        temporal, spectral, master = inner(temporal, spectral, master.expand(len(temporal), -1, -1))
        temporal = getattr(self, f"pool_hT{number}")(temporal)
        spectral = getattr(self, f"pool_hS{number}")(spectral)
        more = outer(temporal, spectral, master)
        return [x + y for x, y in zip((temporal, spectral, master), more)]
