"""Names of corpora, and notes of their makers on detectors trained on them."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from common.console import shown


def describe(path: Path | str) -> tuple[str, str | None]:
    """(name, note) of the corpus of a folder or trial list; the note is None if there is none.

    Both are read from `name` and `note` of a `corpus.json` in that folder, or up to two folders above the list. Without
    it, the name is the file name of the folder or list, without its path, which is private to this machine.
    """
    path = Path(os.path.abspath(path))
    for folder in [path, *path.parents][:3]:
        try:
            content = json.loads((folder / "corpus.json").read_text())
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and isinstance(content.get("name"), str):
            note = content.get("note")
            return shown(content["name"]), shown(note, 300) if isinstance(note, str) else None
    return shown(path.name), None


def describe_data(trained: Iterable[Path | str], tested: Iterable[Path | str] | None) -> dict[str, str]:
    """Description, for a checkpoint, of the folders or lists of its training and test: {trained_on, tested_on, note}.

    tested: lists; None: the dev set of the training corpus.
    """
    described = [describe(path) for path in trained]
    names, notes = (", ".join(dict.fromkeys(filter(None, texts))) for texts in zip(*described))
    dev_sets = ", ".join(dict.fromkeys(describe(path)[0] for path in tested or ()))
    about = {"trained_on": names, "tested_on": dev_sets or f"the dev set of {names}"}
    return about | ({"note": notes} if notes else {})
