"""Log-mel spectrogram as a front-end, for small baselines without a pre-trained encoder.

Axes: B trials, T frames, M mel bands, F frequencies.
"""

import math

import numpy as np
import torch

from common.console import Number
from front_ends.base import FrontEnd, Preset

N_FFT, HOP = 400, 160  # in samples: windows of 25 ms, frame shift of 10 ms


def mel_filters(n_mels: int) -> torch.Tensor:
    """Triangular filters (M, F) of equal area from 0 to 8 kHz, as librosa.filters.mel.

    Source: Slaney, "Auditory Toolbox", 1998: linear below 1 kHz (15 mel), 27 mel per factor of 6.4 above.
    """
    step = math.log(6.4) / 27
    mels = np.linspace(0, 15 + math.log(8) / step, n_mels + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(step * (mels - 15)))[:, None]  # Hz
    frequencies = np.linspace(0, 8000, N_FFT // 2 + 1)
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    filters = np.maximum(np.minimum(rising, falling), 0) * 2 / (edges[2:] - edges[:-2])
    return torch.tensor(filters, dtype=torch.float32)


def log_mel(waveforms: torch.Tensor, filters: torch.Tensor, center: bool) -> torch.Tensor:
    """log10 of the mel energies, floored at 1e-10: (B, samples), (M, F) -> (B, M, T). Always in float32.

    center: the centres of the frames, not their starts, are at multiples of the hop; the waveform is reflection-padded.
    """
    with torch.autocast(waveforms.device.type, enabled=False):
        window = torch.hann_window(N_FFT, device=waveforms.device)
        spectra = torch.stft(waveforms.float(), N_FFT, HOP, window=window, center=center, return_complex=True)
        return (filters @ spectra.abs().square()).clamp(min=1e-10).log10()


class LogMel(FrontEnd):
    """Waveforms (B, samples) to one hidden state (B, T, n_mels): (log10 of the mel energies + 4) / 4. No parameters.

    fields: n_mels, default 64. T = (samples - 400) // 160 + 1: every window lies within the waveform, so samples after
    the last window have no effect.
    """

    presets = {"log_mel": Preset(None, {})}
    published = {"ssl": "log_mel", "agg": "last", "dilation": 2, "n_output_logits": 2}
    allowed = {"n_mels": Number(int, 1, 128)}
    defaults = {"n_mels": 64}
    least_samples = N_FFT

    def __init__(self, fields: dict) -> None:
        super().__init__(fields)
        self.register_buffer("filters", mel_filters(self.channels), persistent=False)

    @classmethod
    def sizes(cls, fields: dict) -> tuple[int, int]:
        return cls.complete(fields)["n_mels"], 1

    def n_frames(self, n_samples: int) -> int:
        return max((n_samples - N_FFT) // HOP + 1, 0)

    def samples_seen(self, n_samples: int) -> int:
        return N_FFT + HOP * (self.n_frames(n_samples) - 1)

    def forward(self, waveforms: torch.Tensor, normalized: bool = False, raw_last: bool = False) -> list[torch.Tensor]:
        return [(log_mel(waveforms, self.filters, center=False).transpose(1, 2) + 4) / 4]
