"""Statistics of a dev set's recordings, stored in checkpoints to recognise recordings unlike them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.audio import SAMPLE_RATE, load_audio
from common.console import UserError
from common.sound import Meter
from common.workers import Workers

MEASURED = 500  # maximum number of files, evenly spaced in the list


def _measure(path):
    try:
        x = load_audio(path)
    except UserError:  # training reports or skips the file
        return [], None
    meter = Meter()
    meter.add(x)
    figures = meter.figures()
    return [], figures and (len(x) / SAMPLE_RATE, *figures)


def measure(paths: Sequence[Path | str], num_workers: int = 0) -> dict[str, float]:
    """Statistics for the entry `seen` of a checkpoint, see common.sound.

    Returns {n: number of files; 1st and 99th percentiles of duration (seconds_low, seconds_high), speech level in dBFS
    (level_low, level_high) and bandwidth in Hz (band_low, band_high)}. Unreadable and silent files are skipped; {} if
    no file is left.
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
