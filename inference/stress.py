"""Stress test of a verdict: one recording judged again under the conditions of eval.py --condition."""

import importlib.util
import tempfile
from pathlib import Path

import soundfile

from augmentation.conditions import CLEAN, CONDITIONS, WITHOUT_FOLDER, apply_condition
from common.audio import SAMPLE_RATE, load_audio
from common.console import printable, progress
from inference.verdicts import Judged, Reader


def judge_under_conditions(judge: Reader, judged: Judged) -> dict[str, Judged]:
    """Judge a file again under all conditions that need no noise folder: {condition: Judged}.

    judge: a judging.Judge. Pitch shifts need librosa and are skipped without it. Raises UserError if the file cannot be
    read again, or is longer than load_audio reads.
    """
    x = load_audio(judged.path)
    names = [name for name in WITHOUT_FOLDER if name != CLEAN]
    if not importlib.util.find_spec("librosa"):
        names = [name for name in names if not name.startswith("pitch_")]
    under = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in progress(names, desc="stress", unit="condition"):
            path = str(Path(folder, "changed.wav"))
            changed = apply_condition(name, x, Path(judged.file).name)
            soundfile.write(path, changed, SAMPLE_RATE, subtype="FLOAT")
            (under[name],) = judge.judge({f"{judged.file} ({name})": path}, check=lambda seconds: None)
    return under


def about_stress(judge: Reader, judged: Judged, under: dict[str, Judged]) -> list[str]:
    """Sentences about how far the verdict moves."""
    finding = judge.finding(judged)
    verdicts = {name: judge.brief(one) for name, one in under.items() if not one.error}
    changed = {name: verdict for name, verdict in verdicts.items() if judge.finding(under[name]) != finding}
    same = f"{len(verdicts) - len(changed)} of {len(verdicts)} conditions"
    lines = [f'the verdict "{judge.brief(judged)}" stays under {same} (listed by eval.py --condition list)']
    for verdict in dict.fromkeys(changed.values()):
        lines.append(f"{verdict} under {', '.join(name for name, other in changed.items() if other == verdict)}")
    if scores := _scores(under):
        low, high = min(scores, key=scores.get), max(scores, key=scores.get)
        clean = f"{judged.score:.3g}" if judged.score is not None else "none"
        lines.append(f"score {clean} without a condition, {scores[low]:.3g} ({low}) to {scores[high]:.3g} ({high})")
    lines += [f"not judged under {name}: {printable(one.error)}" for name, one in under.items() if one.error]
    return lines


def stress_to_dict(judge: Reader, judged: Judged, under: dict[str, Judged]) -> dict:
    """The same as plain data for JSON."""
    scores = _scores(under)
    conditions = []
    for name, one in under.items():
        row = {"condition": name, "meaning": CONDITIONS[name].meaning}
        if one.error:
            row |= {"error": one.error}
        else:
            finding = judge.finding(one)
            row |= {"score": one.score, "verdict": judge.verdict(one), "finding": finding}
            row |= {"refusal": judge.refusal(one), "changes_finding": finding != judge.finding(judged)}
        conditions.append(row)
    return {
        "n_conditions": sum(not one.error for one in under.values()),
        "n_changed": sum(row.get("changes_finding", False) for row in conditions),
        "score_low": min(scores.values(), default=None),
        "score_high": max(scores.values(), default=None),
        "conditions": conditions,
    }


def _scores(under):
    return {name: one.score for name, one in under.items() if one.score is not None}
