"""Flags of a training, second part: speed, validation, the run and augmentation. The first part is in flags.py."""

from dataclasses import dataclass
from functools import partial

import torch

import checkpoints
from common.console import AT_LEAST_0, AT_LEAST_1, Number
from RawBoost import ALGORITHMS
from training.options import option

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
PUBLISHED_LOSSES = ("loss_published", "loss_augmented_published")  # see validation.published_mean
_speed = partial(option, group="speed")
_validation = partial(option, group="validation")
_run = partial(option, group="run", runtime=True)
_augmentation = partial(option, group="augmentation")


@dataclass(frozen=True)
class RunFlags:
    """Flags of the groups speed, validation, run and augmentation."""

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
        "figure that ranks them; macro_eer: the mean of the EERs of several --dev_protocol, which then also chooses "
        "best_model.pt; ..._published: the mean of the losses of batches, as the authors ranked theirs; not given: "
        "that of --validation",
        choices=("eer", "unit_eer", "macro_eer", "loss", "loss_augmented", *PUBLISHED_LOSSES, "train_loss"),
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
        "augmentations, applied in this order, each with its probability and settings, such as "
        '"noise:p=0.5,snr=0..15,dir=FOLDER codec:p=0.3,kinds=mp3+opus"; list explains all; see docs/augmentation.md',
        metavar='"PART ..."',
    )
    algo: int = _augmentation(
        None, "RawBoost: 0: none; see RawBoost.py; not given: the recipe's", kind=AT_LEAST_0, choices=tuple(ALGORITHMS)
    )
    noise_dir: str = _augmentation(
        None,
        "noise: folder of recordings; MUSAN_RIR: of noise/, speech/ and music/, or some of them",
        metavar="DIR",
        runtime=True,
    )
    room_dir: str = _augmentation(None, "room, MUSAN_RIR: folder of room responses", metavar="DIR", runtime=True)
    fs: int = option(16000, flag=False, runtime=True)  # of RawBoost: audio is read at this rate
