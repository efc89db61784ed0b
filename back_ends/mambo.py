"""XLSR-MamBo: units of state-space mixers (bidirectional Hydra, or Mamba-2), feed-forward layers and attention.

Source: Ng et al., "XLSR-MamBo: scaling the hybrid Mamba-attention backbone for audio deepfake detection", Findings of
ACL 2026 (arXiv 2601.02944), and its released code; Hwang et al., "Hydra: bidirectional state space models through
generalized matrix mixers", NeurIPS 2024; Dao and Gu, "Transformers are SSMs: generalized models and efficient
algorithms through structured state space duality" (Mamba-2), ICML 2024. Axes: B trials, T frames, C channels, H heads,
P channels per head, N state size. Attribute names are those of the published checkpoints.
"""

import math
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from back_ends.base import BackEnd
from back_ends.common import attentive_mean
from back_ends.mamba import RMSNorm

# Published names of a unit's layers. mamba: `hydras` mixers, mlp: feed-forward, mha: attention.
LAYOUTS = {
    1: ("mamba", "mlp"),
    2: ("mamba", "mha"),
    3: ("mamba", "mlp", "mha", "mlp"),
    4: ("mamba", "mlp", "mamba", "mha"),
}
HEAD = 64  # channels per head of a mixer; the released code ignores the 32 of its configuration
ATTENTION_HEADS = 4
ATTENTION_TAPS = 4  # convolution size in frames


def linear(n_in: int, n_out: int, bias: bool = False) -> nn.Linear:
    """Linear layer, initialised as in the released code."""
    layer = nn.Linear(n_in, n_out, bias)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    return layer


def step_bias(heads: int) -> nn.Parameter:
    """Initial step sizes of a mixer, (heads,), before the softplus, which is log-uniform in 0.001 ... 0.1."""
    step = torch.exp(torch.empty(heads).uniform_(math.log(1e-3), math.log(0.1)))
    return nn.Parameter(step + torch.log(-torch.expm1(-step)))


def mix(a: torch.Tensor, x: torch.Tensor, dt: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Causal scan over frames: y_i = c_i h_i with h_i = exp(dt_i a) h_{i-1} + dt_i b_i x_i.

    a: (H,). x: (B, T, H, P). dt: (B, T, H). b, c: (B, T, N), shared by the heads. Returns (B, T, H, P). Computed as a
    matrix product with entries c_i b_j exp(a (dt_{j+1} + ... + dt_i)), which is faster than a loop over frames for
    utterances.
    """
    n_frames = x.shape[1]
    total = (dt * a).cumsum(dim=1).transpose(1, 2)  # (B, H, T)
    later = torch.ones(n_frames, n_frames, dtype=torch.bool, device=x.device).triu(1)
    decay = (total.unsqueeze(3) - total.unsqueeze(2)).masked_fill(later, -math.inf).exp()  # (B, H, T, T)
    y = (decay * (c @ b.mT).unsqueeze(1)) @ (dt.unsqueeze(3) * x).transpose(1, 2)
    return y.transpose(1, 2)


def mix_earlier(a: torch.Tensor, x: torch.Tensor, dt: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """`mix` delayed by one frame: each output depends only on the frames before it; y_0 = 0."""
    return F.pad(mix(a, x, dt, b, c), (0, 0, 0, 0, 1, 0))[:, : x.shape[1]]


class Hydra(nn.Module):
    """Bidirectional mixer: two scans over the other frames and a weight for the frame itself, (B, T, C) -> (B, T, C).

    state: state size per inner channel. kernel: convolution size in frames.
    """

    def __init__(self, size: int, state: int, kernel: int) -> None:
        super().__init__()
        inner, heads = 2 * size, 2 * size // HEAD
        self.sizes = [inner, inner + 4 * state, 2 * heads]  # gate; x with b and c of both directions; steps of both
        self.in_proj = nn.Linear(size, sum(self.sizes), bias=False)
        self.conv1d = nn.Conv1d(self.sizes[1], self.sizes[1], kernel, padding=kernel // 2, groups=self.sizes[1])
        self.dt_bias = step_bias(heads)
        self.A_log = nn.Parameter(torch.zeros(heads))
        self.D = nn.Parameter(torch.ones(heads))
        self.fc_D = nn.Linear(inner, heads, bias=False)
        self.norm = RMSNorm(inner)
        self.out_proj = nn.Linear(inner, size, bias=False)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        z, mixed, dt = self.in_proj(u).split(self.sizes, dim=-1)
        mixed = F.silu(self.conv1d(mixed.transpose(1, 2)).transpose(1, 2))
        with torch.autocast(u.device.type, enabled=False):  # sums over all frames need their float32
            mixed, dt = (v.to(self.A_log.dtype) for v in (mixed, dt))
            x, b_and_c = mixed.tensor_split([self.sizes[0]], dim=-1)
            dt = F.softplus(dt.unflatten(-1, (2, -1)) + self.dt_bias)
            weights = F.linear(x, self.fc_D.weight, self.D).unsqueeze(-1)  # (B, T, H, 1)
            x = x.unflatten(-1, (-1, HEAD))
            y = weights * x + self.mix(x, dt, b_and_c.unflatten(-1, (2, 2, -1)))
        return self.out_proj(self.norm(y.flatten(2)) * F.silu(z))

    def mix(self, x: torch.Tensor, dt: torch.Tensor, b_and_c: torch.Tensor) -> torch.Tensor:
        """Sum of forward and backward scans: x (B, T, H, P), dt (B, T, 2, H), b_and_c (B, T, 2, 2, N) -> (B, T, H, P).

        Axis 2 is the direction, forward then backward.
        """
        a = -self.A_log.exp()
        forward, backward = ((x, dt[:, :, way], *b_and_c[:, :, way].unbind(2)) for way in (0, 1))
        return mix_earlier(a, *forward) + mix_earlier(a, *(v.flip(1) for v in backward)).flip(1)


class Mamba2(nn.Module):
    """Causal mixer, (B, T, C) -> (B, T, C). state, kernel: see Hydra."""

    def __init__(self, size: int, state: int, kernel: int) -> None:
        super().__init__()
        inner, heads = 2 * size, 2 * size // HEAD
        self.sizes = [inner, inner + 2 * state, heads]  # gate; x with b and c; steps
        self.in_proj = nn.Linear(size, sum(self.sizes), bias=False)
        self.conv1d = nn.Conv1d(self.sizes[1], self.sizes[1], kernel, padding=kernel - 1, groups=self.sizes[1])
        self.dt_bias = step_bias(heads)
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = RMSNorm(inner)
        self.out_proj = nn.Linear(inner, size, bias=False)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        z, mixed, dt = self.in_proj(u).split(self.sizes, dim=-1)
        mixed = F.silu(self.conv1d(mixed.transpose(1, 2))[..., : u.shape[1]]).transpose(1, 2)
        with torch.autocast(u.device.type, enabled=False):  # sums over all frames need their float32
            mixed, dt = (v.to(self.A_log.dtype) for v in (mixed, dt))
            x, b_and_c = mixed.tensor_split([self.sizes[0]], dim=-1)
            x, dt = x.unflatten(-1, (-1, HEAD)), F.softplus(dt + self.dt_bias)
            y = mix(-self.A_log.exp(), x, dt, *b_and_c.chunk(2, dim=-1)) + self.D.unsqueeze(-1) * x
        return self.out_proj(self.norm(y.flatten(2) * F.silu(z)))


MIXERS = {"Hydra": Hydra, "Mamba2": Mamba2}


class FeedForward(nn.Module):
    """SwiGLU feed-forward layer, (B, T, C) -> (B, T, C)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        hidden = 8 * size // 3
        self.w1_w3_combined = linear(size, 2 * hidden)
        self.w2_out = linear(hidden, size)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = self.w1_w3_combined(x).chunk(2, dim=-1)
        return self.dropout(self.w2_out(F.silu(gate) * value))


class Attention(nn.Module):
    """Self-attention after a causal convolution of queries, keys and values, (B, T, C) -> (B, T, C)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(size, 3 * size)
        self.conv1d = nn.Conv1d(3 * size, 3 * size, ATTENTION_TAPS, padding=ATTENTION_TAPS - 1, groups=3 * size)
        self.out_proj = nn.Linear(size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.conv1d(self.in_proj(x).transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
        q, k, v = qkv.unflatten(-1, (3, ATTENTION_HEADS, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, T, channels)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Pre-norm residual layer, x + mixer(norm(x)), (B, T, C) -> (B, T, C). kind: published name of the mixer."""

    def __init__(self, kind: str, mixer: nn.Module, size: int) -> None:
        super().__init__()
        self.norm, self.kind = RMSNorm(size), kind
        self.add_module(kind, mixer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + getattr(self, self.kind)(self.norm(x))


class Layers(nn.Module):
    def __init__(self, kinds: list[str], size: int, mixer: type[nn.Module], state: int, kernel: int) -> None:
        super().__init__()
        mixers = {
            "mamba": lambda: mixer(size, state, kernel),
            "mlp": lambda: FeedForward(size),
            "mha": lambda: Attention(size),
        }
        self.layers = nn.ModuleList(Layer(kind, mixers[kind](), size) for kind in kinds)
        self.norm = RMSNorm(size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class Stem(nn.Module):
    def __init__(self, in_channels: int, size: int) -> None:
        super().__init__()
        self.input_proj = nn.Linear(in_channels, size, bias=False)
        self.norm = RMSNorm(size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return F.silu(self.norm(self.input_proj(features)))


class GatedPool(nn.Module):
    """Attentive mean over time; a gated MLP gives the attention logits, (B, T, C) -> (B, C)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        hidden = 8 * size // 3
        self.gate_value_proj = linear(size, 2 * hidden)
        self.to_score = linear(hidden, 1)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = self.gate_value_proj(x).chunk(2, dim=-1)
        return self.dropout(attentive_mean(x, self.to_score(F.silu(gate) * value)).squeeze(1))


def kinds_of_layers(layout: int, units: int, hydras: int) -> list[str]:
    return units * [kind for kind in LAYOUTS[layout] for _ in range(hydras if kind == "mamba" else 1)]


class MamBo(BackEnd):
    """Features (B, T, in_channels) to logits (B, n_output_logits). 693,615 parameters at 1024 channels, 2 outputs.

    layout: 1 to 4, see LAYOUTS. units: number of repetitions of the layout. mixer: Hydra, or Mamba2 (kernel 4 in the
    authors' code). hydras: number of mixers for each "mamba" of a layout. state, kernel: see Hydra. The authors do not
    define the N of MamBo-4-Hydra-N1; with N = 1, `units` and `hydras` both have their defaults. Their encoder
    (torchaudio) normalises a batch of waveforms jointly; here every waveform is normalised alone, so that scores do not
    depend on the batch.
    """

    normalizes = True
    test_samples = 66_800

    def __init__(
        self,
        in_channels: int,
        n_output_logits: int = 2,
        layout: int = 4,
        units: int = 1,
        hydras: int = 1,
        size: int = 128,
        state: int = 64,
        kernel: int = 7,
        mixer: Literal["Hydra", "Mamba2"] = "Hydra",
    ) -> None:
        super().__init__()
        if layout not in LAYOUTS:
            raise ValueError(f"layout: expected one of {', '.join(map(str, LAYOUTS))}, found {layout}")
        for name, value in {"units": units, "hydras": hydras, "state": state}.items():
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, found {value}")
        if size < 1 or 2 * size % HEAD:
            raise ValueError(f"size: expected a multiple of {HEAD // 2}, found {size}")
        if mixer == "Hydra" and kernel % 2 == 0:
            raise ValueError(f"kernel: expected an odd number, found {kernel}")
        self.input_proj = Stem(in_channels, size)
        layers = Layers(kinds_of_layers(layout, units, hydras), size, MIXERS[mixer], state, kernel)
        self.stacked_mamba2 = nn.ModuleDict({"layers": layers})
        self.attention_pool = GatedPool(size)
        self.classifier = linear(size, n_output_logits, bias=True)

    @staticmethod
    def read_off(state_dict: dict[str, torch.Tensor]) -> dict:
        names = [name.split(".") for name in state_dict if name.startswith("stacked_mamba2.layers.layers.")]
        by_place = {int(name[3]): name[4] for name in names if name[4] != "norm"}
        kinds = [by_place[i] for i in range(len(by_place))]
        first = "stacked_mamba2.layers.layers.0.mamba."
        mixer = "Hydra" if first + "fc_D.weight" in state_dict else "Mamba2"
        kernel = state_dict[first + "conv1d.weight"].shape[-1]
        hydras = [kind == "mamba" for kind in [*kinds, "end"]].index(False)
        for layout in LAYOUTS:
            units = len(kinds) // len(kinds_of_layers(layout, 1, hydras))
            if kinds == kinds_of_layers(layout, units, hydras):
                return {"layout": layout, "units": units, "hydras": hydras, "mixer": mixer, "kernel": kernel}
        raise ValueError("unexpected order of layers")

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.attention_pool(self.stacked_mamba2["layers"](self.input_proj(features))))
