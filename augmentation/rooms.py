"""Reverberation: convolution with recorded or simulated room responses of unit energy."""

import os

import numpy as np

from augmentation.image_source import MARGIN, T60, random_response
from augmentation.noise import first_part, recordings
from augmentation.settings import Range, check_range
from common.console import UserError

LONGEST = 60  # seconds; longer room responses are cut


def reverberate(x: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve x (samples,) with a room response (samples,), scaled to unit energy, and cut it to the length of x."""
    from scipy import signal  # imported here: it takes a second, at every start and in every loader process

    response = np.asarray(response, dtype=np.float64)
    return signal.oaconvolve(x, response / np.sqrt(np.sum(response**2)))[: len(x)]


def apply_room(x: np.ndarray, files: list[str], rng: np.random.Generator) -> np.ndarray:
    """Reverberate a waveform (samples,) at 16 kHz with one of the room responses, drawn uniformly.

    Returns a new float64 array (samples,), delayed like the response's direct sound. Raises UserError if the response
    cannot be read or is silent.
    """
    file = files[rng.integers(len(files))]
    response = first_part(file, LONGEST)
    if not response.any():
        raise UserError(f"{file}: expected a room response, found silence")
    return reverberate(np.asarray(x, dtype=np.float64), response)


class Room:
    """Reverberation: convolution with a room response of unit energy, recorded or simulated (image sources).

    dir: folder of room responses, sub-folders included; default: --room_dir, or simulated rooms without it.
    t60, side, height: of simulated rooms, drawn uniformly: reverberation time in s (0.2..0.6), length and width in
    metres (3..10), height in metres (2.5..4). Source and microphone are at least half a metre from the walls.
    A long t60 in a small room takes a second to simulate.
    Source: Allen and Berkley, JASA 65(4), 1979.
    """

    def __init__(
        self, dir: str | None = None, t60: Range | None = None, side: Range | None = None, height: Range | None = None
    ) -> None:
        if dir is not None and (t60 or side or height):
            raise ValueError("t60, side and height (simulated rooms) cannot be combined with dir (recorded rooms)")
        self.folder, self.rooms = dir, dir and recordings(dir)
        self.shape = {"t60": t60 or (0.2, 0.6), "side": side or (3, 10), "height": height or (2.5, 4)}
        check_range("t60", self.shape["t60"], *T60)
        for name in ("side", "height"):
            check_range(name, self.shape[name], 2 * MARGIN + 1, 30)

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Reverberate a waveform (samples,) at 16 kHz. Raises UserError if a response cannot be read or is silent."""
        if self.rooms:
            return apply_room(x, self.rooms, rng)
        return reverberate(np.asarray(x, dtype=np.float64), random_response(rng, **self.shape))

    def files(self) -> dict[str, dict[str, str]]:
        """Recordings to draw from: {"room_dir": {path in the folder: path}}; see MusanRir."""
        return {"room_dir": {os.path.relpath(path, self.folder): path for path in self.rooms}} if self.rooms else {}
