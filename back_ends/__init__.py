"""The published back-ends, one file each: from features or hidden states of the encoder to logits.

Most take features (B, T, C). One whose class says `takes_hidden_states` takes the list of the encoder's L + 1 hidden
states (B, T, C) instead, and so has no aggregation: the input of each of the L layers, and the encoder's output, after
its final layer norm or, where the class says `raw_last`, before it. Further class attributes, where they are not the
default: `bonafide_column` of the logits (1), `score`, from logits with bona fide in column 1 to scores (that column),
`unused_tensors`, how names of tensors begin that published checkpoints hold and the network never uses (none),
`least_batch`, trials that a batch in training needs (1), more where a batch norm sees one value per trial.
"""

from functools import partial

from back_ends.aasist import AASIST
from back_ends.asp_mlp import ASP_MLP
from back_ends.attm_lstm import AttM_LSTM
from back_ends.common import use_cosine_output
from back_ends.conformer import Conformer
from back_ends.lcnn import GF, LGF, LLGF
from back_ends.mamba import Mamba
from back_ends.mhfa import MHFA
from back_ends.moe import MoE
from back_ends.nes2net import Nes2Net
from back_ends.sls import SLS
from back_ends.tcm import TCM

NES2NETS = {
    "Nes2Net": partial(Nes2Net, weighted_sum=False),
    "Nes2Net_X": Nes2Net,
    "Nes2Net_X_SeLU": partial(Nes2Net, activation="SELU", least_se_width=2),
}
# Their sizes are part of their architecture: what the configuration chooses is the number of outputs alone.
RIVALS = {
    rival.__name__: rival
    for rival in (AASIST, Conformer, TCM, Mamba, SLS, AttM_LSTM, LLGF, LGF, GF, MoE, MHFA, ASP_MLP)
}
BACK_ENDS = {**NES2NETS, **RIVALS}


def takes_hidden_states(name):
    """Does the back-end of that name take the list of hidden states rather than aggregated features?"""
    return getattr(BACK_ENDS[name], "takes_hidden_states", False)


def build_back_end(config, in_channels, n_hidden_states=25):
    """Build the back-end that `config.model_name` names, for features or hidden states (B, T, in_channels).

    Returns a module from (B, T, in_channels), or a list of n_hidden_states of them, to (B, config.n_output_logits).
    Its parameters carry the published names below the published prefix. Raises ValueError where the configuration
    does not fit the channels or the back-end.
    """
    back_end = _build(config, in_channels, n_hidden_states)
    if config.output == "cosine":
        if config.back_end == "SLS":
            raise ValueError("loss: SLS gives log-probabilities, which no loss of cosines fits")
        use_cosine_output(back_end)
    return back_end


def _build(config, in_channels, n_hidden_states):
    name = config.back_end
    sizes = {"in_channels": in_channels, "n_output_logits": config.n_output_logits}
    if takes_hidden_states(name):
        return RIVALS[name](n_hidden_states=n_hidden_states, **sizes)
    if name in RIVALS:
        return RIVALS[name](**sizes)
    return NES2NETS[name](
        Nes_ratio=config.Nes_ratio,
        dilation=config.dilation,
        pool_func=config.pool_func,
        SE_ratio=config.SE_ratio[0],
        **sizes,
    )


def published_prefix(name):
    """The prefix of this back-end's weights in a published state dict; "" is the top level."""
    return getattr(_class_of(name), "published_prefix", "")


def unused_tensors(name):
    """How names of tensors begin that published checkpoints hold and this back-end never uses: a tuple."""
    return tuple(getattr(_class_of(name), "unused_tensors", ()))


def least_batch(name):
    """Trials of a training batch below which the back-end's batch norms have no statistics."""
    return getattr(_class_of(name), "least_batch", 1)


def shapes_of(name, state_dict):
    """The fields of ModelConfig that a back-end's published weights tell by their shapes, {field: value}.

    Raises KeyError, IndexError or ValueError where these are not the weights of such a back-end.
    """
    read_off = getattr(_class_of(name), "read_off", None)
    return read_off(state_dict) if read_off else {}


def _class_of(name):
    back_end = BACK_ENDS[name]
    return getattr(back_end, "func", back_end)
