"""AttM_LSTM: all layers of the encoder merged by an attention over layers, then an LSTM.

Source: Pan et al., "Attentive merging of hidden embeddings from pre-trained speech model for anti-spoofing
detection", Interspeech 2024. Axes: B trials, T frames, C channels, L layers. Attribute names are those of the
published checkpoints.
"""

import torch
from torch import nn
from torch.nn import functional as F

from back_ends.base import BackEnd
from back_ends.common import lstm_outputs


class AttentiveMerging(nn.Module):
    """L layers of (B, T, C) -> (B, T, C)."""

    def __init__(self, n_layers: int, channels: int) -> None:
        super().__init__()
        self.W = nn.Parameter(nn.init.xavier_uniform_(torch.empty(channels, 1)))
        self.W1 = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_layers, n_layers // 2)))
        self.W2 = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_layers // 2, n_layers)))
        width = n_layers * channels
        self.linear_proj = nn.Sequential(nn.Linear(width, width // 4), nn.SiLU(), nn.Linear(width // 4, channels))

    def forward(self, layers: list[torch.Tensor]) -> torch.Tensor:
        means = torch.stack([layer.mean(dim=1) for layer in layers], dim=1)  # (B, L, C)
        gates = F.silu((means @ self.W).squeeze(-1))
        gates = torch.sigmoid(F.silu(gates @ self.W1) @ self.W2)  # (B, L)
        merged = torch.stack(list(layers), dim=-1) * gates[:, None, None]
        return self.linear_proj(merged.flatten(2))  # the layers of a channel are neighbours


class Decoder(nn.Module):
    """(B, T, C) -> (B, n_output_logits)."""

    def __init__(self, channels: int, hidden: int, n_output_logits: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, hidden, batch_first=True)
        self.LL = nn.Linear(hidden, n_output_logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.LL(lstm_outputs(self.lstm, x).mean(dim=1))


class AttM_LSTM(BackEnd):
    """Hidden states, L + 1 of (B, T, in_channels), to logits (B, n_output_logits).

    hidden: units of the LSTM. Uses the raw outputs of all L layers, so not the first state, which is the first layer's
    input. Published on the first 12 layers of WavLM Large: 41,835,538 parameters there, 195,985,858 with all 24.
    """

    takes_hidden_states = True
    least_layers = 2
    raw_last = True
    not_compiled = "its LSTM"
    # The released program gave its activation a linear layer as a flag: tensors of checkpoints that nothing uses.
    unused_tensors = ("feat_merge.linear_proj.1.inplace.",)

    def __init__(
        self, in_channels: int, n_hidden_states: int = 25, n_output_logits: int = 2, hidden: int = 192
    ) -> None:
        super().__init__()
        self.feat_merge = AttentiveMerging(n_hidden_states - 1, in_channels)
        self.decoder = Decoder(in_channels, hidden, n_output_logits)

    def forward(self, states: list[torch.Tensor]) -> torch.Tensor:
        return self.decoder(self.feat_merge(states[1:]))
