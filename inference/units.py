"""Unit scores of recordings of any length, from detectors trained with --labels frames or both.

Up to 30 s are scored in one piece. A longer recording is read and scored in windows, each with five seconds on either
side that are heard and not scored: memory does not grow with its length, and no unit is at the border of what is heard
but at the recording's own.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from common.audio import SAMPLE_RATE, audio_blocks
from common.lengths import BATCH_SAMPLES, repeat_pad
from front_ends import attention_for_any_length
from inference.precision import autocast
from inference.windows import windows_of
from model import Detector


def score_units(
    detector: Detector,
    path: Path | str,
    precision: str = "fp32",
    check: Callable[[float], None] | None = None,
    hear: Callable[[np.ndarray], None] = lambda block: None,
    in_turn: Callable[..., None] = lambda score, windows: score(windows),
) -> tuple[float, np.ndarray, int, bool]:
    """Score a recording: (score, scores of its units (U,), samples read, is there nothing but zeros).

    The score is that of the back-end's pooling, of windows their mean by length; or that of the worst units of all.
    check: called with the seconds read, for every block; what it raises ends the scoring. hear: called with every
    block (samples,). in_turn: calls what scores a batch, `score(windows)`, if several threads share a detector. Raises
    UserError if it cannot be read. An empty recording has no units and no score (NaN).
    """
    step = detector.frames_per_unit * detector.front_end.stride
    device = next(detector.parameters()).device
    n_samples, silent, rows, pooled, weights, waiting = 0, True, [], [], [], []

    def read():
        nonlocal n_samples, silent
        for block in audio_blocks(path):
            n_samples += len(block)
            silent = silent and not block.any()
            if check:
                check(n_samples / SAMPLE_RATE)
            hear(block)
            yield block

    def score(windows):
        """Windows of one length."""
        ready = [detector.front_end.ready(repeat_pad(x, detector.front_end.least_samples)) for x, _, _ in windows]
        with torch.inference_mode(), autocast(precision, device), attention_for_any_length():
            logits = detector(torch.stack(ready).to(device), normalized=True).float().cpu()
        for own, (x, lead, n) in zip(logits, windows):
            last = None if lead + n == len(x) else (lead + n) // step
            rows.append(own[1:][lead // step : last])
            pooled.append(own[0])
            weights.append(n)

    for window in windows_of(read(), step):
        if waiting and len(waiting[0][0]) != len(window[0]):
            in_turn(score, waiting)
            waiting = []
        waiting.append(window)
        if sum(len(x) for x, _, _ in waiting) >= BATCH_SAMPLES[device.type]:
            in_turn(score, waiting)
            waiting = []
    if waiting:
        in_turn(score, waiting)
    if not rows:
        return float("nan"), np.zeros(0, np.float32), 0, True
    units = torch.cat(rows).unsqueeze(0)
    if detector.config.utterance == "worst":
        utterance = detector.worst_of(units)
    else:
        utterance = torch.stack(pooled).T.mul(torch.tensor(weights)).sum(1, keepdim=True).T / sum(weights)
    logits = torch.cat([utterance.unsqueeze(1), units], dim=1)
    return detector.scores_of(logits).item(), detector.unit_scores_of(logits)[0].numpy(), n_samples, silent
