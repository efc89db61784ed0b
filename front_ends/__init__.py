"""Speech encoders and the aggregation of their hidden states."""

from front_ends.encoders import build_aggregation, build_front_end

__all__ = ["build_aggregation", "build_front_end"]
