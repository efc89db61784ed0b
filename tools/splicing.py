"""Utterances joined from recorded prompts, with spliced stretches of a time-aligned copy or of genuine speech.

Signals are float64, (samples,), at RATE unless RATE_OUT is named. Splices lie on whole milliseconds: exact at both.
"""

from dataclasses import dataclass

import numpy as np
from scipy import signal

from tools.demo_attacks import ATTACKS, RATE, read_recording, resample
from tools.demo_chain import RATE_OUT, band

MS = RATE // 1000
FADE = 20  # ms, at either end of a splice, inside of it
EDGE = 10 * MS  # the fades of a prompt, and what is kept of the silence around it
MOST_SHIFT = 50 * MS  # between a copy and its original
SHORTEST_SPLICE, LONGEST_SPLICE = 200, 2000  # ms
BETWEEN = 240  # ms, the least between two splices, and before the first


@dataclass(frozen=True)
class Splice:
    """Milliseconds [start, end) that were replaced. material: an attack, or genuine speech "shifted" or "moved"."""

    start: int
    end: int
    material: str

    @property
    def is_spoof(self) -> bool:
        return self.material in ATTACKS


def envelope(x: np.ndarray, width: int) -> np.ndarray:
    """The RMS level around each sample, (samples,): a Hann window of `width` samples over the squares."""
    window = np.hanning(width)
    return np.sqrt(np.maximum(signal.fftconvolve(x**2, window / window.sum(), mode="same"), 1e-12))


def aligned(copy: np.ndarray, original: np.ndarray) -> np.ndarray:
    """The copy, moved by the vocoder's delay (at most MOST_SHIFT) to where the two envelopes correlate best."""
    n = len(original)
    copy = np.pad(copy[:n], (0, max(0, n - len(copy))))
    levels = [envelope(x, 10 * MS) for x in (original, copy)]
    fit = signal.correlate(*(level - level.mean() for level in levels), mode="full", method="fft")
    lags = np.arange(-min(MOST_SHIFT, n - 1), min(MOST_SHIFT, n - 1) + 1)
    lag = int(lags[np.argmax(fit[n - 1 + lags])])
    return np.pad(copy, (max(lag, 0), max(-lag, 0)))[max(-lag, 0) :][:n]


class Prompt:
    """A recording without the silence around it, at RMS level 1; copies of it are cut and scaled alike."""

    def __init__(self, path: str, longest: int) -> None:
        self.path, self.longest = path, longest
        self.recording, _ = read_recording(path)
        x = band(self.recording)
        level = envelope(x, 20 * MS)
        loud = np.flatnonzero(level > np.percentile(level, 95) * 10 ** (-30 / 20))
        self.start = max(loud[0] - EDGE, 0)
        self.end = min(loud[-1] + EDGE, len(x), self.start + longest)
        self.scale = 1 / max(np.sqrt(np.mean(x[self.start : self.end] ** 2)), 1e-6)
        self.samples = self._cut(x)

    def _cut(self, x):
        x = x[self.start : self.end] * self.scale
        edge = min(EDGE, len(x) // 2)
        fade = _rise(edge)
        x[:edge] *= fade
        x[len(x) - edge :] *= fade[::-1]
        return x

    def copy(self, attack_id: str, rng: np.random.Generator, tools: dict) -> np.ndarray:
        """The same prompt by copy-synthesis, sample for sample beside `samples`."""
        y, rate = ATTACKS[attack_id].synthesise(self.path, "copy", rng, tools)
        y = aligned(resample(np.asarray(y, np.float64), rate, RATE), self.recording)
        return self._cut(band(y))


def _rise(n):
    """A raised cosine from above 0 to below 1, (n,); it and its reverse sum to 1."""
    return np.sin(np.pi / 2 * (np.arange(n) + 0.5) / n) ** 2


def joined(parts: list[np.ndarray], pauses: list[int]) -> np.ndarray:
    """Prompts one after the other, pauses[i] zeros behind the i-th, the end cut to a whole millisecond."""
    x = np.concatenate([np.pad(part, (0, pause)) for part, pause in zip(parts, pauses)])
    return x[: len(x) // MS * MS]


def natural_places(x: np.ndarray) -> np.ndarray:
    """Milliseconds at which the level has a minimum, 10 dB or more below RMS level 1: between sounds."""
    level = envelope(x, 30 * MS)[::MS]
    (minima,) = signal.argrelmin(level, order=20)
    return minima[level[minima] < 10 ** (-10 / 20)]


def choose_splices(x: np.ndarray, n: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Up to n stretches (start, end) of x, in ms and in order, between natural places; lengths even on a log scale."""
    places = natural_places(x)
    starts, ends = (grid.ravel() for grid in np.meshgrid(places, places, indexing="ij"))
    usable = (starts >= BETWEEN) & (ends <= len(x) // MS - BETWEEN)
    usable &= (ends - starts >= SHORTEST_SPLICE) & (ends - starts <= LONGEST_SPLICE)
    chosen = []
    for _ in range(n):
        candidates = np.flatnonzero(usable)
        if not len(candidates):
            break
        length = np.exp(rng.uniform(*np.log([SHORTEST_SPLICE, LONGEST_SPLICE])))
        off = np.abs(np.log((ends - starts)[candidates] / length))
        near = candidates[off <= max(np.log(1.1), off.min())]
        i = rng.choice(near)
        start, end = int(starts[i]), int(ends[i])
        chosen.append((start, end))
        usable &= (starts >= end + BETWEEN) | (ends <= start - BETWEEN)
    return sorted(chosen)


def cross_fade(base: np.ndarray, other: np.ndarray, start: int, end: int) -> np.ndarray:
    """base with its samples [start, end) out of `other`, at the level of what stood there; both fades lie inside.

    At RATE_OUT, where labels are counted: filters that run later would smear a splice beyond its label.
    """
    fade = FADE * RATE_OUT // 1000
    weight = np.ones(end - start)
    weight[:fade] = _rise(fade)
    weight[len(weight) - fade :] = weight[:fade][::-1]
    old, new = base[start:end], other[start:end]
    gain = np.sqrt(np.mean(old**2) / max(np.mean(new**2), 1e-12))
    x = base.copy()
    x[start:end] += weight * (np.clip(gain, 0.25, 4) * new - old)
    return x


def moved(base: np.ndarray, donor: np.ndarray, start: int, end: int) -> np.ndarray | None:
    """As long as base, with samples [start, end) out of the place of `donor` that is the quietest at both its ends.

    None if the donor has no stretch of that length.
    """
    room = len(donor) - (end - start)
    if room < 0:
        return None
    level = envelope(donor, 30 * MS)
    place = int(np.argmin(level[: room + 1] + level[len(level) - room - 1 :]))
    x = np.zeros_like(base)
    x[start:end] = donor[place : place + end - start]
    return x
