"""Prompt tuning (PT) and wavelet prompt tuning (WPT) of a frozen encoder, followed by AASIST.

Source: Xie et al., arXiv 2504.06753, and their code. One version of their code applies the wavelet transform to the
tokens of the first layer only; here it is applied in every layer, as the paper describes. Attribute names are those
of the published checkpoints. Axes: B trials, N tokens, T frames, C channels.
"""

import torch
from torch import nn
from torch.nn import functional as F

from back_ends.aasist import AASIST
from back_ends.base import BackEnd
from back_ends.common import logit_difference


def haar(tokens: torch.Tensor) -> torch.Tensor:
    """Orthonormal 2-D Haar transform of tokens (N, C), both even. Returns the flattened bands as (N, C).

    Order of the bands: low on both axes; high along tokens; high along channels; high on both.
    """
    a, b = tokens[0::2, 0::2], tokens[0::2, 1::2]
    c, d = tokens[1::2, 0::2], tokens[1::2, 1::2]
    bands = torch.stack([a + b + c + d, a + b - c - d, a - b + c - d, a - b - c + d]) / 2
    return bands.view(tokens.shape)


class Prompts(nn.Module):
    """Prompt tokens per layer: (layer, B) -> (B, wavelet_tokens + tokens, C), wavelet tokens first."""

    def __init__(self, n_layers: int, channels: int, tokens: int, wavelet_tokens: int) -> None:
        super().__init__()
        bound = (3 / channels) ** 0.5
        self.prompt_embedding = nn.Parameter(torch.empty(n_layers, tokens, channels).uniform_(-bound, bound))
        self.fprompt_embedding = None
        if wavelet_tokens:
            of_wavelet = torch.empty(n_layers, wavelet_tokens, channels).uniform_(-bound, bound)
            self.fprompt_embedding = nn.Parameter(of_wavelet)

    def forward(self, layer: int, n_trials: int) -> torch.Tensor:
        tokens = self.prompt_embedding[layer]
        if self.fprompt_embedding is not None:
            tokens = torch.cat([haar(self.fprompt_embedding[layer]), tokens])
        return F.dropout(tokens.expand(n_trials, -1, -1), 0.1, self.training)


class PT_AASIST(BackEnd):
    """Features (B, N + T, in_channels), including the outputs of the prompt tokens, to logits (B, n_output_logits).

    tokens: prompt tokens before the frames in every encoder layer. wavelet_tokens: even number of Haar-transformed
    tokens before those (WPT, published with 4 wavelet_tokens and 6 tokens). 693,002 parameters at 24 layers of 1024
    channels. The encoder is meant to be frozen (--SSL_freeze_epoch). The authors score with the bona fide softmax,
    which ranks trials like the difference of the logits.
    """

    least_layers = 1
    raw_last = True
    normalizes = True  # to mean 0 and variance 1 per crop
    gives_prompts = True
    bonafide_column = 0
    score = staticmethod(logit_difference)
    test_samples = 64_600
    unused_parameters = tuple(f"w2vaasist.{name}" for name in AASIST.unused_parameters)

    @staticmethod
    def read_off(state_dict: dict[str, torch.Tensor]) -> dict:
        """Infer the number of outputs and the options from the shapes of the weights."""
        wavelet = state_dict.get("wav2vec2_with_prompt.fprompt_embedding")
        return {
            "n_output_logits": len(state_dict["w2vaasist.out_layer.weight"]),
            "tokens": state_dict["wav2vec2_with_prompt.prompt_embedding"].shape[1],
            "wavelet_tokens": 0 if wavelet is None else wavelet.shape[1],
        }

    def __init__(
        self,
        in_channels: int,
        n_hidden_states: int = 25,
        n_output_logits: int = 2,
        tokens: int = 10,
        wavelet_tokens: int = 0,
    ) -> None:
        super().__init__()
        if tokens < 1:
            raise ValueError(f"tokens {tokens}: expected at least 1")
        if wavelet_tokens < 0 or wavelet_tokens % 2 or (wavelet_tokens and in_channels % 2):
            raise ValueError(
                f"wavelet_tokens {wavelet_tokens}: expected an even number, and an even number of encoder channels"
            )
        self.wav2vec2_with_prompt = Prompts(n_hidden_states - 1, in_channels, tokens, wavelet_tokens)
        self.w2vaasist = AASIST(in_channels, n_output_logits)

    def prompts(self, layer: int, n_trials: int) -> torch.Tensor:
        return self.wav2vec2_with_prompt(layer, n_trials)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.w2vaasist(features)
