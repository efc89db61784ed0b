"""Benchmark of the report for tools/benchmark.py, against metrics computed literally by their definitions."""

import os
import statistics
import subprocess
import sys
import tempfile

import numpy as np

from reports import metrics, published
from tools.timing import PEAK, PIPES, ROOT, time_ways


def quadratic_eer(bonafide, spoof):
    """EER as in the published In-the-Wild script, which recounts all trials at each of them."""
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
    """minDCF that recounts both error rates at each threshold."""
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
