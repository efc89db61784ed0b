"""Frame scores: one line `UTT<TAB>STEP<TAB>SCORE SCORE ...` per utterance, with one score per frame.

STEP: seconds per frame; score i covers the time from i STEP to (i + 1) STEP. A higher score means bona fide. Ids may
contain blanks.
"""

import contextlib
import itertools
import os
from collections import namedtuple
from collections.abc import Iterable

import numpy as np

from common.atomic import atomic_open
from common.console import UserError, shown
from corpora.text import numbers, read_text

# Scores (n,) of the frames of an utterance; step: seconds per frame.
FrameScores = namedtuple("FrameScores", "step scores")


def read_frame_scores(path: str | os.PathLike) -> dict[str, FrameScores]:
    """Read frame scores as {utt_id: FrameScores}, scores float64, in the order of the file.

    Raises UserError, with file and line, for another form, a NaN or infinite score, and a duplicate id.
    """
    frames, text = {}, read_text(path)
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        words = line.split("\t")
        if len(words) != 3 or not words[0] or not words[2].strip():
            raise UserError(f"{path}:{number}: expected UTT<TAB>STEP<TAB>SCORE SCORE ..., found {shown(line, 60)}")
        utt_id = words[0]
        if utt_id in frames:
            raise UserError(f"{path}:{number}: duplicate scores for {shown(utt_id)}; was the file appended to?")
        (step,) = numbers(path, [number], words[1:2], "the seconds per frame", finite=True)
        if step <= 0:
            raise UserError(f"{path}:{number}: expected more than 0 seconds per frame, found {step:g}")
        frames[utt_id] = FrameScores(step, _scores(path, number, utt_id, words[2]))
    if not frames:
        raise UserError(f"{path}: expected one utterance per line, found none")
    return frames


def _scores(path, number, utt_id, text):
    """Scores (n,) of an utterance. Fast path for files of 14 million scores; only an invalid one is searched for."""
    words = text.split()
    with contextlib.suppress(ValueError):
        scores = np.fromiter(map(float, words), np.float64, len(words))
        if np.isfinite(scores).all() and text.isascii() and "_" not in text:
            return scores
    return np.array(numbers(path, itertools.repeat(number), words, f"a score of {shown(utt_id)}", finite=True))


def write_frame_scores(path: str | os.PathLike, frames: Iterable[tuple[str, FrameScores]]) -> None:
    """Write (utt_id, FrameScores) of all utterances atomically, with nine digits, which represent a float32 exactly.

    Raises UserError if the file cannot be written, ValueError for an id or scores that a line cannot represent.
    """
    with atomic_open(path) as file:
        for utt_id, (step, scores) in frames:
            if not utt_id or any(c in utt_id for c in "\t\n\r") or not len(scores) or not np.all(np.isfinite(scores)):
                raise ValueError(f"{utt_id!r}: expected an id without tabs, and at least one score, all finite")
            file.write(f"{utt_id}\t{step:.9g}\t{' '.join([f'{score:.9g}' for score in np.asarray(scores).tolist()])}\n")
