"""Reverberation by recorded or simulated room responses: convolution with one of unit energy."""

import os

import numpy as np

from augmentation.image_source import MARGIN, T60, random_response
from augmentation.noise import first_part, recordings
from augmentation.settings import Range, check_range
from common.console import UserError

LONGEST = 60  # seconds of a room response that are used


def reverberate(x: np.ndarray, response: np.ndarray) -> np.ndarray:
    """x (samples,) convolved with a room response (samples,) of unit energy, cut to the length of x."""
    from scipy import signal  # a second to import, which every start and every loader process would wait for

    response = np.asarray(response, dtype=np.float64)
    return signal.oaconvolve(x, response / np.sqrt(np.sum(response**2)))[: len(x)]


def apply_room(x: np.ndarray, files: list[str], rng: np.random.Generator) -> np.ndarray:
    """Reverberate a waveform (samples,) at 16 kHz by one of the room responses, which is drawn evenly.

    Returns a new float64 array (samples,), as late as the response's direct sound. Raises UserError if the response
    cannot be read or is silent.
    """
    file = files[rng.integers(len(files))]
    response = first_part(file, LONGEST)
    if not response.any():
        raise UserError(f"{file}: expected a room response, found silence")
    return reverberate(np.asarray(x, dtype=np.float64), response)


class Room:
    """Reverberation: convolution with a room response of unit energy, of a folder or simulated (image sources).

    dir: folder of room responses, sub-folders included; not given: --room_dir, or else rooms are simulated.
    t60, side, height: of simulated rooms, each drawn evenly: reverberation time, s (0.2..0.6), metres of length
    and width (3..10), metres of height (2.5..4). Source and microphone stand at least half a metre off the walls.
    A long t60 in a small room takes a second to simulate.
    Source: Allen and Berkley, JASA 65(4), 1979.
    """

    def __init__(
        self, dir: str | None = None, t60: Range | None = None, side: Range | None = None, height: Range | None = None
    ) -> None:
        if dir is not None and (t60 or side or height):
            raise ValueError("t60, side and height are of simulated rooms; dir names recorded ones")
        self.folder, self.rooms = dir, dir and recordings(dir)
        self.shape = {"t60": t60 or (0.2, 0.6), "side": side or (3, 10), "height": height or (2.5, 4)}
        check_range("t60", self.shape["t60"], *T60)
        for name in ("side", "height"):
            check_range(name, self.shape[name], 2 * MARGIN + 1, 30)

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Raises UserError if a room response cannot be read or is silent."""
        if self.rooms:
            return apply_room(x, self.rooms, rng)
        return reverberate(np.asarray(x, dtype=np.float64), random_response(rng, **self.shape))

    def files(self) -> dict[str, dict[str, str]]:
        """What is drawn from, {"room_dir": {path in the folder: path}}, see MusanRir."""
        return {"room_dir": {os.path.relpath(path, self.folder): path for path in self.rooms}} if self.rooms else {}
