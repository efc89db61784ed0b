"""What every front-end shares. Axes: B trials, T frames, C channels."""

import torch
from torch.overrides import TorchFunctionMode

# --ssl from_file: the shape that stands in the file of pre-trained weights.
FROM_FILE = "from_file"


class empty_weights(TorchFunctionMode):
    """Within, weights are not initialised: memory is asked for and not touched. They are about to be loaded with
    `assign=True`, and nothing else may be done with them.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init" or func in (
            torch.Tensor.normal_,
            torch.Tensor.uniform_,
        ):
            return args[0] if args else kwargs["tensor"]
        if func is torch._weight_norm:  # every forward pass makes this product anew
            return args[0].detach()
        return func(*args, **kwargs)


class OtherFrontEnd(ValueError):
    """Settings of an encoder of another family than the one expected."""
