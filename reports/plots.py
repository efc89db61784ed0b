"""Plots of a report: DET curves, score histograms, and the EER of every condition."""

import os
from functools import partial
from pathlib import Path

import numpy as np

from common.atomic import atomic_open
from common.console import UserError, note
from corpora import BONAFIDE, SPOOF
from corpora.segments import NON_SPEECH, Span, spans_of_labels
from reports import curves
from reports.bootstrap import kept_points
from reports.conditions import Condition
from reports.figures import Row


def draw(
    path: str | os.PathLike, corpus: str, parts: list[list[Row]], systems: dict[str, np.ndarray], pooled: Condition
) -> None:
    """Draw DET curves (probit scale, EER marked), score histograms, and the EER of every condition.

    path: .png, .pdf or .svg; corpus: its name, for the title; parts: rows of the report, one list per breakdown;
    systems: {name: scores (trials,)}; pooled: Condition of all trials. Raises UserError without matplotlib.
    """
    drawing = _drawing()
    parts = [part for part in parts if part[0].condition.by != "pooled"]
    bars = next((part for part in parts if part[0].condition.by == "attack"), parts[-1] if parts else None)
    heights = [max(3.8, 0.95 * len(systems)), 3][: 2 if bars else 1]
    # The legend is below the axes so that it hides no curve.
    n_columns = int(np.clip(130 // (max(map(len, systems)) + 16), 1, min(len(systems), 3)))
    legend_height = 0.22 * -(-len(systems) // n_columns)
    figure = drawing.Figure(figsize=(11, sum(heights) + 0.8 + legend_height), layout="constrained")
    grid = figure.add_gridspec(len(heights), 2, width_ratios=[1, 1.2], height_ratios=heights)
    classes = {name: (scores[pooled.bonafide], scores[pooled.spoof]) for name, scores in systems.items()}
    _draw_det(figure.add_subplot(grid[0, 0]), classes)
    axes = grid[0, 1].subgridspec(len(systems), 1).subplots(squeeze=False)[:, 0]
    for i, (axis, name) in enumerate(zip(axes, systems)):
        _draw_histogram(axis, *classes[name], f"C{i % 10}")
    axes[0].set_title("filled: spoof, line: bona fide", fontsize="medium", loc="left")
    axes[-1].set_xlabel("score")
    if bars:
        _draw_bars(figure.add_subplot(grid[1, :]), bars, list(systems))
    n_bonafide, n_spoof = len(pooled.bonafide), len(pooled.spoof)
    figure.suptitle(f"{corpus}: {n_bonafide} bona fide and {n_spoof} spoofed trials", parse_math=False)
    figure.legend(loc="outside lower center", ncols=n_columns, fontsize="small", frameon=False)
    _save(figure, path)


def draw_conditions(path: str | os.PathLike, corpus: str, rows: list[Row], systems: list[str]) -> None:
    """Draw the EER and its interval under each condition, one line per condition; the clean EER is a vertical line.

    rows: see reports.robustness; the other arguments: see `draw`.
    """
    names = list(dict.fromkeys(row.condition.name for row in rows))
    figure = _drawing().Figure(figsize=(8, 1.4 + len(names) * (0.12 + 0.07 * len(systems))), layout="constrained")
    axis = figure.subplots()
    for i, system in enumerate(systems):
        own = [row for row in rows if row.system == system and "eer" in row.figures]
        y = [names.index(row.condition.name) + (i - (len(systems) - 1) / 2) * 0.6 / len(systems) for row in own]
        value, low, high = 100 * np.array([row.figures["eer"] for row in own]).reshape(-1, 3).T
        ends = None if np.isnan(low).any() else np.maximum([value - low, high - value], 0)
        axis.errorbar(value, y, xerr=ends, fmt="o", markersize=4, linewidth=1, capsize=2, color=f"C{i}", label=system)
        axis.axvline(value[0], color=f"C{i}", linewidth=0.8, linestyle="--", zorder=0)
    axis.set_yticks(range(len(names)), names, fontsize="small")
    axis.set(ylim=(len(names) - 0.4, -0.6), xlim=(0, None), xlabel="EER, % (lines: 95 % intervals; dashed: clean)")
    axis.grid(color="0.93")
    pooled = rows[0].condition
    figure.suptitle(
        f"{corpus}: {len(pooled.bonafide)} bona fide and {len(pooled.spoof)} spoofed trials", parse_math=False
    )
    if len(systems) > 1:
        figure.legend(loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    _save(figure, path)


def draw_segments(
    path: str | os.PathLike, utt_id: str, step: float, scores: np.ndarray, spans: list[Span], threshold: float
) -> None:
    """Draw the frame scores of an utterance over time; below them, the labels and the decisions.

    step: seconds per frame; scores: (frames,); spans: labels; threshold: frames with at most this score are decided to
    be spoofed.
    """
    figure = _drawing().Figure(figsize=(11, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    upper.stairs(scores, step * np.arange(len(scores) + 1), baseline=None, label="score")
    upper.axhline(threshold, color="0.1", linestyle="--", zorder=3, label=f"threshold {threshold:.4g}")
    upper.set_ylabel("score of a frame,\nhigher: bona fide")
    decided = spans_of_labels(np.where(scores <= threshold, SPOOF, BONAFIDE), step)
    colours = {SPOOF: ("C3", "spoofed"), BONAFIDE: ("C2", "bona fide"), NON_SPEECH: ("0.8", "non-speech")}
    for y, own in ((1, spans), (0, decided)):
        for label, (colour, word) in colours.items():
            bars = [(start, end - start) for start, end, own_label in own if own_label == label]
            lower.broken_barh(bars, (y + 0.1, 0.8), color=colour, label=word if y and bars else None)
    lower.set_yticks([0.5, 1.5], ["decided", "truth"])
    end = max(spans[-1][1], step * len(scores))
    lower.set(ylim=(0, 2), xlim=(0, end))
    mark_time(lower, end)
    figure.suptitle(f"{utt_id}: {len(scores)} frames of {step:g} s", parse_math=False)
    figure.legend(loc="outside lower center", ncols=5, fontsize="small", frameon=False)
    _save(figure, path)


def mark_time(axis: object, seconds: float, most: int = 12) -> None:
    """Set up to about `most` ticks at round seconds or minutes on the x axis, from 0 to `seconds`."""
    steps = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
    step = next((step for step in steps if seconds <= most * step), 3600 * -(-seconds // (most * 3600)))
    ticks = step * np.arange(int(seconds / step + 1e-9) + 1)
    if seconds < 60:
        unit, labels = "seconds", [f"{tick:g}" for tick in ticks.round(2)]
    elif seconds < 3600:
        unit, labels = "minutes:seconds", [f"{tick // 60:.0f}:{tick % 60:02.0f}" for tick in ticks]
    else:
        unit, labels = "hours:minutes", [f"{tick // 3600:.0f}:{tick % 3600 // 60:02.0f}" for tick in ticks]
    axis.set_xticks(ticks, labels)
    axis.set_xlabel(f"time, {unit}")


def _drawing():
    try:
        from matplotlib import figure
    except ImportError as error:
        raise UserError(f"--plot needs matplotlib, which is not installed: {error}") from error
    return figure


def _save(figure, path):
    with atomic_open(path, "wb") as file:
        figure.savefig(file, format=Path(path).suffix[1:].lower(), dpi=120)
    note(f"picture: {path}")


def _draw_det(axis, classes):
    """Draw the DET curve of each system, {name: (bona fide, spoof)}, with at most a few thousand points."""
    lowest = 0.5 / max(len(scores) for pair in classes.values() for scores in pair)  # stands for a rate of 0
    clipped = partial(np.clip, a_min=lowest, a_max=1 - lowest)
    least, highest = [], 0.6
    for name, (bonafide, spoof) in classes.items():
        curve = curves.det_curve(bonafide, spoof)
        eer = float(curves.curve_eer(curve))
        kept = kept_points(curve, len(bonafide), len(spoof), [curves.eer_point], n=1500)
        far, frr = clipped(curve.far[kept]), clipped(curve.frr[kept])
        line, *_ = axis.plot(_probit(far), _probit(frr), drawstyle="steps-post", label=f"{name}, EER {100 * eer:.2f} %")
        # Not clipped: for a detector without errors the marker lies on the edge of the axes.
        axis.plot(_probit(clipped(eer)), _probit(clipped(eer)), "o", color=line.get_color(), clip_on=False, zorder=3)
        highest = max(highest, min(1.1 * eer, 0.99))
        least += [
            rate[(other <= highest) & (rate > lowest)].min(initial=eer) for rate, other in ((far, frr), (frr, far))
        ]
    ends = _probit(np.array([max(min(min(least), 0.05) / 1.5, lowest), highest]))
    rates = np.array([1e-5, 1e-4, 0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95])
    labels = [f"{100 * rate:g}" for rate in rates]
    axis.set_xticks(_probit(rates), labels)
    axis.set_yticks(_probit(rates), labels)
    axis.plot(ends, ends, color="0.7", linewidth=0.8, zorder=0)
    axis.set(xlim=ends, ylim=ends, xlabel="false acceptance rate, %", ylabel="false rejection rate, %", aspect="equal")
    axis.grid(color="0.9")


def _probit(rates):
    """Probits of rates between 0 and 1, an array or a number."""
    from statistics import NormalDist

    return np.vectorize(NormalDist().inv_cdf)(rates)


def _draw_histogram(axis, bonafide, spoof, colour):
    ends = np.quantile(bonafide, [0.001, 0.999]), np.quantile(spoof, [0.001, 0.999])
    low, high = np.min(ends), np.max(ends)
    low, high = (low, high) if low < high else (low - 0.5, low + 0.5)
    n_bins = int(np.clip(4 * min(len(bonafide), len(spoof)) ** 0.5, 10, 80))
    edges = np.linspace(low, high, n_bins + 1)
    for scores, looks in ((spoof, {"fill": True, "alpha": 0.4}), (bonafide, {"linewidth": 1.5})):
        axis.stairs(100 * np.histogram(scores, edges)[0] / len(scores), edges, color=colour, **looks)
    axis.locator_params(axis="y", nbins=3)
    axis.set_ylabel("% of class", fontsize="small")


def _draw_bars(axis, rows, systems):
    """Draw the EER of each condition, with its interval."""
    names = list(dict.fromkeys(row.condition.name for row in rows))
    width = 0.8 / len(systems)
    highest, interval = 0, ""
    for i, system in enumerate(systems):
        own = [row for row in rows if row.system == system and "eer" in row.figures]
        x = [names.index(row.condition.name) + (i - (len(systems) - 1) / 2) * width for row in own]
        value, low, high = 100 * np.array([row.figures["eer"] for row in own]).reshape(-1, 3).T
        axis.bar(x, value, width, color=f"C{i % 10}")
        if not np.isnan(low).any():
            ends = np.maximum([value - low, high - value], 0)
            axis.errorbar(x, value, ends, fmt="none", ecolor="0.2", capsize=2)
            interval = " (lines: 95 % intervals)"
        highest = np.nanmax([highest, *value, *high])
    top = max(1.05 * highest, 1)
    if top > 50:
        axis.axhline(50, color="0.4", linewidth=0.8, linestyle="--", zorder=0)
        axis.annotate("50 %: chance", (1, 50), (2, 0), ("axes fraction", "data"), "offset points", fontsize="small")
    crowded = sum(map(len, names)) > 110
    axis.set_xticks(range(len(names)), names, fontsize="x-small" if crowded else "small", rotation=90 if crowded else 0)
    axis.set(ylabel="EER, %", xlabel=rows[0].condition.by + interval, xlim=(-0.6, len(names) - 0.4))
    axis.set_ylim(0, top)
