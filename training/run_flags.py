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
        "fp32, bf16 or fp16\nprecision of the arithmetic; weights and normalisations stay in fp32; default: bf16 if "
        "the GPU supports it, else fp32",
        choices=tuple(PRECISIONS),
    )
    compile: bool = _speed(
        False,
        "compile parts of the network in the first steps (torch.compile)\non a GPU each step is then one CUDA graph",
        runtime=True,
        rare=True,
    )
    grad_accum: int = _speed(1, "gradient accumulation over N parts of a batch", kind=AT_LEAST_1, metavar="N")
    grad_checkpoint: bool = _speed(
        False,
        "gradient checkpointing: less memory, more time\nthe backward pass recomputes the encoder's layers",
        runtime=True,
    )
    deterministic: bool = _speed(
        False, "give the same weights for the same seed on a GPU as well", runtime=True, rare=True
    )
    cudnn_deterministic_toggle: bool = _speed(
        False,
        "no effect, as in the published program; see --deterministic",
        aliases=("--cudnn-deterministic-toggle",),
        runtime=True,
        rare=True,
    )
    cudnn_benchmark_toggle: bool = _speed(
        False,
        "let cuDNN choose its fastest kernels for each batch shape",
        aliases=("--cudnn-benchmark-toggle",),
        runtime=True,
        rare=True,
    )

    validation: str = _validation(
        None,
        "figure of the dev set: eer or loss\neer: on whole utterances, at the first and last epoch and around each "
        "minimum of the learning rate; loss: on cropped ones, plain and augmented, every epoch",
        choices=("eer", "loss"),
        rare=True,
    )
    validate_from: int = _validation(
        1, "first epoch that may be validated; the last always is", kind=AT_LEAST_1, metavar="EPOCH", rare=True
    )
    valid_crop: bool = _validation(False, "eer: score the first --crop samples instead of whole utterances", rare=True)
    keep: str = _validation(
        None,
        "validated epochs whose checkpoint is saved\nnot_worse: those with at most the lowest figure so far, which "
        "also restarts the count of --early_stop; default: every for eer, improved for loss",
        choices=("improved", "not_worse", "every"),
        rare=True,
    )
    average_best: int = _validation(
        0, "average the N best epochs at the end (%(default)s: none)", kind=AT_LEAST_0, metavar="N"
    )
    average_by: str = _validation(
        None,
        "figure that ranks the epochs (that of --validation)\nmacro_eer: mean EER of several --dev_protocol, which "
        "then also chooses best_model.pt; ..._published: mean of the batch losses, as in the authors' programs",
        choices=("eer", "unit_eer", "macro_eer", "loss", "loss_augmented", *PUBLISHED_LOSSES, "train_loss"),
        rare=True,
    )
    early_stop: int = _validation(
        None,
        "stop after N validations without improvement\nthe figure is that of --average_by",
        kind=AT_LEAST_1,
        metavar="N",
    )
    keep_last: int = _validation(
        None,
        "keep only the last N checkpoints (1 without a number)\nother flags may keep more",
        kind=AT_LEAST_1,
        nargs="?",
        const=1,
        metavar="N",
        runtime=True,
        rare=True,
    )
    keep_best: int = _validation(
        None,
        "keep only the N best checkpoints\nother flags may keep more",
        kind=AT_LEAST_1,
        metavar="N",
        runtime=True,
        rare=True,
    )

    log_dir: str = _run("logs", "folder of all runs", metavar="DIR")
    foldername: str = _run(None, "subfolder of the run\ndefault: made from the model and the recipe", metavar="NAME")
    date: str = _run("", "prefix of the default --foldername", rare=True)
    comment: str = _run("", "suffix of the default --foldername", rare=True)
    resume: str = _run(
        None, "auto: resume the newest run of --foldername\nor start one if there is none", choices=("auto",)
    )
    resume_checkpoint_path: str = _run(
        None, f"resume from a run's {checkpoints.RESUME_NAME}", metavar="FILE", rare=True
    )
    save_every_minutes: float = _run(
        15, "interval of saving the state within an epoch, to resume from [min]", kind=Number(float, 0), rare=True
    )

    augment: str = _augmentation(
        "RawBoost",
        "augmentations; list explains them\nin the order of application, each with its probability and settings, such "
        'as "noise:p=0.5,snr=0..15,dir=FOLDER codec:p=0.3,kinds=mp3+opus"; see docs/augmentation.md',
        metavar='"PART ..."',
    )
    algo: int = _augmentation(
        None,
        "RawBoost algorithm; 0: none\nsee RawBoost.py; default: the recipe's",
        kind=AT_LEAST_0,
        choices=tuple(ALGORITHMS),
        metavar="N",
        rare=True,
    )
    noise_dir: str = _augmentation(
        None,
        "noise: folder of recordings; MUSAN_RIR: folder of noise/, speech/, music/",
        metavar="DIR",
        runtime=True,
        rare=True,
    )
    room_dir: str = _augmentation(
        None, "room, MUSAN_RIR: folder of room impulse responses", metavar="DIR", runtime=True, rare=True
    )
    fs: int = option(16000, flag=False, runtime=True)  # of RawBoost: audio is read at this rate
