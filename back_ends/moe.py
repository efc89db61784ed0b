"""MoE: two of 96 experts (four per encoder layer) transform each frame, then AASIST.

Source: the released code of "Mixture of experts fusion for fake audio detection using frozen wav2vec 2.0", 2024;
routing of Shazeer et al., "Outrageously large neural networks", 2017. Axes: B trials, T frames, C channels,
F = B T frames in total, K experts per frame, E experts. Attribute names are those of the published checkpoints.
"""

import torch
from torch import nn
from torch.nn import functional as F

from back_ends.aasist import AASIST
from back_ends.base import BackEnd


class Expert(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Linear(channels, hidden)
        self.conv2 = nn.Linear(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(F.relu(self.conv1(x)))


class ExpertFusion(nn.Module):
    """Mixture of experts over hidden states, L + 1 of (B, T, C) -> (B, T, C).

    The last state, the encoder's output, selects the experts of each frame; a selected expert is applied to the input
    of its layer. In training, noise of a learned standard deviation is added to the gates, which all start at zero and
    would otherwise stay equal. Experts that no frame selects get zero gradients.
    """

    def __init__(self, n_layers: int, channels: int, experts_per_layer: int, chosen: int, hidden: int) -> None:
        super().__init__()
        n_experts = experts_per_layer * n_layers
        if chosen > n_experts:
            raise ValueError(f"chosen {chosen}: expected at most {n_experts}, the number of experts")
        self.experts_per_layer, self.chosen = experts_per_layer, chosen
        self.w_gate = nn.Parameter(torch.zeros(channels, n_experts))
        self.w_noise = nn.Parameter(torch.zeros(channels, n_experts))
        self.experts = nn.ModuleList(Expert(channels, hidden) for _ in range(n_experts))

    def forward(self, states: list[torch.Tensor]) -> torch.Tensor:
        *layers, last = (state.flatten(0, 1) for state in states)  # (F, C)
        gates = last @ self.w_gate
        if self.training:
            gates = gates + torch.randn_like(gates) * (F.softplus(last @ self.w_noise) + 0.01)
        gates, chosen = gates.topk(self.chosen, dim=1)  # (F, K)

        # A CPU runs each expert on its own frames only, which saves most work. On a GPU, counting them needs a sync.
        rebuild = self._in_blocks if last.is_cuda else self._one_by_one
        if torch.compiler.is_exporting():
            rebuild = self._by_all
        outputs = rebuild(layers, chosen)  # (F, K, C)
        # log(sum(gate * exp(output))); logsumexp neither overflows nor needs a floor.
        fused = torch.logsumexp(outputs + torch.log_softmax(gates, dim=1).unsqueeze(-1), dim=1)
        return fused.unflatten(0, states[0].shape[:2])

    def _one_by_one(self, layers, chosen):
        """Sort the frames by expert, so that each expert runs once, on its own frames only."""
        order = chosen.flatten().argsort(stable=True)
        counts = chosen.flatten().bincount(minlength=len(self.experts)).tolist()
        outputs = [
            expert(layers[e // self.experts_per_layer][rows // self.chosen])
            for e, (expert, rows) in enumerate(zip(self.experts, order.split(counts)))
        ]
        return torch.cat(outputs)[order.argsort()].unflatten(0, (-1, self.chosen))

    def _by_all(self, layers, chosen):
        """The same with every expert on every frame: shapes in an exported graph cannot depend on the selection."""
        outputs = 0
        for e, expert in enumerate(self.experts):
            is_chosen = (chosen == e).unsqueeze(-1)  # (F, K, 1)
            outputs = outputs + is_chosen * expert(layers[e // self.experts_per_layer]).unsqueeze(1)
        return outputs

    def _in_blocks(self, layers, chosen):
        """The same without a sync, in shapes that do not depend on the selection.

        The frames of each expert are padded to blocks of S rows. One batched matrix product multiplies every block by
        the weights of its expert.
        """
        n_experts, n_frames, n = len(self.experts), len(chosen), chosen.numel()
        size = 16 * -(-n // (16 * n_experts))  # S: mean frames per expert; about half of all rows are padding
        n_blocks = n // size + n_experts  # enough for any selection
        experts, order = chosen.flatten().sort(stable=True)
        numbers = torch.arange(max(n, n_blocks * size), device=chosen.device)
        first = torch.searchsorted(experts, numbers[:n_experts])
        counts = torch.searchsorted(experts, numbers[:n_experts], right=True) - first
        blocks = (counts + size - 1) // size  # (E,)
        ends = blocks.cumsum(0)
        places = torch.empty_like(order)  # row in the blocks of each frame and selected expert
        places[order] = ((ends - blocks) * size - first)[experts] + numbers[:n]
        expert_of = torch.searchsorted(ends, numbers[:n_blocks], right=True).clamp(max=n_experts - 1)

        # Input row of each place, among the frames of all layers. Padding reads many different rows, because gradients
        # of the same row are accumulated serially.
        layer = chosen // self.experts_per_layer
        rows = numbers[: n_blocks * size] % (len(layers) * n_frames)
        rows[places] = (layer * n_frames + numbers[:n_frames, None]).flatten()
        x = torch.cat(layers)[rows].unflatten(0, (-1, size))  # (blocks, S, C)
        hidden = F.relu(self._product(x, "conv1", expert_of))
        return self._product(hidden, "conv2", expert_of).flatten(0, 1)[places].unflatten(0, (-1, self.chosen))

    def _product(self, x, name, expert_of):
        """Apply linear layer `name` of each block's expert, (blocks, S, in) -> (blocks, S, out)."""
        linears = [getattr(expert, name) for expert in self.experts]
        weights = torch.stack([linear.weight for linear in linears])[expert_of]
        biases = torch.stack([linear.bias for linear in linears])[expert_of]
        return torch.baddbmm(biases.unsqueeze(1), x, weights.transpose(1, 2))


class MoE(BackEnd):
    """Hidden states, L + 1 of (B, T, in_channels), to logits (B, n_output_logits).

    chosen: experts selected per frame. hidden: hidden size of an expert. The fusion has 25,473,024 parameters at 24
    layers of 1024 channels, in addition to those of AASIST.
    """

    takes_hidden_states = True
    least_layers = 1
    # Parameters of a load-balancing loss, whose weight is zero in the released code.
    unused_tensors = ("moe_l.mean", "moe_l.std")
    unused_parameters = tuple(f"classifier.{name}" for name in AASIST.unused_parameters)

    def __init__(
        self,
        in_channels: int,
        n_hidden_states: int = 25,
        n_output_logits: int = 2,
        experts_per_layer: int = 4,
        chosen: int = 2,
        hidden: int = 128,
    ) -> None:
        super().__init__()
        self.moe_l = ExpertFusion(n_hidden_states - 1, in_channels, experts_per_layer, chosen, hidden)
        self.classifier = AASIST(in_channels, n_output_logits)

    def forward(self, states: list[torch.Tensor]) -> torch.Tensor:
        return self.classifier(self.moe_l(states))

    @staticmethod
    def score(logits: torch.Tensor) -> torch.Tensor:
        return torch.softmax(logits, dim=1)[:, 1]
