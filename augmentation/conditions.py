"""Conditions of a robustness test: fixed distortions by name, applied to whole recordings before scoring.

Selected after the perturbations of Speech DF Arena (codecs, band limits, pitch, bit depth, packet loss); noise, speed
and clipping as in this folder's augmentations.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from augmentation.bands import limit_band
from augmentation.clipping import clip
from augmentation.codecs import codec
from augmentation.gaps import lose_packets
from augmentation.noise import add_noise, random_part
from augmentation.speed import at_speed
from common.audio import SAMPLE_RATE
from common.console import UserError, shown
from common.flags import did_you_mean

CLEAN = "clean"


@dataclass(frozen=True)
class Condition:
    """A condition.

    meaning: description. apply: maps (waveform (samples,) at 16 kHz, Generator) to a waveform; with `needs_noise`, its
    third argument is a list of recordings.
    """

    meaning: str
    apply: Callable[..., np.ndarray]
    needs_noise: bool = False


def quantise(x: np.ndarray, bits: int) -> np.ndarray:
    """Quantise a waveform (samples,), full scale 1, to linear PCM with `bits` bits, without dither."""
    steps = 2 ** (bits - 1)
    return np.clip(np.round(x * steps), -steps, steps - 1) / steps


def shift_pitch(x: np.ndarray, semitones: float) -> np.ndarray:
    """Raise the pitch of a waveform (samples,) at 16 kHz at the same speed (librosa: phase vocoder and resampling).

    Raises UserError without librosa.
    """
    try:
        import librosa  # seconds to import
    except ImportError as error:
        raise UserError(f"conditions pitch_* need librosa, which is not installed: {error}") from error
    padded = np.pad(x, (0, max(2048 - len(x), 0)))  # to at least one window of the transform
    return librosa.effects.pitch_shift(padded, sr=SAMPLE_RATE, n_steps=semitones)[: len(x)]


def with_white_noise(x: np.ndarray, snr: float, rng: np.random.Generator) -> np.ndarray:
    """Add white noise to a waveform (samples,) at an SNR in dB."""
    return add_noise(x, rng.standard_normal(len(x)), snr)


def with_recorded_noise(x: np.ndarray, rng: np.random.Generator, noises: Sequence[str], snr: float) -> np.ndarray:
    """Add a random part of one of the recordings to a waveform (samples,) at an SNR in dB."""
    return add_noise(x, random_part(noises[rng.integers(len(noises))], len(x), rng), snr)


CONDITIONS = {
    CLEAN: Condition("the recording as it is", lambda x, rng: x),
    "mp3_16": Condition("MP3, 16 kbit/s", lambda x, rng: codec(x, "mp3", 16)),
    "mp3_32": Condition("MP3, 32 kbit/s", lambda x, rng: codec(x, "mp3", 32)),
    "mp3_64": Condition("MP3, 64 kbit/s", lambda x, rng: codec(x, "mp3", 64)),
    "vorbis_24": Condition("Ogg Vorbis, 24 kbit/s", lambda x, rng: codec(x, "vorbis", 24)),
    "vorbis_32": Condition("Ogg Vorbis, 32 kbit/s", lambda x, rng: codec(x, "vorbis", 32)),
    "vorbis_64": Condition("Ogg Vorbis, 64 kbit/s", lambda x, rng: codec(x, "vorbis", 64)),
    "opus_16": Condition("Opus, 16 kbit/s", lambda x, rng: codec(x, "opus", 16)),
    "opus_32": Condition("Opus, 32 kbit/s", lambda x, rng: codec(x, "opus", 32)),
    "opus_64": Condition("Opus, 64 kbit/s", lambda x, rng: codec(x, "opus", 64)),
    "mulaw": Condition("G.711 mu-law at 8 kHz", lambda x, rng: codec(x, "mulaw")),
    "alaw": Condition("G.711 A-law at 8 kHz", lambda x, rng: codec(x, "alaw")),
    "gsm": Condition("GSM 06.10 full rate, at 8 kHz, 13 kbit/s", lambda x, rng: codec(x, "gsm")),
    "packet_loss_5": Condition("5 % of 20-ms packets set to zero", lambda x, rng: lose_packets(x, 0.05, rng)),
    "packet_loss_20": Condition("20 % of 20-ms packets set to zero", lambda x, rng: lose_packets(x, 0.2, rng)),
    # G.711 codes each sample independently, so lost packets do not affect the others.
    "voip": Condition(
        "G.711 mu-law at 8 kHz, 5 % of 20-ms packets lost", lambda x, rng: lose_packets(codec(x, "mulaw"), 0.05, rng)
    ),
    "white_20": Condition("white noise at an SNR of 20 dB", lambda x, rng: with_white_noise(x, 20, rng)),
    "white_10": Condition("white noise at an SNR of 10 dB", lambda x, rng: with_white_noise(x, 10, rng)),
    "white_0": Condition("white noise at an SNR of 0 dB", lambda x, rng: with_white_noise(x, 0, rng)),
    "noise_20": Condition("a recording of --noise_dir at 20 dB", partial(with_recorded_noise, snr=20), True),
    "noise_10": Condition("a recording of --noise_dir at 10 dB", partial(with_recorded_noise, snr=10), True),
    "noise_0": Condition("a recording of --noise_dir at 0 dB", partial(with_recorded_noise, snr=0), True),
    "lowpass_4000": Condition("low-pass at 4000 Hz", lambda x, rng: limit_band(x, high=4000)),
    "lowpass_3400": Condition("low-pass at 3400 Hz", lambda x, rng: limit_band(x, high=3400)),
    "highpass_300": Condition("high-pass at 300 Hz", lambda x, rng: limit_band(x, low=300)),
    "bandpass_300_3400": Condition("band-pass, 300 to 3400 Hz", lambda x, rng: limit_band(x, 300, 3400)),
    "bits_8": Condition("linear PCM of 8 bits", lambda x, rng: quantise(x, 8)),
    "bits_6": Condition("linear PCM of 6 bits", lambda x, rng: quantise(x, 6)),
    "bits_4": Condition("linear PCM of 4 bits", lambda x, rng: quantise(x, 4)),
    "clip_50": Condition("clipped at 50 % of the peak", lambda x, rng: clip(x, 0.5)),
    "clip_20": Condition("clipped at 20 % of the peak", lambda x, rng: clip(x, 0.2)),
    "slower_10": Condition("0.9 times as fast and as high", lambda x, rng: at_speed(x, 0.9)),
    "faster_10": Condition("1.1 times as fast and as high", lambda x, rng: at_speed(x, 1.1)),
    "pitch_down_4": Condition("4 semitones lower, same duration", lambda x, rng: shift_pitch(x, -4)),
    "pitch_up_4": Condition("4 semitones higher, same duration", lambda x, rng: shift_pitch(x, 4)),
}
WITHOUT_FOLDER = [name for name, condition in CONDITIONS.items() if not condition.needs_noise]


def listing() -> str:
    """One line per condition: name and meaning."""
    width = max(map(len, CONDITIONS))
    return "\n".join(f"{name:{width}}  {condition.meaning}" for name, condition in CONDITIONS.items())


def check_condition(name: str) -> None:
    """Raise UserError for an unknown condition, with the nearest name, and if a codec or librosa is missing."""
    if name not in CONDITIONS:
        near = did_you_mean(name, CONDITIONS)
        raise UserError(f"--condition: expected a name printed by --condition list, found {shown(name)}{near}")
    if not CONDITIONS[name].needs_noise:
        try:
            apply_condition(name, np.zeros(400, np.float32), "")
        except ValueError as error:  # libsndfile without the codec, or no librosa
            raise UserError(f"--condition {name}: {error}") from error


def apply_condition(name: str, x: np.ndarray, utt_id: str, noises: Sequence[str] = ()) -> np.ndarray:
    """Apply a condition to a recording; returns float32 (x itself for `clean`).

    x: (samples,) at 16 kHz, not empty. utt_id: with the name of the condition, the seed of the random numbers. noises:
    recordings, for conditions that need noise. The length is kept, except by slower_10 and faster_10.
    Raises UserError if a noise recording cannot be read.
    """
    condition = CONDITIONS[name]
    digest = hashlib.sha256(f"{name}\n{utt_id}".encode(errors="surrogateescape")).digest()
    extra = (noises,) if condition.needs_noise else ()
    return np.asarray(condition.apply(x, np.random.default_rng(list(digest)), *extra), dtype=np.float32)
