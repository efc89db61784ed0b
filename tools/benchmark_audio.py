"""The stages of tools/benchmark.py before the network: augmentation and loading."""

import functools
import os
import tempfile
import time

import numpy as np
import soundfile
from scipy import signal

from augmentation import AUGMENTATIONS, chain
from augmentation.codecs import FORMATS
from augmentation.image_source import random_response
from common.console import ABOVE_0, AT_LEAST_1
from corpora import Trial
from data_utils import TrialDataset, first_samples, load_audio, make_loader
from RawBoost import RawBoostParams, apply_rawboost
from tools.timing import figures, time_ways


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
    """Benchmark every RawBoost algorithm on one utterance against direct filtering."""
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
    parser.add_argument("--seconds", type=ABOVE_0, default=4, help="length of the utterance [s]")


def loader(args):
    """Benchmark decoding and augmentation: RawBoost against direct filtering; --augment on one core."""
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
        return rows + chains(trials, length, folder, args.repeats)


# Timed chains of --augment: every part, every codec, that of the ASVspoof 5 recipe, and typical combinations.
CHAINS = [name for name in AUGMENTATIONS if name not in ("RawBoost", "codec")]
CHAINS += ["room:t60=0.2..0.6"]  # simulated; the others take their rooms from a folder
CHAINS += [f"RawBoost:algo={algo}" for algo in (3, 4, 5)]
CHAINS += [f"codec:kinds={kind}" for kind in FORMATS]
CHAINS += [
    "noise:p=0.5 room:p=0.3 codec:p=0.3,kinds=mp3+vorbis+mulaw+gsm RawBoost:p=0.5,algo=5",
    "noise:p=0.5 room:p=0.3 codec:p=0.3 RawBoost:p=0.5,algo=5",
]


def chains(trials, length, folder, repeats):
    """Rows of the loader with each of CHAINS: processor seconds on one core, independent of other processes."""
    rng, flags = np.random.default_rng(0), {}
    for flag, names in {"noise_dir": ("noise", "speech", "music"), "room_dir": ("small", "large")}.items():
        flags[flag] = os.path.join(folder, flag)
        for name in names:
            os.makedirs(os.path.join(flags[flag], name))
            for i in range(8):
                x = random_response(rng, (0.2, 0.6), (3, 10), (2.5, 4))
                x = x / np.abs(x).max() if flag == "room_dir" else 0.1 * rng.standard_normal(16000 * 20)
                soundfile.write(os.path.join(flags[flag], name, f"{i}.wav"), x, 16000)
    rows, naive = [], None
    for text in ["", *CHAINS]:
        dataset = TrialDataset(
            trials, length, augment=chain.build(text, {} if "t60" in text else flags) if text else None
        )
        taken = []
        for epoch in range(repeats + 1):  # the first, in which the codecs' delays are measured, does not count
            started = time.process_time()
            for i in range(len(dataset)):
                dataset[epoch, i]
            taken.append(time.process_time() - started)
        taken = taken[1:]
        naive = naive or taken
        per_core = len(trials) / np.median(taken)
        rows.append({"name": text or "no augmentation", **figures(taken, naive), "utterances/s": per_core})
        rows[-1]["ms an utterance"] = 1000 / per_core
    return rows


def loader_flags(parser):
    parser.add_argument("--files", type=AT_LEAST_1, default=48, help="utterances per pass")
