"""Mamba: two columns of selective state-space blocks, one forward and one backward in time.

Source: Xiao and Das, "XLSR-Mamba: a dual-column bidirectional state space model for spoofing attack detection", 2025;
blocks of Gu and Dao, "Mamba: linear-time sequence modeling with selective state spaces", 2023. Axes: B trials,
T frames, C channels, D inner channels, N state size. Attribute names are those of the published checkpoints.
"""

import math

import torch
from torch import nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from back_ends.common import StemmedBackEnd, attentive_mean

try:  # the authors' CUDA kernel, if it is installed
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
except ImportError:
    selective_scan_fn = None

RMS_EPSILON = 1e-5


class LinearRecurrence(torch.autograd.Function):
    """h_t = a_t h_{t-1} + b_t with h_{-1} = 0, over frames in chunks: a, b -> h, all (chunks, chunk length, ...).

    First all chunks run in parallel from h = 0. A short loop over chunks then computes the state that enters each
    chunk, and a last loop adds that state, times the product of `a` up to the frame. The gradient is the same
    recurrence backward in time and needs only a and h. Memory traffic dominates, so all writes are in place.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        h = torch.empty_like(b)
        h[:, 0] = b[:, 0]
        product = a[:, 0].clone()
        for i in range(1, a.shape[1]):
            torch.addcmul(b[:, i], a[:, i], h[:, i - 1], out=h[:, i])
            product *= a[:, i]
        entering = torch.zeros_like(product)
        for chunk in range(1, len(a)):
            torch.addcmul(h[chunk - 1, -1], product[chunk - 1], entering[chunk - 1], out=entering[chunk])
        for i in range(a.shape[1]):
            entering *= a[:, i]
            h[:, i] += entering
        ctx.save_for_backward(a, h)
        return h

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: FunctionCtx, grad_h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, h = ctx.saved_tensors
        grad_b = torch.empty_like(a)
        grad_b[:, -1] = grad_h[:, -1]
        product = a[:, 0].clone()
        for i in range(a.shape[1] - 1, 0, -1):
            torch.addcmul(grad_h[:, i - 1], a[:, i], grad_b[:, i], out=grad_b[:, i - 1])
            product *= a[:, i]
        # Gradient that enters a chunk from the next one: `a` times the gradient at the next one's first frame.
        entering = torch.zeros_like(product)
        for chunk in range(len(a) - 2, -1, -1):
            torch.mul(a[chunk + 1, 0], grad_b[chunk + 1, 0], out=entering[chunk])
            if chunk + 2 < len(a):
                entering[chunk].addcmul_(product[chunk + 1], entering[chunk + 1])
        for i in range(a.shape[1] - 1, -1, -1):
            grad_b[:, i] += entering
            entering *= a[:, i]
        grad_a = torch.empty_like(a)
        flat_a, flat_b, flat_h = (x.flatten(0, 1) for x in (grad_a, grad_b, h))
        flat_a[0] = 0
        torch.mul(flat_b[1:], flat_h[:-1], out=flat_a[1:])
        return grad_a, grad_b


class ScanByTrial(torch.autograd.Function):
    """selective_scan without d for CPUs: a loop over trials and frames, whose working set stays in the cache.

    x, delta: (B, T, D). a: (D, N). b, c: (B, T, N). Returns (B, T, D). The gradient of h is the same recurrence
    backward in time.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: torch.Tensor, delta: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor
    ) -> torch.Tensor:
        (n_trials, n_frames, n_channels), n_kept = x.shape, len(x) if any(ctx.needs_input_grad) else 1
        decay, h = (x.new_empty(n_kept, n_frames, a.shape[1], n_channels) for _ in range(2))
        a, driven, y = a.T.contiguous(), delta * x, torch.empty_like(x)
        for i in range(n_trials):
            decay_i, h_i = decay[i % n_kept], h[i % n_kept]  # (T, N, D)
            torch.mul(delta[i].unsqueeze(1), a, out=decay_i).exp_()
            torch.mul(driven[i].unsqueeze(1), b[i].unsqueeze(2), out=h_i)
            frames = h_i.unbind()
            for before, frame, factor in zip(frames, frames[1:], decay_i[1:].unbind()):
                frame.addcmul_(factor, before)
            y[i] = (c[i].unsqueeze(1) @ h_i).squeeze(1)
        ctx.save_for_backward(x, delta, a, b, c, decay, h)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: FunctionCtx, grad_y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x, delta, a, b, c, decay, h = ctx.saved_tensors
        driven, grad_driven, grad_delta = delta * x, torch.empty_like(x), torch.zeros_like(delta)
        grad_a, grad_b, grad_c = torch.zeros_like(a), torch.empty_like(b), torch.empty_like(c)
        grad_h, grad_exponent = torch.empty_like(h[0]), torch.empty_like(h[0, 1:])  # (T, N, D), exponent: delta a
        for i in range(len(x)):
            torch.mul(grad_y[i].unsqueeze(1), c[i].unsqueeze(2), out=grad_h)
            frames = grad_h.unbind()
            for before, frame, factor in zip(frames[-2::-1], frames[:0:-1], decay[i].unbind()[:0:-1]):
                before.addcmul_(factor, frame)
            grad_c[i] = (h[i] @ grad_y[i].unsqueeze(2)).squeeze(2)
            grad_b[i] = (grad_h @ driven[i].unsqueeze(2)).squeeze(2)
            grad_driven[i] = (b[i].unsqueeze(1) @ grad_h).squeeze(1)
            torch.mul(grad_h[1:], decay[i, 1:], out=grad_exponent).mul_(h[i, :-1])
            grad_delta[i, 1:] = (grad_exponent * a).sum(dim=1)
            grad_a += grad_exponent.mul_(delta[i, 1:].unsqueeze(1)).sum(dim=0)
        return grad_driven * delta, grad_delta.addcmul_(grad_driven, x), grad_a.T, grad_b, grad_c


def selective_scan(
    x: torch.Tensor, delta: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor
) -> torch.Tensor:
    """y_t = c_t h_t + d x_t with h_t = exp(delta_t a) h_{t-1} + delta_t b_t x_t.

    x, delta: (B, T, D). a: (D, N). b, c: (B, T, N). d: (D,). Returns (B, T, D). Source: Gu and Dao 2023, algorithm 2.
    """
    if selective_scan_fn is not None and x.is_cuda:
        x, delta, b, c = (y.transpose(1, 2).contiguous() for y in (x, delta, b, c))
        return selective_scan_fn(x, delta, a, b, c, d).transpose(1, 2)
    if torch.compiler.is_exporting():
        return _traced_scan(x, delta, a, b, c, d)
    if x.is_cuda:
        return _chunked_scan(x, delta, a, b, c, d)
    return ScanByTrial.apply(x, delta, a, b, c) + d * x


def _chunked_scan(x, delta, a, b, c, d):
    """selective_scan with LinearRecurrence, for GPUs without mamba_ssm."""
    n_frames = x.shape[1]
    length = math.isqrt(n_frames - 1) + 1  # of a chunk; about equal to the number of chunks
    missing = -n_frames % length

    def chunks(y):  # time first: a frame of the whole batch is contiguous
        return F.pad(y.transpose(0, 1), (0, 0, 0, 0, 0, missing)).unflatten(0, (-1, length))

    decay = torch.exp(chunks(delta).unsqueeze(-1) * a)
    h = LinearRecurrence.apply(decay, chunks(delta * x).unsqueeze(-1) @ chunks(b).unsqueeze(-2))
    y = (h @ chunks(c).unsqueeze(-1)).squeeze(-1)  # (chunks, length, B, D)
    return y.flatten(0, 1)[:n_frames].transpose(0, 1) + d * x


def _traced_scan(x, delta, a, b, c, d):
    """selective_scan with an operator that ONNX has, for any length; a traced loop would have a fixed length."""
    from torch._higher_order_ops.scan import scan

    def step(h, frame):
        decay, driven = frame
        h = decay * h + driven
        return h, h.clone()

    delta, driven = delta.transpose(0, 1), (delta * x).transpose(0, 1)  # (T, B, D)
    frames = torch.exp(delta.unsqueeze(-1) * a), driven.unsqueeze(-1) * b.transpose(0, 1).unsqueeze(-2)  # (T, B, D, N)
    _, h = scan(step, torch.zeros_like(frames[0][0]), frames)
    return (h @ c.transpose(0, 1).unsqueeze(-1)).squeeze(-1).transpose(0, 1) + d * x


class Mixer(nn.Module):
    """Gated selective state-space layer, (B, T, C) -> (B, T, C). blocks: number in the column, for initialisation."""

    def __init__(self, size: int, blocks: int, state: int, kernel: int) -> None:
        super().__init__()
        inner, self.rank, self.state = 2 * size, -(-size // 16), state
        self.in_proj = nn.Linear(size, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, kernel, padding=kernel - 1, groups=inner)
        self.x_proj = nn.Linear(inner, self.rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, state + 1)).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, size, bias=False)
        with torch.no_grad():
            nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
            # softplus(bias) is log-uniform in 0.001 ... 0.1.
            step = torch.exp(torch.empty(inner).uniform_(math.log(1e-3), math.log(0.1)))
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))
            self.out_proj.weight /= math.sqrt(blocks)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        x, z = self.in_proj(u).chunk(2, dim=-1)
        x = F.silu(self.conv1d(x.transpose(1, 2))[..., : u.shape[1]]).transpose(1, 2)
        delta, b, c = self.x_proj(x).split([self.rank, self.state, self.state], dim=-1)
        delta = F.softplus(self.dt_proj(delta))
        with torch.autocast(x.device.type, enabled=False):  # a recurrence over all frames needs float32
            y = selective_scan(*(v.float() for v in (x, delta, -torch.exp(self.A_log.float()), b, c, self.D)))
        return self.out_proj(y * F.silu(z))


class RMSNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, RMS_EPSILON)


class Block(nn.Module):
    def __init__(self, size: int, *sizes: int) -> None:
        super().__init__()
        self.norm = RMSNorm(size)
        self.mixer = Mixer(size, *sizes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mixer(self.norm(x))


class DualColumn(nn.Module):
    """Forward and backward columns of blocks with attentive pooling, (B, T, C) -> (B, n_output_logits).

    As published, the last block of each column is not used: the output of the block before it, plus the forward frames
    that enter both columns, is normalised. Its tensors are in the checkpoint but get no gradient.
    """

    def __init__(self, n_output_logits: int, size: int, blocks: int, state: int, kernel: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.1)
        self.forward_layers = nn.ModuleList(Block(size, blocks, state, kernel) for _ in range(blocks))
        self.backward_layers = nn.ModuleList(Block(size, blocks, state, kernel) for _ in range(blocks))
        self.norm_f = RMSNorm(size)
        self.f_attention_pool = nn.Linear(size, 1)
        self.b_attention_pool = nn.Linear(size, 1)
        self.LL = nn.Linear(2 * size, size)
        self.classifier = nn.Linear(size, n_output_logits)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        u = self.dropout(u)
        columns = [
            (u, self.forward_layers, self.f_attention_pool),
            (u.flip(1), self.backward_layers, self.b_attention_pool),
        ]
        pooled = []
        for x, layers, attention in columns:
            for layer in layers[:-1]:
                x = x + layer(x)
            x = self.norm_f(u + x)
            pooled.append(attentive_mean(x, attention(x)).squeeze(1))
        return self.classifier(self.dropout(self.LL(torch.cat(pooled, dim=1))))


class Mamba(StemmedBackEnd):
    """Features (B, T, in_channels) to logits (B, n_output_logits). 1,936,950 parameters at 1024 channels, 2 outputs.

    blocks: blocks per column. state: state size per inner channel. kernel: convolution size in frames.
    """

    not_compiled = "Mamba (a loop over frames, which takes minutes to compile)"

    def __init__(
        self,
        in_channels: int,
        n_output_logits: int = 2,
        size: int = 144,
        blocks: int = 6,
        state: int = 16,
        kernel: int = 4,
    ) -> None:
        super().__init__(in_channels, size)
        # `conformer` is the published name, although this is not a conformer.
        self.conformer = DualColumn(n_output_logits, size, blocks, state, kernel)
        self.unused_parameters = tuple(f"conformer.{way}_layers.{blocks - 1}." for way in ("forward", "backward"))

    def parts_to_compile(self) -> list[tuple[nn.Module, str]]:
        return []

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.conformer(self.stem(features))
