"""Labels of lists: the words that mean bona fide and spoof."""

import argparse
import re

from common.console import shown
from corpora.corpus import Corpus

BONAFIDE, SPOOF, UNKNOWN = 1, 0, -1

# In any case. Numbers are not among them: 1 is bona fide in some lists and spoof in others.
WORDS = dict.fromkeys(("bonafide", "bona-fide", "bona_fide", "bona fide", "genuine", "real", "human"), BONAFIDE)
WORDS |= dict.fromkeys(("spoof", "spoofed", "fake", "deepfake", "synthetic"), SPOOF)


# Of the flag --bonafide.
BONAFIDE_HELP = "the label that means bona fide in lists with numbers or words of their own; the other then means spoof"


def add_label_flag(group: argparse._ActionsContainer) -> None:
    """Add --bonafide to a command that reads the labels of lists."""
    group.add_argument("--bonafide", metavar="WORD", help=BONAFIDE_HELP)


def labels_of_words(words: list[str], record: Corpus, bonafide: str | None = None) -> list[int | None]:
    """The label that each of the different words of a column of labels means in a list of a corpus, None if unknown.

    bonafide: the word that means bona fide, if the user names it: where a list has it, the other word, if there is but
    one, means spoof.
    """
    if not record.spoof:  # every other word names an attack
        return [BONAFIDE if word.lower() == record.bonafide else SPOOF for word in words]
    meanings = (WORDS if record.header else {}) | {record.bonafide: BONAFIDE, record.spoof: SPOOF}
    lowered = [word.lower() for word in words]
    if bonafide is not None:
        bonafide = bonafide.lower()
        others = set(lowered) - {bonafide}
        if bonafide in ("0", "1"):
            meanings |= {"0": SPOOF, "1": BONAFIDE} if bonafide == "1" else {"0": BONAFIDE, "1": SPOOF}
        if bonafide in lowered:
            meanings = {**meanings, **(dict.fromkeys(others, SPOOF) if len(others) == 1 else {}), bonafide: BONAFIDE}
    return [meanings.get(word) for word in lowered]


def label_problem(word: str, record: Corpus, bonafide: str | None = None) -> str:
    """What is wrong with a label that means nothing, and what the user can do."""
    if re.fullmatch(r"[-+]?\d+(\.\d*)?", word) and bonafide is None:
        other = {"0": "1", "1": "0"}.get(word, "another")
        return (
            f"the label {shown(word)} does not say whether it means bona fide: --bonafide {shown(word)} if it does, "
            f"--bonafide {other} if that one does"
        )
    if not record.header:
        expected = f"{record.bonafide} or {record.spoof}"
    else:
        expected = "one of " + ", ".join(dict.fromkeys((*WORDS, record.bonafide, record.spoof)))
    hint = "" if bonafide is not None else "; --bonafide WORD names the one that means bona fide"
    return f"expected {expected} as the label, found {shown(word)}{hint}"
