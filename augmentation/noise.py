"""Additive noise from recordings, at a random signal-to-noise ratio; MUSAN's categories are its sub-folders.

Levels are 10 log10(mean(x²) + 1e-4) dB, so that silence has one too. Source: Snyder, Chen and Povey, "MUSAN: A music,
speech, and noise corpus", arXiv 1510.08484; ranges as in the ASVspoof 5 program of the authors of Nes2Net.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from common.audio import SAMPLE_RATE, load_audio
from common.console import UserError

ENDINGS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aiff", ".au")


@dataclass(frozen=True)
class Category:
    """snr: lowest and highest signal-to-noise ratio, dB. n_files: fewest and most recordings that are averaged."""

    snr: tuple[float, float]
    n_files: tuple[int, int]


MUSAN = {
    "noise": Category(snr=(0, 15), n_files=(1, 1)),
    "speech": Category(snr=(13, 20), n_files=(3, 8)),
    "music": Category(snr=(5, 25), n_files=(1, 1)),
}


def add_noise(x, noise, snr):
    """x (samples,) plus noise (samples,), scaled to lie snr dB below it; see the module's text on levels."""
    return x + np.sqrt(10 ** ((level(x) - level(noise) - snr) / 10)) * noise


def level(x):
    """dB of a waveform (samples,): 10 log10(mean(x²) + 1e-4)."""
    return 10 * np.log10(np.mean(np.square(x, dtype=np.float64)) + 1e-4)


def apply_musan(x, folder, rng):
    """Add noise of a category that is drawn evenly of those that the folder has.

    x: (samples,) at 16 kHz. folder: holds MUSAN's sub-folders noise, speech and music, or some of them. rng: numpy
    Generator. Returns a new float64 array (samples,). Raises UserError if the folder has none or a file cannot be read.
    """
    categories = [name for name in MUSAN if (Path(folder) / name).is_dir()]
    if not categories:
        raise UserError(f"{folder}: expected sub-folders {', '.join(MUSAN)} of recordings, found none of them")
    name = categories[rng.integers(len(categories))]
    category = MUSAN[name]
    files = recordings(str(Path(folder) / name))
    n_files = min(int(rng.integers(*category.n_files, endpoint=True)), len(files))
    chosen = rng.choice(len(files), n_files, replace=False)
    noise = np.mean([random_part(files[index], len(x), rng) for index in chosen], axis=0)
    return add_noise(np.asarray(x, dtype=np.float64), noise, rng.uniform(*category.snr))


@functools.lru_cache(16)
def recordings(folder):
    """The audio files below a folder, by name, sorted. Raises UserError if there are none."""
    files = sorted(str(path) for path in Path(folder).rglob("*") if path.suffix.lower() in ENDINGS)
    if not files:
        raise UserError(f"{folder}: expected recordings ({' '.join(ENDINGS)}), found none")
    return files


def random_part(path, n_samples, rng):
    """n_samples of a recording from a random place, float32 at 16 kHz; a shorter one is repeated from its start."""
    try:
        with soundfile.SoundFile(path) as file:
            if file.samplerate == SAMPLE_RATE and file.seekable() and file.frames > n_samples:
                file.seek(int(rng.integers(file.frames - n_samples, endpoint=True)))
                x = file.read(n_samples, dtype="float32", always_2d=True).mean(axis=1)
                if len(x) == n_samples:
                    return x
    except soundfile.LibsndfileError:
        pass  # the one reader of this project says what it is
    x = load_audio(path)
    start = int(rng.integers(max(len(x) - n_samples, 0), endpoint=True))
    return np.resize(x[start : start + n_samples], n_samples)
