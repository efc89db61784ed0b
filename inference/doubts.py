"""Reasons to doubt or refuse a verdict: no speech, too little speech, or audio unlike the dev set."""

import functools
import importlib.util
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.onnx_file import onnx_session
from common.sound import FRAME, Meter

LEAST = 0.5  # seconds of a recording
LEAST_SPEECH, LEAST_SHARE = 0.25, 0.1  # seconds, also the minimum of silero-vad's own program; share of a recording
LITTLE_SHARE = 0.25  # of a recording
SHORT = 1.0  # seconds below which a verdict is doubtful, if the checkpoint does not say how short its dev set was
FAR = 10  # dB beyond the levels of the dev set
NARROWER, WIDER = 0.75, 1.33  # factors beyond the dev set's bandwidths
CONTEXT, LEAD, PIECE = 64, 16, 512  # samples before a frame, frames of silence before a file, frames scored at once
ALL_HEARD, ONE_IN = 40, 8  # pieces of 16 s: one in 8 is checked after eleven minutes; all of 3 hours took a minute

# speech: seconds of speech; level: RMS of speech in dBFS; band: bandwidth in Hz, see common.sound; None: unknown.
Sound = namedtuple("Sound", "speech level band", defaults=(None, None, None))
# name: for programs; text: for people; refuses: whether there is no verdict because of it.
Doubt = namedtuple("Doubt", "name text refuses")


@functools.cache
def speech_model() -> Callable[[np.ndarray, dict], tuple[np.ndarray, dict]] | None:
    """Load silero-vad: (frames (n, 64 + 512), state) -> (speech probabilities (n,), state); None if not installed.

    Source: Silero Team, "Silero VAD", 2021-2026, github.com/snakers4/silero-vad, the model for many frames per call.
    """
    package = importlib.util.find_spec("silero_vad")  # not imported: that sets torch to one thread
    if not package or not importlib.util.find_spec("onnxruntime"):
        return None
    path = Path(package.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
    session = onnx_session(str(path), threads=1)

    def model(frames, state):
        speech, h, c = session.run(["speech_probs", "hn", "cn"], {"input": frames, **state})
        return speech.ravel(), {"h": h, "c": c}

    return model


class Listener:
    """Measurement of a recording block by block: seconds of speech, level and bandwidth.

    Memory is bounded except for a few bytes per 32 ms. Silence is prepended, because the model misses short prompts
    that start immediately.
    """

    def __init__(self) -> None:
        self.meter, self.model = Meter(), speech_model()
        zeros = np.zeros((1, 1, 128), np.float32)
        self.state, self.n_pieces, self.n_heard, self.n_speech = {"h": zeros, "c": zeros}, 0, 0, 0
        self.left = np.zeros(CONTEXT, np.float32)
        if self.model:
            self._listen(np.zeros(CONTEXT + LEAD * FRAME, np.float32))
        self.n_heard = self.n_speech = 0

    def hear(self, x: np.ndarray) -> None:
        """Add the next block (samples,), at 16 kHz."""
        self.meter.add(x)
        self.left = np.concatenate([self.left, x])
        size = PIECE * FRAME
        while len(self.left) >= CONTEXT + size:
            if self.model and (self.n_pieces < ALL_HEARD or self.n_pieces % ONE_IN == 0):
                self._listen(self.left[: CONTEXT + size])
            self.n_pieces += 1
            self.left = self.left[size:]

    def _listen(self, x):
        frames = np.lib.stride_tricks.sliding_window_view(x, CONTEXT + FRAME)[::FRAME]
        speech, self.state = self.model(np.ascontiguousarray(frames, np.float32), self.state)
        self.n_heard += len(speech)
        self.n_speech += np.sum(speech >= 0.5)

    def sound(self, seconds: float) -> Sound:
        """Return the measurements of a recording of this many seconds; call it after the last block."""
        n = len(self.left) - CONTEXT
        if self.model and n:
            self._listen(np.pad(self.left, (0, -n % FRAME)))
        speech = float(seconds * self.n_speech / self.n_heard) if self.n_heard else None
        return Sound(speech, *(self.meter.figures() or ()))


def doubts_of(
    seconds: float,
    score: float | None,
    sound: Sound,
    seen: dict[str, float],
    scores: tuple[float, float] | None,
) -> list[Doubt]:
    """Reasons to doubt a verdict on a recording of `seconds`.

    seen: the checkpoint's statistics of its dev set, see checkpoints.measure; {} if it has none. scores: the lowest and
    highest dev score; None if unknown.
    """
    doubts, (speech, level, band) = [], sound
    if seconds < max(LEAST, seen.get("seconds_low", SHORT)):
        doubts.append(Doubt("short", f"it is only {seconds:.2f} s long", seconds < LEAST))
    is_measured = speech is not None and seconds >= LEAST  # shorter files hold too little to measure
    if is_measured and speech < LEAST_SPEECH:
        doubts.append(Doubt("no_speech", "no speech was detected in it", True))
    elif is_measured and speech < LITTLE_SHARE * seconds:
        text = f"only {speech:.1f} s of it are speech"
        doubts.append(Doubt("little_speech", text, speech < LEAST_SHARE * seconds))
    if score is not None and scores and not scores[0] <= score <= scores[1]:
        which = f"above {scores[1]:.3g}, the highest" if score > scores[1] else f"below {scores[0]:.3g}, the lowest"
        doubts.append(Doubt("score_beyond_dev", f"its score is {which} of the dev set", False))
    if band is not None and "band_low" in seen and band < NARROWER * seen["band_low"]:
        text = f"it holds nothing above {band / 1000:.1f} kHz, the dev set up to {seen['band_low'] / 1000:.1f} kHz"
        doubts.append(Doubt("narrow_band", text, False))
    if band is not None and "band_high" in seen and band > WIDER * seen["band_high"]:
        text = f"it holds sound up to {band / 1000:.1f} kHz, the dev set none above {seen['band_high'] / 1000:.1f} kHz"
        doubts.append(Doubt("wide_band", text, False))
    if level is not None and "level_low" in seen and not seen["level_low"] - FAR <= level <= seen["level_high"] + FAR:
        text = f"its level is {level:.0f} dBFS, the dev set's {seen['level_low']:.0f} to {seen['level_high']:.0f} dBFS"
        doubts.append(Doubt("level", text, False))
    return doubts
