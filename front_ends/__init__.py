"""Speech encoders and the aggregation of their hidden states."""

from front_ends.aggregation import build_aggregation
from front_ends.wav2vec2 import build_front_end

__all__ = ["build_aggregation", "build_front_end"]
