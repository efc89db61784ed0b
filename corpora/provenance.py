"""Provenance of a run: digests of its trials and their audio, and comparison of data and machines between runs."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor

from corpora.labels import BONAFIDE, SPOOF
from corpora.tables import Trial

SECOND = 10**9  # ns


def data_facts(trials: list[Trial], unit: int = SECOND) -> dict[str, int | str]:
    """Digests of trials and of the sizes and times of their audio files, as plain data; paths are ignored.

    unit: resolution of times in ns. The default is a second because archives and some file systems keep no finer times,
    and moved audio must count as the same data.
    """
    ids = [trial.utt_id for trial in trials]
    labels = [trial.label for trial in trials]
    has_spans = any(trial.spans is not None for trial in trials)
    files = _sizes_and_times(trials)
    return {
        "trials": len(trials),
        "bona fide": labels.count(BONAFIDE),
        "spoof": labels.count(SPOOF),
        "ids": _digest(ids),
        "ids, sorted": _digest(sorted(ids)),
        "labels": _digest([[trial.label, trial.spans] for trial in trials] if has_spans else labels),
        "sizes": _digest([size for size, _ in files]),
        "times": _digest([time and time // unit for _, time in files]),
        "newest": max((time for _, time in files if time is not None), default=0),
    }


def data_difference(before: dict, now: dict, trials: list[Trial], labels: bool = True) -> str:
    """Description of the difference between the data_facts of two lists; "" if there is none.

    trials: the list of `now`. labels: whether to compare labels.
    """
    if before["ids"] != now["ids"]:
        if before["ids, sorted"] == now["ids, sorted"]:
            return "the same trials in another order"
        return f"other trials: {_counts(before, labels)} before, {_counts(now, labels)} now"
    if labels and before["labels"] != now["labels"]:
        return f"other labels: {_counts(before, labels)} before, {_counts(now, labels)} now"
    same_sizes = before["sizes"] == now["sizes"]
    if same_sizes and before["times"] == now["times"]:
        return ""
    newer = [trial.path for trial, (_, t) in zip(trials, _sizes_and_times(trials)) if t and t > before["newest"]]
    text = "audio files changed, " + ("same sizes, other modification times" if same_sizes else "other sizes")
    text += f"; {len(newer)} of {len(trials)} are newer than any before, first {newer[0]}" if newer else ""
    return text + ("; a copy that preserves times (cp -p) counts as the same data" if same_sizes else "")


def machine_difference(before: dict, now: dict) -> str:
    """Description of the difference between two {name: value} of machines, on which rounding depends.

    Values that are None or missing in one of them are not compared.
    """
    both = [name for name in now if None not in (before.get(name), now[name])]
    return ", ".join(f"{name} {before[name]} before, {now[name]} now" for name in both if before[name] != now[name])


def _counts(facts, labels):
    return f"{facts['trials']}" + (f" ({facts['bona fide']} bona fide, {facts['spoof']} spoof)" if labels else "")


def _sizes_and_times(trials):
    """(bytes, modification time in ns) of each trial's audio file; (None, None) if it is not accessible."""

    def stat_files(part):
        pairs = []
        for trial in part:
            try:
                status = os.stat(trial.path)
                pairs.append((status.st_size, status.st_mtime_ns))
            except (OSError, ValueError):
                pairs.append((None, None))
        return pairs

    parts = [trials[start : start + 1024] for start in range(0, len(trials), 1024)]
    with ThreadPoolExecutor(16) as pool:  # network file systems answer many requests at once
        return [pair for part in pool.map(stat_files, parts) for pair in part]


def _digest(values):
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]
