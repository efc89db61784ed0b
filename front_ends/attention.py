"""Self-attention and layer norm of the encoders. Axes: B trials, T frames, C channels, H heads."""

import math
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from front_ends.lora import weight_of

# Context for waveforms of many lengths: excludes cuDNN's attention, which makes a plan for every new shape.
attention_for_any_length = partial(
    sdpa_kernel, [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
)


class LayerNorm(nn.LayerNorm):
    """Layer norm that, on a GPU, returns the type of its input, not float32 as under autocast.

    Its time is memory traffic, and the next layer would round the float32 anyway. Sums are float32 in both cases.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_cuda:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Self-attention that replaces fairseq's, with linear layers as submodules. (B, T, C) -> (B, T, C)."""

    def __init__(self, channels: int, heads: int, dropout: float, key_bias: bool = True) -> None:
        super().__init__()
        self.num_heads, self.dropout_module = heads, nn.Dropout(dropout)  # names of fairseq
        self.k_proj = nn.Linear(channels, channels, bias=key_bias)
        self.v_proj = nn.Linear(channels, channels)
        self.q_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)
        for projection in (self.k_proj, self.v_proj, self.q_proj, self.out_proj):  # as in fairseq
            nn.init.normal_(projection.weight, std=0.02)
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        **_: object,
    ) -> tuple[torch.Tensor, None]:
        """query, key, value: the same tensor (B, T, C)."""
        return self._attend(query, None), None

    def _attend(self, x, mask):
        # Each (B, H, T, C / H).
        q, k, v = (y.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for y in self._projected(x))
        mask = mask if mask is None else mask.to(q.dtype)
        dropout = self.dropout_module.p if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(x.transpose(1, 2).flatten(2))

    def _projected(self, x):
        """Queries, keys and values, each (B, T, C)."""
        projections = self.q_proj, self.k_proj, self.v_proj
        if not x.is_cuda:
            return [projection(x) for projection in projections]
        # One product of three times the width reads x once and writes its gradient once.
        no_bias = torch.zeros_like(self.q_proj.bias)
        bias = torch.cat([no_bias if projection.bias is None else projection.bias for projection in projections])
        return F.linear(x, torch.cat([weight_of(projection) for projection in projections]), bias).chunk(3, dim=-1)


class RelativeAttention(Attention):
    """Self-attention with WavLM's gated relative position bias. (B, T, C) -> (B, T, C).

    buckets: (number of buckets, distance in frames from which on all share the last bucket) in the first layer, whose
    bias embedding all layers share; None in other layers. Parameter names are those of Microsoft's release.
    Source: Chen et al., "WavLM", 2022, section III-B; bidirectional buckets of Raffel et al., "T5", 2020.
    """

    def __init__(self, channels: int, heads: int, dropout: float, buckets: tuple[int, int] | None) -> None:
        super().__init__(channels, heads, dropout)
        self.grep_linear = nn.Linear(channels // heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, heads, 1, 1))
        if buckets is not None:
            n_buckets, self.max_distance = buckets
            self.relative_attention_bias = nn.Embedding(n_buckets, heads)
            nn.init.normal_(self.relative_attention_bias.weight, std=0.02)

    def position_bias(self, n_frames: int) -> torch.Tensor:
        """Position bias (H, T, T) of every query and key. First layer only."""
        if (
            torch.compiler.is_exporting()
        ):  # ONNX has no unfold for any length; the bias is constant from max_distance on
            frames = torch.arange(n_frames)
            distance = (frames - frames.unsqueeze(1)).clamp(-self.max_distance, self.max_distance)
            return self._by_distance(self.max_distance + 1)[:, distance + self.max_distance]
        # Row i: bias of query i for all keys.
        return self._by_distance(n_frames).unfold(1, n_frames, 1).flip(1)

    def _by_distance(self, n_frames):
        """Bias (H, 2 T - 1) by distance in frames from query to key, 1 - T to T - 1."""
        weight = self.relative_attention_bias.weight
        distance = torch.arange(1 - n_frames, n_frames, device=weight.device)  # key minus query
        half = len(weight) // 2
        exact = half // 2
        # Short distances have a bucket each, longer ones logarithmic buckets; keys after the query use the second half.
        far = exact + (
            torch.log(distance.abs().clamp(min=1).float() / exact)
            / math.log(self.max_distance / exact)
            * (half - exact)
        )
        bucket = torch.where(distance.abs() < exact, distance.abs(), far.long().clamp(max=half - 1))
        return weight[bucket + half * (distance > 0)].T

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, key_padding_mask: torch.Tensor, **_: object
    ) -> tuple[torch.Tensor, None]:
        """query, key, value: the same tensor (B, T, C); key_padding_mask: bias (H, T, T), see Wav2Vec2.forward."""
        by_head = query.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, T, C / H)
        gates = torch.sigmoid(self.grep_linear(by_head).unflatten(-1, (2, 4)).sum(-1))
        gate = gates[..., :1] * (gates[..., 1:] * self.grep_a - 1) + 2  # (B, H, T, 1)
        return self._attend(query, gate * key_padding_mask), None
