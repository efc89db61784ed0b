"""Additive noise from recordings at a random signal-to-noise ratio (SNR); MUSAN's categories are its sub-folders.

Source: Snyder, Chen and Povey, "MUSAN: A music, speech, and noise corpus", arXiv 1510.08484; ranges as in the
ASVspoof 5 program of the authors of Nes2Net.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from augmentation.settings import Counts, Range, check_range
from common.audio import SAMPLE_RATE, audio_blocks
from common.console import UserError

ENDINGS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aiff", ".au")
LONGEST = 600  # seconds to read of a recording that does not support seeking


@dataclass(frozen=True)
class Category:
    """Category of noise. snr: lowest and highest SNR, dB. n_files: lowest and highest number of averaged recordings."""

    snr: tuple[float, float]
    n_files: tuple[int, int]


MUSAN = {
    "noise": Category(snr=(0, 15), n_files=(1, 1)),
    "speech": Category(snr=(13, 20), n_files=(3, 8)),
    "music": Category(snr=(5, 25), n_files=(1, 1)),
}
ANY = Category(snr=(0, 15), n_files=(1, 1))  # for folders without MUSAN's sub-folders
MUSAN_FLOOR = 1e-4  # added by the authors' program to the mean square; quiet waveforms then count as louder


def add_noise(x: np.ndarray, noise: np.ndarray, snr: float, floor: float = 0) -> np.ndarray:
    """Add noise (samples,) to x (samples,), scaled to an SNR in dB; returns x itself if one of them is silent.

    floor: added to the mean square of both, see MUSAN_FLOOR.
    """
    powers = [np.mean(np.square(one, dtype=np.float64)) + floor for one in (x, noise)]
    if not all(powers):
        return x
    return x + np.sqrt(10 ** ((level(x, floor) - level(noise, floor) - snr) / 10)) * noise


def level(x: np.ndarray, floor: float = 0) -> float:
    """Level of a waveform (samples,) in dB: 10 log10(mean(x²) + floor)."""
    return 10 * np.log10(np.mean(np.square(x, dtype=np.float64)) + floor)


def apply_noise(
    x: np.ndarray,
    files: dict[str, list[str]],
    categories: dict[str, Category],
    rng: np.random.Generator,
    floor: float = 0,
) -> np.ndarray:
    """Add noise of a category that is drawn uniformly.

    x: (samples,) at 16 kHz. files: {category: recordings}, see musan_files. floor: see add_noise. Returns a new float64
    array (samples,). Raises UserError if a recording cannot be read.
    """
    name = list(files)[rng.integers(len(files))]
    category = categories[name]
    n_files = min(int(rng.integers(*category.n_files, endpoint=True)), len(files[name]))
    chosen = rng.choice(len(files[name]), n_files, replace=False)
    noise = np.mean([random_part(files[name][index], len(x), rng) for index in chosen], axis=0)
    return add_noise(np.asarray(x, dtype=np.float64), noise, rng.uniform(*category.snr), floor)


def apply_musan(x: np.ndarray, files: dict[str, list[str]], rng: np.random.Generator) -> np.ndarray:
    """Add noise as in the ASVspoof 5 program of the authors of Nes2Net; see apply_noise and MUSAN."""
    return apply_noise(x, files, MUSAN, rng, MUSAN_FLOOR)


class Noise:
    """Noise from the recordings of a folder, at a random signal-to-noise ratio (SNR).

    dir: folder, sub-folders included; default: --noise_dir. If it has any of MUSAN's sub-folders noise, speech and
    music, one of these is drawn uniformly. Their default ranges are: noise 0..15 dB, 1 file; speech 13..20 dB, 3..8
    files; music 5..25 dB, 1 file. snr: dB; default for other folders: 0..15. files: number of averaged recordings;
    default for other folders: 1.
    Source: Snyder, Chen and Povey, arXiv 1510.08484.
    """

    def __init__(self, dir: str | None = None, snr: Range | None = None, files: Counts | None = None) -> None:
        if dir is None:
            raise ValueError("dir: expected a folder of recordings, here or as --noise_dir, found none")
        if snr:
            check_range("snr", snr, -100, 100)
        if files:
            check_range("files", files, 1, 100)
        self.folder = dir
        is_musan = any((Path(dir) / name).is_dir() for name in MUSAN)
        self.noises = musan_files(dir) if is_musan else {"any": recordings(dir)}
        self.categories = {
            name: Category(snr or category.snr, files or category.n_files)
            for name, category in {**MUSAN, "any": ANY}.items()
        }

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Add noise to a waveform (samples,) at 16 kHz. Raises UserError if a recording cannot be read."""
        return apply_noise(x, self.noises, self.categories, rng)

    def files(self) -> dict[str, dict[str, str]]:
        """Recordings to draw from: {"noise_dir": {path in the folder: path}}; see MusanRir."""
        return {"noise_dir": {os.path.relpath(path, self.folder): path for path in sum(self.noises.values(), [])}}


def musan_files(folder: str) -> dict[str, list[str]]:
    """{category: recordings} of MUSAN's sub-folders noise, speech and music, as far as a folder has them.

    Raises UserError if it has none of them, or if one has no recordings.
    """
    names = [name for name in MUSAN if (Path(folder) / name).is_dir()]
    if not names:
        raise UserError(f"{folder}: expected at least one of the sub-folders {', '.join(MUSAN)}, found none")
    return {name: recordings(str(Path(folder) / name)) for name in names}


def recordings(folder: str) -> list[str]:
    """The audio files in a folder and its sub-folders, sorted by path. Raises UserError if there are none."""
    files = sorted(str(path) for path in Path(folder).rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not files:
        found = "none" if Path(folder).is_dir() else "no such folder"
        raise UserError(f"{folder}: expected recordings ({' '.join(ENDINGS)}), found {found}")
    return files


def random_part(path: str | os.PathLike, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Read n_samples of a recording from a random place, float32 at 16 kHz; a shorter one is repeated from its start.

    If libsndfile can seek in the file, only that part is read, otherwise the first LONGEST seconds.
    """
    try:
        with soundfile.SoundFile(path) as file:
            n = math.ceil(n_samples * file.samplerate / SAMPLE_RATE)
            if file.seekable() and file.frames > n:
                file.seek(int(rng.integers(file.frames - n, endpoint=True)))
                x = file.read(n, dtype="float32", always_2d=True).mean(axis=1)
                if len(x) == n and np.isfinite(x).all():
                    x = x if file.samplerate == SAMPLE_RATE else soxr.resample(x, file.samplerate, SAMPLE_RATE)
                    return np.resize(x, n_samples)  # soxr may return one sample fewer
    except soundfile.SoundFileError:
        pass  # first_part reads other formats, or raises the error
    x = first_part(path, LONGEST)
    start = int(rng.integers(max(len(x) - n_samples, 0), endpoint=True))
    return np.resize(x[start : start + n_samples], n_samples)


def first_part(path: str | os.PathLike, seconds: float) -> np.ndarray:
    """Read the first seconds of a recording, float32 (samples,) at 16 kHz. Raises UserError if it cannot be read."""
    n_samples, parts = int(seconds * SAMPLE_RATE), []
    for block in audio_blocks(path):
        parts.append(block)
        if sum(map(len, parts)) >= n_samples:
            break
    return np.concatenate(parts)[:n_samples]
