"""SLS: sensitive layer selection by a gate per layer and utterance, then an MLP on max-pooled features of 4 seconds.

Source: Zhang et al., "Audio deepfake detection with self-supervised XLS-R and SLS classifier", ACM MM 2024. Axes:
B trials, T frames, C channels, L layers. Attribute names are those of the published checkpoints.
"""

import torch
from torch import nn
from torch.nn import functional as F

from back_ends.base import BackEnd
from back_ends.common import image_norm, repeat_frames

POOL = 3


class SLS(BackEnd):
    """Hidden states, L + 1 of (B, T, in_channels), to log-probabilities (B, 2) of spoof and bona fide.

    The raw outputs of all L layers are used, but not the first hidden state, which is the input of the first layer.
    Utterances can have any length. Fewer than `window` frames are repeated (the published input has 201 frames, 64,600
    samples). More frames are cut into windows, the last of which ends with the utterance, and the log-probabilities are
    averaged; up to 203 frames there is one window, as published. Raises ValueError unless n_output_logits is 2.
    23,399,429 parameters at 1024 channels.
    """

    takes_hidden_states = True
    least_layers = 1
    raw_last = True
    test_samples = 64_600

    def __init__(
        self, in_channels: int, n_hidden_states: int = 25, n_output_logits: int = 2, window: int = 201
    ) -> None:
        super().__init__()
        if n_output_logits != 2:
            raise ValueError(f"n_output_logits {n_output_logits}: expected 2, SLS outputs log-probabilities")
        if window % POOL:
            raise ValueError(f"window {window}: expected a multiple of {POOL}, the frames per pooling")
        self.window = window
        self.fc0 = nn.Linear(in_channels, 1)
        self.first_bn = nn.BatchNorm2d(1)
        self.fc1 = nn.Linear((window // POOL) * (in_channels // POOL), in_channels)
        self.fc3 = nn.Linear(in_channels, n_output_logits)

    def forward(self, states: list[torch.Tensor]) -> torch.Tensor:
        features = torch.zeros_like(states[1])
        for state in states[1:]:
            gate = torch.sigmoid(self.fc0(state.mean(dim=1, keepdim=True)))
            features = torch.addcmul(features, state, gate)
        features = image_norm(self.first_bn, repeat_frames(features, self.window))
        windows = self._traced_windows(features) if torch.compiler.is_exporting() else self._windows(features)
        pooled = F.max_pool2d(windows.unsqueeze(1), POOL).flatten(1)
        logits = F.selu(self.fc3(F.selu(self.fc1(pooled))))
        return F.log_softmax(logits, dim=1).unflatten(0, (-1, len(features))).mean(dim=0)

    def _windows(self, features):
        """Cut (B, T, C) into W windows and concatenate them, (W B, window, C)."""
        n_frames = features.shape[1]
        n_windows = 1 if n_frames < self.window + POOL else -(-n_frames // self.window)
        starts = [min(i * self.window, n_frames - self.window) for i in range(n_windows)]
        return torch.cat([features[:, start : start + self.window] for start in starts])

    def _traced_windows(self, features):
        """The same without a branch or loop: an exported graph would keep those of the traced length."""
        n_frames = features.shape[1]
        is_long = torch.sym_min(torch.sym_max(n_frames - (self.window + POOL - 1), 0), 1)  # 0 or 1
        starts = self.window * torch.arange(1 + is_long * ((n_frames - 1) // self.window))
        starts = torch.minimum(starts, torch.scalar_tensor(n_frames - self.window, dtype=torch.long))
        frames = starts.unsqueeze(1) + torch.arange(self.window)
        return features[:, frames].transpose(0, 1).flatten(0, 1)

    def use_output(self, kind: str) -> None:
        raise ValueError("loss: SLS outputs log-probabilities, which angular losses cannot use")
