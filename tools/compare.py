"""Train every back-end on one corpus with the same seed, flags and budget, score, and put them side by side.

    python tools/compare.py --corpus demo/corpus --out demo/rivals
Prints a table, and writes it as OUT/table.md and OUT/table.csv, with a picture, OUT/table.png. What is done already
is kept: a comparison that was killed goes on where it was.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the project, from wherever this is started

import common.threads  # noqa: F401

import torch

import checkpoints
from back_ends import BACK_ENDS, build_back_end
from common.atomic import atomic_open, check_outputs
from common.console import AT_LEAST_1, UserError, progress, run
from data_utils import SAMPLE_RATE
from model import ModelConfig, count_parameters
from reports.tables import shown_p
from training.losses import WeightedCrossEntropy

ROOT = Path(__file__).resolve().parent.parent
BASELINE = "Nes2Net_X"
NAMES = [BASELINE, *(name for name in BACK_ENDS if not name.startswith("Nes2Net")), "Nes2Net", "Nes2Net_X_SeLU"]
BATCH, CROP = 16, 24000  # trials, samples
AVERAGED = 3
P_LEAST = 2 / 1001  # with the 1,000 replicates that EER_minDCF.py draws
FLAGS = [
    *("--ssl", "tiny", "--algo", "8", "--crop", CROP, "--crop_place", "random", "--batch_size", BATCH, "--seed", 1),
    *("--optimizer", "AdamW", "--lr", 0.001, "--weight_decay", 0.01, "--schedule", "onecycle"),
    *("--class_weights", 0.5, 0.5, "--keep", "every", "--average_best", AVERAGED, "--average_by", "eer"),
]
# Conditions of EER_minDCF.py that the table shows, where the corpus has them: title.
CONDITIONS = {"pooled": "all", "copy-synthesis": "copy-synthesis", "unseen attacks": "unseen"}


def parse_args(argv=None):
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(
        description="Train every back-end alike and compare.", formatter_class=formatter, allow_abbrev=False
    )
    parser.add_argument("--corpus", default="demo/corpus", help="folder that tools/make_demo_corpus.py built")
    parser.add_argument("--out", default="demo/rivals", help="folder of runs, scores and the table")
    parser.add_argument("--epochs", type=AT_LEAST_1, default=10, help="of every run")
    parser.add_argument("--back_ends", nargs="+", choices=NAMES, default=NAMES, help=f"{BASELINE} is always among them")
    args = parser.parse_args(argv)
    args.back_ends = list(dict.fromkeys([BASELINE, *args.back_ends]))
    return args


def script(name, *flags, **options):
    """Run another script of this folder. Raises UserError where it fails; it has said why."""
    command = [sys.executable, str(ROOT / f"{name}.py"), *map(str, flags)]
    done = subprocess.run(command, **options)
    if done.returncode:
        raise UserError(f"{' '.join(command)}: ended with status {done.returncode}")
    return done


def train(name, args):
    """Train one back-end, unless it is trained. Returns the averaged checkpoint."""
    runs = Path(args.out) / "logs"
    nested = ["--Nes_ratio", 4, 4] if name.startswith("Nes2Net") else []  # 64 channels are too few for 8 x 8
    found = sorted((runs / name).glob(f"*/checkpoints/average_best_{AVERAGED}.pth"))
    if not found:
        which = ["--model_name", f"wav2vec2_{name}", "--foldername", name, "--log_dir", runs, "--resume", "auto"]
        script("train", "--database_path", args.corpus, *which, "--epochs", args.epochs, *nested, *FLAGS)
        found = sorted((runs / name).glob(f"*/checkpoints/average_best_{AVERAGED}.pth"))
    return found[-1]


def score(name, path, args):
    """Score the eval trials, unless they are scored. Returns the score file."""
    out = Path(args.out) / "scores" / f"{name}.txt"
    if not out.exists() or out.stat().st_mtime < path.stat().st_mtime:
        audio = Path(args.corpus) / "ASVspoof2019_LA_eval" / "flac"
        flags = ["--model_path", path, "--test_mode", "full", "--eval_output", out]  # all alike, whatever their authors
        script("eval", "--protocol", key(args), "--audio_dir", audio, *flags)
    return out


def key(args):
    return Path(args.corpus) / "ASVspoof2019_LA_cm_protocols" / "ASVspoof2019.LA.cm.eval.trl.txt"


def attack_groups(args):
    return Path(args.corpus) / "attack_groups.csv"


def error_rates(paths, args):
    """{name: {condition: (EER, low, high)}} and {name: p-value of its pooled EER being that of the baseline}."""
    groups = ["--attack_groups", attack_groups(args)]
    text = script(
        "EER_minDCF", "--labels_file", key(args), "--path", *paths, *groups, "--json", stdout=subprocess.PIPE
    ).stdout
    report = json.loads(text)
    rates, p_values = {}, {}
    for row in report["rows"]:
        if row["name"] in CONDITIONS:
            eer = row["figures"]["eer"]
            rates.setdefault(row["system"], {})[row["name"]] = (eer["value"], eer["low"], eer["high"])
    for pair in report["comparisons"]:
        if pair["figure"] == "eer" and pair["first"] == BASELINE:
            p_values[pair["second"]] = pair["p"]
    return rates, p_values


def measure(paths, turns=5):
    """{name: (parameters here, at 1024 channels, seconds a training step, real-time factor of scoring)}.

    The detectors take turns, so that what else the machine does falls on all of them; medians, the first not counted.
    The step is that of the comparison's batch; the factor is seconds of work a second of audio, 4 s at a time.
    """
    detectors = {name: checkpoints.load_detector(path) for name, path in paths.items()}
    optimizers = {name: torch.optim.AdamW(d.parameters(), lr=1e-6, fused=True) for name, d in detectors.items()}
    criterion = WeightedCrossEntropy([0.5, 0.5])
    labels = torch.arange(BATCH) % 2
    steps, factors = ({name: [] for name in detectors} for _ in range(2))
    for turn in progress(range(turns + 1), desc="timing", unit="turn"):
        for name, detector in detectors.items():
            x = torch.randn(BATCH, CROP)
            started = time.perf_counter()
            loss = criterion(detector.train()(x), labels)
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()
            stepped = time.perf_counter()
            with torch.inference_mode():
                detector.eval().score(torch.randn(1, 4 * SAMPLE_RATE))
            if turn:
                steps[name].append(stepped - started)
                factors[name].append((time.perf_counter() - stepped) / 4)
    sizes = {}
    for name, detector in detectors.items():
        with torch.device("meta"):
            published = build_back_end(ModelConfig(f"wav2vec2_{name}"), 1024)
        sizes[name] = count_parameters(detector.back_end), count_parameters(published)
    return {
        name: (*sizes[name], statistics.median(steps[name]), statistics.median(factors[name])) for name in detectors
    }


def table_of(costs, rates, p_values):
    """Rows of the table, titles first; numbers as they are."""
    titles = ["back-end", "parameters", "at 1024 channels", "step [ms]", "real-time factor"]
    conditions = [condition for condition in CONDITIONS if condition in rates[BASELINE]]
    for condition in conditions:
        titles += [f"EER {CONDITIONS[condition]} [%]", "low", "high"]
    rows = [[*titles, f"p against {BASELINE}"]]
    for name in sorted(costs, key=lambda name: rates[name]["pooled"]):
        here, published, step, factor = costs[name]
        eers = [100 * value for condition in conditions for value in rates[name][condition]]
        rows.append([name, here, published, 1000 * step, factor, *eers, p_values.get(name)])
    return rows


def markdown(rows):
    """The table for people: an interval in one cell with its rate."""
    titles = [title for title in rows[0] if title not in ("low", "high")]
    lines = ["| " + " | ".join(titles) + " |", "|---" + "|---:" * (len(titles) - 1) + "|"]
    for name, here, published, step, factor, *eers, p in rows[1:]:
        intervals = [f"{eer:.1f} ({low:.1f} to {high:.1f})" for eer, low, high in zip(*[iter(eers)] * 3)]
        cells = [name, f"{here:,}", f"{published:,}", f"{step:.0f}", f"{factor:.3f}", *intervals]
        lines.append("| " + " | ".join([*cells, "" if p is None else shown_p(p, P_LEAST)]) + " |")
    return "\n".join(lines)


def draw(path, rows):
    """Equal error rates with their intervals, a panel a condition, and what a step costs."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"{path}: needs matplotlib, which is not installed: {error}") from error

    names = [row[0] for row in rows[1:]]
    places = range(len(names))[::-1]
    columns = [column for column, title in enumerate(rows[0]) if title.startswith("EER")]
    figure = Figure(figsize=(12, 0.32 * len(names) + 1.2), layout="tight")
    panels = figure.subplots(1, len(columns) + 1, sharey=True)
    for panel, column in zip(panels, columns):
        eers = [row[column : column + 3] for row in rows[1:]]
        reach = [[eer - low for eer, low, _ in eers], [high - eer for eer, _, high in eers]]
        panel.errorbar([eer for eer, _, _ in eers], places, xerr=reach, fmt="o", color="tab:blue", capsize=2)
        panel.set(title=rows[0][column], xlim=(0, None))
        panel.grid(axis="x", alpha=0.3)
    panels[-1].barh(places, [row[3] for row in rows[1:]], color="tab:gray")
    panels[-1].set(title="training step [ms]")
    panels[0].set_yticks(places, names)
    with atomic_open(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110)


def main(argv=None):
    args = parse_args(argv)
    written = [("--out", Path(args.out) / name) for name in ("table.csv", "table.md", "table.png")]
    check_outputs(written, [key(args), attack_groups(args)])
    started, paths, scores = time.monotonic(), {}, []
    for number, name in enumerate(args.back_ends, start=1):
        print(f"== {number}/{len(args.back_ends)} {name}, {time.monotonic() - started:.0f} s so far", flush=True)
        paths[name] = train(name, args)
        scores.append(score(name, paths[name], args))
    rates, p_values = error_rates(scores, args)
    rows = table_of(measure(paths), rates, p_values)
    out = Path(args.out)
    with atomic_open(out / "table.csv") as file:
        csv.writer(file).writerows(rows)
    with atomic_open(out / "table.md") as file:
        file.write(markdown(rows) + "\n")
    print(f"\n{markdown(rows)}\n\n{time.monotonic() - started:.0f} s; {out}/table.md, .csv, .png")
    draw(out / "table.png", rows)


if __name__ == "__main__":
    run(main)
