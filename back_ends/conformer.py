"""Conformer: four convolution-augmented transformer blocks and a classification token.

Source: Rosello et al., "A conformer-based classifier for variable-length utterance processing in anti-spoofing",
Interspeech 2023; blocks of Gulati et al., Interspeech 2020, with the relative positions of Shaw et al., 2018.
Axes: B trials, N tokens (the classification token, then T frames), C channels, H heads, D channels of a head.
Attribute names are those of the published checkpoints.
"""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

from back_ends.common import StemmedBackEnd

FARTHEST = 512  # offsets between frames are clipped to this


class RelativeAttention(nn.Module):
    """Self-attention with relative positions: q times an embedding of (query index - key index) is added to the logits.

    (B, N, C) -> (B, N, C), with N at least 2.
    """

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(size, size, bias=False)
        self.to_kv = nn.Linear(size, 2 * size, bias=False)
        self.to_out = nn.Linear(size, size)
        self.rel_pos_emb = nn.Embedding(2 * FARTHEST + 1, size // heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[1]
        projected = (self.to_q(x), *self.to_kv(x).chunk(2, dim=-1))
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in projected)  # (B, H, N, D)
        # One column per offset, from n - 1 down to 1 - n. Row i needs the n columns that start at n - 1 - i. Viewed
        # with rows one column shorter, every row starts with the columns that it needs.
        offsets = torch.arange(n - 1, -n, -1, device=x.device).clamp(-FARTHEST, FARTHEST) + FARTHEST
        by_offset = (q @ self.rel_pos_emb(offsets).T).flatten(2)
        bias = by_offset[..., n - 1 : n - 1 + n * (2 * n - 2)].unflatten(-1, (n, -1))[..., :n]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias * q.shape[-1] ** -0.5)
        return self.to_out(out.transpose(1, 2).flatten(2))


class PreNorm(nn.Module):
    def __init__(self, size: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.fn = fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fn(self.norm(x))


class Halved(nn.Module):
    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * self.fn(x)


class Transposed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


class FeedForward(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        # nn.Identity replaces the published dropout of 0, to keep the published indices.
        self.net = nn.Sequential(nn.Linear(size, 4 * size), nn.SiLU(), nn.Identity(), nn.Linear(4 * size, size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class Convolution(nn.Module):
    def __init__(self, size: int, kernel: int) -> None:
        super().__init__()
        inner = 2 * size
        depthwise = nn.Conv1d(inner, inner, kernel, padding=kernel // 2, groups=inner)
        self.net = nn.Sequential(
            nn.LayerNorm(size),
            Transposed(),
            nn.Conv1d(size, 2 * inner, 1),
            nn.GLU(dim=1),
            nn.Sequential(OrderedDict(conv=depthwise)),
            nn.BatchNorm1d(inner),
            nn.SiLU(),
            nn.Conv1d(inner, size, 1),
            Transposed(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class ConformerBlock(nn.Module):
    """Conformer block, (B, N, C) -> (B, N, C). attention: a module that maps tokens to tokens of the same shape."""

    def __init__(self, size: int, kernel: int, attention: nn.Module) -> None:
        super().__init__()
        self.ff1 = Halved(PreNorm(size, FeedForward(size)))
        self.attn = PreNorm(size, attention)
        self.conv = Convolution(size, kernel)
        self.ff2 = Halved(PreNorm(size, FeedForward(size)))
        self.post_norm = nn.LayerNorm(size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in (self.ff1, self.attn, self.conv, self.ff2):
            x = x + part(x)
        return self.post_norm(x)


class TokenEncoder(nn.Module):
    """Conformer blocks over a learned classification token and the frames, (B, T, C) -> (B, n_output_logits).

    attention: class of the attention modules, constructed as attention(size, heads). kernel: convolution size in
    frames. Raises ValueError if `heads` does not divide `size`, or if `kernel` is even.
    """

    def __init__(
        self, attention: type[nn.Module], n_output_logits: int, size: int, heads: int, blocks: int, kernel: int
    ) -> None:
        super().__init__()
        if size % heads:
            raise ValueError(f"heads {heads}: expected a divisor of size {size}")
        if kernel % 2 == 0:
            raise ValueError(f"kernel {kernel}: expected an odd number of frames")
        self.class_token = nn.Parameter(torch.rand(1, size))
        self.encoder_blocks = nn.Sequential(
            *(ConformerBlock(size, kernel, attention(size, heads)) for _ in range(blocks))
        )
        self.fc5 = nn.Linear(size, n_output_logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1)
        return self.fc5(self.encoder_blocks(x)[:, 0])


class Conformer(StemmedBackEnd):
    """Features (B, T, in_channels) to logits (B, n_output_logits). 2,506,324 parameters at 1024 channels, 2 outputs."""

    def __init__(
        self,
        in_channels: int,
        n_output_logits: int = 2,
        size: int = 144,
        heads: int = 4,
        blocks: int = 4,
        kernel: int = 31,
    ) -> None:
        super().__init__(in_channels, size)
        self.conformer = TokenEncoder(RelativeAttention, n_output_logits, size, heads, blocks, kernel)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.conformer(self.stem(features))
