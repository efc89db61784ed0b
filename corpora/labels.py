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
    lowered = [_plain(word) for word in words]
    if bonafide is not None:
        bonafide = _plain(bonafide)
        others = set(lowered) - {bonafide, ""}  # an empty cell means nothing
        if bonafide in ("0", "1"):
            meanings |= {"0": SPOOF, "1": BONAFIDE} if bonafide == "1" else {"0": BONAFIDE, "1": SPOOF}
        if bonafide in lowered:
            meanings = {**meanings, **(dict.fromkeys(others, SPOOF) if len(others) == 1 else {}), bonafide: BONAFIDE}
    return [meanings.get(word) for word in lowered]


def _plain(word):
    """A label in lower case; 1.0, as pandas writes numbers beside empty cells, is 1."""
    return re.sub(r"^\+?(-?\d+)\.0*$", r"\1", word.lower())


def label_problem(word: str, words: list[str], record: Corpus, bonafide: str | None = None) -> str:
    """What is wrong with a label that means nothing, and what the user can do. words: all different labels there."""
    if re.fullmatch(r"[-+]?\d+(\.\d*)?", word) and bonafide is None:
        others = [other for other in words if other not in (word, "")] or [{"0": "1", "1": "0"}.get(word)]
        other = f", --bonafide {shown(others[0])} if that one does" if others[0] and len(others) == 1 else ""
        problem = f"the label {shown(word)} does not say whether it means bona fide"
        return f"{problem}: --bonafide {shown(word)} if it does{other}"
    if not record.header:
        expected = f"{record.bonafide} or {record.spoof}"
    else:
        expected = "one of " + ", ".join(dict.fromkeys((*WORDS, record.bonafide, record.spoof)))
    hint = "" if bonafide is not None or not word else "; --bonafide WORD names the one that means bona fide"
    return f"expected {expected} as the label, found {shown(word) or 'none'}{hint}"
