"""Error rates of frame scores on partially spoofed speech (localisation).

Trials are units of several lengths. A unit is spoofed if any part of it is spoofed; non-speech counts as bona fide. The
score of a unit longer than a frame is the mean or the minimum of its frames; a shorter unit has the score of its frame.
Point EER: all units have equal weight. Range EER: a stretch with one score and one label is weighted by its length; the
last unit is extended or cut to the end of the labels. Precision, recall and F1 use the threshold of a dev set.
Sources: Zhang et al., "The PartialSpoof database and countermeasures", IEEE/ACM TASLP 31, 2023 (point EER); Zhang et
al., "Range-based equal error rate for spoof localization", Interspeech 2023; Luong et al., "Robust localization of
partially fake speech" (arXiv 2507.03468; why thresholds must transfer between sets).
"""

import os
from collections import namedtuple
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from common.console import UserError, shown, warn
from corpora import BONAFIDE, SPOOF, TrialTable, read_table
from corpora.frame_scores import FrameScores, read_frame_scores
from corpora.segments import TICKS, Span, find_segments, read_segments, ticks, unit_labels, with_spans
from reports import plots
from reports.bootstrap import (
    FEWEST_CLUSTERS,
    Stratum,
    bootstrap_curves,
    bootstrap_figure,
    cluster_weights,
    percentile_interval,
)
from reports.conditions import Condition, conditions_of
from reports.curves import curve_eer, det_curve, eer_point
from reports.figures import NO_VALUE, Figure, Row, Value
from reports.tables import FORMS, Report, aligned, text_table

MOST_MISSING = 3  # frames by which scores and labels of an utterance may differ: encoders drop one or two at the end
RULES = ("mean", "least")

# Trials of all utterances. scores, bonafide, utterance (an index): (trials,); masses: (trials,) ticks, None: all 1.
Trials = namedtuple("Trials", "scores bonafide utterance masses")

FIGURES = [
    Figure("eer", "EER %", curve_eer, scale=100, digits=3),
    Figure("range_eer", "range EER %", curve_eer, scale=100, digits=3),
    Figure("threshold", "threshold", None, of="scores"),
    Figure("precision", "precision %", None, scale=100, digits=2),
    Figure("recall", "recall %", None, scale=100, digits=2),
    Figure("f1", "F1 %", None, scale=100, digits=2),
]


@dataclass(frozen=True)
class Frames:
    """Frame scores joined with labels.

    step: ticks per frame; scores: (frames,) of all utterances, concatenated; counts: (utterances,) numbers of frames;
    spans: one list of labelled spans per utterance.
    """

    utt_ids: list[str]
    step: int
    scores: np.ndarray
    counts: np.ndarray
    spans: list[list[Span]]
    table: TrialTable | None = None  # the trial list to which the labels belong, in the order of utt_ids

    def select(self, mask: np.ndarray) -> "Frames":
        """The utterances selected by mask (utterances,)."""
        chosen = np.flatnonzero(mask)
        utt_ids, spans = ([values[i] for i in chosen] for values in (self.utt_ids, self.spans))
        return Frames(utt_ids, self.step, self.scores[np.repeat(mask, self.counts)], self.counts[mask], spans)

    def units(self, unit: int, rule: str = "mean") -> tuple[np.ndarray, np.ndarray]:
        """Scores of units of `unit` ticks: (concatenated scores of all utterances, counts (utterances,)).

        rule: one of RULES, for units longer than a frame; the last unit of an utterance may have fewer frames.
        Raises UserError if the unit is neither a multiple nor a divisor of the step.
        """
        if self.step % unit == 0:
            return np.repeat(self.scores, self.step // unit), self.counts * (self.step // unit)
        if unit % self.step:
            step = self.step / TICKS
            raise UserError(f"--unit {unit / TICKS:g}: expected a multiple or a divisor of a frame's {step:g} s")
        return self._groups(unit // self.step, rule)

    def utterances(self, rule: str) -> Trials:
        """One trial per utterance. Its score is the mean or minimum of its frames; it is spoofed if any part is."""
        scores, _ = self._groups(int(self.counts.max()), rule)
        bonafide = np.array([all(label != SPOOF for *_, label in spans) for spans in self.spans])
        return Trials(scores, bonafide, np.arange(len(scores)), None)

    def _groups(self, n, rule):
        """Scores of groups of n successive frames, and the number of groups per utterance."""
        counts = -(-self.counts // n)
        starts = np.repeat(np.cumsum(self.counts) - self.counts, counts) + n * _within(counts)
        if rule == "least":
            return np.minimum.reduceat(self.scores, starts), counts
        sizes = np.diff(np.append(starts, len(self.scores)))
        first = self.scores[starts]  # subtracted before the mean: equal scores give an exact mean, so ties stay ties
        return first + np.add.reduceat(self.scores - np.repeat(first, sizes), starts) / sizes, counts

    def point_trials(self, unit: int, rule: str = "mean") -> Trials:
        """One trial per unit of `unit` ticks. Units without a score or without a label are dropped."""
        scores, n_scores = self.units(unit, rule)
        labels = [unit_labels(spans, spans[-1][1], unit / TICKS) for spans in self.spans]
        n_labels = np.array([len(own) for own in labels])
        n = np.minimum(n_scores, n_labels)
        bonafide = np.concatenate(labels)[_within(n_labels) < np.repeat(n, n_labels)] == BONAFIDE
        return Trials(scores[_within(n_scores) < np.repeat(n, n_scores)], bonafide, _owners(n), None)

    def range_trials(self, unit: int, rule: str = "mean") -> Trials:
        """One trial per stretch with one score and one label, weighted by its ticks."""
        scores, counts = self.units(unit, rule)
        ends = np.cumsum([ticks(spans[-1][1]) for spans in self.spans])  # utterances concatenated on one time axis
        begins = np.append(0, ends[:-1])
        of_score = np.repeat(begins, counts) + unit * _within(counts)
        kept = of_score < np.repeat(ends, counts)
        of_score, scores = of_score[kept], scores[kept]
        n_spans = [len(spans) for spans in self.spans]
        of_label = np.repeat(begins, n_spans) + [ticks(start) for spans in self.spans for start, *_ in spans]
        labels = np.array([label for spans in self.spans for *_, label in spans])
        edges = np.union1d(of_score, of_label)
        label = np.searchsorted(of_label, edges, side="right") - 1
        score = np.searchsorted(of_score, edges, side="right") - 1
        masses = np.diff(np.append(edges, ends[-1]))
        return Trials(scores[score], labels[label] != SPOOF, _owners(n_spans)[label], masses)


def _owners(counts):
    """Utterance index of each trial, if utterance i has counts[i] trials."""
    return np.repeat(np.arange(len(counts)), counts)


def _within(counts):
    """Index of each trial within its utterance: 0, 1, ..."""
    counts = np.asarray(counts)
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def read_frames(
    frames: str | os.PathLike, labels: str | os.PathLike, allow_missing: bool = False, bonafide: str | None = None
) -> Frames:
    """Read frame scores and segment labels and join them by utterance, in the order of the scores.

    labels: a file of segment labels, or a trial list next to which find_segments finds them; bona fide trials without
    spans are bona fide throughout. bonafide: see corpora.read_table.
    Raises UserError if a file is malformed, an utterance is in one file only (allow_missing: warns and skips it), steps
    differ, or scores and labels of an utterance differ in length by more than MOST_MISSING frames.
    """
    scored, table = read_frame_scores(frames), None
    if find_segments(labels):
        table = read_table(labels, bonafide=bonafide)
        segments = {}
        for trial in with_spans(table.trials(), labels):
            if trial.spans:
                segments[trial.utt_id] = trial.spans
            elif trial.label == BONAFIDE:
                own = scored.get(trial.utt_id, FrameScores(0.0, ()))
                segments[trial.utt_id] = [(0.0, own.step * len(own.scores), BONAFIDE)]
    else:
        segments = read_segments(labels)
    both = [utt_id for utt_id in scored if utt_id in segments]
    problems = []
    for what, own in (("with scores have no labels", scored), ("with labels have no scores", segments)):
        if alone := [utt_id for utt_id in own if utt_id not in scored or utt_id not in segments]:
            problems.append(f"{len(alone)} utterances {what} (first {shown(alone[0])})")
    if problems:
        problem = f"{frames} does not match {labels}: {', '.join(problems)}"
        if not both or not allow_missing:
            raise UserError(f"{problem}; --allow_missing reports on the rest")
        warn(problem)
    step = scored[both[0]].step
    for utt_id in both:
        end, n = segments[utt_id][-1][1], len(scored[utt_id].scores)
        if scored[utt_id].step != step:
            found = f"{scored[utt_id].step:g} s for {shown(utt_id)}"
            raise UserError(f"{frames}: expected frames of {step:g} s throughout, found {found}")
        if abs(end / step - n) > MOST_MISSING + 0.5:
            raise UserError(
                f"{frames}: expected scores for {end:g} s, the length of {shown(utt_id)} in {labels}, found {n} frames "
                f"of {step:g} s"
            )
    scores = [scored[utt_id].scores for utt_id in both]
    counts = np.array(list(map(len, scores)))
    if table:
        places = {utt_id: i for i, utt_id in enumerate(table.utt_id)}
        table = table.select(np.array([places[utt_id] for utt_id in both]))
    return Frames(both, ticks(step), np.concatenate(scores), counts, [segments[utt_id] for utt_id in both], table)


def trials_eer(trials: Trials, weights: np.ndarray | None = None) -> tuple[Value, float]:
    """(EER with its interval, threshold) of Trials.

    weights: (replicates, utterances) from cluster_weights; None: no interval. Raises UserError for an empty class.
    """
    masks = trials.bonafide, ~trials.bonafide
    classes = [trials.scores[mask] for mask in masks]
    masses = None if trials.masses is None else [trials.masses[mask] for mask in masks]
    if weights is None:
        curve = det_curve(*classes, masses=masses)
        value = NO_VALUE._replace(value=float(curve_eer(curve)))
    else:
        strata = [Stratum(clusters=[trials.utterance[mask] for mask in masks], weights=weights)]
        drawn = bootstrap_curves(*classes, len(weights), points=[eer_point], strata=strata, masses=masses)
        curve = drawn[0][0]
        eer, replicates = bootstrap_figure(curve_eer, *drawn[0])
        value = Value(eer, *percentile_interval(replicates))
    return value, float(curve.thresholds[eer_point(curve)])


def decisions(trials: Trials, threshold: float, n_utterances: int, weights: np.ndarray | None = None) -> list[Value]:
    """Precision, recall and F1 of spoofed trials, with intervals; NaN if the denominator is 0.

    A trial is decided to be spoofed if its score is at most `threshold`.
    """
    decided = trials.scores <= threshold
    hits = np.bincount(trials.utterance, decided & ~trials.bonafide, n_utterances)
    false_alarms = np.bincount(trials.utterance, decided & trials.bonafide, n_utterances)
    misses = np.bincount(trials.utterance, ~decided & ~trials.bonafide, n_utterances)

    def rates(counts):
        hits, false_alarms, misses = counts.T
        with np.errstate(invalid="ignore"):
            return hits / (hits + false_alarms), hits / (hits + misses), 2 * hits / (2 * hits + false_alarms + misses)

    counts = np.stack([hits, false_alarms, misses], axis=1)
    values = [NO_VALUE._replace(value=float(rate)) for rate in rates(counts.sum(axis=0))]
    if weights is None:
        return values
    return [Value(v.value, *percentile_interval(drawn)) for v, drawn in zip(values, rates(weights @ counts))]


def measure_frames(
    frames: Frames, units: Sequence[int], rule: str, dev: Frames | None, weights: np.ndarray | None, system: str
) -> list[Row]:
    """One Row per unit length (in ticks), then one for whole utterances per rule in RULES.

    dev: frames whose EER thresholds are used; None: the thresholds of the same trials. weights: see trials_eer.
    """

    def row(by, name, trials_of, range_trials=None):
        trials = trials_of(frames)
        condition = Condition(by, name, {}, *(np.flatnonzero(mask) for mask in (trials.bonafide, ~trials.bonafide)))
        if not len(condition.bonafide) or not len(condition.spoof):
            return Row(condition, system, {})
        figures = {}
        figures["eer"], threshold = trials_eer(trials, weights)
        if range_trials:
            figures["range_eer"], _ = trials_eer(range_trials, weights)
        if dev:
            _, threshold = trials_eer(trials_of(dev))
        figures["threshold"] = NO_VALUE._replace(value=threshold)
        values = decisions(trials, threshold, len(frames.utt_ids), weights)
        return Row(condition, system, figures | dict(zip(("precision", "recall", "f1"), values)))

    rows = [
        row(
            "unit",
            f"{unit / TICKS:g} s",
            partial(Frames.point_trials, unit=unit, rule=rule),
            frames.range_trials(unit, rule),
        )
        for unit in units
    ]
    return rows + [row("utterance", f"{name} of its frames", partial(Frames.utterances, rule=name)) for name in RULES]


def _weights(frames, replicates):
    """Draw counts of the utterances, (replicates, utterances); None if there are no intervals."""
    if not replicates or len(frames.utt_ids) < FEWEST_CLUSTERS:
        return None
    bonafide = np.array([label != SPOOF for spans in frames.spans for *_, label in spans])
    return cluster_weights(_owners([len(spans) for spans in frames.spans]), bonafide, replicates)


def report_frames(
    path: str | os.PathLike,
    labels: str | os.PathLike,
    units: Sequence[float] | None = None,
    rule: str = "mean",
    dev: Sequence[str | os.PathLike] | None = None,
    replicates: int = 1000,
    allow_missing: bool = False,
    form: str | None = None,
    plot: str | os.PathLike | None = None,
    utt_id: str | None = None,
    by: Sequence[Sequence[str]] | None = None,
    bonafide: str | None = None,
) -> None:
    """Print the report of EER_minDCF.py --frames, and draw one utterance if `plot` names a file.

    path: frame scores; labels: segment labels, see read_frames; units: seconds, None: 1, 2, ... 32 frames; dev: scores
    and labels of the dev set; form: one of FORMS, None: text; utt_id: the utterance to draw, None: the first with a
    spoofed stretch; by: see conditions_of, columns of the trial list that `labels` names (breakdowns use the shortest
    unit); bonafide: see read_frames.
    Raises the UserErrors of read_frames, and UserError if a class has no stretch.
    """
    frames = read_frames(path, labels, allow_missing, bonafide)
    dev_frames = read_frames(*dev, allow_missing, bonafide) if dev else None
    if by and not frames.table:
        raise UserError(f"--by: expected --labels_file to be a trial list, found only segment labels in {labels}")
    units = [ticks(unit) for unit in units] if units else [frames.step << i for i in range(6)]
    n, weights, intervals = len(frames.utt_ids), _weights(frames, replicates), "no intervals"
    if utt_id is not None and utt_id not in frames.utt_ids:
        raise UserError(f"--plot_utt {shown(utt_id)}: {path} has no such utterance")
    if weights is not None:
        intervals = f"intervals: 95 %, {replicates} bootstrap replicates of whole utterances"
    system = Path(path).stem
    rows = measure_frames(frames, units, rule, dev_frames, weights, system)
    for condition in conditions_of(frames.table, by)[1:] if by else ():
        some = frames.select(np.isin(np.arange(n), np.concatenate([condition.bonafide, condition.spoof])))
        row = measure_frames(some, [min(units)], rule, dev_frames, _weights(some, replicates), system)[0]
        rows.append(row._replace(condition=row.condition._replace(by=condition.by, name=condition.name)))
    if not rows[0].figures:
        raise UserError(f"{labels}: expected bona fide and spoofed stretches, found none of one class")
    if rows[0].figures["eer"].value > 0.5:
        warn(f"{path}: EER above 50 %: are scores higher for spoofs, or do the labels belong to other utterances?")
    result = Report(
        corpus="segments",
        subset="",
        key=str(labels),
        intervals=intervals,
        calibrated=False,
        checks={system: {"path": str(path), "utterances": n, "frames": len(frames.scores)}},
        rows=rows,
        figures={figure.key: figure for figure in FIGURES},
        comparisons=[],
    )
    if plot:
        spoofed = (i for i, spans in enumerate(frames.spans) if any(label == SPOOF for *_, label in spans))
        i = frames.utt_ids.index(utt_id) if utt_id is not None else next(spoofed)
        scores = np.split(frames.scores, np.cumsum(frames.counts)[:-1])[i]
        _, threshold = trials_eer((dev_frames or frames).point_trials(frames.step))
        plots.draw_segments(plot, frames.utt_ids[i], frames.step / TICKS, scores, frames.spans[i], threshold)
    if form:
        FORMS[form](result)
        return
    n_spoof = n - np.count_nonzero(frames.utterances("mean").bonafide)
    print(f"segments: {n} utterances, {n_spoof} of them with spoofed stretches")
    print(f"labels: {labels}")
    print(f"scores: {path}, frames of {frames.step / TICKS:g} s; of a coarser unit the {rule} of its frames")
    print(f"thresholds: those of the EER of {dev[0] if dev else 'these very trials; --dev sets them on others'}")
    print(intervals)
    if by:
        print(f"breakdowns: units of {min(units) / TICKS:g} s")
    for part in result.parts():
        print(*["", *aligned(text_table(part, FIGURES, False))], sep="\n")
