"""Score a list of trials with one checkpoint, or with the average of several.

    python eval.py --base_dir DIR/test_set --model_path CKPT.pt --outputname NAME                  (scores/NAME.txt)
    python eval.py --track DF --database_path DB --protocols_path PROTO --model_folder_path RUN \\
        --num_average_model 5 --model_ID_to_average 56 60 62 76 95 --eval_output score_DF.txt
    python eval.py --track in_the_wild --in_the_wild_path DIR --model_path CKPT.pth --eval_output OUT
    python eval.py --protocol LIST --audio_dir DIR --model_folder_path RUN --average_best 5 --eval_output OUT
Writes a line `utt_id score` a trial, in the order of the list; a higher score is more bona fide. Trials that cannot
be read are listed beside it in *.errors.tsv, and the exit status is then 1.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

import checkpoint
import protocols
from atomic import atomic_open
from console import UserError, progress, run
from data_utils import first_samples, load_audio, repeat_pad
from front_ends import RECEPTIVE_FIELD
from model import add_model_flags, choose_device, given_model_flags


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Score a list of trials with one checkpoint, or with the average of several.", allow_abbrev=False
    )
    data = parser.add_argument_group("trials: one of --base_dir, --track and --protocol")
    data.add_argument("--base_dir", help="a folder; every audio file in it is a trial")
    data.add_argument("--track", choices=["LA", "DF", "in_the_wild"], help="ASVspoof 2021 LA or DF, or In-the-Wild")
    data.add_argument(
        "--database_path", help="--track LA, DF: folder of ASVspoof2021_LA_eval/flac, ASVspoof2021_DF_eval/flac"
    )
    data.add_argument("--protocols_path", help="--track LA, DF: folder of the protocols; not given: --database_path")
    data.add_argument("--in_the_wild_path", help="--track in_the_wild: folder of the audio")
    data.add_argument("--protocol", help="any trial list or key, with --audio_dir")
    data.add_argument("--audio_dir", help="--protocol: folder of its audio")
    length = data.add_mutually_exclusive_group()
    length.add_argument(
        "--test_mode", choices=["4s", "full"], help="first 4 s (short ones repeated), or whole utterances"
    )
    length.add_argument(
        "--test_protocol", choices=["4sec", "full"], help="the same; not given: 4sec for LA and DF, else full"
    )

    weights = parser.add_argument_group("detector: --model_path, or --model_folder_path with a choice to average")
    weights.add_argument("--model_path", help="a checkpoint")
    weights.add_argument("--model_folder_path", help="folder of a run")
    weights.add_argument("--num_average_model", type=int, help="number of --model_ID_to_average, as a check")
    weights.add_argument("--model_ID_to_average", type=int, nargs="+", metavar="EPOCH", help="epochs to average")
    weights.add_argument("--average_best", type=int, metavar="N", help="average the N epochs with the best dev figure")
    weights.add_argument(
        "--average_by", choices=["eer", "loss", "loss_augmented"], help="that figure; not given: the run's own"
    )
    add_model_flags(parser, required=False)

    out = parser.add_argument_group("output")
    out.add_argument("--eval_output", help="score file")
    out.add_argument("--outputname", help="name of the score file in --output_path, without .txt")
    out.add_argument("--output_path", default="scores", help="(%(default)s)")
    out.add_argument(
        "--batch_size", type=int, default=1, help="trials at once; more than 1 with 4 s only (%(default)s)"
    )
    out.add_argument(
        "--num_workers", type=int, default=min(4, os.cpu_count()), help="processes that read audio (%(default)s)"
    )
    out.add_argument("--gpu_id", type=int, default=0, help="CUDA device, where there is one (%(default)s)")
    for name in ("--eval", "--is_eval"):  # the published program's way to say "score"
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    for name in ("--AASIST_scale", "--eval_part", "--test_length", "--BTN_ratio"):
        parser.add_argument(name, nargs=1, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)

    if sum(value is not None for value in (args.base_dir, args.track, args.protocol)) != 1:
        parser.error("expected one of --base_dir, --track and --protocol")
    needs = {"protocol": "audio_dir", "track": "in_the_wild_path" if args.track == "in_the_wild" else "database_path"}
    for name, needed in needs.items():
        if getattr(args, name) and not getattr(args, needed):
            parser.error(f"--{name} {getattr(args, name)} needs --{needed}")
    if (args.eval_output is None) == (args.outputname is None):
        parser.error("expected one of --eval_output and --outputname")
    if (args.model_path is None) == (args.model_folder_path is None):
        parser.error("expected one of --model_path and --model_folder_path")
    if args.model_folder_path and (args.model_ID_to_average is None) == (args.average_best is None):
        parser.error("--model_folder_path needs one of --model_ID_to_average and --average_best")
    if args.model_path and (args.model_ID_to_average or args.average_best):
        parser.error("--model_ID_to_average and --average_best choose from --model_folder_path, not --model_path")
    n_ids = len(args.model_ID_to_average or [])
    if args.model_ID_to_average and args.num_average_model not in (None, n_ids):
        parser.error(f"--num_average_model {args.num_average_model}: --model_ID_to_average names {n_ids}")
    for name in ("average_best", "batch_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name}: expected at least 1, found {getattr(args, name)}")
    for name in ("AASIST_scale", "eval_part", "test_length", "BTN_ratio"):
        if getattr(args, name) is not None:
            print(f"eval.py: warning: --{name} has no effect, as in the published program", file=sys.stderr)
    args.four_seconds = (
        args.test_mode or args.test_protocol or ("4sec" if args.track in ("LA", "DF") else "full")
    ) != "full"
    if args.batch_size > 1 and not args.four_seconds:
        args.batch_size = 1  # whole utterances differ in length
    return args


def read_trials(args):
    if args.base_dir:
        return protocols.trials_of_folder(args.base_dir)
    if args.track == "in_the_wild":
        return protocols.trials_of_folder(args.in_the_wild_path)
    if args.track:
        protocol, audio = protocols.asvspoof2021_files(args.database_path, args.protocols_path, args.track)
    else:
        protocol, audio = args.protocol, args.audio_dir
    return protocols.locate_audio(protocols.read_protocol(protocol), audio)


def read_detector(args):
    """The detector that the flags name, and what to call it."""
    flags = given_model_flags(args)
    if args.model_path:
        return checkpoint.load_detector(args.model_path, **flags), args.model_path
    if args.model_ID_to_average:
        paths = checkpoint.checkpoints_of_epochs(args.model_folder_path, args.model_ID_to_average)
    else:
        paths = checkpoint.best_checkpoints(args.model_folder_path, args.average_best, args.average_by)
    name = f"average of {', '.join(sorted(path.name for path in paths))}"
    return checkpoint.load_average(paths, **flags), name


class TrialAudio(Dataset):
    """Trials as (waveform (samples,), None), or (None, why it cannot be read)."""

    def __init__(self, trials, length):
        self.trials, self.length = trials, length

    def __len__(self):
        return len(self.trials)

    def __getitem__(self, index):
        try:
            x = load_audio(self.trials[index].path)
        except UserError as error:
            return None, str(error)
        x = first_samples(x, self.length) if self.length else repeat_pad(x, RECEPTIVE_FIELD)
        return torch.from_numpy(x), None


def score(detector, trials, length, batch_size, num_workers, device):
    """Score trials in their order. Returns ({utt_id: score}, {utt_id: why there is none})."""
    scores, failures = {}, {}
    loader = DataLoader(TrialAudio(trials, length), batch_size, num_workers=num_workers, collate_fn=list)
    remaining = iter(trials)
    with torch.inference_mode(), progress(total=len(trials), desc="scoring", unit="trial") as bar:
        for batch in loader:
            batch_trials = [next(remaining) for _ in batch]
            failures |= {trial.utt_id: why for trial, (_, why) in zip(batch_trials, batch) if why}
            readable = [(trial.utt_id, x) for trial, (x, why) in zip(batch_trials, batch) if not why]
            if readable:
                values = detector.score(torch.stack([x for _, x in readable]).to(device)).float().cpu()
                scores |= {utt_id: value for (utt_id, _), value in zip(readable, values.tolist())}
            bar.update(len(batch))
    return scores, failures


def main(argv=None):
    args = parse_args(argv)
    started = time.monotonic()
    trials = read_trials(args)
    device = choose_device(args.gpu_id)
    detector, name = read_detector(args)
    detector.to(device)
    # The published programs cut at two lengths: 64,600 samples for ASVspoof, 64,000 elsewhere.
    cut = 64600 if args.track in ("LA", "DF") else 64000
    length = cut if args.four_seconds else None
    print(f"detector: {detector.config.model_name}, encoder {detector.config.ssl}, {name}")
    print(f"trials: {len(trials)}, {f'first {length} samples' if length else 'whole utterances'}, device {device}")
    scores, failures = score(detector, trials, length, args.batch_size, args.num_workers, device)

    out = Path(args.eval_output or Path(args.output_path) / f"{args.outputname}.txt")
    errors = out.with_suffix(".errors.tsv")
    protocols.write_scores(out, scores)
    errors.unlink(missing_ok=True)
    print(f"scores: {out}, {len(scores)} trials in {time.monotonic() - started:.1f} s")
    if failures:
        with atomic_open(errors) as file:
            file.writelines(f"{utt_id}\t{why}\n" for utt_id, why in failures.items())
        print(f"eval.py: {len(failures)} of {len(trials)} trials have no score, see {errors}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    run(main)
