"""RawBoost as a part of --augment, with the parameters of RawBoost.py as keys."""

from dataclasses import dataclass, field

import numpy as np

from RawBoost import ALGORITHMS, RawBoostParams, apply_rawboost


@dataclass(frozen=True)
class RawBoost(RawBoostParams):
    """RawBoost: linear and non-linear convolutive noise, impulsive noise, and stationary noise, alone or combined.

    algo: 0 to 11, the combination; 0 is none. Keys that are not given take the values of the flags with their names,
    see train.py --help.
    Source: Tak et al., "RawBoost", ICASSP 2022.
    """

    algo: int = 5
    fs: int = field(default=16000, init=False)

    def __post_init__(self) -> None:
        if self.algo not in ALGORITHMS:
            raise ValueError(f"algo must be one of {', '.join(map(str, ALGORITHMS))}, found {self.algo}")
        super().__post_init__()

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return apply_rawboost(x, self.algo, self, rng)
