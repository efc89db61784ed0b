"""Level and bandwidth of a recording, read block by block."""

import numpy as np

from common.audio import SAMPLE_RATE

FRAME = 512  # samples, 32 ms
BELOW_PEAK = 1e-6  # of the spectrum's peak: 60 dB; steep filters and resampling leave less, breath and room more
SPEECH = 1e-3  # of the power of the louder frames: 30 dB; pauses have less


class Meter:
    """The level and the bandwidth of a recording. Holds one number per 32 ms."""

    def __init__(self) -> None:
        self.powers, self.spectrum, self.left = [], np.zeros(FRAME // 2 + 1), np.zeros(0, np.float32)

    def add(self, x: np.ndarray) -> None:
        """The next block (samples,) at 16 kHz."""
        x = np.concatenate([self.left, x])
        n = len(x) // FRAME * FRAME
        self._add_frames(x[:n].reshape(-1, FRAME))
        self.left = x[n:]

    def _add_frames(self, frames):
        for part in np.split(frames, range(1000, len(frames), 1000)):
            self.powers.append(np.mean(np.square(part, dtype=np.float64), axis=1))
            self.spectrum += np.sum(np.abs(np.fft.rfft(part * np.hanning(FRAME))) ** 2, axis=0)

    def figures(self) -> tuple[float, float] | None:
        """(RMS level of speech in dBFS, bandwidth in Hz) of all blocks, at least 32 ms of them; None for silence.

        Level: of the frames within 30 dB of the louder ones, so that pauses count for nothing. Bandwidth: the highest
        frequency where the long-term spectrum is within 60 dB of its peak.
        """
        powers = np.concatenate(self.powers) if self.powers else np.zeros(0)
        loud = np.percentile(powers, 95) if len(powers) else 0.0
        spectrum = self.spectrum[2:]  # without a DC offset
        if not loud or not spectrum.any():
            return None
        level = 10 * np.log10(np.mean(powers[powers >= SPEECH * loud]))
        (within,) = np.nonzero(spectrum >= BELOW_PEAK * spectrum.max())
        return float(level), float((within[-1] + 2) * SAMPLE_RATE / FRAME)
