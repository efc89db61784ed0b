"""The published back-ends, one file each: from encoder features (B, T, C) to logits (B, n_output_logits)."""

from functools import partial

from back_ends.aasist import AASIST
from back_ends.nes2net import Nes2Net

NES2NETS = {
    "Nes2Net": partial(Nes2Net, weighted_sum=False),
    "Nes2Net_X": Nes2Net,
    "Nes2Net_X_SeLU": partial(Nes2Net, activation="SELU", least_se_width=2),
}
# Their sizes are part of their architecture: what the configuration chooses is the number of outputs alone.
RIVALS = {"AASIST": AASIST}
BACK_ENDS = {**NES2NETS, **RIVALS}


def build_back_end(config, in_channels):
    """Build the back-end that `config.model_name` names, for features (B, T, in_channels).

    Returns a module from (B, T, in_channels) to (B, config.n_output_logits). Its parameters carry the published
    names below the published prefix. Raises ValueError where the configuration does not fit the channels.
    """
    if config.back_end in RIVALS:
        return RIVALS[config.back_end](in_channels, n_output_logits=config.n_output_logits)
    return NES2NETS[config.back_end](
        in_channels,
        n_output_logits=config.n_output_logits,
        Nes_ratio=config.Nes_ratio,
        dilation=config.dilation,
        pool_func=config.pool_func,
        SE_ratio=config.SE_ratio[0],
    )


def published_prefix(name):
    """The prefix of this back-end's weights in a published state dict; "" is the top level."""
    return getattr(_class_of(name), "published_prefix", "")


def shapes_of(name, state_dict):
    """The fields of ModelConfig that a back-end's published weights tell by their shapes, {field: value}.

    Raises KeyError, IndexError or ValueError where these are not the weights of such a back-end.
    """
    read_off = getattr(_class_of(name), "read_off", None)
    return read_off(state_dict) if read_off else {}


def _class_of(name):
    back_end = BACK_ENDS[name]
    return getattr(back_end, "func", back_end)
