"""Reverberation by recorded or simulated room responses: convolution with one of unit energy."""

import numpy as np

from augmentation.noise import first_part
from common.console import UserError

LONGEST = 60  # seconds of a room response that are used


def reverberate(x: np.ndarray, response: np.ndarray) -> np.ndarray:
    """x (samples,) convolved with a room response (samples,) of unit energy, cut to the length of x."""
    from scipy import signal  # a second to import, which every start and every loader process would wait for

    response = np.asarray(response, dtype=np.float64)
    return signal.oaconvolve(x, response / np.sqrt(np.sum(response**2)))[: len(x)]


def apply_room(x: np.ndarray, files: list[str], rng: np.random.Generator) -> np.ndarray:
    """Reverberate a waveform (samples,) at 16 kHz by one of the room responses, which is drawn evenly.

    Returns a new float64 array (samples,), as late as the response's direct sound. Raises UserError if the response
    cannot be read or is silent.
    """
    file = files[rng.integers(len(files))]
    response = first_part(file, LONGEST)
    if not response.any():
        raise UserError(f"{file}: expected a room response, found silence")
    return reverberate(np.asarray(x, dtype=np.float64), response)
