"""The configuration of a training. A field of it is a flag of train.py, a key of config.json, a check on resuming."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from augmentation import AUGMENTATIONS, chain
from common.console import UserError, shown
from corpora import CORPORA, DEFAULT_CORPUS, describe_data, recipe_of
from front_ends import FRONT_ENDS
from RawBoost import RawBoostParams
from training.balance import LEVELS
from training.flags import TrainingFlags
from training.losses import LOSSES
from training.objective import Loss
from training.options import check_values, from_saved, saved_settings
from training.run_flags import RunFlags
from training.schedules import rates
from training.tuning_flags import TuningFlags

ENCODER_SETTINGS = {name for front_end in FRONT_ENDS.values() for name in front_end.in_training}
# Groups of the help. The parameters of RawBoost have no group: they are in the last, and only in --help-all.
GROUPS = {
    "data": "data (one of --base_dir, --database_path and --train_protocol)",
    "training": "training (default: the recipe's value, or else the corpus's)",
    "encoder": "encoder in training (default: the recipe's value, or else the pre-trained file's)",
    "tuning": "fine-tuning (docs/fine_tuning.md)",
    "speed": "speed and memory",
    "validation": "validation and checkpoints",
    "run": "run",
    "augmentation": "augmentation (docs/augmentation.md)",
}


@dataclass(frozen=True)
class TrainingConfig(TuningFlags, RunFlags, TrainingFlags, RawBoostParams):
    """All that a training is told, but for its network. The fields (flags.py, run_flags.py, tuning_flags.py) are flags.

    A field that is None takes the value of the corpus's recipe, if that has one; see of_corpus. The parameters of
    RawBoost are fields too. Raises UserError, naming the flag, for a value that makes no sense or does not go with the
    others.
    """

    def __post_init__(self):
        recipe = recipe_of(self.corpus)
        validation = self.validation or recipe["validation"]
        average_by = "unit_eer" if validation == "eer" and self.labels != "utterance" else validation
        of_validation = {"keep": "every" if validation == "eer" else "improved", "average_by": average_by}
        drop_last = CORPORA.get(self.corpus, CORPORA[DEFAULT_CORPUS]).drop_last
        for name, value in {**recipe, **of_validation, "drop_last": drop_last}.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check_values(self)
        self._check_units()
        self._check_augment()
        self._check_tuning()
        if self.loss == "WCE":
            object.__setattr__(self, "loss", "weighted_CCE")
        self._check_loss()
        try:
            super().__post_init__()
        except ValueError as error:
            raise UserError(f"RawBoost: {error}") from error
        if self.average_by.startswith("loss") and self.validation == "eer":
            raise UserError(f"--average_by {self.average_by} needs --validation loss")
        if self.schedule in ("exponential", "warmup_cosine_decay") and self.lr == 0:
            raise UserError(f"--schedule {self.schedule}: expected --lr above 0, found 0")
        if self.dynamic_crop and self.dynamic_crop[0] > self.dynamic_crop[1]:
            raise UserError(f"--dynamic_crop: expected at least, then at most, found {shown(self.dynamic_crop)}")
        if self.dynamic_crop and self.compile:
            raise UserError("--dynamic_crop and --compile, which translates for one length, exclude each other")
        if self.deterministic and self.cudnn_deterministic_toggle:
            raise UserError("--deterministic and --cudnn-deterministic-toggle exclude each other")
        if self.model_path and self.resume_checkpoint_path:
            raise UserError("--model_path, which starts a run, and --resume_checkpoint_path exclude each other")
        if self.resume and self.resume_checkpoint_path:
            raise UserError("--resume and --resume_checkpoint_path exclude each other")
        if (self.train_protocol is None) != (self.dev_protocol is None):
            raise UserError("--train_protocol and --dev_protocol need each other")
        if self.balance:
            object.__setattr__(self, "balance", tuple(level for level in LEVELS if level in self.balance))
        for split in ("train", "dev"):
            n_folders = len(getattr(self, f"{split}_audio_dir") or ())
            if n_folders > len(getattr(self, f"{split}_protocol") or ()):
                raise UserError(f"--{split}_audio_dir: expected at most one a --{split}_protocol, found {n_folders}")

    def _check_loss(self):
        kind = LOSSES.get(self.loss, Loss)
        if kind.couples_trials and self.grad_accum > 1:
            raise UserError(
                f"--loss {self.loss}: compares the trials of a batch; expected --grad_accum 1, found {self.grad_accum} "
                "(--grad_checkpoint saves memory too)"
            )
        if self.unit and kind.of_detector is not Loss.of_detector:
            raise UserError(f"--loss {self.loss}: is of whole utterances, found --labels {self.labels}")
        if self.teacher and not kind.needs_teacher:
            needing = " or ".join(name for name, kind in LOSSES.items() if kind.needs_teacher)
            raise UserError(f"--teacher: expected --loss {needing}, found {self.loss or 'none'}")
        if self.members and not kind.needs_members:
            raise UserError(f"--members: expected --loss gated_ensemble, found {self.loss or 'none'}")

    def _check_units(self):
        if self.labels == "utterance":
            for name in ("label_step", "utterance_score", "train_segments", "dev_segments"):
                if getattr(self, name) is not None:
                    raise UserError(f"--{name} needs --labels frames or both")
            if self.average_by == "unit_eer":
                raise UserError("--average_by unit_eer needs --labels frames or both")
            return
        if self.label_step is None:
            object.__setattr__(self, "label_step", 0.16)
        if self.utterance_score is None:
            object.__setattr__(self, "utterance_score", "worst" if self.labels == "frames" else "pooled")
        for split in ("train", "dev"):
            n_files = len(getattr(self, f"{split}_segments") or ())
            if n_files > len(getattr(self, f"{split}_protocol") or ()):
                raise UserError(f"--{split}_segments: expected at most one a --{split}_protocol, found {n_files}")

    def _check_augment(self):
        for part in chain.parse(self.augment):
            if self.unit and not getattr(AUGMENTATIONS[part.name], "keeps_time", True):
                raise UserError(f"--augment {part.name}: moves what --labels {self.labels} has labels of")

    @property
    def unit(self) -> float | None:
        """Seconds of a unit that is scored, None for whole utterances."""
        return None if self.labels == "utterance" else self.label_step

    @property
    def longest_crop(self) -> int:
        """The most samples that an utterance of a training step has."""
        return self.dynamic_crop[1] if self.dynamic_crop else self.crop

    @property
    def figure(self) -> str:
        """The dev figure whose lowest is the best epoch's: the loss, or the EER of units, or else of utterances; with
        --average_by macro_eer that.
        """
        if self.average_by == "macro_eer":
            return self.average_by
        return "unit_eer" if self.validation == "eer" and self.labels != "utterance" else self.validation

    @classmethod
    def of_corpus(cls, corpus: str | None, model_name: str | None = None, **given: object) -> "TrainingConfig":
        """The configuration of given values; others are those of the corpus's recipe, and then the defaults.

        corpus: a name from CORPORA, or None for data of several. Raises UserError, see the class.
        """
        return cls(**{**recipe_of(corpus, model_name), "corpus": corpus, **given})

    @property
    def about_data(self) -> dict[str, str]:
        """What a checkpoint says of its data, see describe_data."""
        return describe_data(self.train_protocol or [self.base_dir or self.database_path], self.dev_protocol)

    def folder_name(self, model_name: str) -> str:
        """The default name of the runs' folder."""
        parts = [self.date, model_name, f"e{self.epochs}", f"bz{self.batch_size}", f"lr{self.lr:g}"]
        augment = f"algo{self.algo}" if self.augment == "RawBoost" else chain.short_name(self.augment)
        parts += [augment, f"seed{self.seed}", self.comment]
        return "_".join(part for part in parts if part)

    def check_same_run(self, settings: dict, folder: Path | str) -> None:
        """Raise UserError if a run that goes on was started with other settings, those that its config.json holds.

        Another number of epochs is the same run, if neither the rates of the epochs that both have nor the loss depend
        on it. What a corpus decides are other fields and the data, which are compared.
        """
        try:
            before, now = saved_settings(from_saved(type(self), settings)), saved_settings(self)
        except UserError as error:
            raise UserError(f"{folder}/config.json: {error}") from error
        free = {"corpus", "epochs"}
        # What is not given stays as it was; of runs that began before these were flags, see encoder_settings.as_begun.
        free |= {name for name in ENCODER_SETTINGS if getattr(self, name) is None or name not in settings}
        # Runs that began before lists were recognised have the recipe of the corpus that is written there.
        hint = f"; --corpus {before['corpus']} sets the flags as then" if before["corpus"] != self.corpus else ""
        if chain.without_folders(before["augment"]) == chain.without_folders(self.augment):
            free.add("augment")
        for name, value in now.items():
            if name not in free and before[name] != value:
                raise UserError(f"--{name}: the run in {folder} was started with {before[name]}, found {value}{hint}")
        if before["epochs"] != self.epochs and (reason := self._depends_on_epochs(before["epochs"])):
            raise UserError(
                f"--epochs: the run in {folder} was started with {before['epochs']}, found {self.epochs}; {reason} "
                "depends on their number. To train on from its weights, start another run with --model_path "
                f"{folder}/checkpoints/NAME in the place of --resume"
            )

    def _depends_on_epochs(self, epochs):
        """What would have been otherwise, in words, in a run that began with this number of epochs; "" if nothing."""
        if self.loss in LOSSES and LOSSES[self.loss].by_epochs:
            return f"--loss {self.loss}"
        both = min(epochs, self.epochs)
        other = dataclasses.replace(self, epochs=epochs)
        return "" if rates(self, both) == rates(other, both) else f"--schedule {self.schedule}"
