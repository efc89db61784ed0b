"""The checkpoints that a run keeps on the disk: of which epochs, under which names, and how much room they need."""

import math
import operator
from pathlib import Path

import checkpoints
from common.console import UserError, warn
from front_ends.lora import has_adapters, is_adapter, merged_state_dict
from model import Detector
from training import distributed, run_folder
from training.config import TrainingConfig
from training.schedules import validates


class KeptCheckpoints:
    """The checkpoints of a run's epochs, its best model and its average, in the run's folder.

    state: that of the Training, of which `best`, `stale` and `kept` are kept up to date here.
    """

    def __init__(self, config: TrainingConfig, detector: Detector, folder: Path, state: dict) -> None:
        self.config, self.detector, self.state = config, detector, state
        self.folder = folder / "checkpoints"
        self.wrote_best = False
        self.seen = {}  # of the process that writes: checkpoints.measure of the dev set
        self.base = ""  # of the process that writes: the name of the encoder's file, for --save_adapters
        self.check_folder = lambda: None  # of the process that writes: what run_folder.locked gives

    def find(self, fell_back: bool) -> None:
        """Look for the checkpoints that a run that goes on has kept; go on without those that nothing needs.

        fell_back: the newest file to resume from is damaged; its run may have deleted what an earlier state lists.
        Raises UserError if one that the average needs is gone.
        """
        kept = self.state["kept"]
        self.wrote_best = (self.folder / "best_model.pt").exists()
        gone = [epoch for epoch in kept if not self.path_of(epoch).exists()]
        gone, self.wrote_best = distributed.gather((gone, self.wrote_best))[0]
        needed = [self.path_of(epoch).name for epoch in gone if epoch in self.best_epochs()]
        if needed and not fell_back:
            raise UserError(
                f"{self.folder}: expected the checkpoints that --average_best {self.config.average_best} needs, "
                f"found no {', '.join(needed)}; once put back, --resume auto goes on"
            )
        names = [self.path_of(epoch).name for epoch in gone]
        names += ["best_model.pt"] if self.state["best"] and not self.wrote_best else []
        if names and distributed.rank() == 0:
            warn(f"{self.folder}: going on without {', '.join(names)}, which the run wrote and is gone")
        self.state["kept"] = {epoch: figures for epoch, figures in kept.items() if epoch not in gone}

    def check(self) -> None:
        """Raise UserError if the folder of the run, or a checkpoint that it has kept, is gone."""
        if distributed.rank() > 0:
            return
        self.check_folder()
        paths = [*map(self.path_of, self.state["kept"]), *([self.folder / "best_model.pt"] * self.wrote_best)]
        if gone := [path.name for path in paths if not path.exists()]:
            raise UserError(
                f"{self.folder}: expected the checkpoints that this run has kept, found no {', '.join(gone)}; "
                "once put back, --resume auto goes on"
            )

    def path_of(self, epoch: int) -> Path:
        """The checkpoint that the run keeps of an epoch, by its figures."""
        by_eer = self.config.validation == "eer"
        eer = self.state["kept"][epoch]["eer"]
        return self.folder / (f"model_{epoch}_EER_{eer}.pt" if by_eer else f"epoch_{epoch}.pth")

    def best_epochs(self) -> list[int]:
        """The kept epochs that --average_best averages, as it stands; of equal ones the earlier."""
        kept, name = self.state["kept"], self.config.average_by
        return sorted(kept, key=lambda epoch: (kept[epoch][name], epoch))[: self.config.average_best]

    def space_needed(self) -> tuple[int, int]:
        """Bytes that the run is certain to write, and that it possibly writes."""
        config = self.config
        weights = sum(value.nbytes for value in self.detector.state_dict().values())
        kept = weights
        if config.save_adapters:
            kept -= sum(p.nbytes for n, p in self.detector.front_end.named_parameters() if not is_adapter(n))
        self.detector.set_trained(front_end=True)
        trained = sum(p.nbytes for p in self.detector.parameters() if p.requires_grad)
        state = (2 if config.ema is None else 3) * trained  # Adam's moments, the average
        possible = sum(validates(config, epoch) for epoch in range(1, config.epochs + 1))
        if config.keep_last or config.keep_best:
            possible = min(possible, (config.keep_last or 0) + (config.keep_best or 0) + config.average_best + 1)
        certain = possible if config.keep == "every" else 1
        # Beside the epochs': the best again, the average, and three files to resume from while the newest is written.
        rest = kept + (config.average_best > 0) * weights + 3 * (weights + state)
        return certain * kept + rest, possible * kept + rest

    def keep_validated(self, epoch: int, figures: dict[str, float]) -> list[str]:
        """Keep this epoch's checkpoint where the run asks for it. Returns the names written."""
        config, best = self.config, self.state["best"]
        watched = ["loss", "loss_augmented"] if config.figure == "loss" else [config.figure]
        watched += [config.average_by] if config.average_by not in watched else []
        better = operator.le if config.keep == "not_worse" else operator.lt
        improved = [name for name in watched if better(figures[name], best.get(name, math.inf))]
        best.update({name: figures[name] for name in improved})
        self.state["stale"] = 0 if config.average_by in improved else self.state["stale"] + 1
        names = []
        if config.keep == "every" or improved:
            self.state["kept"][epoch] = figures
            names.append(self.path_of(epoch).name)
        if watched[0] in improved:
            names.append("best_model.pt")
            self.wrote_best = True
        for name in names:
            self.save_weights(name, figures, epoch=epoch)
        return names

    def save_weights(self, name: str, figures: dict[str, float], **facts: object) -> None:
        facts |= {"valid": {**figures, "selected_by": self.config.figure}, **self.config.about_data}
        facts |= {"crop": self.config.crop, "seen": self.seen}
        if distributed.rank() == 0:
            self.check_folder()
            if self.config.save_adapters and has_adapters(self.detector):
                state, adapters = checkpoints.adapters_alone(self.detector, self.config.lora_alpha, self.base)
                facts |= {"adapters": adapters}
            else:
                state = merged_state_dict(self.detector)
            checkpoints.save_checkpoint(self.folder / name, self.detector.config, state, **facts)

    def prune(self) -> None:
        """Delete checkpoints that --keep_last and --keep_best do not name and the average does not need."""
        config = self.config
        if distributed.rank() == 0 and (config.keep_last or config.keep_best):
            best = [(config.figure, config.keep_best or 0), (config.average_by, config.average_best)]
            paths = {epoch: self.path_of(epoch) for epoch in self.state["kept"]}
            run_folder.prune(paths, self.state["kept"], config.keep_last, best)
