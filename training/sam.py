"""Sharpness-aware minimisation: the gradient of a step is that at nearby weights where the loss is higher.

Source: Foret et al., "Sharpness-aware minimization for efficiently improving generalization", 2021, algorithm 1;
adaptive: Kwon et al., "ASAM", 2021, equation 3 without its eta.
"""

from collections.abc import Sequence

import torch
from torch import nn


@torch.no_grad()
def climb(parameters: Sequence[nn.Parameter], rho: float, adaptive: bool) -> list[torch.Tensor]:
    """Add e = rho g / ||g|| to parameters w of gradients g, the norm over all of them.

    adaptive: e = rho w² g / || |w| g ||, by element. A gradient that is not finite makes every parameter NaN.

    Returns the parameters' values before.
    """
    gradients = [parameter.grad for parameter in parameters]
    before = [parameter.clone() for parameter in parameters]
    sizes = torch._foreach_abs(before) if adaptive else None
    directions = torch._foreach_mul(gradients, sizes) if adaptive else gradients
    norm = nn.utils.get_total_norm(directions)
    if adaptive:
        torch._foreach_mul_(directions, sizes)
    torch._foreach_add_(parameters, torch._foreach_mul(directions, rho / (norm + 1e-12)))
    return before
