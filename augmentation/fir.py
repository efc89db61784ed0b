"""FIR: random low-pass filters with the bandwidth of narrow-band or wide-band codecs.

Source: Martín-Doñas and Álvarez, "The Vicomtech audio deepfake detection system based on wav2vec2 for the 2022 ADD
challenge", ICASSP 2022 (FIR-NB, FIR-WB). The cutoff ranges are this project's own: telephone codecs pass up to 3.4 or
4 kHz, wide-band and lossy audio codecs up to a frequency between 4 and 8 kHz.
"""

import numpy as np
from numpy.typing import ArrayLike

from augmentation.settings import waveform

RATE = 16000
CUTOFFS = {"FIR-NB": (3000, 4000), "FIR-WB": (4000, 7600)}  # Hz, lowest and highest frequency of 6 dB attenuation
HALF_LENGTHS = (16, 128)  # taps on each side: transition bands from 1700 down to 200 Hz


def apply_fir(x: ArrayLike, kind: str, rng: np.random.Generator | None = None) -> np.ndarray:
    """Low-pass a waveform at a random frequency with a windowed-sinc filter of random length.

    x: (samples,) real, at 16 kHz. kind: FIR-NB or FIR-WB. rng: None: a new Generator.
    Returns a new float64 array (samples,), without delay; the gain is 1 at 0 Hz. Raises ValueError for another kind or
    an empty waveform.
    """
    if kind not in CUTOFFS:
        raise ValueError(f"kind must be one of {', '.join(CUTOFFS)}, found {kind}")
    x = waveform(x)
    from scipy import signal  # imported here: it takes a second, at every start and in every loader process

    rng = rng or np.random.default_rng()
    cutoff = rng.uniform(*CUTOFFS[kind])
    half = int(rng.integers(HALF_LENGTHS[0], HALF_LENGTHS[1], endpoint=True))
    return signal.fftconvolve(x, signal.firwin(2 * half + 1, cutoff, fs=RATE), mode="same")


def fir_nb(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Low-pass filter with the bandwidth of a telephone codec: cutoff at 3 to 4 kHz, FIR of random length.

    Source: Martín-Doñas and Álvarez, ICASSP 2022 (FIR-NB); the ranges are this project's own.
    """
    return apply_fir(x, "FIR-NB", rng)


def fir_wb(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Low-pass filter with the bandwidth of a wide-band codec: cutoff at 4 to 7.6 kHz, FIR of random length.

    Source: Martín-Doñas and Álvarez, ICASSP 2022 (FIR-WB); the ranges are this project's own.
    """
    return apply_fir(x, "FIR-WB", rng)
