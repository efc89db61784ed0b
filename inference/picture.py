"""The picture of a judged recording: waveform, spectrogram and score over time."""

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from common.atomic import atomic_open
from common.audio import SAMPLE_RATE, audio_blocks
from common.console import UserError, printable
from inference.headline import SMOOTHED
from inference.verdicts import Judged, Reader
from reports.plots import mark_time

_drawing = threading.Lock()  # matplotlib is not thread-safe


def draw(
    out: Path | str | BinaryIO,
    judged: Judged,
    judge: Reader,
    check: Callable[[float], None] | None = None,
    narrow: bool = False,
) -> None:
    """Draw a file's waveform, spectrogram and score over time, suspicious stretches shaded, as a PNG.

    out: path of the file, or an open file. check: see Judge.judge. narrow: draw for the screen of a telephone.
    Raises UserError if matplotlib is missing or the file cannot be written.
    """
    outline = _outline(judged.path, round(judged.seconds * SAMPLE_RATE), check)
    by_name = isinstance(out, str | os.PathLike)
    with _drawing, atomic_open(out, "wb") if by_name else contextlib.nullcontext(out) as file:
        _picture(judged, judge, *outline, narrow).savefig(file, format="png", dpi=150 if narrow else 100)


def _picture(judged, judge, low, high, power, frame_seconds, narrow=False):
    """The figure of `draw`, from the result of _outline."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("--plot: expected matplotlib (pip install matplotlib), found none") from error

    ink, red, blue = "#333333", "#c62828", "#1f5a96"
    figure = Figure(figsize=(4.2, 7) if narrow else (10, 6.4), layout="constrained")
    wave, spectrum, score = figure.subplots(3, 1, sharex=True, height_ratios=[1, 1.6, 1.6])
    times = np.linspace(0, judged.seconds, len(low))
    wave.fill_between(times, low, high, color=blue, linewidth=0.4)
    peak = max(np.max(np.abs([low, high])), 1e-4)
    wave.set(ylabel="amplitude", ylim=(-1.05 * peak, 1.05 * peak))
    decibels = 10 * np.log10(np.maximum(power, 1e-12))
    top = decibels.max()
    spectrum.imshow(
        decibels,
        origin="lower",
        aspect="auto",
        extent=(0, len(power[0]) * frame_seconds, 0, SAMPLE_RATE / 2000),
        vmin=top - 80,
        vmax=top,
        cmap="magma",
        interpolation="antialiased",
    )
    spectrum.set(ylabel="frequency (kHz)")

    middles = [(start + end) / 2 for start, end, _ in judged.windows]
    values = judge.smooth_scores(judged)
    if len(values) > 1:
        marker = "o" if len(values) <= 150 else None
        label = f"median score of {SMOOTHED:g} s" if judge.unit else "score of a window"
        score.plot(middles, values, color=blue, marker=marker, markersize=3.5, linewidth=1.2, label=label)
    if judged.score is not None and not judged.is_mean:
        score.axhline(
            judged.score, color=ink, linewidth=1, linestyle=":", label=f"score of the file, {judged.score:.3g}"
        )
    if judge.window_threshold is not None:
        label = f"threshold, {judge.window_threshold:.3g}"
        score.axhline(judge.window_threshold, color=red, linewidth=1.2, linestyle="--", label=label)
    score.set(ylabel="score, higher is\nmore genuine", xlim=(0, judged.seconds))
    score.grid(alpha=0.25)
    score.margins(y=0.12)
    stretches = judge.stretches(judged)
    for start, end, *_ in stretches:
        for axis in (wave, score):
            axis.axvspan(start, end, color=red, alpha=0.18, linewidth=0)
        if len(stretches) <= 20:  # shading would change the colours of the spectrogram, and many lines would hide it
            spectrum.vlines([start, end], 0, SAMPLE_RATE / 2000, color="white", linewidth=1, linestyle="--")
    if stretches:
        score.axvspan(0, 0, color=red, alpha=0.18, linewidth=0, label="suspicious: not above it")
    score.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=1 if narrow else 4, frameon=False, fontsize=9)
    mark_time(score, judged.seconds, 5 if narrow else 12)
    if judge.probability(judged) is not None:
        _mark_probabilities(score, judge.calibration)
    name = printable(os.path.basename(judged.file))
    name = name if len(name) <= 60 else f"{name[:28]}…{name[-28:]}"
    verdict = judge.brief(judged)
    figure.suptitle(
        f"{name}:{chr(10) if narrow else ' '}{verdict}, {'mean ' * judged.is_mean}score "
        f"{np.nan if judged.score is None else judged.score:.3g}",
        fontsize=10 if narrow else 12,
        parse_math=False,
    )
    return figure


def _mark_probabilities(axis, calibration):
    """Mark the scores of 5, 50 and 95 % bona fide, by the calibration of whole files, on the right axis."""
    odds = {"5 %": 1 / 19, "50 %": 1, "95 %": 19}
    scores = [(np.log(value) - calibration.offset) / calibration.slope for value in odds.values()]
    right = axis.secondary_yaxis("right")
    right.set_yticks(scores, odds)
    right.set_ylabel("probability by the\nfile's score")


def _outline(path, n_samples, check=None):
    """Data of a picture: lowest and highest sample (columns,), power (frequencies, frames), seconds between frames.
    Its size is bounded for any n_samples.
    """
    size, step, n_fft = max(n_samples // 2000, 1), max(n_samples // 3000, 64), 512
    taper = np.hanning(n_fft).astype(np.float32)
    low, high, power = [], [], []
    rest, held, at, start = np.zeros(0, np.float32), np.zeros(n_fft // 2, np.float32), 0, 0
    for block in audio_blocks(path):
        if check:
            check(n_samples / SAMPLE_RATE)
        rest = np.concatenate([rest, block])
        columns = rest[: len(rest) // size * size].reshape(-1, size)
        low.append(columns.min(axis=1))
        high.append(columns.max(axis=1))
        rest = rest[columns.size :]
        held = np.concatenate([held, block])  # begins at sample `at`; the next frame at `start`
        starts = np.arange(start - at, len(held) - n_fft + 1, step)
        frames = held[starts[:, None] + np.arange(n_fft)]
        power.append(np.abs(np.fft.rfft(frames * taper)) ** 2)
        start += step * len(starts)
        gone = min(start - at, len(held))
        held, at = held[gone:], at + gone
    power = np.concatenate(power).T
    if not power.size:  # shorter than a frame
        power = np.abs(np.fft.rfft(np.resize(held, n_fft) * taper)[:, None]) ** 2
    return np.concatenate(low), np.concatenate(high), power, step / SAMPLE_RATE
