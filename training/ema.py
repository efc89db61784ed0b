"""An exponential moving average of the weights, beside those that are trained."""

from collections.abc import Iterable

import torch

from common.console import UserError


class WeightAverage:
    """The average of tensors that training changes: after every step, mean ← decay · mean + (1 - decay) · tensor.

    It begins at their values of now. `put(True)` exchanges tensors and averages, `put(False)` exchanges them back.
    """

    def __init__(self, tensors: Iterable[torch.Tensor], decay: float) -> None:
        self.tensors, self.decay = list(tensors), decay
        self.means = [tensor.detach().clone() for tensor in self.tensors]
        self.in_place = False

    @torch.no_grad()
    def update(self, counts: torch.Tensor) -> None:
        """Take a step into account. counts: a scalar on the device, False for a step that was skipped."""
        weight = (1 - self.decay) * counts.to(self.means[0].dtype)
        torch._foreach_lerp_(self.means, [tensor.detach() for tensor in self.tensors], [weight] * len(self.means))

    def put(self, averaged: bool) -> None:
        """Let the tensors hold their averages, or what is trained."""
        if averaged != self.in_place:
            for tensor, mean in zip(self.tensors, self.means):
                tensor.data, mean.data = mean.data, tensor.data
            self.in_place = averaged

    def load(self, means: list[torch.Tensor], path: object) -> None:
        """Go on from saved averages. Raises UserError if those of the file `path` are of other tensors."""
        if [mean.shape for mean in means] != [mean.shape for mean in self.means]:
            raise UserError(f"{path}: expected the averages of --ema, found others")
        torch._foreach_copy_(self.means, means)
