"""Windows of recordings: the longest piece scored at once, and how longer recordings are cut for unit scores."""

from collections.abc import Iterable, Iterator

import numpy as np

from common.audio import SAMPLE_RATE

LONGEST_WHOLE = 30 * SAMPLE_RATE  # samples scored in one piece; the memory of attention is quadratic in the length
CONTEXT = 5 * SAMPLE_RATE  # samples on either side of a window, at least


def windows_of(blocks: Iterable[np.ndarray], step: int) -> Iterator[tuple[np.ndarray, int, int]]:
    """Cut a recording, given as blocks (samples,), into overlapping windows. Yields (window (samples,), lead, n).

    The n samples after the first `lead` are the window's own part; the rest is context. The own parts follow each other
    without a gap. Each has a multiple of `step` samples, except the last, which ends with the recording.
    """
    context = -(-CONTEXT // step) * step
    own = (LONGEST_WHOLE - 2 * context) // step * step
    held, lead, total = np.zeros(0, np.float32), 0, 0  # `held` begins with the context of the next window
    for block in blocks:
        held = np.concatenate([held, block])
        total += len(block)
        while total > LONGEST_WHOLE and len(held) > lead + own + context:
            yield held[: lead + own + context], lead, own
            held, lead = held[lead + own - context :], context
    if len(held) > lead:
        yield held, lead, len(held) - lead
