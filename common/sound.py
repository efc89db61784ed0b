"""Level and bandwidth of a recording, measured block by block."""

import numpy as np

from common.audio import SAMPLE_RATE

FRAME = 512  # samples, 32 ms
BELOW_PEAK = 1e-6  # 60 dB below the spectrum's peak: filters and resampling leave less, breath and room noise more
SPEECH = 1e-3  # 30 dB below the power of the louder frames; pauses have less


class Meter:
    """Meter of level and bandwidth of a recording; stores one number per 32 ms."""

    def __init__(self) -> None:
        self.powers, self.spectrum, self.left = [], np.zeros(FRAME // 2 + 1), np.zeros(0, np.float32)

    def add(self, x: np.ndarray) -> None:
        """Add the next block, (samples,) at 16 kHz."""
        x = np.concatenate([self.left, x])
        n = len(x) // FRAME * FRAME
        self._add_frames(x[:n].reshape(-1, FRAME))
        self.left = x[n:]

    def _add_frames(self, frames):
        for part in np.split(frames, range(1000, len(frames), 1000)):
            self.powers.append(np.mean(np.square(part, dtype=np.float64), axis=1))
            self.spectrum += np.sum(np.abs(np.fft.rfft(part * np.hanning(FRAME))) ** 2, axis=0)

    def figures(self) -> tuple[float, float] | None:
        """(RMS level of speech in dBFS, bandwidth in Hz) of all blocks; None for silence or less than 32 ms.

        Level: of the frames within 30 dB of the louder ones, so that pauses are ignored. Bandwidth: the highest
        frequency at which the long-term spectrum is within 60 dB of its peak.
        """
        powers = np.concatenate(self.powers) if self.powers else np.zeros(0)
        loud = np.percentile(powers, 95) if len(powers) else 0.0
        spectrum = self.spectrum[2:]  # without a DC offset
        if not loud or not spectrum.any():
            return None
        level = 10 * np.log10(np.mean(powers[powers >= SPEECH * loud]))
        (within,) = np.nonzero(spectrum >= BELOW_PEAK * spectrum.max())
        return float(level), float((within[-1] + 2) * SAMPLE_RATE / FRAME)
