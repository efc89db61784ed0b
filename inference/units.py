"""Unit scores of recordings of any length, from detectors trained with --labels frames or both.

Recordings of up to 30 s are scored in one piece. A longer recording is read and scored in windows, each with five
seconds of context on either side that is not scored. Memory does not grow with the length, and every unit has context,
except at the ends of the recording.
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
    """Score a recording: (score, unit scores (U,), samples read, whether it contains only zeros).

    The score comes from the back-end's pooling, averaged over windows by their length, or from the worst units of the
    recording. An empty recording has no units and no score (NaN).
    check: called with the seconds read, for every block; an exception that it raises ends the scoring. hear: called
    with every block (samples,). in_turn: runs `score(windows)`, one batch at a time if threads share a detector.
    Raises UserError if the recording cannot be read.
    """
    step = detector.frames_per_unit * detector.front_end.stride
    device = next(detector.parameters()).device
    n_samples, silent, rows, pooled, weights, batch = 0, True, [], [], [], []

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
        """Score windows of one length."""
        ready = [detector.front_end.ready(repeat_pad(x, detector.front_end.least_samples)) for x, _, _ in windows]
        with torch.inference_mode(), autocast(precision, device), attention_for_any_length():
            logits = detector(torch.stack(ready).to(device), normalized=True).float().cpu()
        for own, (x, lead, n) in zip(logits, windows):
            last = None if lead + n == len(x) else (lead + n) // step
            rows.append(own[1:][lead // step : last])
            pooled.append(own[0])
            weights.append(n)

    for window in windows_of(read(), step):
        if batch and len(batch[0][0]) != len(window[0]):
            in_turn(score, batch)
            batch = []
        batch.append(window)
        if sum(len(x) for x, _, _ in batch) >= BATCH_SAMPLES[device.type]:
            in_turn(score, batch)
            batch = []
    if batch:
        in_turn(score, batch)
    if not rows:
        return float("nan"), np.zeros(0, np.float32), 0, True
    units = torch.cat(rows).unsqueeze(0)
    if detector.config.utterance == "worst":
        utterance = detector.worst_of(units)
    else:
        utterance = torch.stack(pooled).T.mul(torch.tensor(weights)).sum(1, keepdim=True).T / sum(weights)
    logits = torch.cat([utterance.unsqueeze(1), units], dim=1)
    return detector.scores_of(logits).item(), detector.unit_scores_of(logits)[0].numpy(), n_samples, silent
