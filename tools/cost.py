"""Cost of a back-end by counting: parameters, and multiply-accumulates of a forward pass."""

import warnings

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from back_ends import BACK_ENDS, build_back_end
from model import ModelConfig, count_parameters

CHANNELS, FRAMES, LAYERS = 1024, 201, 24  # of XLS-R 300M and WavLM Large, on 64,600 samples
PUBLISHED_LAYERS = {"AttM_LSTM": 12}  # of WavLM Large, its first
SCALED_SUMS = (torch.ops.aten.addcmul, torch.ops.aten.addcmul_)
SCALED = (torch.ops.aten.mul, torch.ops.aten.mul_)


class Products(TorchDispatchMode):
    """Context that counts multiply-accumulates in `n`.

    They are those of matrix products, convolutions and weighted sums (Nes2Net-X's of its splits, SLS's of layers,
    Mamba's recurrence). Not counted: norms, activations, gates, pooling and softmax.
    """

    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        operation = function.overloadpacket
        if operation is torch.ops.aten.convolution_backward:
            # Torch's own count of it forgets the groups of a convolution. A product each, as large as the forward one.
            gradient, _, weight, *_, (of_input, of_weight, _) = args
            self.n += (of_input + of_weight) * gradient.numel() * weight[0].numel()
        elif operation in flop_registry:
            self.n += flop_registry[operation](*args, **kwargs, out_val=out) // 2
        elif operation in SCALED_SUMS or (operation in SCALED and any(isinstance(x, nn.Parameter) for x in args)):
            self.n += out.numel()
        return out


def multiply_accumulates(network: nn.Module, *inputs) -> int:
    """Multiply-accumulates of network(*inputs) on the CPU; see Products."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TF32 acceleration on top of oneDNN")
        # Fused LSTMs and attention would hide their products.
        with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            with Products() as products:
                network(*inputs)
    return products.n


def published(name: str) -> tuple:
    """A back-end at its published size, random weights, and features of 4 s or hidden states that it takes."""
    n_states = PUBLISHED_LAYERS.get(name, LAYERS) + 1
    features = torch.randn(1, FRAMES, CHANNELS)
    features = [features] * n_states if BACK_ENDS[name].takes_hidden_states else features
    return build_back_end(ModelConfig(f"wav2vec2_{name}"), CHANNELS, n_states).eval(), features


def costs(network: nn.Module, features) -> dict:
    """Parameters of a back-end, and millions of multiply-accumulates of its forward pass (MMACs)."""
    return {"parameters": count_parameters(network), "MMACs": multiply_accumulates(network, features) / 1e6}
