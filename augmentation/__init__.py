"""Waveform augmentations by name: the parts of train.py's --augment. A new one is one function or class and a line."""

from augmentation.bands import BandPass, HighPass, LowPass
from augmentation.clipping import Clip
from augmentation.codecs import Codec
from augmentation.fir import fir_nb, fir_wb
from augmentation.gaps import PacketLoss, Zero
from augmentation.musan_rir import MusanRir
from augmentation.noise import Noise
from augmentation.rawboost import RawBoost
from augmentation.rooms import Room
from augmentation.speed import Speed

# name -> function (x, rng=...) of a waveform (samples,) at 16 kHz and a numpy Generator that returns a new waveform of
# the same length; or a class whose instances are such functions, built once before training to check and list files.
# - Further arguments are keys of the part. Their annotations say how values are read: int, float, str, a range
#   (settings.Range, settings.Counts), or a list, tuple[kind, ...]. A key that is not given takes the value of the
#   augmentation flag of its name, or else its default.
# - The docstring is what --augment list prints.
# - files(), if there is one, are the recordings that it draws from: a run goes on with the same recordings alone.
# - keeps_time = False: sounds are no longer where they were, so that labels of segments do not fit.
# Ranges are drawn from here alone. For fixed conditions call codec, add_noise, reverberate, limit_band, lose_packets,
# clip or change_speed of the same files.
AUGMENTATIONS = {
    "RawBoost": RawBoost,
    "FIR-NB": fir_nb,
    "FIR-WB": fir_wb,
    "MUSAN_RIR": MusanRir,
    "noise": Noise,
    "room": Room,
    "codec": Codec,
    "low_pass": LowPass,
    "high_pass": HighPass,
    "band_pass": BandPass,
    "speed": Speed,
    "clip": Clip,
    "zero": Zero,
    "packet_loss": PacketLoss,
}
