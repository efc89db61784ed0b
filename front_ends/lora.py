"""LoRA: low-rank adapters on the linear projections of an encoder's layers, trained instead of its weights.

W' = W + alpha / rank * B A, with A (rank, in) random, B (out, rank) zero and W frozen, so that training starts from the
original network. The product is added to the weight instead of computing B A x separately: a layer with adapters and
the same layer with merged adapters give bit-identical outputs.
Source: Hu et al., "LoRA: Low-rank adaptation of large language models", 2022, section 4.1; A initialised as in their
code.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

# Names of the linear layers in a transformer layer, the same in all encoders here.
TARGETS = {
    "q,v": ("q_proj", "v_proj"),
    "q,k,v,o": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "all-linear": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
}
ADAPTERS = (".lora_A", ".lora_B")  # suffixes of their parameters


class LoRALinear(nn.Linear):
    """Linear layer with an adapter. It takes over the weight and bias of `linear` under their names."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = alpha / rank
        self.lora_A = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.lora_B = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def merged_weight(self) -> torch.Tensor:
        return low_rank_sum(self.weight, self.lora_A, self.lora_B, self.scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.merged_weight(), self.bias)


def low_rank_sum(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """weight (out, in) + scale * b (out, rank) a (rank, in), in the precision of the weights, without autocast."""
    with torch.autocast(weight.device.type, enabled=False):
        return weight + scale * (b @ a)


def weight_of(linear: nn.Linear) -> torch.Tensor:
    """Effective weight (out, in) of a linear layer, adapter included."""
    return linear.merged_weight() if isinstance(linear, LoRALinear) else linear.weight


def is_adapter(name: str) -> bool:
    """Whether `name` is that of an adapter parameter."""
    return name.endswith(ADAPTERS)


def has_adapters(module: nn.Module) -> bool:
    return any(is_adapter(name) for name, _ in module.named_parameters())


def target_layers(front_end: nn.Module, targets: str) -> list[tuple[nn.Module, str, nn.Linear]]:
    """[(transformer layer, name within it, linear layer)] of an encoder. targets: one of TARGETS."""
    return [
        (layer, name, module)
        for layer in front_end.layers()
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in TARGETS[targets]
    ]


def add_adapters(front_end: nn.Module, rank: int, alpha: float, targets: str) -> int:
    """Add adapters to an encoder's projections. Returns the number of their parameters.

    Raises ValueError if the encoder has no such projections, or if the rank exceeds the size of a projection.
    """
    layers = target_layers(front_end, targets)
    if not layers:
        raise ValueError(f"{type(front_end).__name__} has no layers with {', '.join(TARGETS[targets])}")
    smallest = min(min(linear.weight.shape) for *_, linear in layers)
    if rank > smallest:
        raise ValueError(f"expected at most {smallest}, the width of the smallest projection, found {rank}")
    for layer, name, linear in layers:
        layer.set_submodule(name, LoRALinear(linear, rank, alpha))
    return n_adapter_parameters(front_end, rank, targets)


def n_adapter_parameters(front_end: nn.Module, rank: int, targets: str) -> int:
    """Number of parameters of such adapters, before or after add_adapters."""
    return rank * sum(linear.in_features + linear.out_features for *_, linear in target_layers(front_end, targets))


def merged_state_dict(module: nn.Module) -> dict[str, torch.Tensor]:
    """State dict of a module with all adapters merged into their weights; the module is not changed."""
    state_dict = module.state_dict()
    for name, child in module.named_modules():
        if isinstance(child, LoRALinear):
            state_dict[f"{name}.weight"] = child.merged_weight().detach()
            for adapter in ADAPTERS:
                del state_dict[name + adapter]
    return state_dict


def merge_adapters(module: nn.Module) -> None:
    """Merge all adapters of a module into their weights and remove them."""
    for name, child in list(module.named_modules()):
        if isinstance(child, LoRALinear):
            linear = nn.Linear(child.in_features, child.out_features, child.bias is not None, device="meta")
            linear.weight, linear.bias = nn.Parameter(child.merged_weight().detach()), child.bias
            module.set_submodule(name, linear)
