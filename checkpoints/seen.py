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
    seconds_low and seconds_high, levels of speech, level_low and level_high (dBFS), and the 1st of their bandwidths,
    band_low (Hz)}; see common.sound. Files that cannot be read, and silence, are left out; {} if there is nothing else.
    """
    places = np.unique(np.linspace(0, len(paths) - 1, min(MEASURED, len(paths))).round().astype(int))
    workers = Workers(_measure, min(num_workers, len(places)))
    figures = [figures for _, figures in workers.results(paths[i] for i in places) if figures]
    workers.close()
    if not figures:
        return {}
    (seconds, level, band), (seconds_high, level_high, _) = np.percentile(figures, [1, 99], axis=0).round(4).tolist()
    seen = {"n": len(figures), "seconds_low": seconds, "seconds_high": seconds_high}
    return {**seen, "level_low": level, "level_high": level_high, "band_low": band}
