"""MUSAN or a room response, or neither: the augmentation of the Nes2Net authors' ASVspoof 5 program."""

import os

import numpy as np

from augmentation.noise import apply_musan, musan_files, recordings
from augmentation.rooms import apply_room
from common.console import UserError


class MusanRir:
    """With probability 1/2 a waveform as it is, else evenly one with noise or in a room.

    noise_dir: folder with MUSAN's sub-folders noise, speech and music, or some of them. room_dir: folder of room
    responses, in any sub-folders. Raises UserError if one is not given or has no recordings.
    Source: the ASVspoof 5 program of the authors of Nes2Net.
    """

    def __init__(self, noise_dir: str | None = None, room_dir: str | None = None) -> None:
        self.folders = {"noise_dir": noise_dir, "room_dir": room_dir}
        self.noises = self._listed("noise_dir", musan_files)
        self.rooms = self._listed("room_dir", recordings)

    def _listed(self, name, list_files):
        if self.folders[name] is None:
            raise UserError(f"--{name}: expected a folder of recordings, which --augment MUSAN_RIR draws from")
        try:
            return list_files(self.folders[name])
        except UserError as error:
            raise UserError(f"--{name} {error}") from error

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A waveform (samples,) at 16 kHz to one of the same length. Raises UserError for an unreadable recording."""
        if rng.random() >= 0.5:
            return x
        return apply_musan(x, self.noises, rng) if rng.random() < 0.5 else apply_room(x, self.rooms, rng)

    def files(self) -> dict[str, dict[str, str]]:
        """What is drawn from, {flag: {path in the folder: path}}: a run goes on with the same recordings alone."""
        paths = {"noise_dir": [path for files in self.noises.values() for path in files], "room_dir": self.rooms}
        return {flag: {os.path.relpath(path, self.folders[flag]): path for path in paths[flag]} for flag in paths}
