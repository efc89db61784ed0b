"""Test length: how much of each utterance is scored."""

import corpora
from back_ends import BACK_ENDS
from common.console import UserError
from model import Detector


def choose_test_length(
    detector: Detector,
    corpus: str,
    default_of: str,
    cut: int | None = None,
    test_mode: str | None = None,
    test_protocol: str | None = None,
) -> tuple[int | None, str]:
    """Number of samples scored per utterance (None: all), and the source of this choice in words.

    In order of precedence: the flags; the length that the authors of the back-end score, or the training crop if the
    checkpoint was trained with another one; the test length of the corpus.
    corpus: a name in CORPORA; default_of: its name in messages. cut, test_mode, test_protocol: the flags of eval.py.
    Raises UserError if the cut is shorter than one frame of the encoder.
    """
    record = corpora.CORPORA[corpus]
    if cut:
        if cut < (least := detector.front_end.least_samples):
            raise UserError(f"--cut: expected at least {least} samples, one frame of the encoder, found {cut}")
        return cut, "--cut"
    flag = "--test_mode" if test_mode else "--test_protocol"
    if given := test_mode or test_protocol:
        return None if given == "full" else record.test_length, f"{flag} {given}"
    back_end, crop = detector.config.back_end, detector.crop
    published = BACK_ENDS[back_end].test_samples
    if published and crop and crop != published:
        return crop, f"as {back_end} was trained"
    if published:
        return record.test_length_of.get(back_end, published), f"as the authors of {back_end} score"
    return None if record.test_protocol == "full" else record.test_length, f"the default of {default_of}"
