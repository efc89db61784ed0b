"""The configuration of a training. A field of it is a flag of train.py, a key of config.json, a check on resuming."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

import checkpoints
from augmentation import AUGMENTATIONS
from common.console import ABOVE_0, AT_LEAST_0, AT_LEAST_1, SEED, Number, UserError, shown
from common.workers import share_of_cores
from corpora import BONAFIDE_HELP, CORPORA, DEFAULT_CORPUS, describe_data, recipe_of
from front_ends import FRONT_ENDS
from RawBoost import ALGORITHMS, RawBoostParams
from training.losses import LOSSES, losses_for
from training.options import check_values, from_saved, option, saved_settings
from training.schedules import BY_LENGTH, SCHEDULES

SHARE = Number(float, 0, 1)
ENCODER_SETTINGS = {name for front_end in FRONT_ENDS.values() for name in front_end.in_training}
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
PUBLISHED_LOSSES = ("loss_published", "loss_augmented_published")  # see trainer.published_mean
# Groups of the help. The parameters of RawBoost, which are of no group, are in the last.
GROUPS = {
    "data": "data: one of --base_dir, --database_path and --train_protocol",
    "training": "training; not given: the recipe's value, or else the corpus's",
    "encoder": "the encoder while it is trained; not given: the recipe's value, or else what its pre-trained file says",
    "speed": "speed and memory of a training step",
    "validation": "validation",
    "run": "the run",
    "augmentation": "augmentation",
}
_data = partial(option, group="data", runtime=True)  # a run may move with its data, whose digests are compared
_training = partial(option, group="training")
_encoder = partial(option, group="encoder")
_speed = partial(option, group="speed")
_validation = partial(option, group="validation")
_run = partial(option, group="run", runtime=True)
_augmentation = partial(option, group="augmentation")


@dataclass(frozen=True)
class TrainingConfig(RawBoostParams):
    """All that a training is told, but for its network; the fields are named as the flags.

    A field that is None takes the value of the corpus's recipe, if that has one; see of_corpus. The parameters of
    RawBoost are fields too. Raises UserError, naming the flag, for a value that makes no sense or does not go with the
    others.
    """

    base_dir: str = _data(None, "CtrSVDD: folder of train_set/, dev_set/, train.txt, dev.txt")
    database_path: str = _data(None, "ASVspoof 2019 LA: folder of ASVspoof2019_LA_train/flac and ..._dev/flac")
    protocols_path: str = _data(None, "folder of the ASVspoof protocols; not given: --database_path")
    train_protocol: tuple = _data(
        None,
        "key of any corpus, or a table with columns path and label; several times: the corpora are joined",
        action="append",
        metavar="KEY",
    )
    dev_protocol: tuple = _data(None, "--train_protocol: the same for validation", action="append", metavar="KEY")
    train_audio_dir: tuple = _data(
        None,
        "audio of each --train_protocol, in their order; not given: looked for around the protocol",
        action="append",
        metavar="DIR",
    )
    dev_audio_dir: tuple = _data(
        None,
        "audio of each --dev_protocol, in their order; not given: looked for around the protocol",
        action="append",
        metavar="DIR",
    )
    train_segments: tuple = _data(
        None,
        "--labels frames, both: where the utterances of each --train_protocol are spoofed: RTTM, a folder of .vad "
        "files, a list with spans, or PartialSpoof's _seglab_ .npy; not given: the list itself, if it has spans",
        action="append",
        metavar="FILE",
    )
    dev_segments: tuple = _data(None, "the same for each --dev_protocol", action="append", metavar="FILE")
    bonafide: str = option(None, BONAFIDE_HELP, group="data", metavar="WORD")
    corpus: str = option(
        None,
        "what the data are of, which says their layout and recipe; not given: CtrSVDD for --base_dir, ASVspoof 2019 LA "
        "for --database_path, or else the one that is recognised in --train_protocol",
        group="data",
        choices=CORPORA,
    )
    track: str = _data(
        "LA",
        "what the detector is for; both train on 2019 LA",
        choices=tuple(record.track for record in CORPORA.values() if record.track and record.lists),
    )
    num_workers: int = _data(
        share_of_cores(12),
        "processes that read audio, for each process that trains (%(default)s: its share of the cores, up to 12)",
        kind=AT_LEAST_0,
    )
    check_audio: bool = _data(False, "decode every file before training starts")
    skip_bad_audio: int = _data(
        0,
        "go on without at most N files that cannot be read, each logged; the next of the list takes its place "
        "(%(default)s: stop at the first)",
        kind=AT_LEAST_0,
        metavar="N",
    )

    recipe: str = _training(
        None, "a system trained as its authors did: sets the flags; list prints all recipes", runtime=True
    )
    epochs: int = _training(None, "passes over the training set", kind=AT_LEAST_1, aliases=("--num_epochs",))
    batch_size: int = _training(None, "trials of a step, of all processes together", kind=AT_LEAST_1)
    labels: str = _training(
        "utterance",
        "what is trained and scored: whole utterances; frames, which is units of --label_step; or both, their losses "
        "added. For corpora of partially spoofed speech and back-ends that score frames (Nes2Net, MHFA, Linear)",
        choices=("utterance", "frames", "both"),
    )
    label_step: float = _training(
        None, "--labels frames, both: seconds of a unit that has a label (0.16)", kind=Number(float, 0.001, 60)
    )
    utterance_score: str = _training(
        None,
        "--labels frames, both: an utterance is scored by the back-end's pooling, or by the mean of the worst tenth of "
        "its units (frames: worst; both: pooled)",
        choices=("pooled", "worst"),
    )
    optimizer: str = _training(None, choices=("Adam", "AdamW"))
    lr: float = _training(None, "highest learning rate", kind=Number(float, 0))
    weight_decay: float = _training(1e-4, kind=Number(float, 0))
    beta2: float = _training(0.999, "decay of Adam's second moments", kind=Number(float, 0, 0.99999))
    schedule: str = _training(
        None,
        "cosine: per epoch, down and up again; cosine_decay, exponential: per step, once from --lr to --min_lr; step: "
        "times --gamma every --T_max epochs; warmup_...: up in --warmup_epochs, then times --gamma an epoch, or half a "
        "cosine to 0, or, per step, to --min_lr (warmup_cosine_decay)",
        choices=tuple(SCHEDULES),
    )
    T_max: int = _training(5, "cosine: epochs from highest to lowest rate", kind=AT_LEAST_1)
    min_lr: float = _training(1e-9, "cosine, ..._decay, exponential: lowest rate", kind=Number(float, 0))
    gamma: float = _training(0.5, "step, warmup_exponential: see there", kind=ABOVE_0)
    warmup_epochs: int = _training(3, "warmup_...: see there", kind=AT_LEAST_1)
    loss: str = _training(
        None,
        f"one output: {', '.join(losses_for(1))}; two: {', '.join(losses_for(2))}; WCE is weighted_CCE; "
        "not given: the first of those",
        choices=(*LOSSES, "WCE"),
    )
    class_weights: tuple = _training((0.1, 0.9), "weighted_...: spoof, bona fide", kind=ABOVE_0, nargs=2)
    crop: int = _training(None, "samples of a training utterance; shorter ones are repeated", kind=AT_LEAST_1)
    crop_place: str = _training(
        None,
        "where the crop is taken; random repeats a shorter utterance past --crop and cuts anywhere, random_if_longer "
        "repeats it from its start",
        choices=("first", "random", "random_if_longer"),
    )
    dynamic_crop: tuple = _training(
        None,
        "samples, at least and at most, of a training utterance: every batch draws a length of its own, and --crop is "
        "that of validation; not given: --crop",
        kind=AT_LEAST_1,
        nargs=2,
    )
    drop_last: bool = _training(None, "leave out the last, smaller batch of an epoch", flag=False)
    ssl_path: str = _training(
        None,
        "pre-trained weights of the encoder: a fairseq or WavLM file, a Hugging Face folder, or a detector, whose "
        f"encoder alone is taken; from Hugging Face {checkpoints.FORM}, or OWNER/NAME, whose folder is taken; not "
        "given: its published file name in this folder; none: start from random weights",
        runtime=True,
    )
    model_path: str = _training(
        None,
        "fine-tune a detector: start from the weights of this checkpoint, back-end included; model flags must agree "
        f"with it; or {checkpoints.FORM}. --ssl_path beside it says the encoder's dropouts, no weights",
        runtime=True,
    )
    SSL_freeze_epoch: int = _training(
        -1, "epochs in which the encoder is not trained (%(default)s: none)", kind=Number(int, -1)
    )
    seed: int = _training(None, "of weights, order, crops and augmentation", kind=SEED)
    gpu_id: int = _training(0, "CUDA device, where there is one", kind=AT_LEAST_0, runtime=True)
    debug: bool = _training(False, "21 batches an epoch only")

    dropout: float = _encoder(None, "of what attention and feed-forward parts add", kind=SHARE)
    attention_dropout: float = _encoder(None, "of the weights of attention", kind=SHARE)
    activation_dropout: float = _encoder(None, "within feed-forward parts", kind=SHARE)
    dropout_input: float = _encoder(None, "of the features that the convolutions give", kind=SHARE)
    encoder_layerdrop: float = _encoder(None, "probability that a step leaves out a layer", kind=SHARE)
    feature_grad_mult: float = _encoder(
        None,
        "factor on the gradient of the convolutions; 0: they are neither trained nor decayed",
        kind=Number(float, 0, 1000),
    )

    precision: str = _speed(
        None,
        "of the arithmetic, not of weights and normalisations; not given: bf16 where the GPU has it, else fp32",
        choices=tuple(PRECISIONS),
    )
    compile: bool = _speed(
        False,
        "translate parts of the network by torch.compile in the first steps, and on a GPU launch a step as one graph",
        runtime=True,
    )
    grad_accum: int = _speed(1, "compute a step's batch in N parts, to fit the memory", kind=AT_LEAST_1, metavar="N")
    grad_checkpoint: bool = _speed(
        False, "recompute the encoder's layers in the backward pass: less memory, more time", runtime=True
    )
    deterministic: bool = _speed(False, "the same weights from the same seed on a GPU too", runtime=True)
    cudnn_deterministic_toggle: bool = _speed(
        False,
        "no effect: cuDNN may choose any kernel, as the published program's may with this flag; see --deterministic",
        aliases=("--cudnn-deterministic-toggle",),
        runtime=True,
    )
    cudnn_benchmark_toggle: bool = _speed(
        False,
        "let cuDNN time its kernels for each shape of a batch, and take the fastest",
        aliases=("--cudnn-benchmark-toggle",),
        runtime=True,
    )

    validation: str = _validation(
        None,
        "eer: of whole utterances, at the first and last epoch and around each minimum of the learning rate; "
        "loss: of cropped ones, plain and augmented, every epoch",
        choices=("eer", "loss"),
    )
    validate_from: int = _validation(
        1, "first epoch that may be validated, from 1; the last always is", kind=AT_LEAST_1, metavar="EPOCH"
    )
    valid_crop: bool = _validation(False, "eer: of the first --crop samples instead of whole utterances")
    keep: str = _validation(
        None,
        "which validated epochs leave a checkpoint; not_worse: those whose figure is at most the lowest so far, which "
        "also restarts the count of --early_stop; not given: every for eer, improved for loss",
        choices=("improved", "not_worse", "every"),
    )
    average_best: int = _validation(
        0, "after the last epoch, average the N best (%(default)s: do not)", kind=AT_LEAST_0, metavar="N"
    )
    average_by: str = _validation(
        None,
        "figure that ranks them; ..._published: the mean of the losses of batches, as the authors ranked theirs; not "
        "given: that of --validation",
        choices=("eer", "unit_eer", "loss", "loss_augmented", *PUBLISHED_LOSSES, "train_loss"),
    )
    early_stop: int = _validation(
        None,
        "end the training after N validated epochs without a lower figure of --average_by",
        kind=AT_LEAST_1,
        metavar="N",
    )
    keep_last: int = _validation(
        None,
        "delete checkpoints but those of the last N (without a number: 1) epochs and what other flags keep",
        kind=AT_LEAST_1,
        nargs="?",
        const=1,
        metavar="N",
        runtime=True,
    )
    keep_best: int = _validation(
        None,
        "delete checkpoints but those of the N best epochs and what other flags keep",
        kind=AT_LEAST_1,
        metavar="N",
        runtime=True,
    )

    log_dir: str = _run("logs")
    foldername: str = _run(None, "not given: made of the model and the recipe")
    date: str = _run("", "put in front of the made foldername")
    comment: str = _run("", "put behind the made foldername")
    resume: str = _run(None, "auto: go on with the newest run in the folder, if there is one", choices=("auto",))
    resume_checkpoint_path: str = _run(None, f"go on from a run's {checkpoints.RESUME_NAME}")
    save_every_minutes: float = _run(
        15, "also within an epoch, save what a killed run goes on from", kind=Number(float, 0)
    )

    augment: str = _augmentation(
        "RawBoost",
        "RawBoost, or in its place random low-pass filters that imitate codecs (FIR-...), or noise and rooms from "
        "recordings (MUSAN_RIR)",
        choices=tuple(AUGMENTATIONS),
    )
    algo: int = _augmentation(
        None, "0: none; see RawBoost.py; not given: the recipe's", kind=AT_LEAST_0, choices=tuple(ALGORITHMS)
    )
    noise_dir: str = _augmentation(
        None, "MUSAN_RIR: folder of noise/, speech/ and music/, or some of them", metavar="DIR", runtime=True
    )
    room_dir: str = _augmentation(None, "MUSAN_RIR: folder of room responses", metavar="DIR", runtime=True)
    fs: int = option(16000, flag=False, runtime=True)  # of RawBoost: audio is read at this rate

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
        if self.loss == "WCE":
            object.__setattr__(self, "loss", "weighted_CCE")
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
        for split in ("train", "dev"):
            n_folders = len(getattr(self, f"{split}_audio_dir") or ())
            if n_folders > len(getattr(self, f"{split}_protocol") or ()):
                raise UserError(f"--{split}_audio_dir: expected at most one a --{split}_protocol, found {n_folders}")

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
        """The dev figure whose lowest is the best epoch's: the loss, or the EER of units, or else of utterances."""
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
        parts += [f"algo{self.algo}" if self.augment == "RawBoost" else self.augment, f"seed{self.seed}", self.comment]
        return "_".join(part for part in parts if part)

    def check_same_run(self, settings: dict, folder: Path | str) -> None:
        """Raise UserError if a run that goes on was started with other settings, those that its config.json holds.

        More epochs are the same run, if neither the schedule nor the loss depends on their number. What a corpus
        decides are other fields and the data, which are compared.
        """
        try:
            before, now = saved_settings(from_saved(type(self), settings)), saved_settings(self)
        except UserError as error:
            raise UserError(f"{folder}/config.json: {error}") from error
        by_epochs = self.schedule in BY_LENGTH or (self.loss in LOSSES and LOSSES[self.loss].by_epochs)
        free = {"corpus"} if by_epochs else {"corpus", "epochs"}
        # What is not given stays as it was; of runs that began before these were flags, see encoder_settings.as_begun.
        free |= {name for name in ENCODER_SETTINGS if getattr(self, name) is None or name not in settings}
        # Runs that began before lists were recognised have the recipe of the corpus that is written there.
        hint = f"; --corpus {before['corpus']} sets the flags as then" if before["corpus"] != self.corpus else ""
        for name, value in now.items():
            if name not in free and before[name] != value:
                raise UserError(f"--{name}: the run in {folder} was started with {before[name]}, found {value}{hint}")
