"""Train a detector.

Singing voice (CtrSVDD: DIR holds train_set/, dev_set/, train.txt, dev.txt):
    python train.py --base_dir DIR --model_name WavLM_Nes2Net_X --foldername NAME
Speech (ASVspoof 2019 LA: DB holds ASVspoof2019_LA_{train,dev}/flac, PROTO the protocols):
    python train.py --database_path DB --protocols_path PROTO --model_name wav2vec2_Nes2Net_X
As the authors of a system trained it: `python train.py --recipe NAME --database_path DB`; `--recipe list` lists them.
A flag that is not given takes the value of the recipe, or else of the corpus's; `python train.py --help` lists those.
A run lives in LOG_DIR/FOLDERNAME/DATE-TIME: config.json, environment.json, TensorBoard's events, checkpoints/.
Several GPUs, same batch: `torchrun --nproc_per_node 8 train.py ...`; what is killed goes on with --resume auto.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import os
import random
import sys
import time
from collections import Counter

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint as recomputed
from torch.utils.tensorboard import SummaryWriter

import checkpoint
import distributed
import protocols
import run_folder
from atomic import atomic_open
from console import StopSignals, UserError, progress, run, warn
from data_utils import BadAudio, TrialDataset, check_audio, make_loader
from FIR import CUTOFFS
from front_ends import RECEPTIVE_FIELD
from losses import LOSSES, Loss
from model import add_model_flags, build_detector, choose_device, count_parameters, given_model_flags
from protocols import BONAFIDE, SPOOF
from RawBoost import ALGORITHMS, RawBoostParams
from recipes import CORPORA, CORPORA_OF_MODELS, RECIPES

LOG_EVERY = 50  # steps
STOP_AFTER = 10  # steps in a row without a finite loss
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# Flags of the published programs that those read nowhere.
IGNORED = {"AASIST_scale": 1, "eval_part": 1, "test_length": 1, "BTN_ratio": 1}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Train a detector.",
        epilog="published recipes: "
        + "; ".join(
            f"{corpus}: " + " ".join(f"--{k} {v}" for k, v in recipe.items()) for corpus, recipe in CORPORA.items()
        ),
        allow_abbrev=False,
    )
    data = parser.add_argument_group("data: one of --base_dir, --database_path and --train_protocol")
    data.add_argument("--base_dir", help="CtrSVDD: folder of train_set/, dev_set/, train.txt, dev.txt")
    data.add_argument("--database_path", help="ASVspoof 2019 LA: folder of ASVspoof2019_LA_train/flac and ..._dev/flac")
    data.add_argument("--protocols_path", help="folder of the ASVspoof protocols; not given: --database_path")
    data.add_argument(
        "--train_protocol",
        action="append",
        metavar="KEY",
        help="key of any corpus, or a table with columns path and label; several times: the corpora are joined",
    )
    data.add_argument(
        "--dev_protocol", action="append", metavar="KEY", help="--train_protocol: the same for validation"
    )
    for split in ("train", "dev"):
        data.add_argument(
            f"--{split}_audio_dir",
            action="append",
            metavar="DIR",
            help=f"audio of each --{split}_protocol, in their order; not given: looked for around the protocol",
        )
    data.add_argument(
        "--track", choices=["LA", "DF"], default="LA", help="what the detector is for; both train on 2019 LA"
    )
    data.add_argument(
        "--num_workers", type=int, default=min(12, os.cpu_count()), help="processes that read audio (%(default)s)"
    )
    data.add_argument("--check_audio", action="store_true", help="decode every file before training starts")
    data.add_argument(
        "--skip_bad_audio",
        type=int,
        default=0,
        metavar="N",
        help="go on without at most N files that cannot be read, each logged; the next of the list takes its place "
        "(%(default)s: stop at the first)",
    )

    recipe = chosen_recipe(argv)
    add_model_flags(parser, required="model_name" not in recipe)

    train = parser.add_argument_group("training; not given: the recipe's value, or else the corpus's")
    train.add_argument("--recipe", help="a system trained as its authors did: sets the flags; list prints all recipes")
    train.add_argument("--epochs", "--num_epochs", type=_positive, help="passes over the training set")
    train.add_argument("--batch_size", type=_positive)
    train.add_argument("--optimizer", choices=["Adam", "AdamW"])
    train.add_argument("--lr", type=float, help="highest learning rate")
    train.add_argument("--weight_decay", type=float, default=1e-4, help="(%(default)s)")
    train.add_argument(
        "--schedule",
        choices=["constant", "cosine", "onecycle", "step", "exponential", "warmup_exponential", "warmup_cosine"],
        help="cosine: per epoch, up and down again; step: times --gamma every --T_max epochs; exponential: per step, "
        "from --lr to --min_lr; warmup_...: up in --warmup_epochs, then times --gamma an epoch, or half a cosine to 0",
    )
    train.add_argument(
        "--T_max", type=_positive, default=5, help="cosine: epochs from highest to lowest rate (%(default)s)"
    )
    train.add_argument("--min_lr", type=float, default=1e-9, help="cosine, exponential: lowest rate (%(default)s)")
    train.add_argument("--gamma", type=float, default=0.5, help="step, warmup_exponential: see there (%(default)s)")
    train.add_argument("--warmup_epochs", type=_positive, default=3, help="warmup_...: see there (%(default)s)")
    train.add_argument(
        "--loss",
        choices=[*LOSSES, "WCE"],
        help="one output: focal (soft labels), OC_softmax; two: weighted_CCE (or WCE), AM_softmax; not given: focal or "
        "weighted_CCE",
    )
    train.add_argument(
        "--class_weights", type=float, nargs=2, default=[0.1, 0.9], help="weighted_CCE: spoof, bona fide (%(default)s)"
    )
    train.add_argument("--crop", type=_positive, help="samples of a training utterance; shorter ones are repeated")
    train.add_argument("--crop_place", choices=["first", "random"], help="where the crop is taken")
    train.add_argument(
        "--ssl_path",
        help="pre-trained weights of the encoder: a fairseq or WavLM file, or a Hugging Face folder; not given: its "
        "published file name in this folder; none: start from random weights",
    )
    train.add_argument(
        "--SSL_freeze_epoch",
        type=int,
        default=-1,
        help="epochs in which the encoder is not trained (%(default)s: none)",
    )
    train.add_argument("--seed", type=int, help="of weights, order, crops and augmentation")
    train.add_argument("--gpu_id", type=int, default=0, help="CUDA device, where there is one (%(default)s)")
    train.add_argument("--debug", action="store_true", help="21 batches an epoch only")

    speed = parser.add_argument_group("speed and memory of a training step")
    speed.add_argument(
        "--precision",
        choices=list(PRECISIONS),
        help="of the arithmetic, not of weights and normalisations; not given: bf16 where the GPU has it, else fp32",
    )
    speed.add_argument("--compile", action="store_true", help="translate the network by torch.compile first")
    speed.add_argument(
        "--grad_accum",
        type=_positive,
        default=1,
        metavar="N",
        help="compute a step's batch in N parts, to fit the memory (%(default)s)",
    )
    speed.add_argument(
        "--grad_checkpoint",
        action="store_true",
        help="recompute the encoder's layers in the backward pass: less memory, more time",
    )
    speed.add_argument("--deterministic", action="store_true", help="the same weights from the same seed on a GPU too")

    valid = parser.add_argument_group("validation")
    valid.add_argument(
        "--validation",
        choices=["eer", "loss"],
        help="eer: of whole utterances, at the first and last epoch and around each minimum of the learning rate; "
        "loss: of cropped ones, plain and augmented, every epoch",
    )
    valid.add_argument(
        "--keep",
        choices=["improved", "every"],
        help="which validated epochs leave a checkpoint; not given: every for eer, improved for loss",
    )
    valid.add_argument(
        "--average_best",
        type=int,
        default=0,
        metavar="N",
        help="after the last epoch, average the N best (%(default)s: do not)",
    )
    valid.add_argument(
        "--average_by",
        choices=["eer", "loss", "loss_augmented", "train_loss"],
        help="figure that ranks them; not given: that of --validation",
    )
    valid.add_argument(
        "--early_stop",
        type=_positive,
        metavar="N",
        help="end the training after N validated epochs without a lower figure of --average_by",
    )
    valid.add_argument(
        "--keep_last",
        type=_positive,
        nargs="?",
        const=1,
        metavar="N",
        help="delete checkpoints but those of the last N (without a number: 1) epochs and what other flags keep",
    )
    valid.add_argument(
        "--keep_best",
        type=_positive,
        metavar="N",
        help="delete checkpoints but those of the N best epochs and what other flags keep",
    )

    where = parser.add_argument_group("the run")
    where.add_argument("--log_dir", default="logs", help="(%(default)s)")
    where.add_argument("--foldername", help="not given: made of the model and the recipe")
    where.add_argument("--date", default="", help="put in front of the made foldername")
    where.add_argument("--comment", default="", help="put behind the made foldername")
    where.add_argument(
        "--resume", choices=["auto"], help="auto: go on with the newest run in the folder, if there is one"
    )
    where.add_argument("--resume_checkpoint_path", help=f"go on from a run's {checkpoint.RESUME_NAME}")
    where.add_argument(
        "--save_every_minutes",
        type=float,
        default=15,
        help="also within an epoch, save what a killed run goes on from (%(default)g)",
    )

    boost = parser.add_argument_group("augmentation")
    boost.add_argument(
        "--augment",
        choices=["RawBoost", *CUTOFFS],
        default="RawBoost",
        help="RawBoost, or in its place random low-pass filters that imitate codecs (%(default)s)",
    )
    boost.add_argument("--algo", type=int, choices=ALGORITHMS, help="0: none; see RawBoost.py; not given: the recipe's")
    for field in dataclasses.fields(RawBoostParams):
        if field.name != "fs":
            boost.add_argument(
                f"--{field.name}",
                type=field.type,
                default=field.default,
                help=field.metadata["help"] + " (%(default)s)",
            )
    for name, n in IGNORED.items():
        parser.add_argument(f"--{name}", nargs=n, help=argparse.SUPPRESS)

    parser.set_defaults(**recipe)
    args = parser.parse_args(argv)
    if sum(place is not None for place in (args.base_dir, args.database_path, args.train_protocol)) != 1:
        parser.error("expected one of --base_dir (CtrSVDD), --database_path (ASVspoof 2019 LA) and --train_protocol")
    if (args.train_protocol is None) != (args.dev_protocol is None):
        parser.error("--train_protocol and --dev_protocol need each other")
    for split in ("train", "dev"):
        n_folders = len(getattr(args, f"{split}_audio_dir") or [])
        if n_folders > len(getattr(args, f"{split}_protocol") or []):
            parser.error(f"--{split}_audio_dir: expected at most one a --{split}_protocol, found {n_folders}")
    args.corpus = "CtrSVDD" if args.base_dir else "ASVspoof2019_LA"
    of_corpus = CORPORA[args.corpus] | CORPORA_OF_MODELS.get((args.corpus, args.model_name), {})
    for name, value in of_corpus.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name in IGNORED:
        if getattr(args, name) is not None:
            print(f"train.py: warning: --{name} has no effect, as in the published program", file=sys.stderr)
        delattr(args, name)
    if args.average_by is None:
        args.average_by = args.validation
    if args.average_by.startswith("loss") and args.validation == "eer":
        parser.error(f"--average_by {args.average_by} needs --validation loss")
    if args.keep is None:
        args.keep = "every" if args.validation == "eer" else "improved"
    if args.resume and args.resume_checkpoint_path:
        parser.error("--resume and --resume_checkpoint_path exclude each other")
    if args.crop < RECEPTIVE_FIELD:
        parser.error(f"--crop: expected at least {RECEPTIVE_FIELD} samples, one frame of the encoder")
    return args


def chosen_recipe(argv):
    """{flag: value} of the recipe that --recipe names; `list` prints all and ends. Raises UserError for another."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe")
    name = first.parse_known_args(argv)[0].recipe
    if name == "list":
        for name, recipe in RECIPES.items():
            text = " ".join(f"--{flag} {_words(value)}" for flag, value in recipe.items() if flag != "not_carried_over")
            print(f"{name}: {text}")
            if "not_carried_over" in recipe:
                print(f"{'':{len(name)}}  (not carried over: {recipe['not_carried_over']})")
        sys.exit()
    if name is not None and name not in RECIPES:
        raise UserError(f"--recipe: expected list or one of {', '.join(RECIPES)}, found {name}")
    return {flag: value for flag, value in RECIPES.get(name, {}).items() if flag != "not_carried_over"}


def _words(value):
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text}")
    return value


def read_trials(args):
    """Train and dev trials with their audio located. Raises UserError where anything is missing."""
    parts = []
    for split in ("train", "dev"):
        if args.train_protocol:
            audio = getattr(args, f"{split}_audio_dir") or []
            sources = list(itertools.zip_longest(getattr(args, f"{split}_protocol"), audio))
        elif args.corpus == "CtrSVDD":
            sources = [protocols.ctrsvdd_files(args.base_dir, split)]
        else:
            sources = [protocols.asvspoof2019_files(args.database_path, args.protocols_path, split)]
        trials = [trial for source in sources for trial in protocols.read_trials(*source)]
        counts = Counter(trial.label for trial in trials)
        names = ", ".join(str(protocol) for protocol, _ in sources)
        say(f"{split}: {len(trials)} trials ({counts[BONAFIDE]} bona fide, {counts[SPOOF]} spoof) from {names}")
        if counts[None]:
            raise UserError(f"{names}: expected labels, found {counts[None]} trials without")
        parts.append(check_classes(trials, names))
    return parts


def check_classes(trials, names):
    """The trials. Raises UserError where they are not of both classes."""
    if {trial.label for trial in trials} != {BONAFIDE, SPOOF}:
        raise UserError(f"{names}: expected trials of both classes")
    return trials


def without_bad_audio(parts, args):
    """Lists of trials without those whose audio cannot be decoded; every process decodes a share of it all.

    Raises UserError, listing them, where they are more than --skip_bad_audio.
    """
    trials = [trial for part in parts for trial in part]
    share = trials[distributed.rank() :: distributed.world_size()]
    found = check_audio(share, args.num_workers, disable=distributed.rank() > 0)
    bad = {path: reason for part in distributed.gather(found) for path, reason in part.items()}
    if len(bad) > args.skip_bad_audio:
        allowed = f"; --skip_bad_audio allows {args.skip_bad_audio}" if args.skip_bad_audio else ""
        raise UserError(
            f"--check_audio: {len(bad)} of {len(trials)} files cannot be read (listed above){allowed}",
            details=bad.values(),
        )
    for reason in bad.values() if distributed.rank() == 0 else ():
        warn(f"skipped: {reason}")
    say(f"audio: {len(trials)} files checked, {len(bad)} skipped")
    args.skip_bad_audio -= len(bad)
    names = ("training set without bad audio", "dev set without bad audio")
    return [check_classes([trial for trial in part if trial.path not in bad], name) for part, name in zip(parts, names)]


def say(text):
    """Print, once for all processes of the run."""
    if distributed.rank() == 0:
        print(text, flush=True)


def model_flags(args):
    """The model flags that were given, and what the loss asks of the output layer."""
    return given_model_flags(args) | ({"output": "cosine"} if LOSSES.get(args.loss, ("", ""))[1] == "cosine" else {})


def build_loss(args, config):
    fitting = "focal" if config.n_output_logits == 1 else "weighted_CCE"
    name = {None: fitting, "WCE": "weighted_CCE"}.get(args.loss, args.loss)
    if LOSSES[name][0] != config.n_output_logits:
        others = [other for other, (n_outputs, _) in LOSSES.items() if n_outputs == config.n_output_logits]
        raise UserError(
            f"--loss {args.loss}: expected {' or '.join(others)} for a model of {config.n_output_logits} outputs; "
            "--n_output_logits chooses their number"
        )
    args.loss = name
    return Loss(name, args.class_weights)


def build_schedule(args, optimizer, steps_per_epoch):
    """The learning-rate schedule, and whether it steps every batch rather than every epoch."""
    if args.schedule == "onecycle":
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.epochs * steps_per_epoch), True
    if args.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.T_max, eta_min=args.min_lr), False
    if args.schedule == "step":
        return torch.optim.lr_scheduler.StepLR(optimizer, args.T_max, args.gamma), False
    if args.schedule == "exponential":
        n_steps = args.epochs * steps_per_epoch
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: (args.min_lr / args.lr) ** (i / n_steps)), True
    if args.schedule.startswith("warmup"):

        def factor(done):  # epochs
            if done < args.warmup_epochs:
                return (done + 1) / args.warmup_epochs
            done, left = done - args.warmup_epochs, max(args.epochs - args.warmup_epochs, 1)
            cosine = args.schedule == "warmup_cosine"
            return (1 + math.cos(math.pi * min(done / left, 1))) / 2 if cosine else args.gamma**done

        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor), False
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1), False


def validates(args, epoch):
    """Is this epoch validated? With the cosine schedule and EER: the first, the last, and around each minimum of the
    learning rate from the second on, as published; otherwise every epoch.
    """
    if args.validation != "eer" or args.schedule != "cosine" or epoch in (1, args.epochs):
        return True
    period = 2 * args.T_max
    return epoch > period + 1 and (epoch - args.T_max) % period in (period - 1, 0, 1)


def settings_of(args, config):
    """All that decides what the weights become, as plain data."""
    names = (
        "corpus epochs batch_size optimizer lr weight_decay schedule T_max min_lr loss class_weights crop crop_place"
    )
    names += " SSL_freeze_epoch seed debug validation keep average_best average_by algo precision grad_accum"
    names += " augment early_stop gamma warmup_epochs"
    names = names.split() + [field.name for field in dataclasses.fields(RawBoostParams) if field.name != "fs"]
    return {"model": config.to_dict(), "training": {name: getattr(args, name) for name in names}}


def check_same_settings(settings, folder):
    """Raises UserError where a resumed run was started with other settings; a longer run is the same run."""
    try:
        before = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/config.json: expected the settings of the run to resume: {error}") from error
    depends_on_length = settings["training"]["schedule"] in ("onecycle", "exponential", "warmup_cosine")
    free = set() if depends_on_length else {"epochs"}
    for part, values in settings.items():
        for name, value in values.items():
            if name not in free and before[part].get(name) != value:
                raise UserError(
                    f"--{name}: the run in {folder} was started with {before[part].get(name)}, found {value}"
                )


class Training:
    """A detector in training and all that changes with it. `state` is where the run stands, as plain data:

    epoch: the one that is trained, from 1; batch: steps done in it; best: lowest figures so far; stale: validated
    epochs since that of --average_by was lowest; kept: {epoch: figures} of the checkpoints on the disk; loss, n_losses:
    sum and number of the epoch's finite losses; skipped: the run's steps without a finite loss; in_a_row: such steps up
    to now; waiting: the losses, gradient norms, skips and trial indices of the steps since the last look at them.
    """

    def __init__(self, args, detector, criterion, device, folder, train_loader, dev_loaders, signals):
        self.args, self.detector, self.criterion, self.device = args, detector, criterion, device
        self.checkpoints = folder / "checkpoints"
        self.train_loader, self.dev_loaders, self.signals = train_loader, dev_loaders, signals
        self.n_steps = len(train_loader)
        # Fused: one kernel for all weights, and one that heeds found_inf, see step().
        self.optimizer = getattr(torch.optim, args.optimizer)(
            detector.parameters(), lr=args.lr, weight_decay=args.weight_decay, betas=(0.9, 0.999), fused=True
        )
        self.scheduler, self.every_step = build_schedule(args, self.optimizer, self.n_steps)
        self.scaler = torch.amp.GradScaler(device.type, enabled=args.precision == "fp16")
        self.statistics = [buffer for buffer in detector.buffers() if buffer.is_floating_point()]
        self.state = {"epoch": 1, "batch": 0, "best": {}, "stale": 0, "kept": {}, "skipped": 0, "in_a_row": 0}
        self.state["waiting"] = []
        self.state |= {"loss": 0.0, "n_losses": 0}
        self.saved_at = time.monotonic()
        self.writer = self.frozen = None
        if distributed.world_size() > 1:
            distributed.synchronise_batch_norm(detector)
        if args.grad_checkpoint:
            for layer in detector.front_end.model.encoder.layers:
                layer.forward = functools.partial(recomputed, layer.forward, use_reentrant=False)

    # ------------------------------------------------------------------------------------------ on the disk

    def save(self):
        """Write the file to resume from."""
        states = distributed.gather(checkpoint.random_states())
        if distributed.rank() == 0:
            waiting = [[value.cpu() for value in step] for step in self.state["waiting"]]
            facts = {**self.state, "waiting": waiting, "scaler": self.scaler.state_dict()}
            path = self.checkpoints / checkpoint.RESUME_NAME
            checkpoint.save_resume(path, self.detector, self.optimizer, self.scheduler, states, **facts)
            self.writer.flush()
        self.saved_at = time.monotonic()

    def resume(self, paths):
        """Go back to where the first of `paths` that is whole leads. Raises UserError where none is."""
        reasons = []
        for path in paths:
            try:
                content = checkpoint.load_resume(
                    path, self.detector, self.optimizer, self.scheduler, distributed.rank()
                )
            except UserError as error:
                reasons.append(error)
                continue
            if reasons:
                warn(f"{reasons[0]}; going on from {path}")
            self.state = {name: content[name] for name in self.state}
            waiting = self.state["waiting"]
            self.state["waiting"] = [[*(value.to(self.device) for value in step[:3]), step[3]] for step in waiting]
            self.scaler.load_state_dict(content["scaler"])
            return
        raise reasons[0]

    def space_needed(self):
        """Bytes that the run is certain to write, and that it possibly writes."""
        args = self.args
        weights = sum(value.nbytes for value in self.detector.state_dict().values())
        moments = 2 * sum(parameter.nbytes for parameter in self.detector.parameters())
        possible = sum(validates(args, epoch) for epoch in range(1, args.epochs + 1))
        if args.keep_last or args.keep_best:
            possible = min(possible, (args.keep_last or 0) + (args.keep_best or 0) + args.average_best + 1)
        certain = possible if args.keep == "every" else 1
        # Beside the epochs': the best again, the average, and three files to resume from while the newest is written.
        rest = (1 + (args.average_best > 0)) * weights + 3 * (weights + moments)
        return certain * weights + rest, possible * weights + rest

    def keep_validated(self, epoch, figures):
        """Keep this epoch's checkpoint where the run asks for it. Returns the names written."""
        args, best = self.args, self.state["best"]
        watched = ["eer"] if args.validation == "eer" else ["loss", "loss_augmented"]
        watched += [args.average_by] if args.average_by not in watched else []
        improved = [name for name in watched if figures[name] < best.get(name, math.inf)]
        best.update({name: figures[name] for name in improved})
        self.state["stale"] = 0 if args.average_by in improved else self.state["stale"] + 1
        name = f"model_{epoch}_EER_{figures['eer']}.pt" if args.validation == "eer" else f"epoch_{epoch}.pth"
        names = [name] if args.keep == "every" or improved else []
        if names:
            self.state["kept"][epoch] = figures
        names += ["best_model.pt"] if watched[0] in improved else []
        for name in names:
            self.save_weights(name, figures, epoch=epoch)
        return names

    def save_weights(self, name, figures, **facts):
        facts |= {"valid": {**figures, "selected_by": self.args.validation}, "trained_on": trained_on(self.args)}
        if distributed.rank() == 0:
            state = self.detector.state_dict()
            checkpoint.save_checkpoint(self.checkpoints / name, self.detector.config, state, **facts)

    def prune(self):
        """Delete checkpoints that --keep_last and --keep_best do not name and the average does not need."""
        args = self.args
        if distributed.rank() == 0 and (args.keep_last or args.keep_best):
            best = [(args.validation, args.keep_best or 0), (args.average_by, args.average_best)]
            run_folder.prune(self.checkpoints, self.state["kept"], args.keep_last, best)

    def stop_if_asked(self):
        """After a step or a validation: save when it is time to, or save and end the process after a signal."""
        due = time.monotonic() - self.saved_at >= 60 * self.args.save_every_minutes
        number, due = distributed.highest(self.signals.received, due)
        if (number or due) and self.state["epoch"] <= self.args.epochs:  # behind them only the average is made
            self.save()
        if number:
            epoch, batch = self.state["epoch"], self.state["batch"]
            say(f"stopped by signal {number:.0f} in epoch {epoch} after {batch} batches; --resume auto goes on")
            sys.exit(128 + int(number))

    # -------------------------------------------------------------------------------------------- training

    def autocast(self):
        dtype = PRECISIONS[self.args.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def freeze(self, frozen):
        """Train the front-end or not. Makes self.network, what a step calls: the detector, compiled and shared out."""
        if frozen == self.frozen:
            return
        self.frozen = frozen
        self.detector.front_end.requires_grad_(not frozen)
        self.network = torch.compile(self.detector) if self.args.compile else self.detector
        if distributed.world_size() > 1:
            # wav2vec 2.0 keeps a parameter of its pre-training that no detector uses.
            self.network = DistributedDataParallel(self.network, broadcast_buffers=False, find_unused_parameters=True)

    def train_epoch(self):
        """The rest of an epoch over the training set. Returns the mean of its finite losses."""
        args, state, loader = self.args, self.state, self.train_loader
        frozen = state["epoch"] <= args.SSL_freeze_epoch
        self.freeze(frozen)
        self.detector.train()
        if frozen:
            self.detector.front_end.eval()  # a frozen encoder drops nothing out
        loader.batch_sampler.epoch, loader.batch_sampler.start = state["epoch"], state["batch"]
        title = f"epoch {state['epoch']}/{args.epochs}"
        bar = progress(
            loader,
            desc=title,
            unit="batch",
            initial=state["batch"],
            total=self.n_steps,
            disable=distributed.rank() > 0,
        )
        pace = Pace(loader)
        for x, labels, indices in bar:
            pace.got(len(x))
            lr = self.optimizer.param_groups[0]["lr"]
            state["waiting"].append([*self.step(x, labels), indices])
            if self.every_step:
                self.scheduler.step()
            state["batch"] += 1
            if len(state["waiting"]) == LOG_EVERY or state["batch"] == self.n_steps:
                self.look(lr, pace)
            self.stop_if_asked()
            pace.ask()
        return state["loss"] / state["n_losses"] if state["n_losses"] else math.nan

    def step(self, x, labels):
        """One step of the optimiser: waveforms (b, samples) and labels (b,), this process's share of the batch.

        Returns on the device, for no step waits for the GPU: the batch's loss, the norm of its gradient, and whether
        the step was skipped because one of them is not finite. Then weights, moments and the running statistics of
        batch norms stay as they were.
        """
        args, world = self.args, distributed.world_size()
        x, labels = x.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        before = self.running_statistics()
        weight = distributed.total(self.criterion.weight(labels))
        loss = torch.zeros((), device=self.device)
        self.optimizer.zero_grad(set_to_none=True)
        parts = list(zip(x.chunk(args.grad_accum), labels.chunk(args.grad_accum)))
        for i, (x_part, labels_part) in enumerate(parts):
            # The processes' gradients are averaged in the backward pass of the last part.
            apart = self.network.no_sync() if world > 1 and i + 1 < len(parts) else contextlib.nullcontext()
            with apart:
                with self.autocast():
                    logits = self.network(x_part)
                part = self.criterion.total(logits.float(), labels_part) / weight
                self.scaler.scale(part * world).backward()
            loss += part.detach()
        loss = distributed.total(loss)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm(p.grad for p in self.detector.parameters() if p.grad is not None)
        finite = torch.isfinite(loss)
        if not self.scaler.is_enabled():  # the scaler looks after infinite gradients itself, they are its measure
            finite &= torch.isfinite(norm)
            self.optimizer.found_inf = (~finite).float()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.statistics:
            kept = torch.where(finite, self.running_statistics(), before)
            kept = kept.split([buffer.numel() for buffer in self.statistics])
            torch._foreach_copy_(self.statistics, [part.view_as(old) for part, old in zip(kept, self.statistics)])
        return loss, norm, ~finite

    def running_statistics(self):
        """A copy of the batch norms' running means and variances, (values,)."""
        return torch.cat([torch.empty(0, device=self.device), *(buffer.flatten() for buffer in self.statistics)])

    def look(self, lr, pace):
        """Read from the device what the steps since the last look gave, log it, and stop where the run is lost."""
        state = self.state
        steps, state["waiting"] = state["waiting"], []
        values = torch.stack([torch.stack([value.float() for value in step[:3]]) for step in steps]).tolist()
        for (*_, skipped), (*_, indices) in zip(values, steps):
            state["in_a_row"] = state["in_a_row"] + 1 if skipped else 0
            state["skipped"] += bool(skipped)
            if state["in_a_row"] == STOP_AFTER:
                trials = self.train_loader.dataset.trials
                ids = [trials[i].utt_id for share in distributed.gather(indices.tolist()) for i in share]
                raise UserError(
                    f"epoch {state['epoch']}: expected a finite loss, found none in {STOP_AFTER} steps in a row; "
                    f"the last of them on {', '.join(ids)}"
                )
        good = [(loss, norm) for loss, norm, skipped in values if not skipped]
        state["loss"] += sum(loss for loss, _ in good)
        state["n_losses"] += len(good)
        norms = [norm for _, norm in good if math.isfinite(norm)]
        figures = {"lr": lr, **pace.figures()}
        figures |= {"loss": sum(loss for loss, _ in good) / len(good)} if good else {}
        figures |= {"grad_norm": sum(norms) / len(norms)} if norms else {}
        if len(good) < len(steps):
            warn(f"epoch {state['epoch']}: skipped {len(steps) - len(good)} steps without a finite loss")
            figures["skipped_steps"] = state["skipped"]
        if self.writer:
            for name, value in figures.items():
                at = (state["epoch"] - 1) * self.n_steps + state["batch"]
                self.writer.add_scalar(f"train/{name}", value, at)

    # ------------------------------------------------------------------------------------------ validation

    def validate(self, title):
        """Figures on the dev set, lower is better: {loss, eer, threshold}, and loss_augmented where that loader exists.

        Augmentation is the same in every epoch, to compare like with like. Every process scores its share.
        """
        self.detector.eval()
        found = {}
        for suffix, loader in self.dev_loaders.items():
            loader.batch_sampler.epoch = 0
            rows = []
            desc = f"epoch {title} dev{suffix}"
            with torch.inference_mode(), self.autocast():
                for x, labels, indices in progress(loader, desc=desc, unit="batch", disable=distributed.rank() > 0):
                    rows.append((self.detector(x.to(self.device, non_blocking=True)).float(), labels, indices))
                    if self.signals.received:
                        break
            found[suffix] = [torch.cat([row[i] for row in rows]).cpu() if rows else None for i in range(3)]
        self.stop_if_asked()
        figures = {}
        for suffix, share in found.items():
            shares = [share for share in distributed.gather(share) if share[0] is not None]
            logits, labels, indices = (torch.cat([share[i] for share in shares]) for i in range(3))
            _, first = np.unique(indices.numpy(), return_index=True)  # in the trials' order, each once
            logits, labels = logits[first], labels[first]
            figures["loss" + suffix] = self.criterion(logits.to(self.device), labels.to(self.device)).item()
            if not suffix:
                scores, is_bonafide = self.detector.scores_of(logits).numpy(), labels.numpy() == BONAFIDE
                figures |= checkpoint.dev_figures(scores[is_bonafide], scores[~is_bonafide])
        return figures

    def average_best(self):
        """Average the best checkpoints, validate the average and keep it as average_best_N.pth."""
        args = self.args
        paths = checkpoint.best_checkpoints(self.checkpoints, args.average_best, args.average_by)
        out = self.checkpoints / f"average_best_{args.average_best}.pth"
        averaged = sorted(path.name for path in paths)
        if out.exists() and checkpoint.read_checkpoint(out)["averaged"] == averaged:
            say(f"{out} is there already")
            return
        self.detector.load_state_dict(checkpoint.average_checkpoints(paths))
        figures = self.validate("average")
        self.save_weights(out.name, figures, averaged=averaged)
        say(f"average of {', '.join(averaged)}: {_figures(figures)} saved {out}")


class Pace:
    """How fast a loader gives batches and steps take them, since the last look."""

    warned = False

    def __init__(self, loader):
        self.loader = loader
        self._restart()
        self.ask()

    def _restart(self):
        self.n_utterances, self.waited, self.start = 0, 0.0, time.monotonic()
        self.busy = self.loader.dataset.busy.value

    def ask(self):
        self.asked = time.monotonic()

    def got(self, n_utterances):
        self.waited += time.monotonic() - self.asked
        self.n_utterances += n_utterances

    def figures(self):
        """{name: value} for the log; starts anew. Warns, once, where the loader is what the steps wait for."""
        seconds, busy = time.monotonic() - self.start, self.loader.dataset.busy.value - self.busy
        n, workers = self.n_utterances, max(self.loader.num_workers, 1)
        found = {"utt_per_s": n / seconds}
        if busy:
            found["loader_utt_per_s_per_core"] = n / busy
        if starved(self.waited, busy / workers, seconds) and not Pace.warned:
            Pace.warned = True
            warn(
                f"the loader starves the device: steps wait for it {self.waited / seconds:.0%} of the time; its "
                f"{workers} processes make {n / busy:.1f} utterances/s each; more of them (--num_workers) may help"
            )
        self._restart()
        return found


def starved(waited, busy, seconds):
    """Do the steps wait for the loader because it can do no more? Seconds: waited for it, its workers busy, in all."""
    return seconds > 1 and waited > 0.2 * seconds and busy > 0.9 * seconds


def trained_on(args):
    return str(args.base_dir or args.database_path or ", ".join(args.train_protocol))


def _figures(figures):
    shown = {"loss": "dev_loss", "loss_augmented": "dev_loss_augmented"}
    text = [f"{label} {figures[name]:.5f}" for name, label in shown.items() if name in figures]
    return " ".join([*text, f"dev_eer {100 * figures['eer']:.3f}%"])


def choose_precision(args, device):
    """Set what the arithmetic is done in, and whether it repeats bit for bit on a GPU."""
    if args.precision is None:
        gpu_has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        args.precision = "bf16" if gpu_has_bf16 else "fp32"
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
    if args.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True)


def foldername(args, config):
    parts = [args.date, config.model_name, f"e{args.epochs}", f"bz{args.batch_size}", f"lr{args.lr:g}"]
    parts += [f"algo{args.algo}" if args.augment == "RawBoost" else args.augment, f"seed{args.seed}", args.comment]
    return "_".join(part for part in parts if part)


def main(argv=None):
    args = parse_args(argv)
    config = checkpoint.resolve_encoder(model_flags(args), args.ssl_path)
    criterion = build_loss(args, config)
    try:
        params = RawBoostParams(
            **{f.name: getattr(args, f.name) for f in dataclasses.fields(RawBoostParams) if f.name != "fs"}
        )
    except ValueError as error:
        raise UserError(f"RawBoost: {error}") from error
    local_rank = distributed.join()
    rank, world = distributed.rank(), distributed.world_size()
    if args.batch_size < world:
        raise UserError(f"--batch_size {args.batch_size}: expected at least one trial for each of {world} processes")
    device = choose_device(local_rank if world > 1 else args.gpu_id)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    choose_precision(args, device)

    train_trials, dev_trials = read_trials(args)
    if args.check_audio:
        train_trials, dev_trials = without_bad_audio([train_trials, dev_trials], args)
    bad_audio = BadAudio([*train_trials, *dev_trials], args.skip_bad_audio) if args.skip_bad_audio else None
    plain = {"bad_audio": bad_audio}
    algo = args.algo if args.augment == "RawBoost" else args.augment
    augmented = {**plain, "algo": algo, "params": params, "seed": args.seed}
    options = {"num_workers": args.num_workers, "pin_memory": device.type == "cuda", "rank": rank, "world": world}
    train_set = TrialDataset(train_trials, args.crop, args.crop_place, **augmented)
    # The published programs drop the last, smaller batch for speech and keep it for singing voice.
    drop_last = args.corpus == "ASVspoof2019_LA" and len(train_set) > args.batch_size
    train_loader = make_loader(train_set, args.batch_size, shuffle=True, seed=args.seed, drop_last=drop_last, **options)
    train_loader.batch_sampler.stop = 21 if args.debug else None
    if args.validation == "eer":
        dev_loaders = {"": make_loader(TrialDataset(dev_trials, at_least=RECEPTIVE_FIELD, **plain), world, **options)}
    else:
        dev_loaders = {
            "": make_loader(TrialDataset(dev_trials, args.crop, **plain), args.batch_size, **options),
            "_augmented": make_loader(TrialDataset(dev_trials, args.crop, **augmented), args.batch_size, **options),
        }

    name = args.foldername or foldername(args, config)
    where = run_folder.choose(args.log_dir, name, args.resume, args.resume_checkpoint_path)
    folder, resume_from = distributed.gather(where)[0]
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    detector = build_detector(config) if resume_from else checkpoint.new_detector(config, args.ssl_path)
    detector.to(device)
    torch.manual_seed(args.seed + rank)  # no two processes drop out alike
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        training = Training(args, detector, criterion.to(device), device, folder, train_loader, dev_loaders, signals)
        if rank == 0:
            run_folder.check_space(folder, *training.space_needed())
            stack.enter_context(run_folder.locked(folder))
        settings = settings_of(args, config)
        if resume_from:
            check_same_settings(settings, folder)
            training.resume(resume_from)
        if rank == 0:
            start_run(training, folder, settings, bool(resume_from))
            stack.enter_context(training.writer)
        fit(training)
    say(f"finished: {folder}")
    distributed.leave()


def start_run(training, folder, settings, resumed):
    """What the process that writes does first: configuration, environment, log."""
    state, detector, config = training.state, training.detector, training.detector.config
    run_folder.clear_unfinished(training.checkpoints)
    if not resumed:
        with atomic_open(folder / "config.json") as file:
            json.dump({**settings, "command": sys.argv}, file, indent=1)
    run_folder.write_environment(folder, training.device)
    n_front_end = count_parameters(detector.front_end)
    place = f" (resumed after epoch {state['epoch'] - 1} and {state['batch']} batches)" if resumed else ""
    world = distributed.world_size()
    print(
        f"run: {folder}{place}\n"
        f"model: {config.model_name}, encoder {config.ssl}, {n_front_end:,} parameters in the front-end and "
        f"{count_parameters(detector) - n_front_end:,} behind it; device {training.device}, "
        f"{training.args.precision}{f', {world} processes' if world > 1 else ''}",
        flush=True,
    )
    # What a killed run logged after the state that is gone back to is hidden.
    training.writer = SummaryWriter(folder, purge_step=(state["epoch"] - 1) * training.n_steps + state["batch"] + 1)
    if not resumed:
        training.writer.add_text("config", f"```\n{json.dumps(settings, indent=1)}\n```")


def fit(training):
    """Train to the last epoch, from wherever the state is, and average."""
    args, state = training.args, training.state
    while state["epoch"] <= args.epochs and not (args.early_stop and state["stale"] >= args.early_stop):
        epoch, lr, start = state["epoch"], training.optimizer.param_groups[0]["lr"], time.monotonic()
        train_loss = training.train_epoch()
        seconds = time.monotonic() - start
        saved, dev = [], {}
        if validates(args, epoch):
            dev = training.validate(epoch)
            saved = training.keep_validated(epoch, {**dev, "train_loss": train_loss})
        if not training.every_step:
            training.scheduler.step()
        if training.writer:
            for name in dev.keys() - checkpoint.CALIBRATION:
                training.writer.add_scalar(f"dev/{name}", dev[name], epoch * training.n_steps)
        state |= {"epoch": epoch + 1, "batch": 0, "loss": 0.0, "n_losses": 0}
        training.save()
        training.prune()
        say(
            f"epoch {epoch}/{args.epochs} train_loss {train_loss:.5f} {_figures(dev) if dev else '-'} "
            f"lr {lr:.3g} seconds {seconds:.1f} saved {','.join(saved) or '-'}"
        )
    if state["epoch"] <= args.epochs:
        say(f"stopped early: {state['stale']} validated epochs without a lower {args.average_by}")
    if args.average_best:
        distributed.gather(None)  # the last checkpoint is written
        training.average_best()


if __name__ == "__main__":
    run(main)
