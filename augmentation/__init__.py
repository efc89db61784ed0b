"""Waveform augmentations by name: the choices of train.py's --augment. A new one is a function and a line here."""

from functools import partial

from augmentation.fir import apply_fir
from augmentation.musan_rir import MusanRir
from RawBoost import apply_rawboost

# name -> function (x, rng=...) of a waveform (samples,) at 16 kHz and a numpy Generator, which gives a new waveform of
# the same length. Its further arguments get the values of the training flags of their names; `params` is all of them,
# RawBoost's parameters among them. A class is built of its arguments before training: it checks and lists files once.
AUGMENTATIONS = {
    "RawBoost": apply_rawboost,
    "FIR-NB": partial(apply_fir, kind="FIR-NB"),
    "FIR-WB": partial(apply_fir, kind="FIR-WB"),
    "MUSAN_RIR": MusanRir,
}
