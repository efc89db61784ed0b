"""Checkpoints in the folder of a run: listed by name, ranked by their dev figures."""

import math
import re
from pathlib import Path

from checkpoints.format import read_checkpoint
from common.console import UserError

# The names that the published programs use.
_CHECKPOINT_NAME = re.compile(r"epoch_(\d{1,9})\.pth|model_(\d{1,9})_EER_.*\.pt", re.ASCII)


def facts_of_name(path: Path | str) -> dict[str, int]:
    match = _CHECKPOINT_NAME.fullmatch(Path(path).name)
    return {"epoch": int(match[1] or match[2])} if match else {}


def checkpoints_folder(folder: Path | str) -> Path:
    """Folder with the checkpoints of a run: `folder`/checkpoints, or `folder` itself."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: expected the folder of a run, found none")
    return folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder


def epoch_checkpoints(folder: Path | str) -> dict[int, Path]:
    """{epoch: path} of the checkpoints that a run kept, named epoch_N.pth or model_N_EER_X.pt."""
    found = {}
    for path in checkpoints_folder(folder).iterdir():
        if match := _CHECKPOINT_NAME.fullmatch(path.name):
            found[int(match[1] or match[2])] = path
    return dict(sorted(found.items()))


def checkpoints_of_epochs(folder: Path | str, epochs: list[int]) -> list[Path]:
    """Paths of a run's checkpoints of the given epochs. Raises UserError naming the epochs that were not kept."""
    kept = epoch_checkpoints(folder)
    absent = [epoch for epoch in epochs if epoch not in kept]
    if absent:
        raise UserError(
            f"{checkpoints_folder(folder)}: no checkpoint of epoch {', '.join(map(str, absent))}; "
            f"kept epochs: {', '.join(map(str, kept)) or 'none'}"
        )
    return [kept[epoch] for epoch in epochs]


def best_checkpoints(folder: Path | str, n: int, figure: str | None = None) -> list[Path]:
    """Paths of the n checkpoints of a run with the lowest dev figure; of equal ones the earlier epoch.

    figure: a dev figure such as eer, loss or loss_augmented_published; None: the figure that the run selected by.
    Raises UserError if the run kept fewer than n checkpoints, or if they do not have that figure.
    """
    ranked = []
    for epoch, path in epoch_checkpoints(folder).items():
        valid = read_checkpoint(path).get("valid", {})
        name = figure or valid.get("selected_by")
        if not isinstance(valid.get(name), int | float):
            raise UserError(
                f"{path}: expected a dev figure {name or ''} to rank by, found {', '.join(valid) or 'none'}"
            )
        ranked.append((math.inf if math.isnan(valid[name]) else valid[name], epoch, path))
    if len(ranked) < n:
        raise UserError(f"{checkpoints_folder(folder)}: expected {n} checkpoints to average, found {len(ranked)}")
    return [path for _, _, path in sorted(ranked)[:n]]
