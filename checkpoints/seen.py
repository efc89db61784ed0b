"""What the recordings of a dev set look like, for a checkpoint to keep: beyond it a detector is out of its depth."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.audio import SAMPLE_RATE, load_audio
from common.console import UserError
from common.sound import Meter
from common.workers import Workers

MEASURED = 500  # files; of more, so many evenly spaced ones


def _measure(path):
    try:
        x = load_audio(path)
    except UserError:  # training says so, or skips it
        return [], None
    meter = Meter()
    meter.add(x)
    figures = meter.figures()
    return [], figures and (len(x) / SAMPLE_RATE, *figures)


def measure(paths: Sequence[Path | str], num_workers: int = 0) -> dict[str, float]:
    """What a checkpoint keeps as `seen`: {n: files measured, and the 1st and 99th percentiles of their durations,
    seconds_low and seconds_high, levels of speech, level_low and level_high (dBFS), and bandwidths, band_low
    and band_high (Hz)}; see common.sound. Files that cannot be read, and silence, are left out; {} without others.
    """
    places = np.unique(np.linspace(0, len(paths) - 1, min(MEASURED, len(paths))).round().astype(int))
    workers = Workers(_measure, min(num_workers, len(places)))
    figures = [figures for _, figures in workers.results(paths[i] for i in places) if figures]
    workers.close()
    if not figures:
        return {}
    seen = {"n": len(figures)}
    for which, percentile in (("low", 1), ("high", 99)):
        values = np.percentile(figures, percentile, axis=0).round(4).tolist()
        seen |= {f"{name}_{which}": value for name, value in zip(("seconds", "level", "band"), values)}
    return seen
