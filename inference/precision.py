"""What a detector computes in when it scores, and how it is made ready for that.

fp32; bf16: weights, activations and products in bfloat16, sums and normalisations in float32; int8, on a CPU: the
linear layers of the encoder's transformer, nearly all of its weights, in 8 bits.
"""

import functools
import warnings

import torch
from torch import nn
from torch.nn import functional as F

from common.console import UserError, warn
from front_ends.attention import Attention

PRECISIONS = ["fp32", "bf16", "int8"]


def check_precision(precision, device):
    """Raises UserError for a precision that the device has not; warns of one that it is slow in."""
    if precision == "bf16" and device.type == "cpu" and _has_bf16() is False:
        warn("--precision bf16: this processor does not multiply bfloat16, fp32 and int8 are faster")
    if precision == "int8" and device.type != "cpu":
        raise UserError("--precision int8: expected a CPU, found a GPU; set CUDA_VISIBLE_DEVICES= (empty) to leave it")


def _has_bf16():
    """Does this processor multiply bfloat16? Others take longer for it than for float32. None: not known."""
    return torch.cpu.get_capabilities().get("avx512_bf16")


def _rounds(precision):
    """Is anything done in bf16? With int8, what is not in 8 bits is, where the processor multiplies it."""
    return precision == "bf16" or precision == "int8" and bool(_has_bf16())


def autocast(precision, device):
    """The context in which a detector scores."""
    return torch.autocast(device.type, torch.bfloat16, _rounds(precision))


class _PackedLinear(nn.Module):
    """A linear layer for inference, its weights laid out once as oneDNN multiplies them, not in every product.

    Its operators are those that torch.compile puts in the place of linear layers on a CPU.
    """

    def __init__(self, linear, dtype):
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype))
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(self, x):
        return torch.ops.mkldnn._linear_pointwise(x.to(self.weight.dtype), self.weight, self.bias, "none", [], "")


class _PackedConvolution(nn.Module):
    """The same of a convolution over time, padded, of stride 1, (B, C, T) -> (B, C, T)."""

    def __init__(self, conv, dtype):
        super().__init__()
        self.bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        self.shape = [0, *conv.padding], [1, *conv.stride], [1, *conv.dilation], conv.groups
        size = [1, conv.in_channels, 1, 250]  # (B, C, 1, T), for example: any B and T are as fast
        weight = conv.weight.detach().to(dtype).unsqueeze(2)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *self.shape, size)

    def forward(self, x):
        # Of lengths in steps of 64, by more of the zeros that pad it anyway: for every new one oneDNN writes machine
        # code, which takes nearly as long as the convolution.
        more = -x.shape[2] % 64
        x = F.pad(x.to(self.weight.dtype), (0, more)).unsqueeze(2).contiguous(memory_format=torch.channels_last)
        x = torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.shape, "none", [], "")
        return x.squeeze(2)[:, :, : x.shape[3] - more]


def _float32_inside(norm, x):
    """A layer norm that gives out the type that it is fed, where autocast would make it float32."""
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _weigh(q, k, v, attn_mask, dropout_p):
    """F.scaled_dot_product_attention in bf16 by plain matrix products, (B, H, T, D), where they fit in memory.

    Without AMX torch's own takes up to one and a half times as long.
    """
    trials, heads, frames, channels = q.shape
    if frames > 2000:
        return F.scaled_dot_product_attention(q, k, v, attn_mask)
    with torch.autocast("cpu", enabled=False):
        q, k, v = (x.bfloat16() for x in (q, k, v))
        q, v = (x.reshape(trials * heads, frames, channels) for x in (q, v))
        # As one matrix of all trials and heads, which torch transposes in less than half the time of one for each.
        k = k.permute(2, 0, 1, 3).reshape(frames, -1).t().contiguous().view(trials * heads, channels, frames)
        bias = q.new_zeros(1, 1, 1) if attn_mask is None else attn_mask.bfloat16().reshape(-1, frames, frames)
        weights = torch.baddbmm(bias, q, k, beta=attn_mask is not None, alpha=channels**-0.5)
        torch.softmax(weights, -1, out=weights)  # in place: no new memory to fetch
        return (weights @ v).view(trials, heads, frames, channels)


def prepare(detector, precision):
    """Make a detector ready to score many trials in that precision, in place; nothing else can be done with it then.

    What every batch would do anew to the weights of the front-end is done once: normalising and rounding them, and, on
    a CPU, laying them out in the order in which they are multiplied. int8: what a linear layer is fed is quantised as
    it comes, by its own range.
    """
    front_end = detector.front_end
    modules = dict(front_end.named_modules())
    for module in modules.values():
        if hasattr(module, "weight_g"):
            nn.utils.remove_weight_norm(module)
    if next(detector.parameters()).device.type != "cpu":
        return
    convolutions = {name: module for name, module in modules.items() if isinstance(module, nn.Conv1d)}
    linear = {
        name: module
        for name, module in modules.items()
        if isinstance(module, nn.Linear) and name.endswith((".fc1", ".fc2", "_proj"))
    }
    packs = torch.backends.mkldnn.is_available()
    dtype = torch.float32
    if _rounds(precision):
        dtype = torch.bfloat16
        packs &= torch.ops.mkldnn._is_mkldnn_bf16_supported()
        for module in convolutions.values():
            module.to(dtype)
        for module in modules.values():
            if isinstance(module, Attention) and _has_bf16() and not torch.cpu.get_capabilities().get("amx_bf16"):
                module.weigh = _weigh
    if precision == "bf16":
        for module in modules.values():
            if isinstance(module, nn.LayerNorm):
                module.forward = functools.partial(_float32_inside, module)
    if precision == "int8":
        _quantize(front_end, linear)
    elif packs:
        for name, module in linear.items():
            front_end.set_submodule(name, _PackedLinear(module, dtype))
    if packs:
        for name, module in convolutions.items():
            if ".pos_conv." in name:
                front_end.set_submodule(name, _PackedConvolution(module, dtype))


def _quantize(front_end, linear):
    """Give these linear layers, {name: module}, 8-bit weights, in place."""
    from torch.ao.quantization import default_dynamic_qconfig, quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to move it into a package of its own
        quantize_dynamic(front_end, dict.fromkeys(linear, default_dynamic_qconfig), inplace=True)
    for name in linear:
        module = front_end.get_submodule(name)
        module.forward = functools.partial(lambda forward, x: forward(x.float()), module.forward)
