"""Inference precision (fp32, bf16) and one-time preparation of the weights.

bf16: weights, activations and products in bfloat16, sums and normalisations in float32.
"""

import torch
from torch import nn
from torch.nn import functional as F

from common.console import warn
from model import Detector

PRECISIONS = ["fp32", "bf16"]


def check_precision(precision: str, device: torch.device) -> None:
    """Warn about a precision that is slow on the device."""
    if precision == "bf16" and device.type == "cpu" and _has_bf16() is False:
        warn("--precision bf16: this processor does not multiply bfloat16 natively; fp32 is faster")


def _has_bf16():
    """Whether this processor has bfloat16 products; without them bfloat16 is slower than float32. None: unknown."""
    return torch.cpu.get_capabilities().get("avx512_bf16")


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which a detector scores."""
    return torch.autocast(device.type, torch.bfloat16, precision == "bf16")


class _OneDNNLinear(nn.Module):
    """Linear layer computed by oneDNN, which is faster on many processors than torch's default."""

    def __init__(self, linear):
        super().__init__()
        self.weight = linear.weight.detach().to_mkldnn()
        self.bias = None if linear.bias is None else linear.bias.detach().to_mkldnn()

    def forward(self, x):
        return F.linear(x.to(self.weight.dtype).to_mkldnn(), self.weight, self.bias).to_dense()


def prepare(detector: Detector, precision: str) -> None:
    """Prepare a detector, in place, for scoring many trials in a precision. It cannot be trained or saved afterwards.

    Weight normalisation and, on a CPU, rounding of the front-end's weights are done once instead of per batch. On a
    CPU the transformer's linear layers, nearly all of its weights, are computed by oneDNN.
    """
    for other in detector.inside:
        prepare(other, precision)
    front_end = detector.front_end
    for module in front_end.modules():
        if hasattr(module, "weight_g"):
            nn.utils.remove_weight_norm(module)
    if next(detector.parameters()).device.type != "cpu":
        return
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    multiplies = torch.backends.mkldnn.is_available() and (precision == "fp32" or bool(_has_bf16()))
    for name, module in dict(front_end.named_modules()).items():
        if isinstance(module, nn.Conv1d):
            module.to(dtype)
        elif isinstance(module, nn.Linear) and name.endswith((".fc1", ".fc2", "_proj")):
            module.to(dtype)
            if multiplies:
                front_end.set_submodule(name, _OneDNNLinear(module))
