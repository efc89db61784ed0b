"""SLIM: style-linguistics dependency learned on bona fide speech (stage 1), then a classifier (stage 2).

After Zhu et al., "SLIM: Style-linguistics mismatch model for generalized audio deepfake detection", NeurIPS 2024 (arXiv
2407.18517). From the paper: the two stages, the two groups of layers, the inputs of the classifier, and training the
classifier alone in stage 2. From two third-party implementations that agree with each other: the compression modules.
This project's own choices: their dropout, the hidden size of the attentive poolings (128), and averaging the dependency
features over time. The authors use two encoders, fine-tuned for emotion and for speech recognition; here both groups
are layers of one encoder. Axes: B trials, T frames, C channels.
"""

import torch
from torch import nn
from torch.nn import functional as F

from back_ends.base import BackEnd
from back_ends.common import AttentivePooling

N_LAYERS = 24  # of XLS-R 300M, which the authors' layer numbers refer to
STYLE, LINGUISTICS = (0, 11), (14, 22)  # hidden states [first, end) of each group


class Compression(nn.Module):
    """Bottleneck from frames (B, T, C) to features (B, T, size). 788,480 parameters at 1024 channels, size 256."""

    def __init__(self, channels: int, size: int, dropout: float) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, size)
        self.norm = nn.BatchNorm1d(size)
        self.expand = nn.Linear(size, channels)
        self.head = nn.Linear(channels, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm(self.reduce(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.expand(self.dropout(F.leaky_relu(inner)))
        return self.head(F.leaky_relu(self.dropout(x)))


class SLIM(BackEnd):
    """Hidden states, L + 1 of (B, T, in_channels), to logits (B, n_output_logits).

    n_output_logits 1: stage 1; the output is the cosine similarity of the style and linguistics dependency features
    (the paper's mismatch is 1 - cosine). n_output_logits 2: the classifier of stage 2, see `freeze_dependencies`.
    size: dimension of every feature. At 25 states of 1024 channels: 3,151,620 parameters with two outputs, 1,576,960
    with one.
    """

    takes_hidden_states = True
    least_layers = 2
    uses_last = False

    def __init__(
        self, in_channels: int, n_hidden_states: int = N_LAYERS + 1, n_output_logits: int = 2, size: int = 256
    ) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size {size}: expected at least 1")
        self.style_states, self.linguistics_states = (
            scaled(group, n_hidden_states - 1) for group in (STYLE, LINGUISTICS)
        )
        self.style = Compression(in_channels, size, dropout=0.1)
        self.linguistics = Compression(in_channels, size, dropout=0.1)
        self.dependencies_frozen = False
        self.classifier = None
        if n_output_logits > 1:
            self.pooling = nn.ModuleList(AttentivePooling(in_channels, 128) for _ in range(2))
            self.embedding = nn.ModuleList(nn.Linear(2 * in_channels, size) for _ in range(2))
            hidden = nn.Linear(4 * size, size), nn.LeakyReLU(), nn.Dropout(0.1)
            self.classifier = nn.Sequential(*hidden, nn.Linear(size, n_output_logits))

    def subspaces(self, states: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean hidden states of the style group and of the linguistics group, each (B, T, C)."""
        return tuple(torch.stack(states[a:b]).mean(dim=0) for a, b in (self.style_states, self.linguistics_states))

    def dependencies(self, style: torch.Tensor, linguistics: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Dependency features (B, size) of style and of linguistics from their subspaces (B, T, C)."""
        return self.style(style).mean(dim=1), self.linguistics(linguistics).mean(dim=1)

    def forward(self, states: list[torch.Tensor]) -> torch.Tensor:
        subspaces = self.subspaces(states)
        dependencies = self.dependencies(*subspaces)
        if self.classifier is None:
            return F.cosine_similarity(*dependencies, dim=1).unsqueeze(1)
        pooled = [embed(pool(x)) for pool, embed, x in zip(self.pooling, self.embedding, subspaces)]
        return self.classifier(torch.cat([*pooled, *dependencies], dim=1))

    def freeze_dependencies(self) -> None:
        """Freeze the compression modules, batch norm statistics included, and train only the classifier."""
        self.dependencies_frozen = True
        self.unused_parameters = ("style.", "linguistics.")
        self.train(self.training)

    def train(self, mode: bool = True) -> "SLIM":
        super().train(mode)
        if self.dependencies_frozen:
            self.style.eval()
            self.linguistics.eval()
        return self

    def output_layer(self) -> tuple[str, nn.Linear]:
        if self.classifier is None:
            raise ValueError("n_output_logits 1: stage 1 of SLIM has no output layer to train")
        return super().output_layer()


def scaled(group: tuple[int, int], n_layers: int) -> tuple[int, int]:
    """Scale a group [first, end) of XLS-R 300M's hidden states to an encoder of n_layers; at least one state."""
    first, last = (round(place * n_layers / N_LAYERS) for place in group)
    return first, max(last, first + 1)
