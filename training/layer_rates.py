"""Learning rates by layer: lower layers of the encoder, whose features are more general, move less.

Source: Howard and Ruder, "ULMFiT", 2018, section 3.2; Clark et al., "ELECTRA", 2020, table 7, by depth as there.
"""

from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer

from common.console import UserError
from front_ends import FrontEnd


def depths(front_end: FrontEnd) -> dict[nn.Parameter, int]:
    """{parameter of an encoder: its depth from the top}. With n layers: 0 for the final layer norm, 1 for the last
    layer, n for the first one (and for what it holds for all of them, such as WavLM's position bias), n + 1 for all
    that comes before: convolutions, projection, positions.

    Raises UserError if the encoder has no layers.
    """
    layers = front_end.layers()
    if not layers:
        raise UserError(f"--layer_decay: {type(front_end).__name__} has no layers")
    of_layer = {p: len(layers) - i for i, layer in enumerate(layers) for p in layer.parameters()}
    behind = front_end.unused_parameters(raw_last=True)  # the final norm, and what no step trains
    return {
        parameter: of_layer.get(parameter, 0 if name.startswith(behind) else len(layers) + 1)
        for name, parameter in front_end.named_parameters()
    }


def parameter_groups(parameters: Iterable[nn.Parameter], front_end: FrontEnd, decay: float) -> list[dict]:
    """Groups of an optimiser, those of depth 0 (the encoder's final norm, aggregation, back-end) first.

    `rate` of a group: decay ** depth, see depths; `keep_rates` makes it the group's share of the first one's rate.
    """
    of_encoder, groups = depths(front_end), {0: []}
    for parameter in parameters:
        groups.setdefault(of_encoder.get(parameter, 0), []).append(parameter)
    return [{"params": groups[depth], "rate": decay**depth} for depth in sorted(groups)]


def keep_rates(optimizer: Optimizer, *_: object) -> None:
    """Before each step: whatever the schedule does to a group's rate, it is its share of the first group's."""
    first, *others = optimizer.param_groups
    for group in others:
        group["lr"] = first["lr"] * group["rate"]
