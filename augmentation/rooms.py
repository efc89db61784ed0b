"""Reverberation by recorded or simulated room responses: convolution with one of unit energy."""

import numpy as np
from scipy import signal

from augmentation.noise import recordings
from common.audio import load_audio
from common.console import UserError


def reverberate(x, response):
    """x (samples,) convolved with a room response (samples,) of unit energy, cut to the length of x."""
    response = np.asarray(response, dtype=np.float64)
    return signal.oaconvolve(x, response / np.sqrt(np.sum(response**2)))[: len(x)]


def apply_room(x, folder, rng):
    """Reverberate a waveform (samples,) at 16 kHz by a random room response of a folder, whatever its sub-folders.

    rng: numpy Generator. Returns a new float64 array (samples,), as late as the response's direct sound. Raises
    UserError if the folder has no recording or one cannot be read.
    """
    files = recordings(str(folder))
    file = files[rng.integers(len(files))]
    response = load_audio(file)
    if not response.any():
        raise UserError(f"{file}: expected a room response, found silence")
    return reverberate(np.asarray(x, dtype=np.float64), response)
