"""TCM: a Conformer with head tokens, which link the temporal and channel information of each attention head.

Source: Truong et al., "Temporal-channel modeling in multi-head self-attention for synthetic speech detection",
Interspeech 2024. Axes: B trials, N tokens (the classification token, then T frames), C channels, H heads, D channels
per head. Attribute names are those of the published checkpoints.
"""

import torch
from torch import nn
from torch.nn import functional as F

from back_ends.common import StemmedBackEnd
from back_ends.conformer import TokenEncoder

TABLE = 10000  # positions stored in a checkpoint


def sinusoids(positions: torch.Tensor, size: int) -> torch.Tensor:
    """Sinusoidal position embeddings (positions, size), sines in even channels. Source: Vaswani et al., 2017."""
    channel = torch.arange(size, device=positions.device)
    angles = positions.unsqueeze(1) / 10000 ** (2 * (channel // 2) / size)
    return torch.where(channel % 2 == 0, angles.sin(), angles.cos())


class HeadTokenAttention(nn.Module):
    """Self-attention over the tokens and one head token per head, made of their mean, (B, N, C) -> (B, N, C)."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.pos_embed = nn.Parameter(torch.zeros(1, heads, size))
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.proj = nn.Linear(size, size)
        self.ht_proj = nn.Linear(size // heads, size)
        self.ht_norm = nn.LayerNorm(size // heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = self.ht_proj(x.mean(dim=1).unflatten(-1, (self.heads, -1)))  # (B, H, C)
        head_tokens = F.gelu(self.ht_norm(means.unflatten(-1, (self.heads, -1)))).flatten(2) + self.pos_embed
        tokens = torch.cat([x, head_tokens], dim=1)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, N + H, D)
        out = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        class_token, frames, head_tokens = out.tensor_split([1, x.shape[1]], dim=1)
        class_token = class_token + head_tokens.mean(dim=1, keepdim=True) + frames.mean(dim=1, keepdim=True)
        return torch.cat([class_token, frames], dim=1)


class PositionedEncoder(TokenEncoder):
    def __init__(self, attention: type[nn.Module], n_output_logits: int, size: int, *sizes: int) -> None:
        super().__init__(attention, n_output_logits, size, *sizes)
        # A buffer instead of the published frozen parameter: the same key, but it cannot be trained.
        self.register_buffer("positional_emb", sinusoids(torch.arange(TABLE), size).unsqueeze(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        positions = self.positional_emb[:, : x.shape[1]]
        if x.shape[1] > TABLE:
            more = sinusoids(torch.arange(TABLE, x.shape[1], device=x.device), x.shape[2])
            positions = torch.cat([positions, more.unsqueeze(0).to(positions)], dim=1)
        return super().forward(x + positions)


class TCM(StemmedBackEnd):
    """Features (B, T, in_channels) to logits (B, n_output_logits). 2,382,628 parameters at 1024 channels, 2 outputs."""

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
        self.conformer = PositionedEncoder(HeadTokenAttention, n_output_logits, size, heads, blocks, kernel)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.conformer(self.stem(features))
