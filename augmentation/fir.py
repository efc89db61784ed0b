"""FIR: random low-pass filters, on a waveform, that leave what a narrow-band or a wide-band codec would.

Source: Martín-Doñas and Álvarez, "The Vicomtech audio deepfake detection system based on wav2vec2 for the 2022 ADD
challenge", ICASSP 2022 (FIR-NB, FIR-WB). The filters' ranges are this project's own: telephone codecs pass up to 3.4
or 4 kHz; wide-band and lossy audio codecs stop between there and the half of 16 kHz.
"""

import numpy as np
from numpy.typing import ArrayLike

from augmentation.settings import waveform

RATE = 16000
CUTOFFS = {"FIR-NB": (3000, 4000), "FIR-WB": (4000, 7600)}  # Hz, lowest and highest; 6 dB down there
HALF_LENGTHS = (16, 128)  # taps to each side: a transition from 1700 down to 200 Hz wide


def apply_fir(x: ArrayLike, kind: str, rng: np.random.Generator | None = None) -> np.ndarray:
    """Low-pass a waveform at a random frequency, by a windowed-sinc filter of random length.

    x: (samples,) real, at 16 kHz. kind: FIR-NB or FIR-WB. rng: a fresh one where None.
    Returns a new float64 array (samples,), not delayed, of gain 1 at 0 Hz. Raises ValueError for another kind or an
    empty waveform.
    """
    if kind not in CUTOFFS:
        raise ValueError(f"kind must be one of {', '.join(CUTOFFS)}, found {kind}")
    x = waveform(x)
    from scipy import signal  # a second to import, which every start and every loader process would wait for

    rng = rng or np.random.default_rng()
    cutoff = rng.uniform(*CUTOFFS[kind])
    half = int(rng.integers(HALF_LENGTHS[0], HALF_LENGTHS[1], endpoint=True))
    return signal.fftconvolve(x, signal.firwin(2 * half + 1, cutoff, fs=RATE), mode="same")


def fir_nb(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A low-pass filter as narrow as a telephone codec: cut off at 3 to 4 kHz, FIR of random length.

    Source: Martín-Doñas and Álvarez, ICASSP 2022 (FIR-NB); the ranges are this project's own.
    """
    return apply_fir(x, "FIR-NB", rng)


def fir_wb(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A low-pass filter as wide as a wide-band codec: cut off at 4 to 7.6 kHz, FIR of random length.

    Source: Martín-Doñas and Álvarez, ICASSP 2022 (FIR-WB); the ranges are this project's own.
    """
    return apply_fir(x, "FIR-WB", rng)
