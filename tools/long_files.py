"""Headlines of long recordings: two hours with a spoofed minute every five, and genuine mixes, out of the demo corpus.

    python tools/long_files.py --model_path demo/logs/nes2net_x/*/checkpoints/average_best_3.pth

The prompts are those of the eval list, of a speaker that the detector never heard. A genuine mix is of prompts drawn at
random; a spoofed minute is of prompts by one attack. Each file is written as FLAC prompt by prompt, judged as
easy_inference_demo.py judges it, and deleted.
"""

import sys
import tempfile
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the project, from wherever this is started

import common.threads  # noqa: F401

import numpy as np
import soundfile

from common.audio import SAMPLE_RATE, load_audio
from common.console import AT_LEAST_1, SEED, Number, UserError, run
from common.flags import CommandParser
from corpora import BONAFIDE, SPOOF, read_trials
from inference.judging import Judge
from inference.verdicts import clock
from model import choose_device

EVERY, SPOOFED = 5 * 60, (4 * 60, 5 * 60)  # seconds: the last minute of every five
LENGTHS = ((60, 100), (600, 30), (7200, 20))  # seconds of a genuine mix, and how many of them


def write_mix(path, seconds, prompts, attacks, rng):
    """Write a recording of `seconds`. prompts: {attack: [(samples,)]}, "-" bona fide. attacks: those of the spoofed
    minutes; none: all of it is genuine.
    """
    attack, written = "-", 0
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as file:
        while written < seconds * SAMPLE_RATE:
            at = written / SAMPLE_RATE % EVERY
            is_spoofed = bool(attacks) and SPOOFED[0] <= at < SPOOFED[1]
            if is_spoofed and attack == "-":
                attack = rng.choice(attacks)
            elif not is_spoofed:
                attack = "-"
            edge = (SPOOFED[1] if at >= SPOOFED[0] else SPOOFED[0]) - at  # where a minute begins or ends
            x = prompts[attack][rng.integers(len(prompts[attack]))]
            x = x[: min(round(edge * SAMPLE_RATE), seconds * SAMPLE_RATE - written)]
            file.write(x)
            written += len(x)


def overlap(stretches, seconds):
    """How much of the spoofed minutes, and of the rest, the stretches cover: two shares."""
    covered = np.zeros(seconds, bool)
    for start, end, *_ in stretches:
        covered[round(start) : round(end)] = True
    at = np.arange(seconds) % EVERY
    spoofed = (at >= SPOOFED[0]) & (at < SPOOFED[1])
    return covered[spoofed].mean(), covered[~spoofed].mean()


def parse_args(argv=None):
    parser = CommandParser(
        description="Headlines of long recordings, made of the demo corpus.",
    )
    parser.add_argument("--model_path", required=True, metavar="CKPT", help="a checkpoint")
    parser.add_argument("--corpus", default="demo/corpus", metavar="DIR", help="folder of make_demo_corpus.py")
    parser.add_argument(
        "--seconds", type=AT_LEAST_1, default=7200, metavar="N", help="length of the file with spoofed minutes [s]"
    )
    parser.add_argument(
        "--genuine",
        nargs=2,
        action="append",
        metavar=("SECONDS", "N"),
        type=AT_LEAST_1,
        help="N genuine mixes of this length; may be repeated ("
        + ", ".join(f"{n} of {seconds} s" for seconds, n in LENGTHS)
        + ")",
    )
    parser.add_argument("--window", type=Number(), default=4.0, metavar="SECONDS", help="length of a window")
    parser.add_argument("--hop", type=Number(), metavar="SECONDS", help="step between windows (half a window)")
    parser.add_argument("--seed", type=SEED, default=1, metavar="N", help="the same seed gives the same recordings")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    judge = Judge(args.model_path, choose_device(), window=args.window, hop=args.hop)
    key = Path(args.corpus) / "ASVspoof2019_LA_cm_protocols" / "ASVspoof2019.LA.cm.eval.trl.txt"
    prompts = defaultdict(list)
    for trial in read_trials(key):
        if trial.label in (BONAFIDE, SPOOF):
            prompts["-" if trial.label == BONAFIDE else trial.attack].append(load_audio(trial.path))
    attacks = sorted(set(prompts) - {"-"})
    if not attacks or "-" not in prompts:
        raise UserError(f"{key}: expected bona fide and spoofed trials, found {sorted(prompts)}")
    print(f"threshold: {judge.about_threshold()}")

    def judged_mix(seconds, attacks, *seed):
        with tempfile.NamedTemporaryFile(suffix=".flac") as file:
            write_mix(file.name, seconds, prompts, attacks, np.random.default_rng([args.seed, *seed]))
            (judged,) = judge.judge({"mix": file.name}, timeline=True)
        if judged.error:
            raise UserError(judged.error)
        return judged

    judged = judged_mix(args.seconds, attacks, 0)
    spoofed, genuine = overlap(judge.stretches(judged), args.seconds)
    print(f"\n{clock(args.seconds, 0)}, a spoofed minute every five")
    print(f"  {judge.in_words(judged)}: {judge.reason(judged)}")
    print(f"  {judge.about_windows(judged)}")
    print(f"  suspicious: {100 * spoofed:.1f} % of the spoofed minutes, {100 * genuine:.1f} % of the rest")

    for seconds, n in args.genuine or LENGTHS:
        shares, least, false = [], 1.0, 0
        for i in range(n):
            judged = judged_mix(seconds, [], 1, seconds, i)
            suspicious = judge.suspicious_windows(judged)
            shares.append(100 * sum(suspicious) / len(suspicious))
            least = min(least, judge.chance(judged).p_genuine)
            false += judge.finding(judged) != "bona fide"
        print(f"\n{n} genuine mixes of {clock(seconds, 0)}: {false} false headlines")
        print(f"  suspicious: {min(shares):.1f} to {max(shares):.1f} % of a file; smallest probability: {least:.2g}")


if __name__ == "__main__":
    run(main)
