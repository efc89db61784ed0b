"""Score a list of trials with one checkpoint, or with the average of several.

    python eval.py --base_dir DIR/test_set --model_path CKPT.pt --outputname NAME                  (scores/NAME.txt)
    python eval.py --track DF --database_path DB --protocols_path PROTO --model_folder_path RUN \\
        --num_average_model 5 --model_ID_to_average 56 60 62 76 95 --eval_output score_DF.txt
    python eval.py --track in_the_wild --in_the_wild_path DIR --model_path CKPT.pth --eval_output OUT
    python eval.py --protocol LIST --audio_dir DIR --model_folder_path RUN --average_best 5 --eval_output OUT
    python eval.py --sets TABLE --model_path CKPT.pt                          (several sets, one score file each)
    python eval.py --protocol LIST --model_path CKPT.pt --eval_output OUT.txt --condition all       (codecs, noise, ...)
    torchrun --nproc_per_node 2 eval.py ...                                  (several GPUs, or processes on the CPU)
Writes a line `utt_id score` a trial, in the order of the list; a higher score is more bona fide. Trials that cannot
be read are listed beside it in SCORES.errors.tsv, and the exit status is then 1. A run that was killed goes on where it
stopped, and ends in the same file; other trials or changed audio in between are an error.
"""

import argparse
import contextlib
import dataclasses
import functools
import sys
import time
from datetime import timedelta
from pathlib import Path

import common.threads  # noqa: F401

import torch

import checkpoints
import corpora
from augmentation import conditions
from back_ends import BACK_ENDS
from common.atomic import is_standard_output
from common.console import AT_LEAST_0, AT_LEAST_1, UserError, progress, run, shown, warn
from common.flags import CommandParser
from corpora import provenance
from data_utils import plan_batches
from inference.evaluation_sets import EvaluationSet, check_files, in_conditions, read_evaluation_sets, report_command
from inference.partial_scores import PartialScores, detector_facts, run_facts
from inference.precision import PRECISIONS, check_precision, prepare
from inference.results import split_frames, write_frames, write_results
from inference.scoring import float32_scores, readers, score_batches
from inference.test_length import choose_test_length
from model import add_model_flags, choose_device, given_model_flags, use_utterance_batch_norm
from RawBoost import RawBoostParams
from training import distributed

# Flags of the published program, which is one for training and scoring: those that it reads nowhere, and those that
# only its training reads.
IGNORED = ("AASIST_scale", "eval_part", "test_length", "BTN_ratio")
OF_TRAINING = ("date", "num_epochs", "lr", "weight_decay", "loss", "seed", "comment", "algo")
OF_TRAINING += tuple(field.name for field in dataclasses.fields(RawBoostParams) if field.name != "fs")


def parse_args(argv=None):
    parser = CommandParser(
        description="Score a trial list with one checkpoint, or with the average of several.",
        examples=[
            "python eval.py --protocol LIST --model_path CKPT.pt --eval_output scores.txt",
            "python eval.py --sets TABLE --model_path CKPT.pt",
        ],
        allow_abbrev=False,
    )
    data = parser.add_argument_group("trials (one of --base_dir, --track, --protocol and --sets)")
    data.add_argument("--base_dir", metavar="DIR", help="score all audio files in a folder\nwithout its subfolders")
    tracks = {record.track: name for name, record in corpora.CORPORA.items() if record.track}
    data.add_argument(
        "--track",
        choices=tracks,
        metavar="TRACK",
        help="ASVspoof 2021 LA or DF, or in_the_wild",
    )
    data.add_argument(
        "--database_path",
        metavar="DIR",
        help="--track LA, DF: folder of the corpus\nthe folder of ASVspoof2021_LA_eval/flac and "
        "ASVspoof2021_DF_eval/flac",
    )
    data.add_argument("--protocols_path", metavar="DIR", help="--track LA, DF: protocols (--database_path)")
    data.add_argument("--in_the_wild_path", metavar="DIR", help="--track in_the_wild: folder of the audio")
    data.add_argument(
        "--protocol",
        metavar="LIST",
        help="trial list or key of any corpus\nor a table with a column path",
    )
    data.add_argument(
        "--audio_dir",
        metavar="DIR",
        help="--protocol: folder of its audio\ndefault: searched for near the protocol",
    )
    data.add_argument(
        "--sets",
        metavar="TABLE",
        help="table of several sets, one per line\nwith the columns name, key (any list) and, if needed, audio_dir and "
        "columns of score files; the default test length is that of each key's corpus",
    )
    data.add_argument(
        "--condition",
        nargs="+",
        metavar="NAME",
        help="score under codecs, noise ...; list: print them\neach condition is written to OUT@NAME.txt next to "
        "OUT.txt, which is that of `clean`; all: all conditions, noise_... only with --noise_dir",
    )
    data.add_argument("--noise_dir", metavar="DIR", rare=True, help="--condition noise_...: folder of noise recordings")
    length = data.add_mutually_exclusive_group()
    length.add_argument(
        "--test_mode",
        choices=["4s", "full"],
        help="first 4 s, or whole utterances\nshort files are repeated; default: as the back-end's authors score (TCM, "
        "Conformer, Mamba, SLS), or else 4s for LA and DF, and full for other sets",
    )
    length.add_argument(
        "--test_protocol", choices=["4sec", "full"], rare=True, help="--test_mode, as in the published program"
    )
    length.add_argument(
        "--cut",
        type=AT_LEAST_1,
        metavar="N",
        rare=True,
        help="score the first N samples; short files are repeated",
    )

    weights = parser.add_argument_group("detector (--model_path, or --model_folder_path and epochs to average)")
    weights.add_argument("--model_path", metavar="CKPT", help=f"a checkpoint\nor {checkpoints.FORM}")
    weights.add_argument("--model_folder_path", metavar="RUN", help="folder of a run")
    weights.add_argument(
        "--num_average_model",
        type=AT_LEAST_1,
        metavar="N",
        rare=True,
        help="expected number of --model_ID_to_average, as a check",
    )
    weights.add_argument("--model_ID_to_average", type=AT_LEAST_0, nargs="+", metavar="N", help="epochs to average")
    weights.add_argument(
        "--average_best", type=AT_LEAST_1, metavar="N", help="average the N epochs with the best figure"
    )
    weights.add_argument(
        "--average_by",
        choices=["eer", "unit_eer", "loss", "loss_augmented", "loss_published", "loss_augmented_published"],
        rare=True,
        help="--average_best: dev figure that ranks the epochs (the run's own)\n..._published: dev loss as the "
        "authors' program computes it",
    )
    weights.add_argument(
        "--average_as_published",
        action="store_true",
        rare=True,
        help=f"average c1 ... cn as the authors' program did: {checkpoints.AS_PUBLISHED}\ndefault: their mean",
    )
    add_model_flags(parser)

    out = parser.add_argument_group("output")
    out.add_argument("--eval_output", metavar="FILE", help="score file")
    out.add_argument(
        "--outputname",
        metavar="NAME",
        help="score file NAME.txt in --output_path\n--sets: column of the table that names the score files, if there "
        "are several",
    )
    out.add_argument(
        "--output_path",
        default="scores",
        metavar="DIR",
        help="folder of --outputname\n--sets without a column of score files: writes NAME.txt in it",
    )
    out.add_argument(
        "--frames",
        metavar="FILE",
        help="write frame scores too\none line per utterance; needs a detector trained with --labels frames or both",
    )
    out.add_argument(
        "--rttm",
        metavar="FILE",
        help="write the spoofed segments\nthose with frame scores below the threshold of the dev set",
    )
    speed = parser.add_argument_group("speed and memory")
    speed.add_argument(
        "--batch_size", type=AT_LEAST_1, metavar="N", help="4 s tests: trials per batch (--batch_samples)"
    )
    speed.add_argument(
        "--batch_samples",
        type=AT_LEAST_1,
        metavar="N",
        help="samples per batch\nat 16 kHz; default: 20 s on a CPU, 120 s on a GPU",
    )
    speed.add_argument("--precision", choices=PRECISIONS, default="fp32", metavar="KIND", help="fp32 or bf16")
    speed.add_argument(
        "--batch_norm",
        choices=["trained", "utterance"],
        default="trained",
        rare=True,
        help="statistics of batch normalisation\ntrained: those of training; utterance: each utterance's own, one at a "
        "time, as for the published In-the-Wild figures",
    )
    speed.add_argument(
        "--num_workers",
        type=AT_LEAST_0,
        metavar="N",
        help="processes that read audio\ndefault: up to 4 for a GPU, else 0",
    )
    speed.add_argument(
        "--gpu_id",
        type=AT_LEAST_0,
        default=0,
        metavar="N",
        help="CUDA device, if there is one\ntorchrun sets its own",
    )
    speed.add_argument(
        "--cudnn-benchmark-toggle",
        action="store_true",
        rare=True,
        help="let cuDNN choose its fastest kernels for each batch length; useful for 4 s tests",
    )
    speed.add_argument(
        "--cudnn-deterministic-toggle",
        action="store_true",
        rare=True,
        help="no effect, as in the published program",
    )
    for name in ("--eval", "--is_eval"):  # the published program's way to say "score"
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    for name in (*IGNORED, *OF_TRAINING):
        parser.add_argument(f"--{name}", nargs=1, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)

    if args.condition == ["list"]:
        print(conditions.listing())
        sys.exit()
    if sum(value is not None for value in (args.base_dir, args.track, args.protocol, args.sets)) != 1:
        parser.error("expected one of --base_dir, --track, --protocol and --sets")
    # Without a track, what is scored may be of any corpus: a 4 s test is then as long as that of a bare list.
    args.corpus = tracks.get(args.track, "list")
    record = corpora.CORPORA[args.corpus]
    needed = "database_path" if record.lists else "in_the_wild_path"
    if args.track and not getattr(args, needed):
        parser.error(f"--track {args.track} needs --{needed}")
    if args.sets and (args.eval_output or args.audio_dir):
        given = "--eval_output" if args.eval_output else "--audio_dir"
        parser.error(f"{given} is of one set: expected a column of the table {args.sets} instead")
    if (args.sets or args.condition) and (args.frames or args.rttm):
        found = "--sets" if args.sets else "--condition"
        parser.error(f"{'--frames' if args.frames else '--rttm'}: expected one set, found {found}")
    if args.noise_dir and not args.condition:
        parser.error("--noise_dir: expected --condition noise_... beside it")
    if not args.sets and (args.eval_output is None) == (args.outputname is None):
        parser.error("expected one of --eval_output and --outputname")
    if (args.model_path is None) == (args.model_folder_path is None):
        parser.error("expected one of --model_path and --model_folder_path")
    if args.model_folder_path and (args.model_ID_to_average is None) == (args.average_best is None):
        parser.error("--model_folder_path needs one of --model_ID_to_average and --average_best")
    if args.model_path and (args.model_ID_to_average or args.average_best):
        parser.error("--model_ID_to_average and --average_best choose from --model_folder_path, not --model_path")
    if args.average_as_published and not args.model_folder_path:
        parser.error("--average_as_published averages checkpoints of --model_folder_path, not --model_path")
    n_ids = len(args.model_ID_to_average or [])
    if args.model_ID_to_average and args.num_average_model not in (None, n_ids):
        parser.error(f"--num_average_model {args.num_average_model}: --model_ID_to_average names {n_ids}")
    for name in IGNORED:
        if getattr(args, name) is not None:
            warn(f"--{name} has no effect, as in the published program")
    if of_training := [f"--{name}" for name in OF_TRAINING if getattr(args, name) is not None]:
        names = ", ".join(of_training)
        if not (args.eval or args.is_eval):
            parser.error(f"{names}: expected in train.py, or beside --eval, as in the published program")
        warn(f"{names}: without effect beside --eval, they are of the training")
    return args


def read_sets(args):
    """The evaluation sets that the flags name, each in each --condition."""
    sets = read_evaluation_sets(args.sets, args.outputname, args.output_path) if args.sets else [read_set(args)]
    return in_conditions(sets, args.condition, args.noise_dir) if args.condition else sets


def read_set(args):
    """The evaluation set that the flags name without --sets."""
    protocol, audio_dir, folder = args.protocol, args.audio_dir, args.base_dir
    if args.track and (lists := corpora.CORPORA[args.corpus].lists):
        files = args.database_path, args.protocols_path
        protocol, audio_dir = corpora.official_files(args.corpus, list(lists)[-1], *files)  # the evaluation set is last
    elif args.track:
        folder = args.in_the_wild_path
    if folder:
        trials = corpora.trials_of_folder(folder)
    else:
        trials = corpora.read_trials(protocol, audio_dir, need_labels=False)
    default_of = f"--track {args.track}" if args.track else "a list or folder"
    flag, out = "--eval_output", args.eval_output
    if out is None:
        flag, out = "--outputname", Path(args.output_path) / f"{args.outputname}.txt"
    return EvaluationSet(trials, None if folder else protocol, args.corpus, default_of, Path(out), flag)


def read_detector(args):
    """The detector that the flags name, and what to call it."""
    flags = given_model_flags(args)
    if args.model_path:
        path, name = checkpoints.fetch(args.model_path, "--model_path")
        return checkpoints.load_detector(path, **flags), name
    if args.model_ID_to_average:
        paths = checkpoints.checkpoints_of_epochs(args.model_folder_path, args.model_ID_to_average)
    else:
        best = set(checkpoints.best_checkpoints(args.model_folder_path, args.average_best, args.average_by))
        paths = [path for path in checkpoints.epoch_checkpoints(args.model_folder_path).values() if path in best]
    names = [path.name for path in paths]
    if args.average_as_published:
        name = f"average as published, {checkpoints.AS_PUBLISHED}, of {', '.join(names)}"
    else:
        name = f"average of {', '.join(sorted(names))}"
        if len(names) > 1:
            note = f"--average_as_published gives the authors' {checkpoints.AS_PUBLISHED}"
            print(f"eval.py: note: {name}: their arithmetic mean; {note}", file=sys.stderr)
    return checkpoints.load_average(paths, args.average_as_published, **flags), name


def check_frames(args, trials, detector, name):
    """Raise UserError where the detector does not give what --frames and --rttm are to write."""
    if (args.frames or args.rttm) and not detector.config.unit:
        flag = "--frames" if args.frames else "--rttm"
        raise UserError(f"{flag}: expected a detector trained with --labels frames or both, found {name} of utterances")
    if args.rttm and detector.unit_threshold is None:
        raise UserError(
            f"--rttm: expected a checkpoint with the threshold of its dev set's frames, found none in {name}"
        )
    blank = next((trial.utt_id for trial in trials if trial.utt_id.split() != [trial.utt_id]), None)
    if args.rttm and blank is not None:
        raise UserError(f"--rttm: expected ids without blanks, which RTTM cannot hold, found {shown(blank)}")


def plan(args, detector, facts, each, planned, say):
    """Choose the batches of a set, and find those that a run which was killed has done. facts: of the detector.

    planned: {id of trials: (their data_facts, their batches)}, added to: conditions share them.
    """
    rank, world = distributed.rank(), distributed.world_size()
    given = args.cut, args.test_mode, args.test_protocol
    length, length_source = choose_test_length(detector, each.corpus, each.default_of, *given)
    paths = [trial.path for trial in each.trials]
    batch_samples = args.batch_size * length if args.batch_size and length else args.batch_samples
    if args.batch_norm == "utterance":
        batch_samples = 1  # one trial a batch
    if id(each.trials) not in planned:
        # Times to the nanosecond: starting over costs less than in training, where audio is copied or unpacked anew.
        data = distributed.gather(provenance.data_facts(each.trials, unit=1) if rank == 0 else None)[0]
        batches = plan_batches(detector.front_end, paths, length, batch_samples) if rank == 0 else None
        planned[id(each.trials)] = data, distributed.gather(batches)[0]
    data, batches = planned[id(each.trials)]
    problems = {i: corpora.name_problem(trial.utt_id) for i, trial in enumerate(each.trials)}
    each.problems = problems = {i: f"{paths[i]}: {why}" for i, why in problems.items() if why}
    batches = [kept for batch in batches if (kept := [i for i in batch if i not in problems])] if problems else batches
    settings = {"test length": length, "--precision": args.precision, "--batch_norm": args.batch_norm}
    settings |= {"--frames": True} if args.frames or args.rttm else {}
    settings |= each.condition_facts()
    refused = None
    try:
        each.partial = PartialScores(each.out, rank, run_facts(facts, data, batches, **settings), each.trials)
    except UserError as error:
        refused = str(error)
    if any(refusals := distributed.gather(refused)):
        if each.partial:
            each.partial.close()
        raise UserError(next(filter(None, refusals)))
    each.length, each.batches, partial = length, batches, each.partial
    partial.add_other_ranks()
    done = set().union(*distributed.gather(set(partial.done)))
    each.todo = [number for number in range(len(batches)) if number not in done][rank::world]
    if rank == 0:
        what = f"first {length} samples" if length else "whole utterances"
        what += f" ({length_source}), {len(batches)} batches, {args.precision}"
        processes = f", {world} processes" if world > 1 else ""
        device = next(detector.parameters()).device
        say(f"{each.prefix}trials: {len(each.trials)}, {what}, device {device}{processes}")
        if done:
            say(f"{each.prefix}going on with {partial.file.name}: {len(done)} of {len(batches)} batches are done")
            for difference in partial.machine_differences():
                warn(f"{partial.out}: other {difference}: scores may differ by rounding from those without a stop")
        if partial.others:
            say(f"{each.prefix}starting over: {partial.file.name} is of another {', '.join(partial.others)}")


def score(args, detector, each, workers, say, started):
    """Score what is left of a set, and write its files. Returns the exit status. started: when its time began."""
    rank = distributed.rank()
    todo = [each.batches[number] for number in each.todo]
    paths = [trial.path for trial in each.trials]
    with_frames = bool(args.frames or args.rttm)
    results = score_batches(detector, paths, todo, each.length, workers, args.precision, with_frames, each.change)
    with progress(total=sum(map(len, todo)), desc=f"{each.prefix}scoring", unit="trial", disable=rank > 0) as bar:
        for number, (scores, failures, silent) in zip(each.todo, results):
            each.partial.add(number, scores, failures, silent)
            bar.update(len(each.batches[number]))
    everything = {number: result for done in distributed.gather(each.partial.done) for number, result in done.items()}
    if rank > 0:
        return 0
    if with_frames:
        everything, frames = split_frames(everything, each.trials, detector.config.unit)
        write_frames(frames, args.frames, args.rttm, detector.unit_threshold)
    everything["names"] = ({}, each.problems, [])
    status = write_results(each.out, each.trials, everything)
    found = {index: score for scores, _, _ in everything.values() for index, score in scores.items()}
    say(f"{each.prefix}scores: {each.out}, {len(found)} trials in {time.monotonic() - started:.1f} s")
    if plain := each.float32:
        difference = max((abs(plain[index] - found[index]) for index in plain if index in found), default=0.0)
        what = f"{len(plain)} trials scored in float32 as well differ by {difference:.2g} at most"
        say(f"{each.prefix}{args.precision}: {what}")
    return status


def main(argv=None):
    args = parse_args(argv)
    started = time.monotonic()
    # The processes only tell each other what they did, whatever their devices, and when they are done.
    local_rank = distributed.join("gloo", timeout=timedelta(days=7))
    rank, world = distributed.rank(), distributed.world_size()
    sets = read_sets(args)
    folder = args.model_folder_path and checkpoints.checkpoints_folder(args.model_folder_path)
    inputs = [args.sets, args.model_path, folder, *sets[0].noises]
    check_files(sets, inputs, world, [("--frames", args.frames), ("--rttm", args.rttm)])
    to_stderr = any(is_standard_output(each.out) for each in sets)
    say = functools.partial(print, file=sys.stderr if to_stderr else sys.stdout, flush=True)
    device = choose_device(local_rank if world > 1 else args.gpu_id)
    check_precision(args.precision, device)
    torch.backends.cudnn.allow_tf32 = False  # fp32 means it
    torch.backends.cudnn.benchmark = args.cudnn_benchmark_toggle
    detector, name = read_detector(args)
    detector.to(device)
    check_frames(args, sets[0].trials, detector, name)
    back_end = detector.config.back_end
    if args.batch_norm == "utterance":
        if BACK_ENDS[back_end].least_batch > 1:
            raise UserError(
                f"--batch_norm utterance: {back_end} normalises over the trials of a batch, one alone has no statistics"
            )
        use_utterance_batch_norm(detector)
    if rank == 0:
        say(f"detector: {detector.config.model_name}, encoder {detector.config.ssl}, {name}")
    with contextlib.ExitStack() as stack:
        facts, planned = detector_facts(detector), {}
        for each in sets:  # all of them before any is scored: what is wrong with the last is said at once
            plan(args, detector, facts, each, planned, say)
            stack.callback(each.partial.close)
            if args.precision != "fp32" and rank == 0:
                paths = [trial.path for trial in each.trials]
                each.float32 = float32_scores(detector, paths, each.batches, each.length, each.change)
        prepare(detector, args.precision)
        workers = readers(device) if args.num_workers is None else args.num_workers
        status = 0
        for each in sets:
            status |= score(args, detector, each, workers, say, time.monotonic() if len(sets) > 1 else started)
        # Nobody removes what it has done before it is in the score files; and of a set that is finished it stays until
        # all are, so that a call which was killed is gone on with at the set where it was.
        distributed.gather(None)
        for each in sets:
            each.partial.remove()
    if rank == 0 and not status and (command := report_command(args.sets, sets)):
        say(f"report: {command}")
    distributed.leave()
    return status


if __name__ == "__main__":
    run(main)
