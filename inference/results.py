"""Results of a scoring run: the score file, and the list of trials that have no score."""

import os
import sys
from pathlib import Path

import numpy as np

import corpora
from common.atomic import atomic_open, is_stream
from common.console import printable
from corpora import BONAFIDE, SPOOF
from corpora.frame_scores import FrameScores, write_frame_scores
from corpora.segments import spans_of_labels, write_rttm


def errors_file(out: str | os.PathLike) -> Path:
    """Path of the list of trials without a score. It contains the score file's name, so no two score files share it."""
    return Path(f"{out}.errors.tsv")


def write_results(out: str | os.PathLike, trials: list[corpora.Trial], done: dict) -> int:
    """Write scores in the order of the trials, and trials without a score to errors_file. Returns the exit status.

    done: {batch number: result}, results as from score_batches without units.
    """
    scores, failures, silent = {}, {}, set()
    for batch_scores, batch_failures, batch_silent in done.values():
        scores |= batch_scores
        failures |= batch_failures
        silent |= set(batch_silent)
    errors = errors_file(out)
    # One line with one tab per trial, even if a name contains tabs or line breaks.
    lines = [f"{printable(trials[index].utt_id)}\t{printable(why)}\n" for index, why in sorted(failures.items())]
    if is_stream(out):
        sys.stderr.writelines(lines)
    elif failures:
        with atomic_open(errors) as file:
            file.writelines(lines)
    else:
        errors.unlink(missing_ok=True)
    corpora.write_scores(out, {trials[index].utt_id: score for index, score in sorted(scores.items())})
    if silent:
        names = " ".join(printable(trials[index].utt_id) for index in sorted(silent)[:10])
        print(f"eval.py: warning: {len(silent)} trials contain only zeros, first {names}", file=sys.stderr)
    if failures:
        where = "listed above" if is_stream(out) else f"see {errors}"
        print(f"eval.py: {len(failures)} of {len(trials)} trials have no score, {where}", file=sys.stderr)
    return 1 if failures else 0


def split_frames(done: dict, trials: list[corpora.Trial], unit: float) -> tuple[dict, dict[str, FrameScores]]:
    """Split results of score_batches with units, {batch number: result}, into results without units and frame scores
    {utt_id: FrameScores} in the order of the trials. unit: seconds.
    """
    plain, frames = {}, {}
    for number, (scores, *rest) in done.items():
        plain[number] = ({index: own[0] for index, own in scores.items()}, *rest)
        frames |= {index: FrameScores(unit, np.array(own[1:])) for index, own in scores.items()}
    return plain, {trials[index].utt_id: own for index, own in sorted(frames.items())}


def write_frames(frames: dict[str, FrameScores], out: str | None, rttm: str | None, threshold: float | None) -> None:
    """Write frame scores, and RTTM segments: bona fide above the threshold, spoofed elsewhere. None: no such file."""
    if out:
        write_frame_scores(out, frames.items())
    if rttm:
        decided = {utt_id: np.where(own.scores > threshold, BONAFIDE, SPOOF) for utt_id, own in frames.items()}
        write_rttm(rttm, {utt_id: spans_of_labels(own, frames[utt_id].step) for utt_id, own in decided.items()})
