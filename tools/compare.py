"""Train several systems alike on one corpus, with one seed or several, score them, and put them side by side.

    python tools/compare.py --corpus demo/corpus --out demo/rivals                             (every back-end)
    python tools/compare.py --train_protocol TRAIN --dev_protocol DEV --key KEY --audio_dir DIR --out OUT \\
        --back_ends Nes2Net_X AASIST --recipes TCM --seeds 1 2 3 --ssl_path xlsr2_300m.pt --epochs 20
Flags that `--help` does not list go to train.py, the same for all systems. Prints a table and writes it as OUT/table.md
and OUT/table.csv, with a picture, OUT/table.png. It can be interrupted at any point: run the same command again to
resume, with more systems or seeds if wished. Other flags need another --out.
"""

import csv
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the project, from wherever this is started

import common.threads  # noqa: F401

import numpy as np
import torch

import checkpoints
from back_ends import BACK_ENDS
from common.atomic import atomic_open, check_outputs
from common.console import SEED, UserError, run
from common.flags import CommandParser
from corpora import BONAFIDE, SPOOF, read_table
from front_ends import FRONT_ENDS
from model import choose_device
from reports.bootstrap import Bootstrap, least_p, p_value, percentile_interval
from reports.conditions import conditions_of, read_groups
from reports.seeds import eers_over_seeds
from reports.systems import read_systems
from reports.tables import shown_p
from tools.cost import costs
from training.recipes import RECIPES

ROOT = Path(__file__).resolve().parent.parent
BASELINE = "Nes2Net_X"
NAMES = [BASELINE, *(name for name in BACK_ENDS if name != BASELINE)]
SCORED = [name for name, recipe in RECIPES.items() if recipe.get("labels", "utterance") == "utterance"]
# How back-ends are trained on the demo corpus; flags of the command line override these.
OF_DEMO = [
    *("--algo", "8", "--crop", "24000", "--crop_place", "random", "--batch_size", "16", "--epochs", "10"),
    *("--optimizer", "AdamW", "--lr", "0.001", "--weight_decay", "0.01", "--schedule", "onecycle"),
    *("--class_weights", "0.5", "0.5", "--keep", "every", "--average_best", "3", "--average_by", "eer"),
]
OURS = {"--model_name", "--recipe", "--seed", "--log_dir", "--foldername", "--resume", "--resume_checkpoint_path"}
DEMO_GROUPS = ("copy-synthesis", "unseen attacks")  # of its groups of attacks, those that are worth a column
FEATURES = 64600  # samples of the utterance whose features the multiply-accumulates are counted on
REPLICATES = 1000


def parse_args(argv=None):
    """(arguments, flags of train.py)"""
    parser = CommandParser(
        description="Train several systems alike on one corpus, score and compare them; other flags go to train.py.",
        examples=["python tools/compare.py --corpus demo/corpus --out demo/rivals"],
        pass_on=True,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--corpus", metavar="FOLDER", help="corpus of tools/make_demo_corpus.py\nsets the three flags below"
    )
    parser.add_argument("--key", metavar="KEY", help="labelled trial list to score, of any corpus")
    parser.add_argument("--audio_dir", metavar="DIR", help="its audio (searched for near the key)")
    parser.add_argument("--attack_groups", metavar="FILE", help="table of attack,group, as for EER_minDCF.py")
    parser.add_argument("--out", default="demo/rivals", metavar="DIR", help="folder of runs, scores and tables")
    parser.add_argument(
        "--back_ends", nargs="+", choices=NAMES, metavar="NAME", help="back-ends (all, without --recipes)"
    )
    of_recipes = dict(nargs="+", choices=SCORED, metavar="NAME", default=[])
    parser.add_argument("--recipes", **of_recipes, help="recipes of train.py\nflags of train.py override theirs")
    parser.add_argument(
        "--seeds", nargs="+", type=SEED, default=[1], metavar="N", help="train each system once per seed"
    )
    parser.add_argument(
        "--front_end", choices=FRONT_ENDS, metavar="NAME", help="front-end (wav2vec2, or that of the recipe)"
    )
    parser.add_argument("--ssl", metavar="NAME", help="encoder, as for train.py (tiny with --corpus)")
    args, flags = parser.parse_known_args(argv)
    if (args.corpus is None) == (args.key is None):
        parser.error("expected one of --corpus and --key")
    for flag in sorted(OURS & {flag.split("=")[0] for flag in flags}):
        parser.error(f"{flag}: set by this program for each run; it takes --back_ends, --recipes, --seeds and --out")
    args.back_ends = list(dict.fromkeys(args.back_ends or ([] if args.recipes else NAMES)))
    args.recipes, args.seeds = list(dict.fromkeys(args.recipes)), list(dict.fromkeys(args.seeds))
    if args.corpus:
        folder = Path(args.corpus)
        args.key = folder / "ASVspoof2019_LA_cm_protocols" / "ASVspoof2019.LA.cm.eval.trl.txt"
        args.audio_dir = folder / "ASVspoof2019_LA_eval" / "flac"
        args.attack_groups = folder / "attack_groups.csv"
        args.ssl = args.ssl or "tiny"
        flags = ["--database_path", args.corpus, *flags]
    return args, flags + (["--ssl", args.ssl] if args.ssl else [])


def systems_of(args):
    """{name of a system: its own flags of train.py}, the baseline first."""
    systems = {}
    for name in args.back_ends:
        systems[name] = ["--model_name", f"{args.front_end or 'wav2vec2'}_{name}", *(OF_DEMO if args.corpus else [])]
        if name.startswith("Nes2Net") and args.ssl == "tiny":
            systems[name] += ["--Nes_ratio", "4", "4"]  # 64 channels are too few for 8 x 8
    for name in args.recipes:
        own = ["--recipe", name]
        if args.front_end:
            own += ["--model_name", f"{args.front_end}_{RECIPES[name]['model_name'].split('_', 1)[1]}"]
        systems[f"recipe_{name}"] = own
    return systems


def script(name, *flags):
    """Run a command of this project. Raises UserError if it fails; the command has printed the reason."""
    command = [sys.executable, str(ROOT / f"{name}.py"), *map(str, flags)]
    if status := subprocess.run(command).returncode:
        raise UserError(f"{' '.join(command)}: ended with status {status}")


def check_key(args):
    """Raise UserError if the key or the groups of attacks would fail the table, after hours of training."""
    table = read_table(args.key, columns=["subset"])
    table.check_labels()
    labels = table.label[table.subset_mask("eval")]
    for label, name in ((BONAFIDE, "bona fide"), (SPOOF, "spoofed")):
        if label not in labels:
            raise UserError(f"--key {args.key}: expected trials of both classes to evaluate, found no {name} one")
    if args.attack_groups:
        read_groups(args.attack_groups)


def check_same_comparison(out, args, flags):
    """Note what this comparison is of. Raises UserError if the folder holds one with other flags."""
    now = {"flags": list(map(str, flags)), "front_end": args.front_end, "key": str(args.key)}
    path = out / "comparison.json"
    if path.exists() and (before := json.loads(path.read_text())) != now:
        raise UserError(f"--out {out}: expected the flags of the comparison there, {before}, found {now}")
    with atomic_open(path) as file:
        json.dump(now, file)


def trained(folder):
    """The newest checkpoint of a run: the average of its best epochs if there is one, or else its best."""
    averages = sorted(folder.glob("*/checkpoints/average_best_*.pth"))
    choices = averages or sorted(folder.glob("*/checkpoints/best_model.pt"))
    if not choices:
        raise UserError(f"{folder}: expected a finished run, found no checkpoint")
    return choices[-1]


def train_and_score(name, own, seed, args, flags):
    """Train and score a system with one seed, unless that is done. Returns the score file."""
    out, runs = Path(args.out) / "scores" / f"{name}_seed{seed}.txt", Path(args.out) / "logs"
    if not out.exists():
        where = ["--log_dir", runs, "--foldername", f"{name}_seed{seed}", "--resume", "auto"]
        script("train", *own, *flags, "--seed", seed, *where)
        audio = ["--audio_dir", args.audio_dir] if args.audio_dir else []
        model = ["--model_path", trained(runs / f"{name}_seed{seed}")]
        script("eval", "--protocol", args.key, *audio, *model, "--test_mode", "full", "--eval_output", out)
    return out


def measure(name, args):
    """Cost of a system, {column: value}, kept in OUT/costs.

    parameters: of its back-end; MMACs: millions of multiply-accumulates of its back-end for 4 s of audio; seconds: of a
    training step of the detector with the batch size and crop of its run, the fastest of 5; on a CPU they are processor
    seconds of all threads together, so that other processes do not count.
    """
    kept = Path(args.out) / "costs" / f"{name}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    path = trained(Path(args.out) / "logs" / f"{name}_seed{args.seeds[0]}")
    training = json.loads((path.parent.parent / "config.json").read_text())["training"]
    device = choose_device()
    detector, inputs = checkpoints.load_detector(path).eval(), []
    with detector.back_end.register_forward_pre_hook(lambda _, given: inputs.extend(given)), torch.no_grad():
        detector(torch.randn(1, FEATURES))
    cost = costs(detector.back_end, *inputs)
    detector.to(device).train().set_trained(front_end=True)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-6, fused=True)
    x = torch.randn(training["batch_size"], training["crop"], device=device)

    clock = time.process_time if device.type == "cpu" else time.perf_counter

    def step():
        started = clock()
        loss = detector(x).square().mean()  # the losses themselves cost next to nothing
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - started

    cost["seconds"] = min([step() for _ in range(6)][1:])
    with atomic_open(kept) as file:
        json.dump(cost, file)
    return cost


def table_of(systems, paths, args):
    """Rows of the table, one per system and the best first: {column: value}, EERs and their intervals in percent.

    paths: score files, system by system, and of each system seed by seed.
    """
    names = [f"{name}_seed{seed}" for name in systems for seed in args.seeds]
    table, scores, *_ = read_systems(args.key, paths, names=names)
    scores = np.reshape([scores[name] for name in names], (len(systems), len(args.seeds), -1))
    groups = read_groups(args.attack_groups) if args.attack_groups else {}
    bootstrap = Bootstrap(table, REPLICATES)
    rows = [{"system": name, **measure(name, args)} for name in systems]
    for condition in conditions_of(table, [["none"]], groups):
        if args.corpus and condition.by == "group" and condition.name not in DEMO_GROUPS:
            continue
        eers, replicates = eers_over_seeds(scores, condition, bootstrap)
        for row, of_seeds, drawn in zip(rows, 100 * eers, 100 * replicates):
            low, high = percentile_interval(drawn)
            sd = float(statistics.stdev(of_seeds)) if len(of_seeds) > 1 else None
            figures = {"best": of_seeds.min(), "mean": of_seeds.mean(), "sd": sd, "low": low, "high": high}
            row |= {f"{condition.name} {what}": value for what, value in figures.items()}
            if condition.by == "pooled":
                difference = drawn - 100 * replicates[0]
                row["p"] = None if row is rows[0] else p_value(difference)
                row["below 50 %"] = "yes" if high < 50 else "no"
    return sorted(rows, key=lambda row: row["pooled mean"]), bootstrap.text


def conditions_in(rows):
    return [column.removesuffix(" mean") for column in rows[0] if column.endswith(" mean")]


def markdown(rows, baseline, n_seeds):
    """The table as Markdown."""
    _, *others = conditions_in(rows)
    mean = "mean ± sd" if n_seeds > 1 else "one seed"
    titles = ["system", "parameters", "MMACs", "step [ms]", f"EER %: best ({mean})", "95 % interval"]
    titles += [f"p against {baseline}", "below 50 %", *(f"{name}: mean EER %" for name in others)]
    lines = ["| " + " | ".join(titles) + " |", "|---" + "|---:" * (len(titles) - 1) + "|"]
    for row in rows:
        spread = f"{row['pooled mean']:.1f} ± {row['pooled sd']:.1f}" if n_seeds > 1 else f"{row['pooled mean']:.1f}"
        cells = [row["system"], f"{row['parameters']:,}", f"{row['MMACs']:.1f}", f"{1000 * row['seconds']:.0f}"]
        cells += [f"{row['pooled best']:.1f} ({spread})", f"{row['pooled low']:.1f} to {row['pooled high']:.1f}"]
        cells += ["" if row["p"] is None else shown_p(row["p"], least_p(np.ones(REPLICATES))), row["below 50 %"]]
        for name in others:
            low, high = row[f"{name} low"], row[f"{name} high"]
            cells.append(f"{row[f'{name} mean']:.1f} ({low:.1f} to {high:.1f})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figure_class():
    """matplotlib's Figure. Raises UserError if it is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"table.png needs matplotlib, which is not installed: {error}") from error
    return Figure


def draw(path, rows, n_seeds):
    """Mean EERs with their intervals, a panel per condition on one scale, and a line at 50 %, where chance is."""
    conditions, places = conditions_in(rows), range(len(rows))[::-1]
    figure = figure_class()(figsize=(1.8 + 3.2 * len(conditions), 0.3 * len(rows) + 1.5), layout="constrained")
    panels = figure.subplots(1, len(conditions), sharex=True, sharey=True, squeeze=False)[0]
    for panel, condition in zip(panels, conditions):
        means, lows, highs = ([row[f"{condition} {what}"] for row in rows] for what in ("mean", "low", "high"))
        reach = np.maximum([np.subtract(means, lows), np.subtract(highs, means)], 0)
        panel.errorbar(means, places, xerr=reach, fmt="o", color="tab:blue", capsize=2)
        panel.axvline(50, color="tab:red", linestyle="--", linewidth=1)
        panel.set(title=condition, xlabel="EER [%]")
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_xlim(0, max(55, 1 + max(row[f"{c} high"] for row in rows for c in conditions)))
    panels[0].set_yticks(places, [row["system"] for row in rows])
    seeds = f"mean of {n_seeds} seeds, 95 % over seeds and trials" if n_seeds > 1 else "one seed, 95 % over trials"
    figure.suptitle(f"{seeds}; dashed: chance", fontsize=10)
    with atomic_open(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110)


def main(argv=None):
    args, flags = parse_args(argv)
    out, started = Path(args.out), time.monotonic()
    outputs = [out / name for name in ("comparison.json", "table.csv", "table.md", "table.png")]
    check_outputs([("--out", path) for path in outputs], [args.key, args.attack_groups])
    check_key(args)
    figure_class()
    check_same_comparison(out, args, flags)
    systems = systems_of(args)
    runs = [(seed, name) for seed in args.seeds for name in systems]  # so that every system soon has a result
    paths = {}
    for number, (seed, name) in enumerate(runs, start=1):
        passed = time.monotonic() - started
        print(f"== {number}/{len(runs)} {name}, seed {seed}; {passed:.0f} s so far", flush=True)
        paths[name, seed] = train_and_score(name, systems[name], seed, args, flags)
    rows, intervals = table_of(systems, [paths[name, seed] for name in systems for seed in args.seeds], args)
    text = markdown(rows, next(iter(systems)), len(args.seeds))
    with atomic_open(out / "table.csv") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with atomic_open(out / "table.md") as file:
        file.write(text + "\n")
    draw(out / "table.png", rows, len(args.seeds))
    print(f"\n{text}\n\n{intervals}; seeds: {args.seeds}, drawn first")
    print(f"{time.monotonic() - started:.0f} s; {out}/table.md, .csv, .png")


if __name__ == "__main__":
    run(main)
