"""Train a detector.

Singing voice (CtrSVDD: DIR holds train_set/, dev_set/, train.txt, dev.txt):
    python train.py --base_dir DIR --model_name WavLM_Nes2Net_X --foldername NAME
Speech (ASVspoof 2019 LA: DB holds ASVspoof2019_LA_{train,dev}/flac, PROTO the protocols):
    python train.py --database_path DB --protocols_path PROTO --model_name wav2vec2_Nes2Net_X
A detector is trained on: --model_path CKPT.
As the authors of a system trained it: `python train.py --recipe NAME --database_path DB`; `--recipe list` lists them.
A flag that is not given takes the value of the recipe, or else of the corpus's (`python train.py --help-all`).
A run is LOG_DIR/FOLDERNAME/DATE-TIME: config.json, environment.json, console.log, TensorBoard's log, checkpoints/.
Several GPUs, same batch: `torchrun --nproc_per_node 8 train.py ...`; what is killed goes on with --resume auto.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import sys

import common.threads  # noqa: F401

import numpy as np
import torch

import checkpoints
import corpora
from augmentation import chain
from back_ends import BACK_ENDS
from common.atomic import atomic_open, check_folder
from common.console import StopSignals, UserError, run, shown, warn
from common.flags import CommandParser, did_you_mean
from corpora import BONAFIDE, provenance
from data_utils import (
    BATCH_SAMPLES,
    BadAudio,
    PlannedSampler,
    TrialDataset,
    TrialLoader,
    UnitLabels,
    make_loader,
    plan_batches,
)
from front_ends import FRONT_ENDS, lora
from model import (
    ModelConfig,
    Teacher,
    add_model_flags,
    build_detector,
    choose_device,
    count_parameters,
    given_model_flags,
)
from training import distributed, encoder_settings, memory, on_cpu, run_folder
from training.balance import BalancedOrder
from training.config import ENCODER_SETTINGS, GROUPS, TrainingConfig
from training.console_log import ConsoleLog
from training.data import read_trials, without_bad_audio
from training.losses import LOSSES, UnitLoss, losses_for
from training.options import add_flags, given_flags, saved_settings
from training.recipes import RECIPES
from training.trainer import Training

# Flags of the published programs that those read nowhere.
IGNORED = {"AASIST_scale": 1, "eval_part": 1, "test_length": 1, "BTN_ratio": 1}


def parse_args(argv=None):
    """(TrainingConfig, {model flag: value} of those given). A flag that is given counts more than the recipe's value,
    that more than the corpus's, and that more than the field's default.
    """
    parser = CommandParser(
        description="Train a detector of spoofed speech or singing.",
        examples=[
            "python train.py --recipe small --train_protocol TRAIN --dev_protocol DEV",
            "python train.py --database_path DB --model_name wav2vec2_Nes2Net_X",
        ],
        epilog="recipes of the corpora: "
        + "; ".join(
            f"{name}: " + " ".join(f"--{k} {v}" for k, v in record.recipe.items())
            for name, record in corpora.CORPORA.items()
            if record.recipe
        ),
        allow_abbrev=False,
    )
    recipe = chosen_recipe(argv)
    add_model_flags(parser, required="model_name" not in recipe, rare=False)
    add_flags(parser, TrainingConfig, GROUPS, recipe)
    for name, n in IGNORED.items():
        parser.add_argument(f"--{name}", nargs=n, help=argparse.SUPPRESS)
    parser.set_defaults(**recipe)
    args = parser.parse_args(argv)
    if sum(place is not None for place in (args.base_dir, args.database_path, args.train_protocol)) != 1:
        parser.error("expected one of --base_dir (CtrSVDD), --database_path (ASVspoof 2019 LA) and --train_protocol")
    for name in IGNORED:
        if getattr(args, name) is not None:
            warn(f"--{name} has no effect, as in the published program")
    given = given_flags(args, TrainingConfig)
    corpus = given.pop("corpus", None) or corpus_of(args)
    try:
        config = TrainingConfig.of_corpus(corpus, args.model_name, **given)
        front_end = FRONT_ENDS[args.model_name.split("_", 1)[0]]
        for name in sorted(ENCODER_SETTINGS - front_end.in_training.keys()):
            if name in given and given[name] != recipe.get(name):
                raise UserError(f"--{name}: {args.model_name} has no such setting of its encoder")
        least = front_end.least_samples
        for name, shortest in (("crop", config.crop), ("dynamic_crop", (config.dynamic_crop or [least])[0])):
            if shortest < least:
                raise UserError(f"--{name}: expected at least {least} samples, one frame of the encoder")
    except UserError as error:
        parser.error(str(error))
    return config, given_model_flags(args)


def corpus_of(args):
    """The corpus that the data flags name, if they name one: that of the layout, or that which the lists are of."""
    for name, record in corpora.CORPORA.items():
        if record.train_flag and getattr(args, record.train_flag):
            return name
    names = {
        corpora.read_table(path, columns=["attack"], bonafide=args.bonafide).corpus for path in args.train_protocol
    }
    return names.pop() if len(names) == 1 else None


def chosen_recipe(argv):
    """{flag: value} of the recipe that --recipe names.

    --recipe list and --augment list print all that there are, and end the command.
    """
    first = CommandParser(add_help=False, allow_abbrev=False, pass_on=True)
    first.add_argument("--recipe")
    first.add_argument("--augment")
    given, _ = first.parse_known_args(argv)
    if given.augment == "list":
        print(*chain.listing(), sep="\n")
        sys.exit()
    name = given.recipe
    if name == "list":
        for name, recipe in RECIPES.items():
            text = " ".join(f"--{flag} {_words(value)}" for flag, value in recipe.items() if flag != "not_carried_over")
            print(f"{name}: {text}")
            if "not_carried_over" in recipe:
                print(f"{'':{len(name)}}  (not carried over: {recipe['not_carried_over']})")
        sys.exit()
    if name is not None and name not in RECIPES:
        near = did_you_mean(name, RECIPES)
        first.error(f"--recipe: expected list or one of {', '.join(RECIPES)}, found {shown(name)}{near}")
    return {flag: value for flag, value in RECIPES.get(name, {}).items() if flag != "not_carried_over"}


def _words(value):
    if isinstance(value, dict):
        return " ".join(f"{name}={option}" for name, option in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _agrees(given, asked_for):
    """Does a model flag ask for what a loss asks for? Of options by name, those that are given."""
    if isinstance(given, dict):
        return all(asked_for.get(name) == value for name, value in given.items())
    return given == (tuple(asked_for) if isinstance(asked_for, list) and isinstance(given, tuple) else asked_for)


def check_parts(config, back_end, sizes):
    """Raise UserError where the parts of --grad_accum are not what the batch norms of the detector ask for.

    sizes: trials of the batches that there are, of all processes together.
    """
    world, needed = distributed.world_size(), BACK_ENDS[back_end].least_batch
    for size in sizes:
        shares = [len(range(size)[rank::world]) for rank in range(world)]
        parts = [[len(part) for part in torch.arange(share).chunk(config.grad_accum)] for share in shares if share]
        found = f"--batch_size {config.batch_size} --grad_accum {config.grad_accum}: a batch of {size} trials"
        if len({len(share) for share in parts}) > 1:  # each part's batch norms wait for those of all processes
            raise UserError(f"{found} on {world} processes: expected as many parts on each, found {parts}")
        least = min(sum(part) for part in zip(*parts))
        if least < needed:
            raise UserError(
                f"{found} is computed in parts of which one holds {least}; {back_end} needs {needed} at "
                "least, for it normalises over trials"
            )


def choose_loss(loss, n_outputs, output=None):
    """The name of the loss: the given one, or else the published one. Raises UserError if it does not fit the model.

    output: the kind of the model's last layer, if that is there already; see Loss.output.
    """
    fitting = [name for name in losses_for(n_outputs) if output in (None, LOSSES[name].output)]
    if loss and loss not in fitting:
        kind = f"{output} " if output else ""
        raise UserError(
            f"--loss {loss}: expected {' or '.join(fitting)} for a model of {n_outputs} {kind}outputs; "
            "--n_output_logits chooses their number"
        )
    return loss or fitting[0]


def choose_precision(precision, device):
    """What the arithmetic is done in: the given one, or else the fastest with the range of float32."""
    gpu_has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision or ("bf16" if gpu_has_bf16 else "fp32")


def choose_augmentation(config):
    """The function (x, rng=...) that --augment and the flags of its group ask for."""
    fields = dataclasses.fields(config)
    names = [field.name for field in fields if field.metadata.get("group", "augmentation") == "augmentation"]
    return chain.build(config.augment, {name: getattr(config, name) for name in names})


def add_adapters(config, detector):
    """Put the adapters of --lora_rank on the encoder. Returns how many parameters they have, 0 without that flag."""
    if not config.lora_rank:
        return 0
    try:
        return lora.add_adapters(detector.front_end, config.lora_rank, config.lora_alpha, config.lora_targets)
    except ValueError as error:
        raise UserError(f"--lora_rank: {error}") from error


def whole_utterances(trials, front_end, config, device, options):
    """A loader of whole utterances in exact batches, none of more samples than a process trains on at once."""
    rank, world = distributed.rank(), distributed.world_size()
    paths = [trial.path for trial in trials]
    most = min(BATCH_SAMPLES[device.type], config.batch_size * config.crop // (world * config.grad_accum))
    batches = distributed.gather(plan_batches(front_end, paths, batch_samples=most) if rank == 0 else None)[0]
    dataset = TrialDataset(trials, front_end=front_end, **options)
    sampler = PlannedSampler(batches, rank, world)
    return TrialLoader(dataset, sampler, config.num_workers, pin_memory=device.type == "cuda")


def settings_of(config, model_config, parts):
    """All that decides what the weights become, as plain data. parts: {split: trials}."""
    facts = {split: provenance.data_facts(trials) for split, trials in parts.items()} if distributed.rank() == 0 else {}
    return {
        "model": model_config.to_dict(),
        "training": saved_settings(config),
        "data": distributed.gather(facts)[0],
    }


def check_same_settings(config, model_config, folder):
    """The settings in the config.json of a run that goes on.

    Raises UserError if it was started with other settings.
    """
    try:
        before = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model, training = ModelConfig.from_dict(dict(before["model"])).to_dict(), dict(before["training"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder}/config.json: expected the settings of the run to resume: {error}") from error
    if training.get("ssl_layers") != config.ssl_layers:  # from which a shape follows that no flag names
        config.check_same_run(training, folder)
    for name, value in model_config.to_dict().items():
        if model.get(name) != value:
            raise UserError(f"--{name}: the run in {folder} was started with {model.get(name)}, found {value}")
    config.check_same_run(training, folder)
    return before


def check_same_data(before, now, folder, parts):
    """Raises UserError, saying what differs, if a run that goes on was started with other data.

    before, now: {split: its provenance.data_facts}. parts: {split: trials}, those of `now`.
    """
    found = {
        split: provenance.data_difference(before[split], now[split], trials, labels=trials[0].label is not None)
        for split, trials in parts.items()
    }
    cells = [list(facts["train"].get("cells", {}).values()) for facts in (before, now)]
    if not found["train"] and cells[0] != cells[1]:
        found["train"] = "other corpora, classes or attacks, which --balance goes by"
    if differences := [f"{split} data: {difference}" for split, difference in found.items() if difference]:
        raise UserError(
            f"the run in {folder} was started with other data; {'; '.join(differences)}; without --resume and "
            "--resume_checkpoint_path a new run starts"
        )


def main(argv=None):
    with ConsoleLog() as log:
        train_detector(argv, log)


def train_detector(argv, log):
    config, model_flags = parse_args(argv)
    # Before processes wait for each other, which has its time limit.
    model_path, model_name = checkpoints.fetch(config.model_path, "--model_path")
    ssl_path, ssl_name = checkpoints.fetch(config.ssl_path, "--ssl_path", encoder=True)
    teacher_path, teacher_name = checkpoints.fetch(config.teacher, "--teacher")
    members = [checkpoints.fetch(member, "--members") for member in config.members or ()]
    local_rank = distributed.join()
    rank, world = distributed.rank(), distributed.world_size()
    if config.batch_size < world:
        raise UserError(f"--batch_size {config.batch_size}: expected at least one trial for each of {world} processes")
    teacher = checkpoints.read_detector(teacher_path) if teacher_path else None
    start = checkpoints.read_detector(model_path, **model_flags) if model_path else None  # of a fine-tuning
    is_taught = teacher or (start and start["config"].get("teacher"))
    if config.loss and LOSSES[config.loss].needs_teacher and not is_taught:
        raise UserError(f"--loss {config.loss}: needs --teacher, a trained detector")
    read_members = [checkpoints.read_detector(path) for path, _ in members]
    has_members = members or (start and start["config"].get("members"))
    if config.loss and LOSSES[config.loss].needs_members and not has_members:
        raise UserError(f"--loss {config.loss}: needs --members, two or more trained detectors")
    if start and members:
        raise UserError("--members: expected no --model_path, a detector with what is inside it, found both")
    if start:
        model_config = ModelConfig(**start["config"])
    else:
        asked_for = LOSSES[config.loss].model_fields(teacher and teacher["config"]) if config.loss else {}
        if members:
            asked_for |= {"n_output_logits": 1, "members": [member["config"] for member in read_members]}
        for flag, value in model_flags.items():
            if flag in asked_for and not _agrees(value, asked_for[flag]):
                found = f"found {_words(value)}"
                raise UserError(f"--{flag}: --loss {config.loss} asks for {_words(asked_for[flag])}, {found}")
        model_config = checkpoints.resolve_encoder(asked_for | model_flags, ssl_path)
    scored = {"unit": config.unit, "utterance": config.utterance_score or "pooled"}
    whole_config = model_config = dataclasses.replace(model_config, **scored)
    if config.ssl_layers:
        model_config = model_config.with_first_layers(config.ssl_layers)
    if start:
        start["config"] = model_config.to_dict()
    check_parts(config, model_config.back_end, [config.batch_size])
    name = config.foldername or config.folder_name(model_config.model_name)
    if not config.resume_checkpoint_path:
        check_folder(f"--log_dir {config.log_dir}", os.path.join(config.log_dir, name))
    device = choose_device(local_rank if world > 1 else config.gpu_id)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
        torch.backends.cudnn.benchmark = config.cudnn_benchmark_toggle
    if config.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True)
    config = dataclasses.replace(
        config,
        loss=choose_loss(config.loss, model_config.n_output_logits, model_config.output if start else None),
        precision=choose_precision(config.precision, device),
    )

    kind = LOSSES[config.loss]
    augment = choose_augmentation(config)
    train_trials, dev_trials = read_trials(config)
    n_skippable = config.skip_bad_audio
    if config.check_audio:
        (train_trials, dev_trials), n_skippable = without_bad_audio([train_trials, dev_trials], config)
    if kind.bonafide_only:
        train_trials = [trial for trial in train_trials if trial.label == BONAFIDE]
        distributed.say(f"train: {config.loss} trains on the {len(train_trials)} bona fide trials alone")
    if config.batch_size < kind.sensible_batch and rank == 0:
        warn(f"--loss {config.loss}: expected --batch_size {kind.sensible_batch} or more, found {config.batch_size}")
    plain = {"bad_audio": BadAudio(n_skippable) if n_skippable else None}
    augmented = {**plain, "augment": augment, "seed": config.seed}
    options = {"num_workers": config.num_workers, "pin_memory": device.type == "cuda", "rank": rank, "world": world}
    crop, batch_size = config.crop, config.batch_size
    train_set = TrialDataset(train_trials, crop, config.crop_place, **augmented)
    order = None
    if config.balance or config.epoch_size:
        size = config.epoch_size or len(train_set)
        order = BalancedOrder(train_trials, config.balance or (), size, config.seed)
        distributed.say(f"balance: {order.in_words()}")
    drop_last = config.drop_last and len(order or train_set) > batch_size
    of_training = {"shuffle": True, "seed": config.seed, "drop_last": drop_last, "lengths": config.dynamic_crop}
    of_training["order"] = order
    train_loader = make_loader(train_set, batch_size, **of_training, **options)
    train_loader.batch_sampler.stop = 21 if config.debug else None
    check_parts(config, model_config.back_end, train_loader.batch_sampler.sizes())
    where = run_folder.choose(config.log_dir, name, config.resume, config.resume_checkpoint_path)
    folder, resume_from = distributed.gather(where)[0]
    random.seed(config.seed)
    np.random.seed(config.seed)
    torch.manual_seed(config.seed)
    new = not resume_from
    if new and start:
        detector = checkpoints.detector_to_fine_tune(model_path, start, ssl_path)
    elif new:
        detector = checkpoints.new_detector(whole_config, ssl_path, config.ssl_layers)
    else:
        detector = build_detector(model_config)
    try:
        kind.check_detector(detector)
    except ValueError as error:
        raise UserError(f"--loss {config.loss}: {error}") from error
    if config.unit:
        train_set.units = plain["units"] = augmented["units"] = UnitLabels(detector.front_end, config.unit)
    n_adapted = add_adapters(config, detector)
    with contextlib.ExitStack() as stack:
        stack.enter_context(memory.explained(config, detector))
        detector.to(device)
        torch.manual_seed(config.seed + rank)  # no two processes drop out alike
        if config.validation == "eer" and config.valid_crop:
            dev_loaders = {"": make_loader(TrialDataset(dev_trials, crop, **plain), batch_size, **options)}
        elif config.validation == "eer":
            dev_loaders = {"": whole_utterances(dev_trials, detector.front_end, config, device, plain)}
        else:
            dev_loaders = {
                "": make_loader(TrialDataset(dev_trials, crop, **plain), batch_size, **options),
                "_augmented": make_loader(TrialDataset(dev_trials, crop, **augmented), batch_size, **options),
            }
        for i, ((path, _), member) in enumerate(zip(members, read_members)):
            detector.members[i] = checkpoints.detector_from(path, member, Teacher).to(device)
        criterion = kind(config.class_weights)
        if teacher:
            teaching = checkpoints.detector_from(teacher_path, teacher, Teacher).to(device)
            try:
                kind.check_teacher(detector, teaching)
            except ValueError as error:
                raise UserError(f"--teacher {config.teacher}: {error}") from error
            criterion.take_teacher(detector, teaching)
        criterion = (UnitLoss(criterion, config.labels) if config.unit else criterion).to(device)
        signals = stack.enter_context(StopSignals())
        training = Training(config, detector, criterion, device, folder, train_loader, dev_loaders, signals)
        if rank == 0:
            run_folder.check_space(folder, *training.kept.space_needed())
            training.kept.check_folder = stack.enter_context(run_folder.locked(folder))
            training.kept.seen = checkpoints.measure([trial.path for trial in dev_trials], config.num_workers)
        parts = {"train": train_trials, "dev": dev_trials}
        for flag, files in augment.files().items():
            parts[flag] = [corpora.Trial(name, path=path) for name, path in files.items()]
        settings = settings_of(config, model_config, parts)
        if order:
            settings["data"]["train"]["cells"] = order.counts()
        before = None
        if resume_from:
            before = check_same_settings(config, model_config, folder)
            if "data" in before:
                check_same_data(before["data"], settings["data"], folder, parts)
            training.logs_percent = before.get("logged_rates") == "percent"
            training.resume(resume_from)
            encoder = encoder_settings.as_begun(config, detector, before)
        else:
            settings["logged_rates"] = "percent"  # in TensorBoard's log; runs that began earlier have 0 to 1
            if start:
                settings["training"]["model_path"] = config.model_path  # to be read, not compared
                distributed.say(f"fine-tuning {model_name}")
                weights = "no --ssl_path" if ssl_path in (None, "none") else ssl_name
            else:
                weights = checkpoints.pretrained_path(whole_config, ssl_name) or "random weights"
            if teacher:
                settings["training"]["teacher"] = config.teacher
            if members:
                settings["training"]["members"] = list(config.members)
            if config.lora_rank:
                base = model_name if start else weights
                if config.save_adapters and base == "random weights":
                    raise UserError("--save_adapters: expected an encoder from a file, found random weights")
                settings["lora_base"] = os.path.basename(str(base).rstrip("/"))
            commits = {"--model_path": (model_path, model_name), "--ssl_path": (ssl_path, ssl_name)}
            commits["--teacher"] = teacher_path, teacher_name
            commits |= {f"--members {i}": member for i, member in enumerate(members, 1)}
            if downloaded := {flag: name for flag, (path, name) in commits.items() if path != name}:
                settings["downloaded"] = downloaded  # with their commits, whatever is published there later
            encoder = encoder_settings.choose(config, detector, weights)
        in_training = {name: value for name, (value, _) in encoder.items()}
        detector.front_end.set_training(in_training)
        settings["training"] |= in_training
        training.kept.base = (before or settings).get("lora_base", "")
        if rank == 0:
            start_run(training, folder, settings, before, log)
            if n_adapted:
                print(
                    f"LoRA: {n_adapted:,} parameters of rank {config.lora_rank} on {config.lora_targets} are trained "
                    "in place of the encoder's",
                    flush=True,
                )
            if encoder:
                print(f"encoder in training: {encoder_settings.in_words(encoder)}", flush=True)
            if needed := memory.in_words(config, detector, device):
                print(needed, flush=True)
            for line in on_cpu.warnings(config, detector, device, training.n_steps):
                warn(line)
            stack.enter_context(training.writer)
        training.fit()
    distributed.say(f"finished: {folder}")
    distributed.leave()


def start_run(training, folder, settings, before, log):
    """What the process that writes does first: configuration, environment, logs.

    before: the settings that config.json holds of a run that goes on, None of a new one.
    """
    resumed = before is not None
    state, detector, config = training.state, training.detector, training.detector.config
    run_folder.clear_unfinished(training.kept.folder)
    log.open(folder)
    content = {**settings, "command": sys.argv, **(before or {})}
    if resumed and "data" not in before:
        warn(f"{folder}/config.json: holds no digests of the run's data to compare; those of today are added")
    epochs, epochs_before = training.config.epochs, content["training"]["epochs"]
    if epochs != epochs_before:
        print(f"the run was started with {epochs_before} epochs and goes on to {epochs}", flush=True)
        content["training"] = {**content["training"], "epochs": epochs}
    if content != before:
        with atomic_open(folder / "config.json") as file:
            json.dump(content, file, indent=1)
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
        f"{training.config.precision}{f', {world} processes' if world > 1 else ''}",
        flush=True,
    )
    if training.config.compile:
        print(training.compiled(), flush=True)
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
