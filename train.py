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
import os
import random
import sys
from collections import Counter

import common.threads  # noqa: F401

import numpy as np
import torch

import checkpoints
import corpora
from augmentation import AUGMENTATIONS
from back_ends import BACK_ENDS
from common.atomic import atomic_open, check_folder
from common.console import ABOVE_0, AT_LEAST_0, AT_LEAST_1, SEED, Number, StopSignals, UserError, run, warn
from corpora import BONAFIDE, SPOOF
from data_utils import BadAudio, TrialDataset, check_audio, make_loader
from front_ends import FRONT_ENDS
from model import add_model_flags, build_detector, choose_device, count_parameters, given_model_flags
from RawBoost import ALGORITHMS, RawBoostParams
from training import distributed, provenance, run_folder
from training.losses import LOSSES, losses_for
from training.recipes import RECIPES
from training.trainer import PRECISIONS, Training

# Flags of the published programs that those read nowhere.
IGNORED = {"AASIST_scale": 1, "eval_part": 1, "test_length": 1, "BTN_ratio": 1}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Train a detector.",
        epilog="published recipes: "
        + "; ".join(
            f"{name}: " + " ".join(f"--{k} {v}" for k, v in record.recipe.items())
            for name, record in corpora.CORPORA.items()
            if record.recipe
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
        "--num_workers",
        type=AT_LEAST_0,
        default=min(12, os.cpu_count()),
        help="processes that read audio (%(default)s)",
    )
    data.add_argument("--check_audio", action="store_true", help="decode every file before training starts")
    data.add_argument(
        "--skip_bad_audio",
        type=AT_LEAST_0,
        default=0,
        metavar="N",
        help="go on without at most N files that cannot be read, each logged; the next of the list takes its place "
        "(%(default)s: stop at the first)",
    )

    recipe = chosen_recipe(argv)
    add_model_flags(parser, required="model_name" not in recipe)

    train = parser.add_argument_group("training; not given: the recipe's value, or else the corpus's")
    train.add_argument("--recipe", help="a system trained as its authors did: sets the flags; list prints all recipes")
    train.add_argument("--epochs", "--num_epochs", type=AT_LEAST_1, help="passes over the training set")
    train.add_argument("--batch_size", type=AT_LEAST_1)
    train.add_argument("--optimizer", choices=["Adam", "AdamW"])
    train.add_argument("--lr", type=Number(float, 0), help="highest learning rate")
    train.add_argument("--weight_decay", type=Number(float, 0), default=1e-4, help="(%(default)s)")
    train.add_argument(
        "--schedule",
        choices=["constant", "cosine", "onecycle", "step", "exponential", "warmup_exponential", "warmup_cosine"],
        help="cosine: per epoch, up and down again; step: times --gamma every --T_max epochs; exponential: per step, "
        "from --lr to --min_lr; warmup_...: up in --warmup_epochs, then times --gamma an epoch, or half a cosine to 0",
    )
    train.add_argument(
        "--T_max", type=AT_LEAST_1, default=5, help="cosine: epochs from highest to lowest rate (%(default)s)"
    )
    train.add_argument(
        "--min_lr", type=Number(float, 0), default=1e-9, help="cosine, exponential: lowest rate (%(default)s)"
    )
    train.add_argument("--gamma", type=ABOVE_0, default=0.5, help="step, warmup_exponential: see there (%(default)s)")
    train.add_argument("--warmup_epochs", type=AT_LEAST_1, default=3, help="warmup_...: see there (%(default)s)")
    train.add_argument(
        "--loss",
        choices=[*LOSSES, "WCE"],
        help=f"one output: {', '.join(losses_for(1))}; two: {', '.join(losses_for(2))}; WCE is weighted_CCE; "
        "not given: the first of those",
    )
    train.add_argument(
        "--class_weights",
        type=ABOVE_0,
        nargs=2,
        default=[0.1, 0.9],
        help="weighted_CCE: spoof, bona fide (%(default)s)",
    )
    train.add_argument("--crop", type=AT_LEAST_1, help="samples of a training utterance; shorter ones are repeated")
    train.add_argument("--crop_place", choices=["first", "random"], help="where the crop is taken")
    train.add_argument(
        "--ssl_path",
        help="pre-trained weights of the encoder: a fairseq or WavLM file, or a Hugging Face folder; not given: its "
        "published file name in this folder; none: start from random weights",
    )
    train.add_argument(
        "--SSL_freeze_epoch",
        type=Number(int, -1),
        default=-1,
        help="epochs in which the encoder is not trained (%(default)s: none)",
    )
    train.add_argument("--seed", type=SEED, help="of weights, order, crops and augmentation")
    train.add_argument("--gpu_id", type=AT_LEAST_0, default=0, help="CUDA device, where there is one (%(default)s)")
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
        type=AT_LEAST_1,
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
        type=AT_LEAST_0,
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
        type=AT_LEAST_1,
        metavar="N",
        help="end the training after N validated epochs without a lower figure of --average_by",
    )
    valid.add_argument(
        "--keep_last",
        type=AT_LEAST_1,
        nargs="?",
        const=1,
        metavar="N",
        help="delete checkpoints but those of the last N (without a number: 1) epochs and what other flags keep",
    )
    valid.add_argument(
        "--keep_best",
        type=AT_LEAST_1,
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
    where.add_argument("--resume_checkpoint_path", help=f"go on from a run's {checkpoints.RESUME_NAME}")
    where.add_argument(
        "--save_every_minutes",
        type=Number(float, 0),
        default=15,
        help="also within an epoch, save what a killed run goes on from (%(default)g)",
    )

    boost = parser.add_argument_group("augmentation")
    boost.add_argument(
        "--augment",
        choices=list(AUGMENTATIONS),
        default="RawBoost",
        help="RawBoost, or in its place random low-pass filters that imitate codecs (%(default)s)",
    )
    boost.add_argument(
        "--algo", type=AT_LEAST_0, choices=ALGORITHMS, help="0: none; see RawBoost.py; not given: the recipe's"
    )
    for field in dataclasses.fields(RawBoostParams):
        if field.name != "fs":
            boost.add_argument(
                f"--{field.name}",
                type=Number(field.type),
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
    folders = {name: record.train_flag for name, record in corpora.CORPORA.items() if record.train_flag}
    args.corpus = next((name for name, flag in folders.items() if getattr(args, flag)), corpora.DEFAULT_CORPUS)
    for name, value in corpora.recipe_of(args.corpus, args.model_name).items():
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
    if args.schedule == "exponential" and args.lr == 0:
        parser.error("--schedule exponential: expected --lr above 0, found 0")
    least = FRONT_ENDS[args.model_name.split("_", 1)[0]].least_samples
    if args.crop < least:
        parser.error(f"--crop: expected at least {least} samples, one frame of the encoder")
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


def read_trials(args):
    """Train and dev trials with their audio located. Raises UserError where anything is missing."""
    parts = []
    for split in ("train", "dev"):
        if args.train_protocol:
            audio = getattr(args, f"{split}_audio_dir") or []
            sources = list(itertools.zip_longest(getattr(args, f"{split}_protocol"), audio))
        else:
            folder = args.base_dir or args.database_path
            sources = [corpora.official_files(args.corpus, split, folder, args.protocols_path)]
        trials = [trial for source in sources for trial in corpora.read_trials(*source)]
        counts = Counter(trial.label for trial in trials)
        names = ", ".join(str(protocol) for protocol, _ in sources)
        distributed.say(
            f"{split}: {len(trials)} trials ({counts[BONAFIDE]} bona fide, {counts[SPOOF]} spoof) from {names}"
        )
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
    distributed.say(f"audio: {len(trials)} files checked, {len(bad)} skipped")
    args.skip_bad_audio -= len(bad)
    names = ("training set without bad audio", "dev set without bad audio")
    return [check_classes([trial for trial in part if trial.path not in bad], name) for part, name in zip(parts, names)]


def check_parts(args, sizes):
    """Raise UserError where the parts of --grad_accum are not what the batch norms of the detector ask for.

    sizes: trials of the batches that there are, of all processes together.
    """
    world, back_end = distributed.world_size(), args.model_name.split("_", 1)[1]
    needed = BACK_ENDS[back_end].least_batch
    for size in sizes:
        shares = [len(range(size)[rank::world]) for rank in range(world)]
        parts = [[len(part) for part in torch.arange(share).chunk(args.grad_accum)] for share in shares if share]
        found = f"--batch_size {args.batch_size} --grad_accum {args.grad_accum}: a batch of {size} trials"
        if len({len(share) for share in parts}) > 1:  # each part's batch norms wait for those of all processes
            raise UserError(f"{found} on {world} processes: expected as many parts on each, found {parts}")
        least = min(sum(part) for part in zip(*parts))
        if least < needed:
            raise UserError(
                f"{found} is computed in parts of which one holds {least}; {back_end} needs {needed} at "
                "least, for it normalises over trials"
            )


def model_flags(args):
    """The model flags that were given, and what the loss asks of the output layer."""
    output = LOSSES[args.loss].output if args.loss in LOSSES else "linear"
    return given_model_flags(args) | ({"output": output} if output != "linear" else {})


def build_loss(args, config):
    fitting = losses_for(config.n_output_logits)
    name = {None: fitting[0], "WCE": "weighted_CCE"}.get(args.loss, args.loss)
    if name not in fitting:
        raise UserError(
            f"--loss {args.loss}: expected {' or '.join(fitting)} for a model of {config.n_output_logits} outputs; "
            "--n_output_logits chooses their number"
        )
    args.loss = name
    return LOSSES[name](args.class_weights)


def build_augmentation(args):
    """The function (x, rng=...) that --augment and its flags ask for. Raises UserError if RawBoost's do not fit."""
    names = [field.name for field in dataclasses.fields(RawBoostParams) if field.name != "fs"]
    try:
        params = RawBoostParams(**{name: getattr(args, name) for name in names})
    except ValueError as error:
        raise UserError(f"RawBoost: {error}") from error
    augment = AUGMENTATIONS[args.augment]
    return functools.partial(augment, algo=args.algo, params=params) if args.augment == "RawBoost" else augment


def settings_of(args, config, parts):
    """All that decides what the weights become, as plain data. parts: {split: trials}."""
    names = (
        "corpus epochs batch_size optimizer lr weight_decay schedule T_max min_lr loss class_weights crop crop_place"
    )
    names += " SSL_freeze_epoch seed debug validation keep average_best average_by algo precision grad_accum"
    names += " augment early_stop gamma warmup_epochs"
    names = names.split() + [field.name for field in dataclasses.fields(RawBoostParams) if field.name != "fs"]
    facts = {split: provenance.data_facts(trials) for split, trials in parts.items()} if distributed.rank() == 0 else {}
    return {
        "model": config.to_dict(),
        "training": {name: getattr(args, name) for name in names},
        "data": distributed.gather(facts)[0],
    }


def check_same_settings(settings, folder):
    """The settings in the config.json of a run that goes on. A longer run is the same run.

    Raises UserError if it was started with other settings.
    """
    try:
        before = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/config.json: expected the settings of the run to resume: {error}") from error
    depends_on_length = settings["training"]["schedule"] in ("onecycle", "exponential", "warmup_cosine")
    free = set() if depends_on_length else {"epochs"}
    for part in ("model", "training"):
        for name, value in settings[part].items():
            if name not in free and before[part].get(name) != value:
                raise UserError(
                    f"--{name}: the run in {folder} was started with {before[part].get(name)}, found {value}"
                )
    return before


def check_same_data(before, now, folder, parts):
    """Raises UserError, saying what differs, if a run that goes on was started with other data.

    before, now: {split: its provenance.data_facts}. parts: {split: trials}, those of `now`.
    """
    found = {split: provenance.data_difference(before[split], now[split], trials) for split, trials in parts.items()}
    if differences := [f"{split} data: {difference}" for split, difference in found.items() if difference]:
        raise UserError(
            f"the run in {folder} was started with other data; {'; '.join(differences)}; without --resume and "
            "--resume_checkpoint_path a new run starts"
        )


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
    local_rank = distributed.join()
    rank, world = distributed.rank(), distributed.world_size()
    if args.batch_size < world:
        raise UserError(f"--batch_size {args.batch_size}: expected at least one trial for each of {world} processes")
    check_parts(args, [args.batch_size])
    config = checkpoints.resolve_encoder(model_flags(args), args.ssl_path)
    criterion = build_loss(args, config)
    augment = build_augmentation(args)
    name = args.foldername or foldername(args, config)
    if not args.resume_checkpoint_path:
        check_folder(f"--log_dir {args.log_dir}", os.path.join(args.log_dir, name))
    device = choose_device(local_rank if world > 1 else args.gpu_id)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    choose_precision(args, device)

    train_trials, dev_trials = read_trials(args)
    if args.check_audio:
        train_trials, dev_trials = without_bad_audio([train_trials, dev_trials], args)
    bad_audio = BadAudio(args.skip_bad_audio) if args.skip_bad_audio else None
    plain = {"bad_audio": bad_audio}
    augmented = {**plain, "augment": augment, "seed": args.seed}
    options = {"num_workers": args.num_workers, "pin_memory": device.type == "cuda", "rank": rank, "world": world}
    train_set = TrialDataset(train_trials, args.crop, args.crop_place, **augmented)
    # The published programs drop the last, smaller batch for speech and keep it for singing voice.
    drop_last = corpora.CORPORA[args.corpus].drop_last and len(train_set) > args.batch_size
    train_loader = make_loader(train_set, args.batch_size, shuffle=True, seed=args.seed, drop_last=drop_last, **options)
    train_loader.batch_sampler.stop = 21 if args.debug else None
    check_parts(args, train_loader.batch_sampler.sizes())
    if args.validation == "eer":
        at_least = FRONT_ENDS[config.front_end].least_samples
        dev_loaders = {"": make_loader(TrialDataset(dev_trials, at_least=at_least, **plain), world, **options)}
    else:
        dev_loaders = {
            "": make_loader(TrialDataset(dev_trials, args.crop, **plain), args.batch_size, **options),
            "_augmented": make_loader(TrialDataset(dev_trials, args.crop, **augmented), args.batch_size, **options),
        }

    where = run_folder.choose(args.log_dir, name, args.resume, args.resume_checkpoint_path)
    folder, resume_from = distributed.gather(where)[0]
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    detector = build_detector(config) if resume_from else checkpoints.new_detector(config, args.ssl_path)
    detector.to(device)
    torch.manual_seed(args.seed + rank)  # no two processes drop out alike
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        training = Training(args, detector, criterion.to(device), device, folder, train_loader, dev_loaders, signals)
        if rank == 0:
            run_folder.check_space(folder, *training.space_needed())
            training.check_folder = stack.enter_context(run_folder.locked(folder))
        parts = {"train": train_trials, "dev": dev_trials}
        settings = settings_of(args, config, parts)
        before = None
        if resume_from:
            before = check_same_settings(settings, folder)
            if "data" in before:
                check_same_data(before["data"], settings["data"], folder, parts)
            training.resume(resume_from)
        if rank == 0:
            start_run(training, folder, settings, before)
            stack.enter_context(training.writer)
        training.fit()
    distributed.say(f"finished: {folder}")
    distributed.leave()


def start_run(training, folder, settings, before):
    """What the process that writes does first: configuration, environment, log.

    before: the settings that config.json holds of a run that goes on, None of a new one.
    """
    resumed = before is not None
    state, detector, config = training.state, training.detector, training.detector.config
    run_folder.clear_unfinished(training.checkpoints)
    if before is None or "data" not in before:
        if resumed:
            warn(f"{folder}/config.json: holds no digests of the run's data to compare; those of today are added")
        with atomic_open(folder / "config.json") as file:
            json.dump({**settings, "command": sys.argv, **(before or {})}, file, indent=1)
    changed = run_folder.write_environment(folder, training.device, distributed.world_size())
    if changed:
        warn(f"{folder}: goes on with other {changed}: the weights may differ by rounding from those without a stop")
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
    # What a killed run logged after the state that is gone back to is hidden. At the end of an epoch that may be its
    # dev figures, which stand at the step of its last training figures.
    at_end = state["batch"] == training.n_steps
    done = (state["epoch"] - 1) * training.n_steps + state["batch"]
    training.writer = run_folder.event_writer(folder, purge_step=done if at_end else done + 1)
    if at_end:
        training.log()
    if not resumed:
        training.writer.add_text("config", f"```\n{json.dumps(settings, indent=1)}\n```")


if __name__ == "__main__":
    run(main)
