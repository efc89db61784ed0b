"""AttM_LSTM: attentive merging of all encoder layers, then an LSTM.

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
    """Merge the outputs of L layers, each (B, T, C) and gated per layer and utterance, into (B, T, C)."""

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
        return self.linear_proj(merged.flatten(2))  # (B, T, C L), the layers of a channel adjacent


class Decoder(nn.Module):
    """LSTM, mean over time and output layer, (B, T, C) -> (B, n_output_logits)."""

    def __init__(self, channels: int, hidden: int, n_output_logits: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, hidden, batch_first=True)
        self.LL = nn.Linear(hidden, n_output_logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.LL(lstm_outputs(self.lstm, x).mean(dim=1))


class AttM_LSTM(BackEnd):
    """Hidden states, L + 1 of (B, T, in_channels), to logits (B, n_output_logits).

    hidden: hidden size of the LSTM. The raw outputs of all L layers are used, but not the first hidden state, which is
    the input of the first layer. Published with the first 12 layers of WavLM Large: 41,835,538 parameters; 195,985,858
    with all 24.
    """

    takes_hidden_states = True
    least_layers = 2
    raw_last = True
    not_compiled = "its LSTM"
    # The released code passes a linear layer as the activation's `inplace` flag; its tensors in checkpoints are unused.
    unused_tensors = ("feat_merge.linear_proj.1.inplace.",)

    def __init__(
        self, in_channels: int, n_hidden_states: int = 25, n_output_logits: int = 2, hidden: int = 192
    ) -> None:
        super().__init__()
        self.feat_merge = AttentiveMerging(n_hidden_states - 1, in_channels)
        self.decoder = Decoder(in_channels, hidden, n_output_logits)

    def forward(self, states: list[torch.Tensor]) -> torch.Tensor:
        return self.decoder(self.feat_merge(states[1:]))
