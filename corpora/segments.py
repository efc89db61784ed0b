"""Segment labels of partially spoofed speech: which stretches of a recording are spoofed.

A label is a span (start, end, label): times in seconds, and BONAFIDE, SPOOF or NON_SPEECH. The spans of an utterance
are sorted and cover it from 0 to its end without gaps; stretches without a label in the file are NON_SPEECH. Times are
rounded to ticks of 1e-7 s. The decimals in files and samples at 16 kHz are integer numbers of ticks, so unit edges are
exact.
Sources: Zhang et al., "The PartialSpoof database and countermeasures", IEEE/ACM TASLP 31, 2023, and its archive;
Luong et al., "LlamaPartialSpoof" (arXiv 2409.14743), and its metrics.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.atomic import atomic_open
from common.console import UserError, shown
from corpora.arrays import unpickled
from corpora.labels import BONAFIDE, SPOOF
from corpora.records import CORPORA
from corpora.tables import Trial
from corpora.text import numbers, read_text, utterance_names

Span = tuple[float, float, int]  # start and end in seconds, label
NON_SPEECH = 2
TICKS = 10_000_000  # per second
TOLERANCE = TICKS // 1000  # spans may overlap or pass the end by this much because files round times

_WORDS = {"bonafide": BONAFIDE, "bona-fide": BONAFIDE, "spoof": SPOOF}
_WORDS |= {"nonspeech": NON_SPEECH, "non-speech": NON_SPEECH}
_NAMES = {BONAFIDE: "bonafide", SPOOF: "spoof", NON_SPEECH: "nonspeech"}
_CODES = {"0": SPOOF, "1": BONAFIDE, "2": NON_SPEECH}  # of .vad files and of arrays
_NUMBER = r"[+-]?[\d.]+(?:[eE][+-]?\d+)?"


def ticks(seconds: float) -> int:
    """Convert seconds to an integer number of ticks."""
    return round(seconds * TICKS)


def read_segments(path: str | os.PathLike) -> dict[str, list[Span]]:
    """Read segment labels as {utt_id: spans}. The form is recognised from the content.

    - a folder of files UTT.vad, each with lines `START END LABEL`: 0 spoof, 1 bona fide, 2 non-speech
    - RTTM: lines `SPEAKER UTT 1 START DURATION <NA> <NA> LABEL <NA> <NA>`
    - lines `UTT DURATION spoof|bonafide START-END-LABEL ...`; without spans, the label holds for the whole utterance
    - {split}_seglab_0.02.npy: a pickled dictionary with an array of labels, 0 or 1, per utterance; its name gives the
      unit of the labels in seconds. No code in it is run.
    Spans may be in any order; empty spans are ignored. Raises UserError, with file and line, for another form, a span
    that ends before its start, and spans that overlap or pass the duration by more than 1 ms.
    Names of utterances: see utterance_names.
    """
    segments = _read_form(path)
    return dict(zip(utterance_names(list(segments)), segments.values()))


def _read_form(path):
    if os.path.isdir(path):
        return _read_vad_folder(path)
    try:
        with open(path, "rb") as file:
            is_array = file.read(6) == b"\x93NUMPY"
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if is_array:
        return _read_arrays(path)
    lines = _word_lines(path)
    if not lines:
        raise UserError(f"{path}: expected segment labels, found an empty file")
    number, words = lines[0]
    if words[0] == "SPEAKER" or words[0].startswith(";;"):
        return _read_rttm(path, lines)
    if _begins_with_spans(words):
        return _read_lines(path, lines)
    raise UserError(
        f"{path}:{number}: expected RTTM (SPEAKER UTT 1 START DURATION ...) or UTT DURATION spoof|bonafide "
        f"START-END-LABEL ..., found {shown(' '.join(words))}"
    )


def write_rttm(path: str | os.PathLike, segments: Mapping[str, Sequence[Span]]) -> None:
    """Write {utt_id: spans} atomically as RTTM, with the labels bonafide, spoof and nonspeech.

    Raises UserError for an id with a blank, which RTTM cannot represent.
    """
    with atomic_open(path) as file:
        for utt_id, spans in segments.items():
            if utt_id.split() != [utt_id]:
                raise UserError(f"{path}: RTTM: expected ids without blanks, found {shown(utt_id)}")
            for start, end, label in spans:
                times = f"{start:.7f} {(ticks(end) - ticks(start)) / TICKS:.7f}"
                file.write(f"SPEAKER {utt_id} 1 {times} <NA> <NA> {_NAMES[label]} <NA> <NA>\n")


def with_spans(
    trials: Sequence[Trial], protocol: str | os.PathLike, segments: str | os.PathLike | None = None
) -> list[Trial]:
    """Add spans to the trials of a list that has segment labels; see read_segments.

    segments: path of the segment labels; None: found by find_segments. Without segment labels, trials are returned as
    they are, each of one class throughout. Bona fide trials may have no spans.
    Raises the UserErrors of read_segments, and UserError for a spoofed trial without spans and for spans that
    contradict a trial's label.
    """
    segments = segments or find_segments(protocol)
    if not segments:
        return list(trials)
    spans = read_segments(segments)
    labelled = []
    for trial in trials:
        own = spans.get(trial.utt_id) or spans.get(trial.utt_id.rpartition("/")[2])
        if own is None and trial.label == SPOOF:
            raise UserError(
                f"{segments}: expected spans for {shown(trial.utt_id)}, which is spoofed in {protocol}, found none"
            )
        if own and trial.label is not None and (trial.label == SPOOF) != any(label == SPOOF for *_, label in own):
            expected, count, label = ("a", "none", "spoofed") if trial.label == SPOOF else ("no", "one", "bona fide")
            raise UserError(
                f"{segments}: expected {expected} spoofed span for {shown(trial.utt_id)}, which is {label} in "
                f"{protocol}, found {count}"
            )
        labelled.append(replace(trial, spans=tuple(own)) if own else trial)
    return labelled


def find_segments(protocol: str | os.PathLike) -> str | os.PathLike | None:
    """Path of a list's segment labels; None if it has none.

    The list itself if its lines have spans, or the place around the list where its corpus's archive has them.
    """
    if os.path.isdir(protocol):
        return None
    if not str(protocol).lower().endswith((".npy", ".parquet")):
        words = next((line.split() for line in read_text(protocol).split("\n") if line.strip()), [])
        if _begins_with_spans(words):
            return protocol
    for record in CORPORA.values():
        split = next((split for split, name in record.lists.items() if name == Path(protocol).name), None)
        for folder in list(Path(protocol).absolute().parents)[:4]:
            for place in record.segments if split else ():
                if (folder / place.format(split=split)).exists():
                    return folder / place.format(split=split)
    return None


def _begins_with_spans(words):
    """Whether words are a line UTT DURATION spoof|bonafide START-END-LABEL ..."""
    return len(words) >= 3 and bool(re.fullmatch(_NUMBER, words[1])) and words[2] in _WORDS


def spans_of_labels(labels: np.ndarray, unit: float) -> list[Span]:
    """Convert labels (n,) of successive units of `unit` seconds to spans, merging equal neighbours; [] if n is 0."""
    starts = np.flatnonzero(np.diff(labels, prepend=labels[:1] + 1))
    edges = [int(edge) * ticks(unit) / TICKS for edge in [*starts, len(labels)]]
    return [(edges[i], edges[i + 1], int(labels[start])) for i, start in enumerate(starts)]


def unit_labels(spans: Sequence[Span], duration: float, unit: float) -> np.ndarray:
    """Convert spans to labels (n,) int8 of units of `unit` seconds, n = int(duration / unit + 0.5).

    A unit is SPOOF if any part of it is spoofed, else BONAFIDE.
    Source: the metrics of LlamaPartialSpoof, sensitivity 0.
    """
    size = ticks(unit)
    labels = np.full((2 * ticks(duration) + size) // (2 * size), BONAFIDE, np.int8)
    for start, end, label in spans:
        if label == SPOOF:
            labels[ticks(start) // size : -(-ticks(end) // size)] = SPOOF
    return labels


def fit_spans(spans: Sequence[Span], duration: float) -> list[Span]:
    """Fit spans to a recording of `duration` seconds: cut them there, or extend the last one to it."""
    end = ticks(duration)
    cut = [(start, min(stop, duration), label) for start, stop, label in spans if ticks(start) < end]
    return cut and [*cut[:-1], (cut[-1][0], duration, cut[-1][2])]


def crop_spans(spans: Sequence[Span], start: float, length: float, duration: float | None = None) -> list[Span]:
    """Spans of a crop: `length` seconds from `start` of a recording repeated end to end; times start at 0.

    duration: seconds of the recording, to which spans are fitted first; None: the end of its last span.
    """
    fitted = fit_spans(spans, spans[-1][1] if duration is None else duration)
    period, first, last = ticks(fitted[-1][1]), ticks(start), ticks(start) + ticks(length)
    cropped = []
    for offset in range(0, last, period):
        for begin, end, label in fitted:
            begin, end = max(offset + ticks(begin), first), min(offset + ticks(end), last)
            if begin < end:
                cropped.append(((begin - first) / TICKS, (end - first) / TICKS, label))
    return cropped


def _whole(where, spans, duration=None):
    """Sort, check and complete spans [(place, start, end, label)] in ticks: the spans of an utterance in seconds.

    place: file and line of a span, where: of the utterance, both for messages. duration: in ticks, None: the end of the
    last span.
    """
    whole, at = [], 0

    def add(start, end, label):
        if whole and whole[-1][2] == label and whole[-1][1] == start:
            start = whole.pop()[0]
        whole.append((start, end, label))

    for place, start, end, label in sorted(spans, key=lambda span: span[1:3]):
        shape = f"{start / TICKS:g} to {end / TICKS:g} s"
        if start < 0 or end < start:
            raise UserError(f"{place}: expected 0 <= start <= end of a span, found {shape}")
        if start == end:
            continue
        if start < at - TOLERANCE:
            raise UserError(f"{place}: expected no overlap, found {shape} after a span that ends at {at / TICKS:g} s")
        if duration is not None and end > duration + TOLERANCE:
            raise UserError(f"{place}: expected spans within {duration / TICKS:g} s, found {shape}")
        end = end if duration is None else min(end, duration)
        if start > at:
            add(at, start, NON_SPEECH)
        if end > max(start, at):
            add(max(start, at), end, label)
            at = end
    if duration is not None and at < duration:
        add(at, duration, NON_SPEECH)
    if not whole:
        raise UserError(f"{where}: expected spans longer than 0 s, found none")
    return [(start / TICKS, end / TICKS, label) for start, end, label in whole]


def _word_lines(path):
    """[(line number, words)] of a text file, without blank lines."""
    return [(i, words) for i, line in enumerate(read_text(path).split("\n"), 1) if (words := line.split())]


def _times(path, number, *words):
    """Times of a line in ticks."""
    return [ticks(value) for value in numbers(path, [number] * len(words), words, "a time in seconds", finite=True)]


def _label(path, number, word, words):
    if word not in words:
        raise UserError(f"{path}:{number}: expected one of {', '.join(words)} as the label, found {shown(word)}")
    return words[word]


def _read_vad_folder(folder):
    files = sorted(Path(folder).glob("*.vad"))
    if not files:
        raise UserError(f"{folder}: expected files UTT.vad with lines START END LABEL, found none")
    segments = {}
    for file in files:
        spans = []
        for number, words in _word_lines(file):
            if len(words) != 3:
                raise UserError(f"{file}:{number}: expected START END LABEL, found {shown(' '.join(words))}")
            label = _label(file, number, words[2], _CODES)
            spans.append((f"{file}:{number}", *_times(file, number, *words[:2]), label))
        segments[file.stem] = _whole(file, spans)
    return segments


def _read_rttm(path, lines):
    spans = {}
    for number, words in lines:
        if words[0].startswith(";;"):  # a comment
            continue
        if words[0] != "SPEAKER" or len(words) not in (9, 10):
            raise UserError(
                f"{path}:{number}: expected SPEAKER UTT 1 START DURATION <NA> <NA> LABEL <NA> <NA>, "
                f"found {shown(' '.join(words))}"
            )
        start, duration = _times(path, number, *words[3:5])
        label = _label(path, number, words[7], _WORDS)
        spans.setdefault(words[1], []).append((f"{path}:{number}", start, start + duration, label))
    return {utt_id: _whole(f"{path}: {shown(utt_id)}", own) for utt_id, own in spans.items()}


def _read_lines(path, lines):
    segments = {}
    for number, (utt_id, *words) in lines:
        place = f"{path}:{number}"
        if len(words) < 2:
            raise UserError(f"{place}: expected UTT DURATION spoof|bonafide START-END-LABEL ..., found {shown(utt_id)}")
        if utt_id in segments:
            raise UserError(f"{place}: duplicate labels for {shown(utt_id)}")
        (duration,) = _times(path, number, words[0])
        label, spans = _label(path, number, words[1], {"bonafide": BONAFIDE, "spoof": SPOOF}), []
        for word in words[2:]:
            parts = re.fullmatch(f"({_NUMBER})-({_NUMBER})-(.+)", word)
            if not parts:
                raise UserError(f"{place}: expected START-END-LABEL, found {shown(word)}")
            spans.append((place, *_times(path, number, parts[1], parts[2]), _label(path, number, parts[3], _WORDS)))
        if spans and (label == SPOOF) != any(span[3] == SPOOF for span in spans):
            raise UserError(f"{place}: expected spans that agree with the label {words[1]}")
        segments[utt_id] = _whole(place, spans or [(place, 0, duration, label)], duration)
    return segments


def _read_arrays(path):
    unit = re.search(r"_seglab_(\d*\.?\d+)\.npy$", os.path.basename(path))
    if not unit or not ticks(float(unit[1])):
        raise UserError(f"{path}: expected a name that ends in _seglab_UNIT.npy, UNIT in seconds per label (0.02)")
    unit = float(unit[1])
    arrays = unpickled(path)
    if not isinstance(arrays, dict) or not arrays or not all(isinstance(utt_id, str) for utt_id in arrays):
        raise UserError(f"{path}: expected a dictionary with an array of labels per utterance, found {shown(arrays)}")
    segments = {}
    for utt_id, values in arrays.items():
        try:
            labels = np.asarray(values).astype(np.float64)  # most hold the digits as text
        except (ValueError, TypeError):
            labels = np.zeros(0)
        if labels.ndim != 1 or not labels.size or not np.all((labels == 0) | (labels == 1) | (labels == 2)):
            raise UserError(f"{path}: expected an array of labels 0, 1 or 2 for {shown(utt_id)}, found {shown(values)}")
        segments[utt_id] = spans_of_labels(labels.astype(np.int8), unit)
    return segments
