"""MUSAN noise, a room response, or neither: the augmentation of the Nes2Net authors' ASVspoof 5 program."""

import os

import numpy as np

from augmentation.noise import apply_musan, musan_files, recordings
from augmentation.rooms import apply_room
from common.console import UserError


class MusanRir:
    """MUSAN noise or reverberation: no change with probability 1/2, noise with 1/4, reverberation with 1/4.

    noise_dir: folder with MUSAN's sub-folders noise, speech and music, or some of them. room_dir: folder of room
    responses, sub-folders included. Raises UserError if one is not given or has no recordings.
    Source: the ASVspoof 5 program of the authors of Nes2Net.
    """

    def __init__(self, noise_dir: str | None = None, room_dir: str | None = None) -> None:
        self.folders = {"noise_dir": noise_dir, "room_dir": room_dir}
        self.noises = self._listed("noise_dir", musan_files)
        self.rooms = self._listed("room_dir", recordings)

    def _listed(self, name, list_files):
        if self.folders[name] is None:
            raise UserError(f"--{name}: expected a folder of recordings for --augment MUSAN_RIR, found none")
        try:
            return list_files(self.folders[name])
        except UserError as error:
            raise UserError(f"--{name} {error}") from error

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augment a waveform (samples,) at 16 kHz, keeping its length. Raises UserError for an unreadable recording."""
        if rng.random() >= 0.5:
            return x
        return apply_musan(x, self.noises, rng) if rng.random() < 0.5 else apply_room(x, self.rooms, rng)

    def files(self) -> dict[str, dict[str, str]]:
        """Recordings to draw from: {flag: {path in the folder: path}}. A run can only be resumed with the same ones."""
        paths = {"noise_dir": [path for files in self.noises.values() for path in files], "room_dir": self.rooms}
        return {flag: {os.path.relpath(path, self.folders[flag]): path for path in paths[flag]} for flag in paths}
