"""Train a detector.

Singing voice (CtrSVDD: DIR holds train_set/, dev_set/, train.txt, dev.txt):
    python train.py --base_dir DIR --model_name WavLM_Nes2Net_X --foldername NAME
Speech (ASVspoof 2019 LA: DB holds ASVspoof2019_LA_{train,dev}/flac, PROTO the protocols):
    python train.py --database_path DB --protocols_path PROTO --model_name wav2vec2_Nes2Net_X
A flag that is not given takes the value of the corpus's published recipe; `python train.py --help` lists both.
A run lives in LOG_DIR/FOLDERNAME/DATE-TIME: config.json, TensorBoard's events, checkpoints/.
"""

import argparse
import dataclasses
import datetime
import itertools
import json
import math
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

import checkpoint
import metrics
import protocols
from atomic import atomic_open
from console import UserError, progress, run
from data_utils import TrialDataset, make_loader
from model import add_model_flags, build_detector, choose_device, count_parameters, given_model_flags
from protocols import BONAFIDE, SPOOF
from RawBoost import ALGORITHMS, RawBoostParams

# What the authors trained with on each corpus. Source: Liu et al. 2025, section IV, and the released commands.
RECIPES = {
    "CtrSVDD": {
        "epochs": 75,
        "batch_size": 34,
        "optimizer": "AdamW",
        "lr": 1e-6,
        "schedule": "cosine",
        "algo": 8,
        "crop": 64000,
        "crop_place": "random",
        "validation": "eer",
        "seed": 42,
    },
    "ASVspoof2019_LA": {
        "epochs": 100,
        "batch_size": 12,
        "optimizer": "Adam",
        "lr": 2.5e-7,
        "schedule": "constant",
        "algo": 4,
        "crop": 64600,
        "crop_place": "first",
        "validation": "loss",
        "seed": 1234,
    },
}
# Where a model's published recipe differs from that of its corpus.
RECIPES_OF_MODELS = {("ASVspoof2019_LA", "wav2vec2_AASIST"): {"lr": 1e-6}}
LOG_EVERY = 50  # steps
# Flags of the published programs that those read nowhere.
IGNORED = {"AASIST_scale": 1, "eval_part": 1, "test_length": 1, "BTN_ratio": 1}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Train a detector.",
        epilog="published recipes: "
        + "; ".join(
            f"{corpus}: " + " ".join(f"--{k} {v}" for k, v in recipe.items()) for corpus, recipe in RECIPES.items()
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

    add_model_flags(parser)

    train = parser.add_argument_group("training; not given: the recipe of the corpus")
    train.add_argument("--epochs", "--num_epochs", type=_positive, help="passes over the training set")
    train.add_argument("--batch_size", type=_positive)
    train.add_argument("--optimizer", choices=["Adam", "AdamW"])
    train.add_argument("--lr", type=float, help="highest learning rate")
    train.add_argument("--weight_decay", type=float, default=1e-4, help="(%(default)s)")
    train.add_argument(
        "--schedule", choices=["constant", "cosine", "onecycle"], help="cosine: per epoch, up and down again"
    )
    train.add_argument(
        "--T_max", type=_positive, default=5, help="cosine: epochs from highest to lowest rate (%(default)s)"
    )
    train.add_argument("--min_lr", type=float, default=1e-9, help="cosine: lowest rate (%(default)s)")
    train.add_argument(
        "--loss",
        choices=["focal", "weighted_CCE", "WCE"],
        help="focal: one output, soft labels; weighted_CCE (or WCE): two outputs; not given: what fits the outputs",
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
        choices=["eer", "loss", "loss_augmented"],
        help="figure that ranks them; not given: that of --validation",
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

    boost = parser.add_argument_group("RawBoost augmentation")
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
    recipe = RECIPES[args.corpus] | RECIPES_OF_MODELS.get((args.corpus, args.model_name), {})
    for name, value in recipe.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name in IGNORED:
        if getattr(args, name) is not None:
            print(f"train.py: warning: --{name} has no effect, as in the published program", file=sys.stderr)
        delattr(args, name)
    if args.average_by is None:
        args.average_by = args.validation
    if args.average_by != "eer" and args.validation == "eer":
        parser.error(f"--average_by {args.average_by} needs --validation loss")
    if args.keep is None:
        args.keep = "every" if args.validation == "eer" else "improved"
    if args.resume and args.resume_checkpoint_path:
        parser.error("--resume and --resume_checkpoint_path exclude each other")
    return args


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
        print(f"{split}: {len(trials)} trials ({counts[BONAFIDE]} bona fide, {counts[SPOOF]} spoof) from {names}")
        if counts[None]:
            raise UserError(f"{names}: expected labels, found {counts[None]} trials without")
        if not (counts[BONAFIDE] and counts[SPOOF]):
            raise UserError(f"{names}: expected trials of both classes")
        parts.append(trials)
    return parts


class Loss(nn.Module):
    """focal: binary focal loss (Lin et al., 2017; gamma 2, alpha 0.25) of one logit against labels 0.05 and 0.95.
    weighted_CCE: cross-entropy of two logits with a weight a class. Logits (B, outputs), labels (B,) -> scalar.
    """

    def __init__(self, name, class_weights):
        super().__init__()
        self.name = name
        self.register_buffer("class_weights", torch.tensor(class_weights))

    def forward(self, logits, labels):
        if self.name != "focal":
            return F.cross_entropy(logits, labels, weight=self.class_weights)
        targets = 0.05 + 0.9 * labels.to(logits.dtype)
        entropy = F.binary_cross_entropy_with_logits(logits[:, 0], targets, reduction="none")
        return (0.25 * (1 - torch.exp(-entropy)) ** 2 * entropy).mean()


def build_loss(args, config):
    fitting = "focal" if config.n_output_logits == 1 else "weighted_CCE"
    name = {None: fitting, "WCE": "weighted_CCE"}.get(args.loss, args.loss)
    if name != fitting:
        raise UserError(
            f"--loss {args.loss}: expected {fitting} for a model of {config.n_output_logits} outputs; "
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
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1), False


def validates(args, epoch):
    """Is this epoch validated? With the cosine schedule and EER: the first, the last, and around each minimum of the
    learning rate from the second on, as published; otherwise every epoch.
    """
    if args.validation != "eer" or args.schedule != "cosine" or epoch in (1, args.epochs):
        return True
    period = 2 * args.T_max
    return epoch > period + 1 and (epoch - args.T_max) % period in (period - 1, 0, 1)


def validate(detector, loaders, criterion, device, epoch):
    """Figures on the dev set, lower is better: {loss, eer, threshold}, and loss_augmented where that loader exists.

    loaders: {"": plain, "_augmented": augmented}. Augmentation is the same in every epoch, to compare like with like.
    """
    detector.eval()
    figures = {}
    for suffix, loader in loaders.items():
        loader.batch_sampler.epoch = 0
        logits, labels = [], []
        with torch.inference_mode():
            for x, label, _ in progress(loader, desc=f"epoch {epoch} dev{suffix}", unit="batch"):
                logits.append(detector(x.to(device, non_blocking=True)).float())
                labels.append(label)
        logits, labels = torch.cat(logits), torch.cat(labels).to(device)
        figures["loss" + suffix] = criterion(logits, labels).item()
        if not suffix:
            scores, is_bonafide = detector.scores_of(logits).cpu().numpy(), labels.cpu().numpy() == BONAFIDE
            figures["eer"], figures["threshold"] = metrics.compute_eer(scores[is_bonafide], scores[~is_bonafide])
    return figures


def train_epoch(detector, loader, criterion, optimizer, scheduler, device, epoch, args, writer):
    """One pass over the training set, logged every LOG_EVERY steps. Returns the mean training loss."""
    frozen = epoch <= args.SSL_freeze_epoch
    detector.train()
    detector.front_end.requires_grad_(not frozen)
    if frozen:
        detector.front_end.eval()  # a frozen encoder drops nothing out
    loader.batch_sampler.epoch = epoch
    losses, norms, n_utterances, start = [], [], 0, time.monotonic()
    for step, (x, labels, _) in enumerate(progress(loader, desc=f"epoch {epoch}/{args.epochs}", unit="batch")):
        if args.debug and step > 20:
            break
        lr = optimizer.param_groups[0]["lr"]
        loss = criterion(detector(x.to(device, non_blocking=True)), labels.to(device, non_blocking=True))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norms.append(nn.utils.get_total_norm(p.grad for p in detector.parameters() if p.grad is not None))
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(loss.detach())
        n_utterances += len(x)
        # Read from the device at intervals only: reading every step would wait for the GPU every step.
        if len(norms) == LOG_EVERY or step + 1 == len(loader):
            recent = {
                "train/loss": torch.stack(losses[-len(norms) :]).mean().item(),
                "train/grad_norm": torch.stack(norms).mean().item(),
                "train/lr": lr,
                "train/utt_per_s": n_utterances / (time.monotonic() - start),
            }
            for name, value in recent.items():
                writer.add_scalar(name, value, (epoch - 1) * len(loader) + step + 1)
            norms, n_utterances, start = [], 0, time.monotonic()
    return torch.stack(losses).mean().item()


def run_folder(args, config):
    """(folder of the run, file to resume from or None). A new folder is named by the date and time."""
    if args.resume_checkpoint_path:
        path = Path(args.resume_checkpoint_path)
        if not path.is_file():
            raise UserError(f"--resume_checkpoint_path {path}: no such file")
        return path.resolve().parent.parent, path
    if not args.foldername:
        parts = [args.date, config.model_name, f"e{args.epochs}", f"bz{args.batch_size}", f"lr{args.lr:g}"]
        parts += [f"algo{args.algo}", f"seed{args.seed}", args.comment]
        args.foldername = "_".join(part for part in parts if part)
    folder = Path(args.log_dir) / args.foldername
    if args.resume:
        resumable = sorted(folder.glob(f"*/checkpoints/{checkpoint.RESUME_NAME}"))
        if resumable:
            return resumable[-1].parent.parent, resumable[-1]
    return folder / datetime.datetime.now().strftime("%Y%m%d-%H%M%S"), None


def settings_of(args, config):
    """All that decides what the weights become, as plain data."""
    names = (
        "corpus epochs batch_size optimizer lr weight_decay schedule T_max min_lr loss class_weights crop crop_place"
    )
    names += " SSL_freeze_epoch seed debug validation keep average_best average_by algo"
    names = names.split() + [field.name for field in dataclasses.fields(RawBoostParams) if field.name != "fs"]
    return {"model": config.to_dict(), "training": {name: getattr(args, name) for name in names}}


def check_same_settings(settings, folder):
    """Raises UserError where a resumed run was started with other settings; a longer run is the same run."""
    try:
        before = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/config.json: expected the settings of the run to resume: {error}") from error
    free = {"epochs"} if settings["training"]["schedule"] != "onecycle" else set()
    for part, values in settings.items():
        for name, value in values.items():
            if name not in free and before[part].get(name) != value:
                raise UserError(
                    f"--{name}: the run in {folder} was started with {before[part].get(name)}, found {value}"
                )


def save_validated(checkpoints, detector, epoch, figures, best, args):
    """Keep this epoch's checkpoint where the run asks for it; update `best`. Returns the names written."""
    watched = ["eer"] if args.validation == "eer" else ["loss", "loss_augmented"]
    improved = [name for name in watched if figures[name] < best.get(name, math.inf)]
    best.update({name: figures[name] for name in improved})
    facts = {"epoch": epoch, "valid": {**figures, "selected_by": args.validation}, "trained_on": trained_on(args)}
    name = f"model_{epoch}_EER_{figures['eer']}.pt" if args.validation == "eer" else f"epoch_{epoch}.pth"
    names = [name] if args.keep == "every" or improved else []
    names += ["best_model.pt"] if watched[0] in improved else []
    for name in names:
        checkpoint.save_checkpoint(checkpoints / name, detector.config, detector.state_dict(), **facts)
    return names


def average_best(checkpoints, detector, loaders, criterion, device, args):
    """Average the best checkpoints, validate the average and keep it as average_best_N.pth."""
    paths = checkpoint.best_checkpoints(checkpoints, args.average_best, args.average_by)
    out = checkpoints / f"average_best_{args.average_best}.pth"
    averaged = sorted(path.name for path in paths)
    if out.exists() and checkpoint.read_checkpoint(out)["averaged"] == averaged:
        print(f"{out} is there already")
        return
    detector.load_state_dict(checkpoint.average_checkpoints(paths))
    figures = validate(detector, loaders, criterion, device, "average")
    facts = {"averaged": averaged, "valid": {**figures, "selected_by": args.validation}, "trained_on": trained_on(args)}
    checkpoint.save_checkpoint(out, detector.config, detector.state_dict(), **facts)
    print(f"average of {', '.join(averaged)}: {_figures(figures)} saved {out}")


def trained_on(args):
    return str(args.base_dir or args.database_path or ", ".join(args.train_protocol))


def _figures(figures):
    shown = {"loss": "dev_loss", "loss_augmented": "dev_loss_augmented"}
    text = [f"{label} {figures[name]:.5f}" for name, label in shown.items() if name in figures]
    return " ".join([*text, f"dev_eer {100 * figures['eer']:.3f}%"])


def main(argv=None):
    args = parse_args(argv)
    config = checkpoint.resolve_encoder(given_model_flags(args), args.ssl_path)
    criterion = build_loss(args, config)
    try:
        params = RawBoostParams(
            **{f.name: getattr(args, f.name) for f in dataclasses.fields(RawBoostParams) if f.name != "fs"}
        )
    except ValueError as error:
        raise UserError(f"RawBoost: {error}") from error
    device = choose_device(args.gpu_id)
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)

    train_trials, dev_trials = read_trials(args)
    augmented = {"algo": args.algo, "params": params, "seed": args.seed}
    options = {"num_workers": args.num_workers, "pin_memory": device.type == "cuda"}
    train_set = TrialDataset(train_trials, args.crop, args.crop_place, **augmented)
    # The published programs drop the last, smaller batch for speech and keep it for singing voice.
    drop_last = args.corpus == "ASVspoof2019_LA" and len(train_set) > args.batch_size
    train_loader = make_loader(train_set, args.batch_size, shuffle=True, seed=args.seed, drop_last=drop_last, **options)
    if args.validation == "eer":
        dev_loaders = {"": make_loader(TrialDataset(dev_trials), 1, **options)}
    else:
        dev_loaders = {
            "": make_loader(TrialDataset(dev_trials, args.crop), args.batch_size, **options),
            "_augmented": make_loader(TrialDataset(dev_trials, args.crop, **augmented), args.batch_size, **options),
        }

    folder, resume_from = run_folder(args, config)
    detector = build_detector(config) if resume_from else checkpoint.new_detector(config, args.ssl_path)
    detector.to(device)
    criterion.to(device)
    optimizer = getattr(torch.optim, args.optimizer)(
        detector.parameters(), lr=args.lr, weight_decay=args.weight_decay, betas=(0.9, 0.999)
    )
    scheduler, every_step = build_schedule(args, optimizer, len(train_loader))

    settings = settings_of(args, config)
    first_epoch, best = 1, {}
    if resume_from:
        check_same_settings(settings, folder)
        state = checkpoint.load_resume(resume_from, detector, optimizer, scheduler)
        first_epoch, best = state["epoch"] + 1, state["best"]
    else:
        with atomic_open(folder / "config.json") as file:
            json.dump({**settings, "command": sys.argv}, file, indent=1)
    checkpoints = folder / "checkpoints"
    n_front_end = count_parameters(detector.front_end)
    print(
        f"run: {folder}{f' (resumed after epoch {first_epoch - 1})' if resume_from else ''}\n"
        f"model: {config.model_name}, encoder {config.ssl}, {n_front_end:,} parameters in the front-end and "
        f"{count_parameters(detector) - n_front_end:,} behind it; device {device}"
    )

    n_steps = len(train_loader)
    with SummaryWriter(folder, purge_step=(first_epoch - 1) * n_steps + 1) as writer:
        if not resume_from:
            writer.add_text("config", f"```\n{json.dumps(settings, indent=1)}\n```")
        for epoch in range(first_epoch, args.epochs + 1):
            lr, start = optimizer.param_groups[0]["lr"], time.monotonic()
            step_scheduler = scheduler if every_step else None
            train_loss = train_epoch(
                detector, train_loader, criterion, optimizer, step_scheduler, device, epoch, args, writer
            )
            seconds = time.monotonic() - start
            if not every_step:
                scheduler.step()
            saved, dev = [], {}
            if validates(args, epoch):
                dev = validate(detector, dev_loaders, criterion, device, epoch)
                saved = save_validated(checkpoints, detector, epoch, dev, best, args)
            checkpoint.save_resume(
                checkpoints / checkpoint.RESUME_NAME, detector, optimizer, scheduler, epoch=epoch, best=best
            )
            print(
                f"epoch {epoch}/{args.epochs} train_loss {train_loss:.5f} {_figures(dev) if dev else '-'} "
                f"lr {lr:.3g} seconds {seconds:.1f} saved {','.join(saved) or '-'}",
                flush=True,
            )
            for name, value in dev.items():
                writer.add_scalar(f"dev/{name}", value, epoch * n_steps)
    if args.average_best:
        average_best(checkpoints, detector, dev_loaders, criterion, device, args)
    print(f"finished: {folder}")


if __name__ == "__main__":
    run(main)
