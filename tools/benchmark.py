"""How fast is every stage on this machine? Each is timed against the naive way in the same run.

    python tools/benchmark.py all --json benchmark.json
    python tools/benchmark.py rawboost --repeats 21
Prints a table a stage: the median of the seconds, their spread (the range of the middle half) and how many times
faster than the naive way, the first of its kind.
"""

import argparse
import contextlib
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the project, from wherever this is started

import common.threads  # noqa: F401

import numpy as np
import soundfile
import torch
from scipy import signal
from torch.utils.flop_counter import FlopCounterMode

import checkpoints
from back_ends import BACK_ENDS, build_back_end
from common.atomic import atomic_open, check_outputs
from common.console import ABOVE_0, AT_LEAST_1, run
from corpora import Trial
from data_utils import TrialDataset, first_samples, load_audio, make_loader
from front_ends import wav2vec2
from inference.precision import PRECISIONS, prepare
from inference.scoring import readers, score_files, usable_cores
from model import ModelConfig, build_detector
from RawBoost import RawBoostParams, apply_rawboost
from reports import metrics, published
from tools.cost import costs
from tools.cost import published as published_back_end
from training.config import TrainingConfig
from training.losses import LOSSES, losses_for
from training.trainer import Training

ROOT = Path(__file__).resolve().parent.parent


def time_ways(ways, repeats, device="cpu", warm_up=1):
    """Time several ways to do one thing, {name: callable}; the first is the naive one.

    They take turns, so that what else the machine does falls on all of them; warm_up turns before are not counted.
    Returns a row a way: name, seconds (median), spread (range of the middle half), ratio (how many times faster than
    the naive way: the median over turns).
    """
    seconds = {name: [] for name in ways}
    for turn in range(repeats + warm_up):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize(device)
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    naive = next(iter(seconds.values()))
    rows = []
    for name, taken in seconds.items():
        low, high = np.quantile(taken, [0.25, 0.75])
        ratio = statistics.median(a / b for a, b in zip(naive, taken))
        rows.append({"name": name, "seconds": statistics.median(taken), "spread": high - low, "ratio": ratio})
    return rows


def print_rows(title, rows):
    """One table: what every row has, then whatever else some rows have, a column each."""
    extras = list(
        dict.fromkeys(key for row in rows for key in row if key not in ("name", "seconds", "spread", "ratio"))
    )
    width = max(len(row["name"]) for row in rows)
    print(f"\n{title:<{width}} {'seconds':>10} {'spread':>9} {'faster':>8}", *(f"{key:>18}" for key in extras))
    for row in rows:
        values = [row.get(key, "") for key in extras]
        values = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        print(
            f"{row['name']:<{width}} {row['seconds']:10.4g} {row['spread']:9.2g} {row['ratio']:7.2f}x",
            *(f"{value:>18}" for value in values),
        )


def machine(device):
    """What the figures depend on: processor, cores, threads, versions, accelerator."""
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            flags = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in file if ":" in line}
        processor = flags.get("model name", processor)
        features = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags.get("flags", "")]
        processor += f" ({', '.join(features)})" if features else ""
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device == "cuda" else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


# Ends with the benchmark, however that ends.
BUSY = """
import os
parent = os.getppid()
print(flush=True)
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""


@contextlib.contextmanager
def busy_processes(n):
    """Within, n other processes compute all the time; gives them as Popen."""
    processes = []
    with contextlib.ExitStack() as stack:
        for _ in range(n):
            command = [sys.executable, "-c", BUSY]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            stack.enter_context(process)  # waits for it in the end
            stack.callback(process.kill)
            process.stdout.readline()  # it has started
            processes.append(process)
        yield processes


# ------------------------------------------------------------------------------------------------------- RawBoost


def direct_bank(rng, p, low_db, high_db):
    """A bank of notch filters as one FIR, designed and normalised by scipy as in the published program."""
    b = np.ones(1)
    for _ in range(p.nBands):
        centre, width = rng.uniform(p.minF, p.maxF), rng.uniform(p.minBW, p.maxBW)
        taps = int(rng.uniform(p.minCoeff, p.maxCoeff))
        taps += taps % 2 == 0
        edges = [max(centre - width / 2, 0.001), min(centre + width / 2, p.fs / 2 - 0.001)]
        b = np.convolve(b, signal.firwin(taps, edges, window="hamming", fs=p.fs))
    gain = rng.uniform(low_db, high_db)
    return 10 ** (gain / 20) * b / np.max(np.abs(signal.freqz(b, fs=p.fs)[1]))


def direct_filter(x, b):
    n = len(b) + 1
    y = signal.lfilter(b, 1, np.concatenate([x, np.zeros(n)]))
    return y[int(n / 2) : int(len(y) - n / 2)]


def peak_limited(x):
    return x / max(1, np.max(np.abs(x)))


def direct_lnl(x, p, rng):
    y = 0
    for order in range(1, p.N_f + 1):
        bias = (p.minBiasLinNonLin, p.maxBiasLinNonLin) if order > 1 else (0, 0)
        y = y + direct_filter(x**order, direct_bank(rng, p, p.minG - bias[0], p.maxG - bias[1]))
    return peak_limited(y - np.mean(y))


def direct_isd(x, p, rng):
    chosen = rng.uniform(0, p.P)
    chosen = rng.permutation(len(x))[: int(len(x) * chosen / 100)]
    y = x.copy()
    y[chosen] += p.g_sd * x[chosen] * (2 * rng.rand(len(chosen)) - 1) * (2 * rng.rand(len(chosen)) - 1)
    return peak_limited(y)


def direct_ssi(x, p, rng):
    noise = rng.normal(0, 1, len(x))
    noise = direct_filter(noise, direct_bank(rng, p, p.minG, p.maxG))
    noise = noise / np.max(np.abs(noise))
    snr = rng.uniform(p.SNRmin, p.SNRmax)
    return x + noise / np.linalg.norm(noise) * np.linalg.norm(x) / 10 ** (snr / 20)


DIRECT = {"L": direct_lnl, "I": direct_isd, "S": direct_ssi}
COMPOSITIONS = {1: "L", 2: "I", 3: "S", 4: "LIS", 5: "LI", 6: "LS", 7: "IS", 8: "L|I", 9: "L|I|S"}


def direct_rawboost(x, algo, params, rng):
    """RawBoost with direct filtering; algo 1 to 9."""
    if "|" in COMPOSITIONS[algo]:
        return peak_limited(sum(DIRECT[name](x, params, rng) for name in COMPOSITIONS[algo].split("|")))
    for name in COMPOSITIONS[algo]:
        x = DIRECT[name](x, params, rng)
    return x


def rawboost(args):
    """Every algorithm on one utterance, against direct filtering."""
    x = 0.3 * np.random.default_rng(0).standard_normal(int(16000 * args.seconds))
    params = RawBoostParams()
    rows = []
    for algo, noises in COMPOSITIONS.items():
        functions = {f"algo {algo} ({noises}), direct": direct_rawboost, f"algo {algo} ({noises})": apply_rawboost}
        ways = {
            name: lambda function=function, algo=algo: function(x, algo, params, np.random.RandomState(algo))
            for name, function in functions.items()
        }
        rows += time_ways(ways, args.repeats)
    return rows


def rawboost_flags(parser):
    parser.add_argument("--seconds", type=ABOVE_0, default=4, help="length of the utterance (%(default)s)")


# ----------------------------------------------------------------------------------------------------------- start

# From command to first score, each in a process of its own: argv is the checkpoint.
PEAK = """
with open("/proc/self/status") as file:
    print(next(line.split()[1] for line in file if line.startswith("VmHWM")))  # peak resident memory, kB
"""
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
    """From command to first score with a detector of 1.3 GB, against random weights, reading, and copying."""
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


# ------------------------------------------------------------------------------------------------------------ demo


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
            taken, memory = zip(*(_run(command) for _ in range(1 if what == long else min(args.repeats, 5))))
            seconds = statistics.median(taken)
            low, high = np.quantile(taken, [0.25, 0.75])
            ratio = 3600 * args.hours / seconds if what == long else rows[0]["seconds"] * n / seconds if rows else 1
            row = {"name": name, "seconds": seconds, "spread": high - low, "ratio": ratio}
            rows.append({**row, "seconds a file": seconds / n, "peak memory, GB": max(memory)})
        rows[2]["name"] += f" ({args.hours:g} h)"
    return rows


def _run(command):
    """Run a command here whose last word is its peak memory in kB: (seconds, GB)."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - started, int(done.stdout.split()[-1]) / 2**20


def demo_flags(parser):
    parser.add_argument("--ssl", default="tiny", help="encoder, with random weights (%(default)s)")
    parser.add_argument("--hours", type=ABOVE_0, default=3, help="length of the long file (%(default)s)")


# ---------------------------------------------------------------------------------------------------------- report


def quadratic_eer(bonafide, spoof):
    """EER as the published In-the-Wild script computes it, all trials counted anew at each of them."""
    scores = np.concatenate([bonafide, spoof])
    order = np.argsort(scores, kind="stable")
    is_bonafide = order < len(bonafide)
    frr = np.array([np.sum(is_bonafide[:i]) for i in range(len(scores))]) / len(bonafide)
    far = np.array([np.sum(~is_bonafide[i:]) for i in range(len(scores))]) / len(spoof)
    difference = far - frr
    i = np.flatnonzero(np.diff(np.sign(difference)))[0]
    share = abs(difference[i]) / (abs(difference[i]) + abs(difference[i + 1]))
    return frr[i] + share * (frr[i + 1] - frr[i])


def quadratic_min_dcf(bonafide, spoof):
    """minDCF with both error rates counted anew at each threshold."""
    thresholds = np.concatenate([[-np.inf], bonafide, spoof])
    return min(1.9 * np.mean(bonafide <= threshold) + np.mean(spoof > threshold) for threshold in thresholds)


# corpus -> (trials, speakers, a line of its key: s speaker, i trial, a attack, b bona fide or spoof, c a number)
OFFICIAL = {
    "ASVspoof2021_LA": (
        181_566,
        67,
        lambda s, i, a, b, c: f"LA_{s:04} LA_E_{i} codec{c % 7} {'il'[c % 2]}_tx {a} {b} notrim eval",
    ),
    "ASVspoof2021_DF": (
        611_829,
        93,
        lambda s, i, a, b, c: f"LA_{s:04} DF_E_{i} codec{c % 9} vcc{c % 3} {a} {b} notrim eval vocoder{c % 5} - - - -",
    ),
    "ASVspoof5": (
        680_774,
        737,
        lambda s, i, a, b, c: f"E_{s:04} E_{i:010} {'FM'[s % 2]} C{c % 12:02} {c % 6} E_{i:010} AC1 {a} {b} -",
    ),
}
REPORT = "import sys, EER_minDCF\nEER_minDCF.main(sys.argv[1:])\nsys.stdout = sys.stderr\n"


def report(args):
    """Reports on keys of official size with all breakdowns and intervals, and the published quadratic ways.

    How many times faster: a whole report than the quadratic EER alone, its time grown with the square of the trials.
    """
    rng = np.random.default_rng(0)
    bonafide, spoof = rng.normal(2, 1, 2_000), rng.normal(-2, 1, 18_000)
    ways = {
        "quadratic EER": lambda: quadratic_eer(bonafide, spoof),
        "EER": lambda: published.published_in_the_wild(bonafide, spoof),
    }
    if not np.isclose(*(way() for way in ways.values())):
        raise RuntimeError("the ways disagree")
    rows = time_ways(ways, min(args.repeats, 3))
    quadratic = rows[0]["seconds"]
    rows += time_ways(
        {
            "quadratic minDCF": lambda: quadratic_min_dcf(bonafide, spoof),
            "minDCF": lambda: metrics.compute_min_dcf(bonafide, spoof),
        },
        min(args.repeats, 3),
    )
    for row in rows:
        row["trials"] = 20_000
    for corpus, (n, n_speakers, line) in OFFICIAL.items():
        with tempfile.TemporaryDirectory() as folder:
            key, scores = os.path.join(folder, "key.txt"), os.path.join(folder, "scores.txt")
            speaker, attack, number = (rng.integers(m, size=n).tolist() for m in (n_speakers, 16, 10_000))
            is_bonafide = rng.random(n) < 0.1
            values = rng.normal(4.0 * is_bonafide, 1).tolist()
            with open(key, "w") as file:
                for i, b in enumerate(is_bonafide.tolist()):
                    words = ("bonafide", "bonafide") if b else (f"A{attack[i] + 7:02}", "spoof")
                    file.write(line(speaker[i], i, *words, number[i]) + "\n")
            names = [words.split()[1] for words in open(key)]
            with open(scores, "w") as file:
                file.writelines(f"{name} {value:.6f}\n" for name, value in zip(names, values))
            command = [sys.executable, "-c", REPORT + PEAK, "--labels_file", key, "--path", scores]
            memory = []

            def way(command=command, memory=memory):
                done = subprocess.run(command, cwd=ROOT, check=True, **PIPES)
                memory.append(int(done.stderr.split()[-1]) / 2**20)

            row = time_ways({f"report on {corpus}": way}, min(args.repeats, 3))[0]
            ratio = quadratic * (n / 20_000) ** 2 / row["seconds"]
            rows.append({**row, "ratio": ratio, "trials": n, "peak memory, GB": statistics.median(memory)})
    return rows


PIPES = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}


# ---------------------------------------------------------------------------------------------------------- train

# Multiplications and additions a second, dense, as the makers publish them: half precision, TF32.
PEAKS = {"H100": (989e12, 494e12), "H200": (989e12, 494e12), "A100": (312e12, 156e12), "L40S": (362e12, 183e12)}


def train(args):
    """A step of training, against one in float32 that waits for its loss."""
    device = torch.device(args.device)
    config = ModelConfig(args.model_name, ssl=args.ssl or ("xlsr_300m" if args.device == "cuda" else "tiny"))
    ways = {"fp32": ("fp32", False), "bf16": ("bf16", False), "bf16, compiled": ("bf16", True)}
    rows = []
    for batch_size in args.batch_sizes:
        x = 0.1 * torch.randn(batch_size, args.crop, device=device)
        labels = torch.arange(batch_size, device=device) % 2
        naive = _naive_step(config, device)
        with FlopCounterMode(display=False) as counter:
            naive(x, labels)
        trainings = {
            name: _training(config, device, precision, compiled)
            for name, (precision, compiled) in ways.items()
            if not compiled or args.compile
        }
        steps = {"naive": naive} | {name: training.step for name, training in trainings.items()}
        calls = {
            f"{name}, batch {batch_size}": functools.partial(_in_mode, name, step, x, labels)
            for name, step in steps.items()
        }
        for (name, _), row in zip(steps.items(), time_ways(calls, args.repeats, args.device)):
            per_second = counter.get_total_flops() / row["seconds"]
            row |= {"utterances/s": batch_size / row["seconds"], "TFLOP/s": per_second / 1e12}
            peak = _peak(device, name)
            row |= {"of the peak": f"{per_second / peak:.1%}"} if peak else {}
            if name in trainings and not ways[name][1]:
                row |= _shares(trainings[name], x, labels)
            rows.append(row)
    return rows


def _in_mode(name, step, x, labels):
    torch.set_float32_matmul_precision("highest" if name == "naive" else "high")
    torch.backends.cudnn.allow_tf32 = name != "naive"
    step(x, labels)


@contextlib.contextmanager
def plainly():
    """Within, a detector computes as it is first written: fairseq's convolutions, transposed for every norm."""
    extract = wav2vec2.channels_last
    wav2vec2.channels_last = lambda extractor, waveforms: extractor(waveforms)
    try:
        yield
    finally:
        wav2vec2.channels_last = extract


def _naive_step(config, device):
    """A step as it is first written: float32, one kernel a weight, its loss read at once."""
    detector = build_detector(config).to(device).train()
    optimizer = torch.optim.Adam(detector.parameters(), lr=1e-6, weight_decay=1e-4, foreach=False)
    criterion = LOSSES[losses_for(config.n_output_logits)[0]]().to(device)

    def step(x, labels):
        with plainly():
            loss = criterion(detector(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _training(config, device, precision, compiled):
    flags = {"optimizer": "Adam", "lr": 1e-6, "weight_decay": 1e-4, "schedule": "constant"}
    flags = TrainingConfig(**flags, precision=precision, compile=compiled)
    detector = build_detector(config).to(device)
    criterion = LOSSES[losses_for(config.n_output_logits)[0]]().to(device)
    training = Training(flags, detector, criterion, device, Path("."), [None], {}, None)
    training.freeze(False)
    detector.train()
    return training


def _peak(device, name):
    half, single = next(
        (peak for gpu, peak in PEAKS.items() if device.type == "cuda" and gpu in torch.cuda.get_device_name(device)),
        (None, None),
    )
    return half if "bf16" in name else single


def _shares(training, x, labels):
    """Where the time of a step goes, {part: share}: waits for the device after each part."""
    moments = {}

    def now(name):
        def hook(*_):
            if training.device.type == "cuda":
                torch.cuda.synchronize(training.device)
            moments[name] = time.perf_counter()

        return hook

    detector, optimizer = training.detector, training.optimizer
    handles = [
        detector.front_end.register_forward_pre_hook(now("start")),
        detector.front_end.register_forward_hook(now("front-end")),
        detector.register_forward_hook(now("back-end")),
        optimizer.register_step_pre_hook(now("backward")),
        optimizer.register_step_post_hook(now("optimiser")),
    ]
    training.step(x, labels)
    for handle in handles:
        handle.remove()
    names = list(moments)
    seconds = {name: moments[name] - moments[before] for before, name in zip(names, names[1:])}
    return {name: f"{part / sum(seconds.values()):.0%}" for name, part in seconds.items()}


def train_flags(parser):
    parser.add_argument("--model_name", default="wav2vec2_Nes2Net_X", help="(%(default)s)")
    parser.add_argument("--ssl", help="encoder; not given: xlsr_300m on cuda, tiny on the CPU")
    parser.add_argument("--batch_sizes", type=AT_LEAST_1, nargs="+", default=[12], help="(12)")
    parser.add_argument("--crop", type=AT_LEAST_1, default=64600, help="samples of an utterance (%(default)s)")
    parser.add_argument("--compile", action="store_true", help="also by torch.compile")


# --------------------------------------------------------------------------------------------------------- loader


def loader(args):
    """Decoding and RawBoost: a core, against direct filtering; and all cores together as a training uses them."""
    length, params = 64600, RawBoostParams()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, f"{i}.flac") for i in range(args.files)]
        for path in paths:
            x = 0.1 * rng.standard_normal(int(16000 * rng.uniform(2, 6)))
            soundfile.write(path, x, 16000)
        trials = [Trial(str(i), label=i % 2, path=path) for i, path in enumerate(paths)]
        rows = []
        for algo in (0, 3, 4, 5):
            dataset = TrialDataset(trials, length, augment=functools.partial(apply_rawboost, algo=algo, params=params))
            loader = make_loader(dataset, 12, num_workers=os.cpu_count())

            def direct(algo=algo):
                for i, path in enumerate(paths):
                    x = load_audio(path).astype(np.float64)
                    first_samples(direct_rawboost(x, algo, params, np.random.RandomState(i)), length)

            ways = {
                f"algo {algo}, one core, direct": direct,
                f"algo {algo}, one core": lambda dataset=dataset: [dataset[0, i] for i in range(len(dataset))],
                f"algo {algo}, {os.cpu_count()} workers": lambda loader=loader: list(loader),
            }
            found = time_ways(ways if algo else dict(list(ways.items())[1:]), args.repeats)
            for row in found:
                row["utterances/s"] = len(trials) / row["seconds"]
                if "one core" in row["name"]:
                    row["ms an utterance"] = 1000 * row["seconds"] / len(trials)
            rows += found
    return rows


def loader_flags(parser):
    parser.add_argument("--files", type=AT_LEAST_1, default=48, help="utterances in a pass (%(default)s)")


# -------------------------------------------------------------------------------------------------------- backend


def backend(args):
    """The Nes2Net family on features of XLS-R 300M, forward and backward."""
    torch.manual_seed(0)
    features = torch.randn(args.batch_size, args.frames, 1024, device=args.device, requires_grad=True)
    rows = []
    for name in ("Nes2Net", "Nes2Net_X", "Nes2Net_X_SeLU"):
        net = build_back_end(ModelConfig(f"wav2vec2_{name}"), 1024).to(args.device)
        functions = {name: net}
        if args.compile:
            functions[f"{name}, compiled"] = torch.compile(net)

        def step(function, net=net):
            net.zero_grad()
            function(features).sum().backward()

        rows += time_ways(
            {key: functools.partial(step, function) for key, function in functions.items()}, args.repeats, args.device
        )
    return rows


def backend_flags(parser):
    parser.add_argument("--batch_size", type=AT_LEAST_1, default=12, help="(%(default)s)")
    parser.add_argument("--frames", type=AT_LEAST_1, default=201, help="(%(default)s)")
    parser.add_argument("--compile", action="store_true", help="also by torch.compile")


# ----------------------------------------------------------------------------------------------------------- cost


def cost(args):
    """Every back-end at its published size, forward on 4 s: parameters, multiply-accumulates, time against AASIST's."""
    torch.manual_seed(0)
    parts = {name: published_back_end(name) for name in ("AASIST", *(name for name in BACK_ENDS if name != "AASIST"))}
    facts = [costs(*part) for part in parts.values()]
    ways = {}
    for name, (network, features) in parts.items():
        features = [x.to(args.device) for x in features] if isinstance(features, list) else features.to(args.device)
        ways[name] = functools.partial(network.to(args.device), features)
    with torch.inference_mode():
        rows = time_ways(ways, args.repeats, args.device)
    return [{**row, **fact} for row, fact in zip(rows, facts)]


# ----------------------------------------------------------------------------------------------------------- eval


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
    """Rows of a way alone, and beside as many busy processes as there are cores, in turns."""
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
    parser.add_argument("--model_name", default="wav2vec2_Nes2Net_X", help="(%(default)s)")
    parser.add_argument("--ssl", default="xlsr_300m", help="encoder, with random weights (%(default)s)")
    parser.add_argument("--trials", type=AT_LEAST_1, default=200, help="(%(default)s)")
    parser.add_argument(
        "--turns", type=AT_LEAST_1, default=1, help="in place of --repeats: a turn takes minutes (%(default)s)"
    )


# --------------------------------------------------------------------------------------------------------- command

# stage -> (function of the flags that returns its rows, function that adds flags of its own to a parser or None)
STAGES = {
    "rawboost": (rawboost, rawboost_flags),
    "loader": (loader, loader_flags),
    "backend": (backend, backend_flags),
    "cost": (cost, None),
    "eval": (scoring, scoring_flags),
    "train": (train, train_flags),
    "start": (start, None),
    "demo": (demo, demo_flags),
    "report": (report, None),
}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Time every stage against the naive way in the same run.", allow_abbrev=False
    )
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(%(default)s)")
    common.add_argument("--json", metavar="FILE", help="write the figures there as well")
    common.add_argument("--repeats", type=AT_LEAST_1, default=7, help="turns that are counted (%(default)s)")
    for name, (function, add_flags) in STAGES.items():
        summary = function.__doc__.split("\n")[0]
        stage = stages.add_parser(name, parents=[common], help=summary, description=summary, allow_abbrev=False)
        if add_flags:
            add_flags(stage)
    stages.add_parser("all", parents=[common], help="Every stage with its own defaults.", allow_abbrev=False)
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
