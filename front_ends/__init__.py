"""Front-ends: speech encoders, one family per file, and the aggregation of their hidden states. Interface: base.py."""

from typing import TYPE_CHECKING

from front_ends.aggregation import AGGREGATIONS, build_aggregation
from front_ends.attention import attention_for_any_length
from front_ends.base import FROM_FILE, FrontEnd, OtherFrontEnd, empty_weights, n_units
from front_ends.log_mel import LogMel
from front_ends.wav2vec2 import Wav2Vec2, WavLM
from front_ends.whisper import Whisper

if TYPE_CHECKING:  # model.py imports this package
    from model import ModelConfig

# {first part of --model_name: class}.
FRONT_ENDS = {
    "wav2vec2": Wav2Vec2,
    "WavLM": WavLM,
    "Whisper": Whisper,
    "LogMel": LogMel,
}

__all__ = [
    "AGGREGATIONS",
    "FROM_FILE",
    "FRONT_ENDS",
    "FrontEnd",
    "OtherFrontEnd",
    "attention_for_any_length",
    "build_aggregation",
    "build_front_end",
    "empty_weights",
    "n_units",
]


def build_front_end(config: "ModelConfig") -> FrontEnd:
    """Build the encoder of a configuration with random weights.

    Returns a module that maps waveforms (B, samples) at 16 kHz to the list of its hidden states, each (B, T, C). Its
    attributes `channels` and `n_hidden_states` are C and the length of the list.
    """
    return FRONT_ENDS[config.front_end](config.encoder_fields)
