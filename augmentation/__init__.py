"""Waveform augmentations by name: the parts of train.py's --augment.

To add one, write a function or class and add one line here.
"""

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

# name -> function (x, rng=...) that maps a waveform (samples,) at 16 kHz and a numpy Generator to a new waveform of the
# same length; or a class whose instances are such functions, built once before training to check and list files.
# - Further arguments are keys of the part. Their annotations define how values are parsed: int, float, str, a range
#   (settings.Range, settings.Counts), or a list, tuple[kind, ...]. A key that is not given takes the value of the
#   augmentation flag with its name, or else its default.
# - --augment list prints the docstring.
# - files(), if defined, returns the recordings that it draws from; a run can only be resumed with the same recordings.
# - keeps_time = False: sounds move in time, so segment labels no longer match.
# These functions draw random values. For fixed conditions use codec, add_noise, reverberate, limit_band, lose_packets,
# clip or change_speed in the same files.
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
