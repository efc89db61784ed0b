"""SLS: a gate a layer and utterance chooses among the encoder's layers; a perceptron on a pooled image of four seconds.

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

    Uses the raw outputs of all L layers, so not the first state, which is the first layer's input. Any length: fewer
    than `window` frames (201 are the published input, 64,600 samples) are repeated, more are cut into windows (the last
    one ends with the utterance), whose log-probabilities are averaged; up to 203 frames the pooling sees one window, as
    published. Raises ValueError for another number of outputs: a log-probability of one class says nothing.
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
            raise ValueError(f"n_output_logits {n_output_logits}: SLS gives log-probabilities, expected 2")
        if window % POOL:
            raise ValueError(f"window {window}: expected a multiple of {POOL} frames, which are pooled together")
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
        """(B, T, C) -> (W B, window, C), the W windows one after the other."""
        n_frames = features.shape[1]
        n_windows = 1 if n_frames < self.window + POOL else -(-n_frames // self.window)
        starts = [min(i * self.window, n_frames - self.window) for i in range(n_windows)]
        return torch.cat([features[:, start : start + self.window] for start in starts])

    def _traced_windows(self, features):
        """The same without a choice or a loop, which an exported graph would have made for good."""
        n_frames = features.shape[1]
        is_long = torch.sym_min(torch.sym_max(n_frames - (self.window + POOL - 1), 0), 1)  # 0 or 1
        starts = self.window * torch.arange(1 + is_long * ((n_frames - 1) // self.window))
        starts = torch.minimum(starts, torch.scalar_tensor(n_frames - self.window, dtype=torch.long))
        frames = starts.unsqueeze(1) + torch.arange(self.window)
        return features[:, frames].transpose(0, 1).flatten(0, 1)

    def use_output(self, kind: str) -> None:
        raise ValueError("loss: SLS gives log-probabilities, which no loss of cosines fits")
