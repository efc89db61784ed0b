"""The published back-ends, one file each. They map encoder features or hidden states to logits."""

from typing import TYPE_CHECKING

from back_ends.aasist import AASIST
from back_ends.aasist2 import AASIST2
from back_ends.asp_mlp import ASP_MLP, LayerASP_MLP
from back_ends.attm_lstm import AttM_LSTM
from back_ends.base import BackEnd
from back_ends.conformer import Conformer
from back_ends.ecapa_tdnn import ECAPA_TDNN
from back_ends.fake_mamba import Fake_Mamba
from back_ends.lcnn import GF, LGF, LLGF
from back_ends.linear import Linear
from back_ends.mamba import Mamba
from back_ends.mambo import MamBo
from back_ends.mfa import MFA
from back_ends.mhfa import MHFA
from back_ends.moe import MoE
from back_ends.nes2net import Nes2Net, Nes2Net_X, Nes2Net_X_SeLU
from back_ends.prompt_tuning import PT_AASIST
from back_ends.resnet import Res2Net, ResNet
from back_ends.slim import SLIM
from back_ends.sls import SLS
from back_ends.tcm import TCM
from back_ends.vicomtech import Vicomtech

if TYPE_CHECKING:  # model.py imports this package
    from model import ModelConfig

# To add a back-end: write a file in this folder and list its class here. --model_name is <front-end>_<class name>.
BACK_ENDS = {
    kind.__name__: kind
    for kind in (
        Nes2Net,
        Nes2Net_X,
        Nes2Net_X_SeLU,
        AASIST,
        Conformer,
        TCM,
        Mamba,
        Fake_Mamba,
        MamBo,
        SLS,
        AttM_LSTM,
        LLGF,
        LGF,
        GF,
        MoE,
        MHFA,
        Linear,
        ASP_MLP,
        MFA,
        AASIST2,
        PT_AASIST,
        LayerASP_MLP,
        Vicomtech,
        ResNet,
        Res2Net,
        ECAPA_TDNN,
        SLIM,
    )
}


def build_back_end(config: "ModelConfig", in_channels: int, n_hidden_states: int = 25) -> BackEnd:
    """Build the back-end of `config.model_name` for features or hidden states (B, T, in_channels).

    Returns a module that maps (B, T, in_channels), or a list of n_hidden_states of them, to (B,
    config.n_output_logits), or to one output per member of an ensemble. Its parameters have the published names without
    the published prefix. Raises ValueError if the configuration does not fit the channels or the back-end.
    """
    kind = BACK_ENDS[config.back_end]
    sizes = {"in_channels": in_channels, "n_output_logits": len(config.members or ()) or config.n_output_logits}
    if kind.takes_hidden_states or kind.gives_prompts:
        sizes["n_hidden_states"] = n_hidden_states
    back_end = kind(**sizes, **config.options)
    if config.output in ("cosine", "prototypes"):
        back_end.use_output(config.output)
    return back_end
