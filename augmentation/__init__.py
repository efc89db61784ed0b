"""Waveform augmentations by name: the choices of train.py's --augment. A new one is a function and a line here."""

from functools import partial

from augmentation.fir import apply_fir
from RawBoost import apply_rawboost

# name -> function (x, rng=...) of a waveform (samples,) at 16 kHz and a numpy Generator, which gives a new waveform of
# the same length. Options of its own, as RawBoost's `algo` and `params`, are further arguments, bound by the caller.
AUGMENTATIONS = {
    "RawBoost": apply_rawboost,
    "FIR-NB": partial(apply_fir, kind="FIR-NB"),
    "FIR-WB": partial(apply_fir, kind="FIR-WB"),
}
