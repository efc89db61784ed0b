"""Several processes at one job, started by torchrun; a process alone is a job of one, and then nothing here is costly.

One group serves tensors of both kinds: gloo those in memory, NCCL those on a GPU.
"""

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.autograd.function import FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm


def join(backend: str | None = None, timeout: timedelta | None = None) -> int:
    """Meet the other processes that torchrun started. Returns the number of this one on its machine (0 alone).

    backend: what they talk by; None: see above. timeout: how long they wait for each other; None: torch's.
    """
    if "RANK" in os.environ and not dist.is_initialized():
        backend = backend or ("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        dist.init_process_group(backend, timeout=timeout)
    return int(os.environ.get("LOCAL_RANK", 0))


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def total(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes; no gradient flows through it."""
    if world_size() == 1:
        return tensor
    tensor = tensor.clone()
    dist.all_reduce(tensor)
    return tensor


def sum_of_all(tensor: torch.Tensor) -> torch.Tensor:
    """total(), with the gradient: every process's value counts in every process's sum."""
    return tensor if world_size() == 1 else _Sum.apply(tensor)


def highest(*numbers: float) -> Sequence[float]:
    """The highest of each number over all processes, as floats."""
    if world_size() == 1:
        return numbers
    tensor = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.tolist()


def gather(value: object) -> list:
    """Every process's value (anything that pickles), in the order of their ranks."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def say(text: str) -> None:
    """Print, once for all processes."""
    if rank() == 0:
        print(text, flush=True)


def rows_of_all(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, slice]:
    """The rows (n, ...) of all processes, a batch of which each has a share: (rows, which of them are there, this
    process's own). Those that are not there, for a process has fewer than another, are 0. The gradient of every
    process's rows is that of the sum of all processes' losses.
    """
    n = len(rows)
    if world_size() == 1:
        return rows, torch.ones(n, dtype=torch.bool, device=rows.device), slice(0, n)
    most = int(highest(n)[0])
    own = slice(rank() * most, rank() * most + n)
    everyone = rows.new_zeros(world_size() * most, *rows.shape[1:])
    there = torch.zeros(len(everyone), dtype=torch.int32, device=rows.device)
    everyone[own], there[own] = rows, 1
    return sum_of_all(everyone), total(there).bool(), own


def synchronise_batch_norm(module: torch.nn.Module) -> None:
    """Make every batch norm below `module` normalise by the statistics of all processes' batches together.

    nn.SyncBatchNorm does so on GPUs only; this works wherever all_reduce does, counts a batch that is larger on one
    process than on another as it should, and leaves modules and state dict as they are.
    """
    for child in module.modules():
        if isinstance(child, _BatchNorm):
            child.forward = _synchronised.__get__(child)


class _Sum(torch.autograd.Function):
    """total(), with the gradient: every process's value counts in every process's sum."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        return total(x)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        return total(gradient)


def _synchronised(self, x):
    if not self.training:
        return type(self).forward(self, x)
    axes = [0, *range(2, x.dim())]
    along = (1, -1, *[1] * (x.dim() - 2))
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    sums = _Sum.apply(torch.cat([values.sum(axes), values.new_full((1,), values.numel() / values.shape[1])]))
    n = sums[-1].detach()
    mean = sums[:-1] / n
    centred = values - mean.view(along)
    variance = _Sum.apply(centred.square().sum(axes)) / n
    with torch.no_grad():
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * n / (n - 1), self.momentum)
    out = centred * torch.rsqrt(variance + self.eps).view(along)
    if self.affine:
        out = out * self.weight.view(along) + self.bias.view(along)
    return out.to(x.dtype)
