"""Benchmarks of scoring, the demo and command start-up for tools/benchmark.py."""

import functools
import os
import statistics
import subprocess
import sys
import tempfile

import numpy as np
import soundfile
import torch

import checkpoints
from common.console import ABOVE_0, AT_LEAST_1
from common.workers import usable_cores
from data_utils import load_audio
from inference.precision import PRECISIONS, prepare
from inference.scoring import readers, score_files
from model import ModelConfig, build_detector
from tools.benchmark_training import plainly
from tools.timing import PEAK, ROOT, busy_processes, run_here, time_ways

START_WRITE = """
import sys
import checkpoints
from model import ModelConfig, build_detector
config = ModelConfig("wav2vec2_Nes2Net_X")
checkpoints.save_checkpoint(sys.argv[1], config, build_detector(config).state_dict())
"""
START_NAIVE = (
    """
import sys, torch, fairseq
from model import ModelConfig, build_detector
detector = build_detector(ModelConfig("wav2vec2_Nes2Net_X"))
detector.load_state_dict(torch.load(sys.argv[1], map_location="cpu", weights_only=True)["model"])
with torch.inference_mode():
    print(detector.eval().score(torch.zeros(1, 16000)).item())
"""
    + PEAK
)
START = (
    """
import sys, torch
import checkpoints
detector = checkpoints.load_detector(sys.argv[1])
with torch.inference_mode():
    print(detector.score(torch.zeros(1, 16000)).item())
"""
    + PEAK
)


def start(args):
    """Benchmark the time from command to first score of a 1.3 GB detector, against random weights, reading, copying."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "detector.pth")
        subprocess.run([sys.executable, "-c", START_WRITE, path], cwd=ROOT, stderr=subprocess.DEVNULL, check=True)
        memory, scores = {}, {}

        def way(name, code):
            command = [sys.executable, "-c", code, path]
            done = subprocess.run(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
            )
            scores[name], peak = done.stdout.split()
            memory.setdefault(name, []).append(int(peak) / 2**20)

        names = ["random weights, read, copy", "mapped"]
        codes = dict(zip(names, [START_NAIVE, START]))
        rows = time_ways({name: lambda name=name: way(name, codes[name]) for name in names}, args.repeats)
        if scores[names[0]] != scores[names[1]]:
            raise RuntimeError(f"the ways disagree: {scores}")
    peaks = [statistics.median(memory[name]) for name in names]
    for row, peak in zip(rows, peaks):
        row |= {"peak memory, GB": peak, "of the naive": peak / peaks[0]}
    return rows


DEMO = (
    """
import sys
import easy_inference_demo
if easy_inference_demo.main(sys.argv[1:]):
    sys.exit(1)
"""
    + PEAK
)


def demo(args):
    """The one-file verdict as a command: one file, a hundred at once, and a file of hours; time and memory.

    How many times faster: a file among the hundred than a file alone, start included; the long file than it plays.
    """
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        model, files, long = (os.path.join(folder, name) for name in ("detector.pth", "files", "long.wav"))
        config = ModelConfig("wav2vec2_Nes2Net_X", ssl=args.ssl)
        checkpoints.save_checkpoint(
            model, config, build_detector(config).state_dict(), valid={"threshold": 0, "eer": 0}
        )
        os.mkdir(files)
        for i, seconds in enumerate(rng.uniform(1, 10, 100)):
            soundfile.write(os.path.join(files, f"{i}.flac"), 0.1 * rng.standard_normal(int(16000 * seconds)), 16000)
        with soundfile.SoundFile(long, "w", 16000, 1) as file:
            for _ in range(round(60 * args.hours)):
                file.write(0.1 * rng.standard_normal(60 * 16000))

        runs = [("one file", os.path.join(files, "0.flac"), 1), ("100 files", files, 100), ("a long file", long, 1)]
        rows = []
        for name, what, n in runs:
            command = [sys.executable, "-c", DEMO, "--model_path", model, "--file_to_test", what]
            taken, memory = zip(*(run_here(command) for _ in range(1 if what == long else min(args.repeats, 5))))
            seconds = statistics.median(taken)
            low, high = np.quantile(taken, [0.25, 0.75])
            ratio = 3600 * args.hours / seconds if what == long else rows[0]["seconds"] * n / seconds if rows else 1
            row = {"name": name, "seconds": seconds, "spread": high - low, "ratio": ratio}
            rows.append({**row, "seconds a file": seconds / n, "peak memory, GB": max(memory)})
        rows[2]["name"] += f" ({args.hours:g} h)"
    return rows


def demo_flags(parser):
    parser.add_argument("--ssl", default="tiny", help="encoder, with random weights")
    parser.add_argument("--hours", type=ABOVE_0, default=3, help="length of the long file [h]")


def scoring(args):
    """Full-length trials of 1 to 10 s: in exact batches, and in bf16, against one at a time in float32.

    The last two rows: a few of them alone, and beside as many busy processes as there are cores.
    """
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        seconds = rng.uniform(1, 10, args.trials)
        paths = [os.path.join(folder, f"{i}.flac") for i in range(args.trials)]
        for path, n in zip(paths, seconds):
            x = 0.1 * rng.standard_normal(int(16000 * n)) * np.linspace(rng.uniform(0, 2), 1, int(16000 * n))
            soundfile.write(path, x, 16000)
        config = ModelConfig(args.model_name, ssl=args.ssl)
        detector = build_detector(config).to(args.device).eval()
        scores = {}

        def one_at_a_time(name):
            scores[name] = {}
            with torch.inference_mode(), plainly():
                for i, path in enumerate(paths):
                    x = torch.from_numpy(load_audio(path))[None].to(args.device)
                    scores[name][i] = detector.score(x).item()

        def batches(name, detector, precision):
            workers = readers(torch.device(args.device))
            scores[name], _, _ = score_files(detector, paths, num_workers=workers, precision=precision)

        names = ["one at a time, fp32"]
        ways = {names[0]: functools.partial(one_at_a_time, names[0])}
        networks = {}
        for precision in PRECISIONS:
            network = networks[precision] = build_detector(config).to(args.device).eval()
            network.load_state_dict(detector.state_dict())
            prepare(network, precision)
            score_files(network, paths[:1], precision=precision)
            names.append(f"batches, {precision}")
            ways[names[-1]] = functools.partial(batches, names[-1], network, precision)
        rows = time_ways(ways, args.turns, args.device, warm_up=0)
        some = paths[:5]
        loaded = under_load(f"{len(some)} trials", lambda: score_files(networks["fp32"], some), args.device)
    for row in rows:
        differences = [abs(scores[row["name"]][i] - scores[names[0]][i]) for i in range(len(paths))]
        row |= {"trials/s": len(paths) / row["seconds"], "times real time": seconds.sum() / row["seconds"]}
        row |= {"score difference": max(differences)}
    return rows + loaded


def under_load(what, way, device, turns=3):
    """Rows of one implementation, alone and next to one busy process per core, in turns."""
    n, seconds = usable_cores(), {"quiet": [], "under load": []}
    for _ in range(turns):
        for name, taken in seconds.items():
            with busy_processes(n if name == "under load" else 0):
                taken.append(time_ways({name: way}, 1, device, warm_up=0)[0]["seconds"])
    quiet = statistics.median(seconds["quiet"])
    rows = []
    for name, taken in seconds.items():
        low, high = np.quantile(taken, [0.25, 0.75])
        median = statistics.median(taken)
        title = f"{what}, {name}" + (f" ({n} processes)" if name == "under load" else "")
        rows.append({"name": title, "seconds": median, "spread": high - low, "ratio": quiet / median})
    rows[1]["of the quiet time"] = median / quiet
    return rows


def scoring_flags(parser):
    parser.add_argument("--model_name", default="wav2vec2_Nes2Net_X", help="detector")
    parser.add_argument("--ssl", default="xlsr_300m", help="encoder, with random weights")
    parser.add_argument("--trials", type=AT_LEAST_1, default=200, help="number of trials")
    parser.add_argument(
        "--turns", type=AT_LEAST_1, default=1, help="timed turns, instead of --repeats: one takes minutes"
    )
