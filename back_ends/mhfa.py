"""MHFA: multi-head factorised attentive pooling over weighted hidden states.

Source: Peng et al., "An attention-based backend allowing efficient fine-tuning of transformer models for speaker
verification", SLT 2022, as used for anti-spoofing in wedefense (Zhang et al., 2025). Axes: B trials, T frames,
C channels. Attribute names are those of the published checkpoints.
"""

import torch
from torch import nn

from back_ends.base import BackEnd
from back_ends.common import attentive_mean, logit_difference, weighted_layer_sum


class Projection(nn.Module):
    def __init__(self, embedding: int, n_output_logits: int) -> None:
        super().__init__()
        self.trans = nn.Sequential(nn.BatchNorm1d(embedding), nn.ReLU(), nn.Linear(embedding, n_output_logits))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.trans(x)


class MHFA(BackEnd):
    """Hidden states, L + 1 of (B, T, in_channels), to logits (B, n_output_logits).

    compressed: channels of the projected keys and values. embedding: size of the vector after the pooling. As
    published, column 0 is bona fide. 1,316,436 parameters at 25 states of 1024 channels, 2 outputs. The released recipe
    first subtracts from every frame its mean over channels. Subtracting from every row of `cmp_linear_k.weight` and
    `cmp_linear_v.weight` its own mean has the same effect, so the weights can learn it.
    """

    takes_hidden_states = True
    bonafide_column = 0
    least_batch = 2  # the batch norm of the embedding sees one vector per trial
    score = staticmethod(logit_difference)

    def __init__(
        self,
        in_channels: int,
        n_hidden_states: int = 25,
        n_output_logits: int = 2,
        heads: int = 32,
        compressed: int = 128,
        embedding: int = 256,
    ) -> None:
        super().__init__()
        self.weights_k = nn.Parameter(torch.ones(n_hidden_states))
        self.weights_v = nn.Parameter(torch.ones(n_hidden_states))
        self.cmp_linear_k = nn.Linear(in_channels, compressed)
        self.cmp_linear_v = nn.Linear(in_channels, compressed)
        self.att_head = nn.Linear(compressed, heads)
        self.pooling_fc = nn.Linear(heads * compressed, embedding)
        self.projection = Projection(embedding, n_output_logits)

    def forward(self, states: list[torch.Tensor]) -> torch.Tensor:
        values, attention = self._values(states)
        pooled = attentive_mean(values, attention)  # (B, heads, compressed)
        return self.projection(self.pooling_fc(pooled.flatten(1)))

    def forward_with_frames(self, states: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Frame logits come from the same layers, applied to T x attention x values of a frame, not to the pooling.

        The mean of that product over the frames is the pooled vector of the utterance. This project's own extension.
        """
        values, attention = self._values(states)
        share = attention.shape[1] * torch.softmax(attention, dim=1)  # (B, T, heads)
        frames = (share.unsqueeze(3) * values.unsqueeze(2)).flatten(2)  # (B, T, heads * compressed)
        embedded = self.pooling_fc(torch.cat([frames.mean(dim=1, keepdim=True), frames], dim=1))
        # Normalise both in one call: a second call would update the running statistics twice.
        logits = self.projection(embedded.flatten(0, 1)).unflatten(0, embedded.shape[:2])
        return logits[:, 0], logits[:, 1:]

    def _values(self, states):
        """(values (B, T, compressed), attention logits (B, T, heads))."""
        keys = self.cmp_linear_k(weighted_layer_sum(states, self.weights_k))
        return self.cmp_linear_v(weighted_layer_sum(states, self.weights_v)), self.att_head(keys)
