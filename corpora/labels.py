"""Labels of lists: the words that mean bona fide and spoof."""

import re

from common.console import shown
from common.flags import FlagGroup
from corpora.corpus import Corpus

BONAFIDE, SPOOF, UNKNOWN = 1, 0, -1

# Words in any letter case. Numbers are excluded: 1 is bona fide in some lists and spoof in others.
WORDS = dict.fromkeys(("bonafide", "bona-fide", "bona_fide", "bona fide", "genuine", "real", "human"), BONAFIDE)
WORDS |= dict.fromkeys(("spoof", "spoofed", "fake", "deepfake", "synthetic"), SPOOF)


# Help of the flag --bonafide.
BONAFIDE_HELP = "bona fide label in lists with numbers or unknown words; the other label means spoof"


def add_label_flag(group: FlagGroup) -> None:
    """Add --bonafide to a command that reads the labels of lists."""
    group.add_argument("--bonafide", metavar="WORD", rare=True, help=BONAFIDE_HELP)


def labels_of_words(words: list[str], record: Corpus, bonafide: str | None = None) -> list[int | None]:
    """Labels of the distinct words in a label column of a corpus's list; None for unknown words.

    bonafide: the word that means bona fide, if the user gives it. If the list contains it and only one other word, that
    word means spoof.
    """
    if not record.spoof:  # every other word names an attack
        return [BONAFIDE if word.lower() == record.bonafide else SPOOF for word in words]
    meanings = (WORDS if record.header else {}) | {record.bonafide: BONAFIDE, record.spoof: SPOOF}
    lowered = [_plain(word) for word in words]
    if bonafide is not None:
        bonafide = _plain(bonafide)
        others = set(lowered) - {bonafide, ""}  # an empty cell is not a label
        if bonafide in ("0", "1"):
            meanings |= {"0": SPOOF, "1": BONAFIDE} if bonafide == "1" else {"0": BONAFIDE, "1": SPOOF}
        if bonafide in lowered:
            meanings = {**meanings, **(dict.fromkeys(others, SPOOF) if len(others) == 1 else {}), bonafide: BONAFIDE}
    return [meanings.get(word) for word in lowered]


def _plain(word):
    """A label in lower case; 1.0 becomes 1, because pandas writes 1.0 in columns with empty cells."""
    return re.sub(r"^\+?(-?\d+)\.0*$", r"\1", word.lower())


def label_problem(word: str, words: list[str], record: Corpus, bonafide: str | None = None) -> str:
    """Message about an unknown label, with what the user can do. words: all distinct labels of the column."""
    if re.fullmatch(r"[-+]?\d+(\.\d*)?", word) and bonafide is None:
        others = [other for other in words if other not in (word, "")] or [{"0": "1", "1": "0"}.get(word)]
        problem = f"the label {shown(word)} is ambiguous: --bonafide {shown(word)} if it means bona fide"
        if others[0] and len(others) == 1:
            return f"{problem}, --bonafide {shown(others[0])} if {shown(others[0])} does"
        return problem
    if not record.header:
        expected = f"{record.bonafide} or {record.spoof}"
    else:
        expected = "one of " + ", ".join(dict.fromkeys((*WORDS, record.bonafide, record.spoof)))
    hint = "" if bonafide is not None or not word else "; --bonafide WORD sets the label that means bona fide"
    return f"expected {expected} as the label, found {shown(word) or 'none'}{hint}"
