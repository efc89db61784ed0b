"""Linear: the mean over frames and one linear layer, for a fine-tuned encoder.

Source: Ge et al., "Post-training for deepfake speech detection", arXiv 2506.21090, and its released code
(AntiDeepfake). Axes: B trials, T frames, C channels. Attribute names are those of the published checkpoints.
"""

import torch
from torch import nn

from back_ends.base import BackEnd
from back_ends.common import logit_difference


class Linear(BackEnd):
    """Features (B, T, in_channels) to logits (B, n_output_logits). 2,050 parameters at 1024 channels, 2 outputs.

    The authors score with the bona fide softmax, which ranks trials like the difference of the logits.
    """

    normalizes = True
    score = staticmethod(logit_difference)
    published_corpora = (
        "ASVspoof 2019 LA, 2021 LA and DF, ASVspoof 5, Codecfake, CodecFake, CVoiceFake, DECRO, DFADD, DiffSSD, HABLA, "
        "MLAAD, SpoofCeleb, WaveFake and others"
    )

    def __init__(self, in_channels: int, n_output_logits: int = 2) -> None:
        super().__init__()
        self.proj_fc = nn.Linear(in_channels, n_output_logits)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.proj_fc(features.mean(dim=1))

    def forward_with_frames(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self(features), self.proj_fc(features)
