"""Benchmarks of every stage on this machine, each timed against the naive implementation in the same run.

    python tools/benchmark.py all --json benchmark.json
    python tools/benchmark.py rawboost --repeats 21
Prints one table per stage: median seconds, their interquartile range and how many times
faster than the naive way, the first of its kind.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the project, from wherever this is started

import common.threads  # noqa: F401

import torch

from common.atomic import atomic_open, check_outputs
from common.console import AT_LEAST_1, run
from common.flags import CommandParser
from tools.benchmark_audio import loader, loader_flags, rawboost, rawboost_flags
from tools.benchmark_report import report
from tools.benchmark_scoring import demo, demo_flags, scoring, scoring_flags, start
from tools.benchmark_training import backend, backend_flags, cost, mixers, mixers_flags, train, train_flags
from tools.timing import machine, print_rows

# stage -> (function of the flags that returns its rows, function that adds flags of its own to a parser or None)
STAGES = {
    "rawboost": (rawboost, rawboost_flags),
    "loader": (loader, loader_flags),
    "backend": (backend, backend_flags),
    "mixers": (mixers, mixers_flags),
    "cost": (cost, None),
    "eval": (scoring, scoring_flags),
    "train": (train, train_flags),
    "start": (start, None),
    "demo": (demo, demo_flags),
    "report": (report, None),
}


def parse_args(argv=None):
    parser = CommandParser(
        description="Time every stage against the naive implementation in the same run.", allow_abbrev=False
    )
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE", title="stages")
    common = CommandParser(add_help=False)
    common.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="device to time on")
    common.add_argument("--json", metavar="FILE", help="also write the figures to FILE")
    common.add_argument("--repeats", type=AT_LEAST_1, default=7, help="timed turns")
    for name, (function, add_flags) in STAGES.items():
        summary = function.__doc__.split("\n")[0]
        stage = stages.add_parser(name, parents=[common], help=summary, description=summary, allow_abbrev=False)
        if add_flags:
            add_flags(stage)
    every = "Every stage with its own defaults."
    stages.add_parser("all", parents=[common], help=every, description=every, allow_abbrev=False)
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device is available")
    if args.repeats < 1:
        parser.error(f"--repeats: expected at least 1, found {args.repeats}")
    return args


def main(argv=None):
    args = parse_args(argv)
    check_outputs([("--json", args.json)])
    facts = machine(args.device)
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    results = {}
    for name in STAGES if args.stage == "all" else [args.stage]:
        given = ["--device", args.device, "--repeats", str(args.repeats)]
        rows = STAGES[name][0](args if args.stage == name else parse_args([name, *given]))
        print_rows(name, rows)
        results[name] = rows
        sys.stdout.flush()
    if args.json:
        with atomic_open(args.json) as file:
            json.dump({"machine": facts, "stages": results}, file, indent=1)


if __name__ == "__main__":
    run(main)
