"""Communication between the processes of a job started by torchrun. A single process needs no torchrun and no overhead.

One process group serves all tensors: gloo those in CPU memory, NCCL those on a GPU.
"""

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.autograd.function import FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm


def join(backend: str | None = None, timeout: timedelta | None = None) -> int:
    """Join the process group if torchrun started this process. Returns its local rank (0 for a single process).

    backend: of torch.distributed; None: see above. timeout: of collective operations; None: torch's default.
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
    """total() with a gradient: every process's tensor enters the sum of every process."""
    return tensor if world_size() == 1 else _Sum.apply(tensor)


def highest(*numbers: float) -> Sequence[float]:
    """The maximum of each number over all processes, as floats."""
    if world_size() == 1:
        return numbers
    tensor = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.tolist()


def gather(value: object) -> list:
    """The values (any picklable objects) of all processes, ordered by rank."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def say(text: str) -> None:
    """Print on rank 0 only."""
    if rank() == 0:
        print(text, flush=True)


def rows_of_all(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, slice]:
    """Gather the rows (n, ...) of all processes, each of which holds a part of the batch.

    Returns (rows, is_trial, own): the rows, padded with 0 for processes that have fewer than others; a bool mask of the
    rows that are no padding; the slice of this process's rows. The gradient of every process's rows is that of the
    sum of all processes' losses.
    """
    n = len(rows)
    if world_size() == 1:
        return rows, torch.ones(n, dtype=torch.bool, device=rows.device), slice(0, n)
    most = int(highest(n)[0])
    own = slice(rank() * most, rank() * most + n)
    everyone = rows.new_zeros(world_size() * most, *rows.shape[1:])
    is_trial = torch.zeros(len(everyone), dtype=torch.int32, device=rows.device)
    everyone[own], is_trial[own] = rows, 1
    return sum_of_all(everyone), total(is_trial).bool(), own


def synchronise_batch_norm(module: torch.nn.Module) -> None:
    """Let every batch norm within `module` use the statistics of the whole batch, over all processes.

    Unlike nn.SyncBatchNorm, which needs GPUs, this works wherever all_reduce does. Processes may hold different numbers
    of trials. Modules and state dict stay the same.
    """
    for child in module.modules():
        if isinstance(child, _BatchNorm):
            child.forward = _synchronised.__get__(child)


class _Sum(torch.autograd.Function):
    """total() with a gradient: every process's tensor enters the sum of every process."""

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
