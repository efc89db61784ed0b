"""Codecs: lossy encoding and decoding of a waveform in memory, by libsndfile.

Sources: ISO/IEC 13818-3 (mp3), Vorbis I, RFC 6716 (opus), ITU-T G.711 (mulaw, alaw), ETSI EN 300 961 (gsm, GSM 06.10
full rate), ITU-T G.721, today in G.726 (g721), IMA Recommended Practices for Digital Audio, 1992 (ima_adpcm).
"""

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr
from numpy.typing import ArrayLike

from augmentation.settings import Range, waveform
from common.audio import SAMPLE_RATE


@dataclass(frozen=True)
class Format:
    """Format of a codec.

    container, subtype: libsndfile's names. rate: sampling rate of the coded signal, Hz. bitrates: (lowest, highest)
    kbit/s, equal if there is only one. default: kbit/s. level: maps kbit/s to libsndfile's compression level.
    full_scale: amplitude at which a waveform is clipped before encoding.
    """

    container: str
    subtype: str
    rate: int
    bitrates: tuple[float, float]
    default: float
    level: Callable[[float], float] | None = None
    full_scale: float = 1.0


def _mp3_level(bitrate):
    return max(160 - bitrate - 0.5, 0) / 152  # libsndfile truncates 160 - 152 level to an integer bitrate


def _opus_level(bitrate):
    return (256 - bitrate) / 250


def _vorbis_level(bitrate):
    return 1 - np.interp(bitrate, [24, 64, 100], [0, 0.5, 1])  # libvorbis, at 16 kHz and one channel


FORMATS = {
    "mp3": Format("MP3", "MPEG_LAYER_III", SAMPLE_RATE, (8, 160), 64, _mp3_level),
    "vorbis": Format("OGG", "VORBIS", SAMPLE_RATE, (24, 100), 64, _vorbis_level),
    "opus": Format("OGG", "OPUS", SAMPLE_RATE, (6, 256), 24, _opus_level),
    "mulaw": Format("WAV", "ULAW", 8000, (64, 64), 64),
    "alaw": Format("WAV", "ALAW", 8000, (64, 64), 64),
    "gsm": Format("WAV", "GSM610", 8000, (13, 13), 13),
    "g721": Format("AU", "G721_32", 8000, (32, 32), 32, full_scale=0.8),  # above 0.8 the predictor overflows
    "ima_adpcm": Format("WAV", "IMA_ADPCM", SAMPLE_RATE, (64, 64), 64),
}
# kbit/s from which random bitrates are drawn; mp3 at 16 kHz (MPEG-2 layer III) has no others.
LADDER = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


def codec(x: ArrayLike, kind: str, bitrate: float | None = None) -> np.ndarray:
    """Encode a waveform and decode it again.

    x: (samples,) at 16 kHz, clipped at full scale. kind: one of FORMATS; mulaw, alaw, gsm and g721 code the signal at
    8 kHz. bitrate: kbit/s, nominal for vorbis; None: the default of the kind.
    Returns a new float32 array (samples,), with the codec's delay removed. Raises ValueError for an unknown kind, a
    bitrate that the kind does not have, an empty waveform, and a codec that this libsndfile lacks.
    """
    x = waveform(x).astype(np.float32)
    bitrate = checked_bitrate(kind, bitrate)
    rate = FORMATS[kind].rate
    coded = x if rate == SAMPLE_RATE else soxr.resample(x, SAMPLE_RATE, rate)
    coded = _cut(_coded(coded, kind, bitrate), delay(kind, bitrate), len(coded))
    return coded if rate == SAMPLE_RATE else _cut(soxr.resample(coded, rate, SAMPLE_RATE), 0, len(x))


def checked_bitrate(kind: str, bitrate: float | None = None) -> float:
    """Check a bitrate, kbit/s, or return the default of the kind. Raises the ValueErrors of codec."""
    if kind not in FORMATS:
        raise ValueError(f"kind must be one of {', '.join(FORMATS)}, found {kind}")
    one = FORMATS[kind]
    low, high = one.bitrates
    bitrate = one.default if bitrate is None else bitrate
    if not low <= bitrate <= high:
        expected = f"{low}" if low == high else f"{low} to {high}"
        raise ValueError(f"bitrate of {kind} must be {expected} kbit/s, found {bitrate:g}")
    if kind == "mp3" and bitrate not in LADDER:
        raise ValueError(f"bitrate of mp3 must be one of {', '.join(map(str, LADDER))} kbit/s, found {bitrate:g}")
    if not soundfile.check_format(one.container, one.subtype):
        raise ValueError(f"this libsndfile, {soundfile.__libsndfile_version__}, has no {kind} ({one.subtype})")
    return bitrate


def encoded(x: np.ndarray, kind: str, bitrate: float) -> bytes:
    """Encode a waveform (samples,), at the sampling rate FORMATS[kind].rate, as a file. bitrate: kbit/s."""
    with _encoded(x, kind, bitrate) as file:
        return file.read()


@contextlib.contextmanager
def _encoded(x, kind, bitrate):
    """The encoded file without a name, open at its start; in memory if the system supports it.

    libsndfile gets its descriptor. With a BytesIO, libsndfile would call back into Python, and exceptions raised there
    (also by Ctrl-C and SIGTERM) would be lost.
    """
    one, options = FORMATS[kind], {}
    if one.level:
        options["compression_level"] = float(one.level(bitrate))
    if kind == "mp3":
        options["bitrate_mode"] = "CONSTANT"
    in_memory = hasattr(os, "memfd_create")
    with open(os.memfd_create("codec"), "w+b", 0) if in_memory else tempfile.TemporaryFile(buffering=0) as file:
        options |= {"format": one.container, "closefd": False}
        with soundfile.SoundFile(file.fileno(), "w", one.rate, 1, one.subtype, **options) as out:
            out.write(np.clip(x, -one.full_scale, one.full_scale))  # some encoders of libsndfile wrap around
        file.seek(0)
        yield file


def _coded(x, kind, bitrate):
    with _encoded(x, kind, bitrate) as file:
        return soundfile.read(file.fileno(), dtype="float32", closefd=False)[0]


@functools.cache
def delay(kind: str, bitrate: float) -> int:
    """Delay of a codec in samples at the rate of the coded signal, from the peak of a cross-correlation.

    It is a property of the codec, measured once with noise that has the spectral tilt of speech. Measuring it on each
    waveform would fail for hum or silence.
    """
    n = FORMATS[kind].rate // 2
    probe = np.random.default_rng(0).standard_normal(n)
    probe = np.float32(0.1 * np.convolve(probe, 0.9 ** np.arange(50))[:n])
    out = _coded(probe, kind, bitrate)
    size = 2 ** int(np.ceil(np.log2(len(out) + n)))
    products = np.fft.irfft(np.fft.rfft(out, size) * np.conj(np.fft.rfft(probe, size)), size)
    lag = int(np.argmax(products))
    return lag - size if lag > size // 2 else lag


def _cut(x, start, n):
    """n samples of x (samples,) from `start`, which may be negative; zero-padded outside x."""
    x = x[start:] if start >= 0 else np.pad(x, (-start, 0))
    return np.pad(x, (0, max(n - len(x), 0)))[:n]


class Codec:
    """Lossy codec of a random kind and bitrate: encodes and decodes in memory, without delay or change of length.

    kinds: drawn uniformly; mulaw, alaw, gsm and g721 work at 8 kHz. bitrate: kbit/s of mp3, vorbis (24 to 100) and
    opus, drawn uniformly from the bitrates of mp3 within this range; the other kinds have one bitrate.
    """

    def __init__(self, kinds: tuple[str, ...] = tuple(FORMATS), bitrate: Range = (8.0, 128.0)) -> None:
        self.bitrates = {}
        for kind in kinds:
            checked_bitrate(kind)
            low, high = FORMATS[kind].bitrates
            if low == high:
                self.bitrates[kind] = (low,)
            elif bitrate[0] == bitrate[1]:
                self.bitrates[kind] = (checked_bitrate(kind, bitrate[0]),)
            else:
                within = max(low, bitrate[0]), min(high, bitrate[1])
                self.bitrates[kind] = tuple(rate for rate in LADDER if within[0] <= rate <= within[1])
            if not self.bitrates[kind]:
                raise ValueError(f"bitrate of {kind}: expected {low} to {high}, found {bitrate[0]:g}..{bitrate[1]:g}")
        self.kinds = kinds

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        kind = self.kinds[int(rng.integers(len(self.kinds)))]
        return codec(x, kind, self.bitrates[kind][int(rng.integers(len(self.bitrates[kind])))])
