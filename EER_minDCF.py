"""Report EER and minDCF of a score file.

    python EER_minDCF.py --labels_file KEY --path SCORES
    python EER_minDCF.py --labels_file KEY --path SCORES --attack_groups GROUPS.csv
KEY is a protocol with labels, SCORES a line `utt_id score` a trial, GROUPS.csv has the columns attack,group. With a
CtrSVDD key the output is that of the published script, its own EER and minDCF included; with any other key it is a
table of the exact EER with 95 % bootstrap intervals, and the normalised minDCF of ASVspoof 5.
"""

import argparse
import csv
import sys

import numpy as np

import metrics
import protocols
from console import UserError, run
from protocols import BONAFIDE, SPOOF


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Report EER and minDCF of a score file.", allow_abbrev=False)
    parser.add_argument("--path", required=True, help="score file, a line `utt_id score` a trial")
    parser.add_argument("--labels_file", required=True, help="key: a protocol with labels")
    parser.add_argument("--attack_groups", help="CSV of attack,group: a line of the table for every group")
    parser.add_argument("--allow_missing", action="store_true", help="report on the trials that have a score")
    return parser.parse_args(argv)


def match(scores, trials, args):
    """The trials that have a score. Raises UserError for a trial without one, a score without a trial, no label."""
    unlabelled = [trial.utt_id for trial in trials if trial.label is None]
    if unlabelled:
        raise UserError(f"{args.labels_file}: expected labels, found a list of ids without")
    ids = {trial.utt_id for trial in trials}
    missing = [trial.utt_id for trial in trials if trial.utt_id not in scores]
    unknown = [utt_id for utt_id in scores if utt_id not in ids]
    if missing or unknown:
        parts = [f"{len(ids)} trials, {len(scores)} scores"]
        parts += [f"{len(missing)} trials without a score (first {missing[0]})"] if missing else []
        parts += [f"{len(unknown)} scores without a trial (first {unknown[0]})"] if unknown else []
        problem = f"{args.path} does not match {args.labels_file}: " + ", ".join(parts)
        if not args.allow_missing or len(missing) == len(ids):
            raise UserError(f"{problem}; --allow_missing reports on the rest")
        print(f"EER_minDCF.py: warning: {problem}", file=sys.stderr)
    return [trial for trial in trials if trial.utt_id in scores]


def read_groups(path):
    """{group: set of attacks}, in the order of the file."""
    groups = {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != ["attack", "group"]:
                raise UserError(
                    f"{path}:1: expected the header attack,group, found {','.join(reader.fieldnames or [])}"
                )
            for row in reader:
                if not row["attack"] or not row["group"] or None in row:
                    raise UserError(f"{path}:{reader.line_num}: expected attack,group")
                groups.setdefault(row["group"], set()).add(row["attack"])
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return groups


def print_ctrsvdd(scores, trials):
    """The published text. Which trials each line uses: dataset X all of X; excluding A14 all but A14, so with the bona
    fide trials of acesinger; excluding both neither; an attack that attack and all bona fide but acesinger's.
    """
    rule = "-" * 57
    by_id = {trial.utt_id: trial for trial in trials}
    trials = [by_id[utt_id] for utt_id in scores if utt_id in by_id]  # in the order of the score file

    def figures(chosen):
        classes = [[scores[trial.utt_id] for trial in chosen if trial.label == label] for label in (BONAFIDE, SPOOF)]
        eer, min_dcf = metrics.published_ctrsvdd(*classes)
        return f"EER: {100 * eer:.4f}%  minDCF: {min_dcf:.6f}"

    without_a14 = [trial for trial in trials if trial.attack != "A14"]
    without_both = [trial for trial in without_a14 if trial.dataset != "acesinger"]
    print(rule)
    for dataset in dict.fromkeys(trial.dataset for trial in trials):
        if dataset != "acesinger":
            print(f"dataset {dataset} - {figures([trial for trial in trials if trial.dataset == dataset])}")
    print(rule)
    print(f"excluding A14 only, #: {len(without_a14)}\n- {figures(without_a14)}")
    print(rule)
    print(f"excluding both acesinger and A14, #: {len(without_both)}\n- {figures(without_both)}")
    for attack in sorted({trial.attack for trial in without_both if trial.label == SPOOF}):
        print(f"(atkID {attack}) - {figures([t for t in without_both if t.label == BONAFIDE or t.attack == attack])}")
    print(rule)


def print_table(scores, trials, groups):
    """A line for all attacks, for every group and for every attack, each against all bona fide trials."""
    bonafide = np.array([scores[trial.utt_id] for trial in trials if trial.label == BONAFIDE])
    attacks = sorted({trial.attack for trial in trials if trial.label == SPOOF})
    rows = {"pooled": set(attacks)} | {name: members & set(attacks) for name, members in groups.items()}
    rows |= {attack: {attack} for attack in attacks}
    width = max(len(name) for name in rows) + 2
    print(f"{'':{width}}{'EER %':>8}{'95 % interval':>18}{'minDCF':>9}{'bona fide':>11}{'spoof':>8}")
    for name, members in rows.items():
        spoof = np.array([scores[trial.utt_id] for trial in trials if trial.label == SPOOF and trial.attack in members])
        if not len(spoof):
            continue
        eer, _ = metrics.compute_eer(bonafide, spoof)
        low, high = metrics.bootstrap_eer(bonafide, spoof)
        interval = f"{100 * low:.2f} to {100 * high:.2f}"
        min_dcf = metrics.compute_min_dcf(bonafide, spoof)
        print(f"{name:{width}}{100 * eer:8.2f}{interval:>18}{min_dcf:9.4f}{len(bonafide):11}{len(spoof):8}")


def main(argv=None):
    args = parse_args(argv)
    scores = protocols.read_scores(args.path)
    trials = match(scores, protocols.read_protocol(args.labels_file), args)
    groups = read_groups(args.attack_groups) if args.attack_groups else {}
    for label, name in ((BONAFIDE, "bona fide"), (SPOOF, "spoof")):
        if not any(trial.label == label for trial in trials):
            raise UserError(f"{args.labels_file}: expected scored trials of both classes, found no {name} one")
    if trials[0].dataset != "-":
        print_ctrsvdd(scores, trials)
    else:
        print_table(scores, trials, groups)


if __name__ == "__main__":
    run(main)
