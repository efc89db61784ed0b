"""The checkpoints that a run kept: found by name, chosen by their dev figures."""

import math
import re
from pathlib import Path

from checkpoints.format import read_checkpoint
from common.console import UserError

_CHECKPOINT_NAME = re.compile(
    r"epoch_(\d{1,9})\.pth|model_(\d{1,9})_EER_.*\.pt", re.ASCII
)  # as the published programs name them


def facts_of_name(path: Path | str) -> dict[str, int]:
    match = _CHECKPOINT_NAME.fullmatch(Path(path).name)
    return {"epoch": int(match[1] or match[2])} if match else {}


def checkpoints_folder(folder: Path | str) -> Path:
    """The folder that holds the checkpoints of a run: `folder`/checkpoints, or `folder` itself."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: expected the folder of a run, found none")
    return folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder


def epoch_checkpoints(folder: Path | str) -> dict[int, Path]:
    """{epoch: path} of the checkpoints that a run kept, by their names: epoch_N.pth or model_N_EER_X.pt."""
    found = {}
    for path in checkpoints_folder(folder).iterdir():
        if match := _CHECKPOINT_NAME.fullmatch(path.name):
            found[int(match[1] or match[2])] = path
    return dict(sorted(found.items()))


def checkpoints_of_epochs(folder: Path | str, epochs: list[int]) -> list[Path]:
    """The checkpoints of the named epochs of a run. Raises UserError naming the epochs that were not kept."""
    kept = epoch_checkpoints(folder)
    absent = [epoch for epoch in epochs if epoch not in kept]
    if absent:
        raise UserError(
            f"{checkpoints_folder(folder)}: no checkpoint of epoch {', '.join(map(str, absent))}; "
            f"kept are {', '.join(map(str, kept)) or 'none'}"
        )
    return [kept[epoch] for epoch in epochs]


def best_checkpoints(folder: Path | str, n: int, figure: str | None = None) -> list[Path]:
    """The n checkpoints of a run with the lowest figure on the dev set; the earlier of two equal ones.

    figure: a dev figure such as eer, loss or loss_augmented_published; None is what the run itself selected by.
    Raises UserError where the run kept fewer than n, or knows no such figure.
    """
    ranked = []
    for epoch, path in epoch_checkpoints(folder).items():
        valid = read_checkpoint(path).get("valid", {})
        name = figure or valid.get("selected_by")
        if not isinstance(valid.get(name), int | float):
            raise UserError(
                f"{path}: expected a dev figure {name or ''} to choose by, found {', '.join(valid) or 'none'}"
            )
        ranked.append((math.inf if math.isnan(valid[name]) else valid[name], epoch, path))
    if len(ranked) < n:
        raise UserError(f"{checkpoints_folder(folder)}: expected {n} checkpoints to average, found {len(ranked)}")
    return [path for _, _, path in sorted(ranked)[:n]]
