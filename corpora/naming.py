"""What a corpus is called, and what its maker says that a detector trained on it is worth."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from common.console import shown


def describe(path: Path | str) -> tuple[str, str | None]:
    """(name, note) of the corpus that a folder or a list of trials is of; the note None if its maker says nothing.

    Both stand in `corpus.json`, as `name` and `note`, in that folder or up to two above the list. Without one the name
    is that of the folder or list alone: where it lies on this machine is nobody else's business.
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
    """What a checkpoint says of the folders or lists that it was trained and tested on: {trained_on, tested_on, note}.

    tested: lists; None: the dev set of what it was trained on.
    """
    described = [describe(path) for path in trained]
    names, notes = (", ".join(dict.fromkeys(filter(None, texts))) for texts in zip(*described))
    dev_sets = ", ".join(dict.fromkeys(describe(path)[0] for path in tested or ()))
    about = {"trained_on": names, "tested_on": dev_sets or f"the dev set of {names}"}
    return about | ({"note": notes} if notes else {})
