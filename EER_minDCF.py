"""Report the error rates of score files: EER, minDCF and more, pooled and by condition, with confidence intervals.

    python EER_minDCF.py --labels_file KEY --path SCORES
    python EER_minDCF.py --labels_file KEY --path A.txt B.txt --by attack --by codec transmission --plot report.png
    python EER_minDCF.py SCORES KEYS eval                                       (as ASVspoof 2021's evaluation scripts)
    python EER_minDCF.py --labels_file KEY --path SCORES --calibrate DEV_SCORES DEV_KEY
    python EER_minDCF.py --labels_file KEY --path A B --fuse logistic --calibrate A_DEV B_DEV DEV_KEY --write_scores OUT
KEY is a protocol with labels of any corpus (see corpora/), or a folder in which the organisers' key is looked for;
SCORES has a line `utt_id score` a trial, higher being more bona fide. With a CtrSVDD key and no other wish the output
is that of the published script, its own EER and minDCF included; everything else gets aligned tables, --json, --csv
or --latex. Verification scores beside the key, or given, add the t-DCF. `--path FILE.csv` alone reports on a table
with the columns asv_score, cm_score, sasv_label.
"""

import argparse
import csv
import itertools
import json
import math
import os
import re
import sys
from collections import namedtuple
from functools import partial
from pathlib import Path

import common.threads  # noqa: F401

import numpy as np

import corpora
from common.atomic import atomic_open, check_outputs
from common.console import Number, UserError, run
from corpora import BONAFIDE, SPOOF
from reports import bootstrap, calibration, curves, metrics, published

# Columns that the tables break down by where a key has them and nobody asks for others.
BREAKDOWNS = ("dataset", "attack", "codec", "transmission", "source", "vocoder", "gender")
# The order of the published tables; anything else is sorted.
PUBLISHED_ORDER = (
    "none alaw pstn g722 ulaw gsm opus nocodec low_mp3 high_mp3 low_m4a high_m4a low_ogg high_ogg mp3m4a oggm4a"
)
PUBLISHED_ORDER += " traditional_vocoder waveform_concatenation neural_vocoder_autoregressive"
PUBLISHED_ORDER = {
    name: i for i, name in enumerate(f"{PUBLISHED_ORDER} neural_vocoder_nonautoregressive unknown".split())
}
FEWEST_CLUSTERS = 10  # of each class, below which drawing clusters says little
MOST_CLUSTERS = 20_000  # beyond which counting them takes too much memory

# What is reported of a DET curve. point: the index of the operating point that it depends on most, if on any.
Figure = namedtuple("Figure", "key title function point scale digits")
# A set of trials: all that pass `filters`, {column: values}. bonafide, spoof: indices of its trials.
Condition = namedtuple("Condition", "by name filters bonafide spoof")
# A figure of one condition and system; low, high: its 95 % interval, NaN where none was asked for.
Value = namedtuple("Value", "value low high")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Report the error rates of score files, pooled and by condition, with confidence intervals.",
        allow_abbrev=False,
    )
    data = parser.add_argument_group("data")
    data.add_argument("published", nargs="*", metavar="SCORES KEY [SUBSET]", help="instead of the three flags")
    data.add_argument("--path", nargs="+", metavar="SCORES", help="score files, a line `utt_id score` a trial")
    data.add_argument("--labels_file", metavar="KEY", help="protocol with labels, or a folder of keys")
    data.add_argument(
        "--subset", choices=corpora.SUBSETS, help="of an ASVspoof 2021 key, hidden_track being hidden (eval)"
    )
    data.add_argument(
        "--allow_missing",
        action="store_true",
        help="warn of trials without a score, scores without a trial, double and infinite ones, and report on the rest",
    )
    asv = parser.add_argument_group("speaker verification, for the t-DCF")
    asv.add_argument("--asv_scores", metavar="FILE", help="its scores; not given: the organisers' beside the key")
    asv.add_argument("--asv_key", metavar="FILE", help="its key, for --asv_scores in ASVspoof 2021's form")
    asv.add_argument(
        "--asv_rates",
        nargs="+",
        metavar="RATE",
        help="its rates instead: of accepting nontargets, rejecting targets, accepting spoofs; or the word asvspoof5",
    )
    what = parser.add_argument_group("what to report")
    what.add_argument(
        "--by",
        nargs="+",
        action="append",
        metavar="COLUMN",
        help="break down by a column of the key; by two: a grid; several times; none: pooled alone "
        f"(of {', '.join(BREAKDOWNS)} what the key has)",
    )
    what.add_argument("--attack_groups", metavar="CSV", help="table of attack,group: a line for every group")
    what.add_argument(
        "--published", dest="as_published", action="store_true", help="add the corpus's published figures"
    )
    what.add_argument(
        "--miss_rates",
        type=Number(float, 0, 100),
        nargs="+",
        default=[1, 10],
        metavar="PERCENT",
        help="FAR at these FRRs (1 10)",
    )
    what.add_argument(
        "--replicates",
        type=Number(int, 0, 100_000),
        default=1000,
        metavar="N",
        help="of the bootstrap; 0: no intervals (%(default)s)",
    )
    what.add_argument(
        "--cluster",
        metavar="COLUMN",
        help="draw whole clusters: trials that share this column's value; none: trials "
        f"(speaker, where the key names at least {FEWEST_CLUSTERS} of each class)",
    )
    change = parser.add_argument_group("calibration and fusion")
    change.add_argument(
        "--calibrate",
        nargs="+",
        metavar="FILE",
        help="DEV_SCORES of each system, then DEV_KEY: turn scores into log-likelihood ratios",
    )
    change.add_argument(
        "--fuse",
        choices=["average", "logistic"],
        help="add a system: the mean of the scores, or logistic regression trained on --calibrate",
    )
    change.add_argument("--write_scores", metavar="FILE", help="write the fused, or the calibrated, scores")
    out = parser.add_argument_group("output")
    form = out.add_mutually_exclusive_group()
    for name in ("json", "csv", "latex"):
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=f"print {name} instead")
    out.add_argument("--plot", metavar="FILE", help="draw DET curves, histograms and conditions (.png, .pdf, .svg)")
    args = parser.parse_args(argv)

    if args.published:
        if not 2 <= len(args.published) <= 3 or args.path or args.labels_file:
            parser.error("expected SCORES KEY [SUBSET] or --path and --labels_file")
        args.path, args.labels_file = args.published[:1], args.published[1]
        if len(args.published) == 3:
            if args.subset or args.published[2] not in corpora.SUBSETS:
                parser.error(f"expected one subset, of {', '.join(corpora.SUBSETS)}; found {args.published[2]}")
            args.subset = args.published[2]
    if not args.path:
        parser.error("expected --path")
    if not args.labels_file and (len(args.path) > 1 or not args.path[0].endswith(".csv")):
        parser.error("--path needs --labels_file, or is one .csv with the columns asv_score, cm_score, sasv_label")
    if args.calibrate and len(args.calibrate) != len(args.path) + 1:
        n = len(args.path)
        parser.error(f"--calibrate: expected {n} score files and their key, found {len(args.calibrate)} files")
    if args.fuse and len(args.path) < 2:
        parser.error("--fuse: expected several score files")
    if args.fuse == "logistic" and not args.calibrate:
        parser.error("--fuse logistic needs --calibrate, to be trained on")
    if args.write_scores and not (args.fuse or (args.calibrate and len(args.path) == 1)):
        parser.error("--write_scores: expected --fuse, or --calibrate with one score file")
    if args.asv_key and not args.asv_scores:
        parser.error("--asv_key needs --asv_scores")
    if args.asv_rates and args.asv_scores:
        parser.error("--asv_rates and --asv_scores exclude each other")
    if args.asv_rates and args.asv_rates != ["asvspoof5"]:
        try:
            args.asv_rates = metrics.AsvRates(*map(Number(float, 0, 1), args.asv_rates))
        except (TypeError, argparse.ArgumentTypeError):
            parser.error(
                f"--asv_rates: expected three rates from 0 to 1 or asvspoof5, found {' '.join(args.asv_rates)}"
            )
    elif args.asv_rates:
        args.asv_rates = metrics.ASVSPOOF5_ASV_RATES
    if args.by and any(len(columns) > 2 for columns in args.by):
        parser.error("--by: expected one column or two")
    if args.plot and not args.plot.lower().endswith((".png", ".pdf", ".svg")):
        parser.error(f"--plot: expected a file name in .png, .pdf or .svg, found {args.plot}")
    return args


# ------------------------------------------------------------------------------------------- trials and their scores


def align(path, read, table, allow_missing, wanted=None):
    """The scores of a file in the order of a table: (scores (trials,), NaN where there is none; places; counts).

    read: the file as read_score_columns gives it. places: (trials,) where in it a score stands. wanted: (trials,) mask
    of the trials that must have one. Raises UserError that counts what does not fit, unless allow_missing: then it is
    counted and printed as a warning.
    """
    names, values, lines = read
    wanted = np.ones(len(table), bool) if wanted is None else wanted
    place = None
    if names == table.utt_id:
        places, n_double, unknown = np.arange(len(table)), 0, []
    else:
        place = dict(zip(names, range(len(names))))  # of a name that stands twice the last counts
        n_double = len(names) - len(place)
        places = np.fromiter(map(place.get, table.utt_id, itertools.repeat(-1)), np.int64, len(table))
        unknown = []
        if np.sum(places >= 0) < len(place):
            known = set(table.utt_id)
            unknown = [name for name in place if name not in known]
    scores = np.where(places >= 0, values[places], np.nan)
    absent = np.flatnonzero(wanted & (places < 0))
    broken = np.flatnonzero(~np.isfinite(values))
    counts = {
        "trials": int(wanted.sum()),
        "scores": len(names),
        "missing": len(absent),
        "unknown": len(unknown),
        "duplicates": n_double,
        "not_finite": len(broken),
    }
    problems = []
    if len(absent):
        problems.append(f"{len(absent)} trials without a score (first {table.utt_id[absent[0]]})")
    if unknown:
        problems.append(f"{len(unknown)} scores without a trial (first {unknown[0]})")
    if n_double:
        seen = set()
        i = next(i for i, name in enumerate(names) if name in seen or seen.add(name))
        problems.append(f"{n_double} scores of trials that have one already (first {names[i]} in line {lines[i]})")
    if len(broken):
        problems.append(
            f"{len(broken)} scores that are NaN or infinite (first {names[broken[0]]} in line {lines[broken[0]]})"
        )
    if problems:
        problem = f"{path} does not match {table.path}: {counts['trials']} trials, {len(names)} scores, " + ", ".join(
            problems
        )
        if not allow_missing or not np.any(np.isfinite(scores[wanted])):
            raise UserError(f"{problem}; --allow_missing reports on the rest")
        print(f"EER_minDCF.py: warning: {problem}", file=sys.stderr)
    scores[~np.isfinite(scores)] = np.nan
    return scores, places, counts


def read_systems(args):
    """(table of the trials to report on, {system: scores (trials,)}, {system: checks}, places in the first file)."""
    key, read = args.labels_file, [corpora.read_score_columns(path) for path in args.path]
    if os.path.isdir(key):
        key = corpora.find_key(key, read[0][0][0])
    columns = {"speaker", "subset", args.cluster, *BREAKDOWNS, *itertools.chain(*(args.by or []))}
    table = corpora.read_table(key, columns=columns)
    if np.all(table.label == corpora.UNKNOWN):
        raise UserError(f"{table.path}: expected labels, found a list of ids without")
    mask = table.subset_mask(args.subset or "eval")
    systems, checks, places = {}, {}, None
    for name, path, scored in zip(system_names(args.path), args.path, read):
        scores, where, counts = align(path, scored, table, args.allow_missing, mask)
        systems[name], checks[name] = scores, {"path": str(path), **counts}
        places = where if places is None else places
    mask = mask & np.all(np.isfinite(list(systems.values())), axis=0)  # every system on the same trials
    if not mask.all():
        table, places = table.select(mask), places[mask]
        systems = {name: scores[mask] for name, scores in systems.items()}
    return table, systems, checks, places


def system_names(paths):
    stems = [Path(path).stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def read_asv(args, table):
    """AsvTrials, AsvRates, or None where there is no speaker verification."""
    if args.asv_rates:
        return args.asv_rates
    found = (args.asv_scores, args.asv_key) if args.asv_scores else corpora.find_asv(table.path, table.corpus)
    if not found:
        return None
    asv = corpora.read_asv_trials(*found)
    if "subset" in asv.columns and args.subset != "all":
        codes, values = asv.columns["subset"]
        subset = corpora.SUBSETS[args.subset or "eval"]
        asv = choose_asv(asv, codes == (values.index(subset) if subset in values else -1))
    return asv


def choose_asv(asv, mask):
    columns = {name: corpora.Column(codes[mask], values) for name, (codes, values) in asv.columns.items()}
    return corpora.AsvTrials(asv.score[mask], asv.kind[mask], columns)


def asv_rates(asv, filters):
    """AsvRates for a condition, None where there are none: an attack chooses among the spoofs alone, a codec among all
    trials, as the organisers' package has it; other columns choose none.
    """
    if asv is None or isinstance(asv, metrics.AsvRates):
        return asv
    for name in {"attack", "codec"} & filters.keys() & asv.columns.keys():
        codes, values = asv.columns[name]
        mask = np.isin(codes, [i for i, value in enumerate(values) if value in filters[name]])
        asv = choose_asv(asv, mask | (asv.kind != corpora.ASV_SPOOF) if name == "attack" else mask)
    classes = [asv.score[asv.kind == kind] for kind in (corpora.TARGET, corpora.NONTARGET, corpora.ASV_SPOOF)]
    return metrics.asv_error_rates(*classes) if all(map(len, classes)) else None


# -------------------------------------------------------------------------------------------- calibration and fusion


def calibrate_and_fuse(args, systems):
    """Replace scores by log-likelihood ratios and add a fused system, as the flags say."""
    systems = dict(systems)
    if args.calibrate:
        *files, key = args.calibrate
        table = corpora.read_table(key, columns=())
        read = [corpora.read_score_columns(file) for file in files]
        dev = np.column_stack([align(file, r, table, args.allow_missing)[0] for file, r in zip(files, read)])
        labels = [(table.label == label) & np.all(np.isfinite(dev), axis=1) for label in (BONAFIDE, SPOOF)]
        if not all(mask.any() for mask in labels):
            raise UserError(f"{key}: expected scored trials of both classes to calibrate with")
    everything = np.column_stack(list(systems.values()))
    if args.calibrate:
        for k, name in enumerate(systems):
            weights, offset = calibration.train_calibration(*(dev[mask, k] for mask in labels))
            note(f"calibration of {name}: {weights[0]:.6g} score {offset:+.6g}")
            systems[name] = weights[0] * systems[name] + offset
    if args.fuse == "average":
        systems["fusion"] = np.mean(list(systems.values()), axis=0)
    elif args.fuse:
        weights, offset = calibration.train_calibration(*(dev[mask] for mask in labels))
        note(f"fusion: {' '.join(f'{w:+.6g} {name}' for w, name in zip(weights, systems))} {offset:+.6g}")
        systems["fusion"] = everything @ weights + offset
    return systems


def note(text):
    print(f"EER_minDCF.py: {text}", file=sys.stderr)


# --------------------------------------------------------------------------------------------------- the conditions


def natural(value):
    """Sort key: published order first, numbers by value, so that A2 stands before A10."""
    parts = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", value)]
    return PUBLISHED_ORDER.get(value, len(PUBLISHED_ORDER)), parts


def partition(table, columns):
    """The trials by the values of some columns: (values of each column, {tuple of values: indices}) for bona fide and
    spoofed trials. Where bona fide trials have no value, as of an attack, they pass every one of that column.
    """
    for column in columns:
        if column not in table.columns:
            raise UserError(f"--by {column}: {table.path} has no such column, but {', '.join(table.names) or 'none'}")
    values, parts = [], []
    described = {}
    for column in columns:
        codes, words = table.columns[column]
        of_bonafide = {words[code] for code in np.unique(codes[table.label == BONAFIDE])}
        described[column] = of_bonafide - {"-"}
        found = {words[code] for code in np.unique(codes)}
        values.append(sorted(found if described[column] else found - {"-"}, key=natural))
    for label in (BONAFIDE, SPOOF):
        indices = np.flatnonzero(table.label == label)
        telling = [column for column in columns if label == SPOOF or described[column]]
        joint = np.zeros(len(indices), np.int64)
        for column in telling:
            codes, words = table.columns[column]
            joint = joint * len(words) + codes[indices]
        order = np.argsort(joint, kind="stable")
        present, first = np.unique(joint[order], return_index=True)
        groups = dict(zip(present.tolist(), np.split(indices[order], first[1:])))

        def part(*wanted, telling=telling, groups=groups):
            joint = 0
            for column, value in zip(columns, wanted):
                if column in telling:
                    words = table.columns[column].values
                    joint = joint * len(words) + words.index(value)
            return groups.get(joint, np.zeros(0, int))

        parts.append({wanted: part(*wanted) for wanted in itertools.product(*values)})
    return values, *parts


def conditions_of(table, args, groups):
    """Every Condition of the report: pooled, groups of attacks, then the columns asked for."""
    everything = [np.flatnonzero(table.label == label) for label in (BONAFIDE, SPOOF)]
    found = [Condition("pooled", "pooled", {}, *everything)]
    if table.corpus == "CtrSVDD" and "acesinger" in table.columns["dataset"].values and args.by is None:
        for (by, name), mask in ctrsvdd_masks(table).items():
            found.append(Condition(by, name, {}, *(indices[mask[indices]] for indices in everything)))
        return found
    if groups:
        _, bonafide, spoof = partition(table, ["attack"])
    for name, members in groups.items():
        present = [(attack,) for attack in members if (attack,) in spoof]
        if present:
            members_spoof = np.sort(np.concatenate([spoof[attack] for attack in present]))
            found.append(Condition("group", name, {"attack": members}, bonafide[present[0]], members_spoof))
    asked = args.by or [[name] for name in BREAKDOWNS if name in table.columns]
    for columns in asked:
        if columns == ["none"]:
            continue
        values, bonafide, spoof = partition(table, columns)
        if args.by is None and len(values[0]) < 2:
            continue
        for wanted in itertools.product(*values):
            filters = {column: {value} for column, value in zip(columns, wanted)}
            name = " / ".join(value.replace(" / ", "/") for value in wanted)
            found.append(Condition(" x ".join(columns), name, filters, bonafide[wanted], spoof[wanted]))
    return found


def ctrsvdd_masks(table):
    """{(by, name): mask} of the published lines and of the organisers': dataset X all of it; excluding A14 only all
    but A14, so with the bona fide trials of acesinger; an attack that attack and all bona fide trials but
    acesinger's, with these for A14.
    """
    (datasets, dataset_names), (attacks, attack_names) = table.columns["dataset"], table.columns["attack"]
    ace = datasets == dataset_names.index("acesinger")
    a14 = attacks == (attack_names.index("A14") if "A14" in attack_names else -1)
    is_bonafide = table.label == BONAFIDE
    found = {("excluding", "A14 only"): ~a14, ("excluding", "both acesinger and A14"): ~a14 & ~ace}
    for code in sorted(set(datasets.tolist()), key=lambda code: dataset_names[code]):
        found["dataset", dataset_names[code]] = datasets == code
    for name in sorted({attack_names[code] for code in np.unique(attacks[~is_bonafide])}, key=natural):
        mask = attacks == attack_names.index(name)
        found["attack", name] = mask | is_bonafide if name == "A14" else (mask | is_bonafide) & ~ace
    return found


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
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from error
    return groups


# ------------------------------------------------------------------------------------------------------ the figures


def figures_of(asv, corpus):
    """The figures of every condition. asv: its AsvRates, or None."""
    dcf = dict(zip(("miss", "false_alarm"), curves.dcf_weights()))
    found = [
        Figure("eer", "EER %", curves.curve_eer, curves.eer_point, 100, 3),
        cost_figure("min_dcf", "minDCF", dcf),
    ]
    if asv is not None:
        version = "2019" if corpus == "ASVspoof2019_LA" else "2021"
        found.append(tdcf_figure(asv, version))
    return found


def cost_figure(key, title, weights):
    point = partial(curves.min_cost_point, **weights)
    return Figure(key, title, partial(curves.curve_min_cost, **weights), point, 1, 4)


def tdcf_figure(asv, version):
    weights = dict(zip(("miss", "false_alarm", "floor"), metrics.tdcf_weights(asv, version)))
    return cost_figure(f"min_tdcf_{version}", f"min t-DCF {version}", weights)


def pooled_figures(asv, corpus, miss_rates):
    """The figures that are given for all trials only."""
    found = [
        Figure("act_dcf", "actDCF", curves.curve_act_dcf, curves.bayes_point, 1, 4),
        Figure("cllr", "Cllr, bits", lambda curve: curve.cllr, None, 1, 4),
        Figure("min_cllr", "min Cllr, bits", curves.curve_min_cllr, None, 1, 4),
        Figure("auc", "AUC", curves.curve_auc, None, 1, 6),
    ]
    if asv is not None:
        found.append(tdcf_figure(asv, "2021" if corpus == "ASVspoof2019_LA" else "2019"))
    for rate in miss_rates:
        far, point = (partial(function, frr=rate / 100) for function in (curves.curve_far_at, curves.far_at_point))
        found.append(Figure(f"far_at_frr_{rate:g}", f"FAR % at FRR {rate:g} %", far, point, 100, 3))
    return found


def published_figures(corpus, bonafide, spoof):
    """{(key, title): value} as the corpus's published program computes them."""
    if corpus == "CtrSVDD":
        eer, min_dcf = published.published_ctrsvdd(bonafide, spoof)
        return {"published_eer": eer, "published_min_dcf": min_dcf}
    function = published.published_in_the_wild if corpus == "in_the_wild" else published.published_asvspoof
    return {"published_eer": function(bonafide, spoof)}


PUBLISHED = {
    "published_eer": Figure("published_eer", "published EER %", None, None, 100, 4),
    "published_min_dcf": Figure("published_min_dcf", "published minDCF", None, None, 1, 6),
}


def fewest_clusters(*classes):
    """How many different codes there are in the class that has the fewest of them."""
    return min(np.count_nonzero(np.bincount(codes)) for codes in classes)


class Bootstrap:
    """How the intervals are made. text says it in words."""

    def __init__(self, args, table):
        self.n, self.codes, self.weights = args.replicates, None, None
        is_bonafide = table.label == BONAFIDE
        column, self.fewest = args.cluster or "speaker", 2 if args.cluster else FEWEST_CLUSTERS
        if args.cluster not in (None, "none", *table.columns):
            have = ", ".join(table.names) or "none"
            raise UserError(f"--cluster {column}: {table.path} has no such column, but {have}")
        if column != "none" and column in table.columns:
            _, codes = np.unique(table.columns[column].codes, return_inverse=True)
            n = int(codes.max()) + 1
            if args.cluster and n > MOST_CLUSTERS:
                raise UserError(f"--cluster {column}: expected at most {MOST_CLUSTERS} different values, found {n}")
            if n <= MOST_CLUSTERS and fewest_clusters(codes[is_bonafide], codes[~is_bonafide]) >= self.fewest:
                self.codes = codes
        if not self.n:
            self.text = "no intervals"
        elif self.codes is None:
            self.text = f"intervals: 95 %, {self.n} bootstrap replicates of trials, drawn within each class"
        else:
            self.weights = bootstrap.cluster_weights(self.codes, is_bonafide, self.n)
            self.text = f"intervals: 95 %, {self.n} bootstrap replicates of whole {column}s ({n} of them), "
            self.text += f"of trials where there are fewer than {self.fewest} of a class"

    def curves(self, scores, condition, points, cllr=False):
        """(exact, coarse, replicates) Curves of each of several score arrays; the last two None without intervals."""
        classes = [[s[index] for s in scores] for index in (condition.bonafide, condition.spoof)]
        if not self.n:
            return [(curves.det_curve(*pair, cllr=cllr), None, None) for pair in zip(*classes)]
        clusters = None
        if self.codes is not None:
            clusters = [self.codes[index] for index in (condition.bonafide, condition.spoof)]
            if fewest_clusters(*clusters) < self.fewest:
                clusters = None
        return bootstrap.bootstrap_curves(*classes, self.n, 0, clusters, self.weights, points, cllr)


def figure_value(figure, exact, coarse, replicates):
    """(Value, replicates or None)"""
    if coarse is None:
        return Value(float(figure.function(exact)), math.nan, math.nan), None
    value, drawn = bootstrap.bootstrap_figure(figure.function, exact, coarse, replicates)
    return Value(value, *bootstrap.percentile_interval(drawn)), drawn


def measure(table, systems, conditions, asv, args, intervals):
    """One row a condition and system: {by, name, system, n_bonafide, n_spoof, figures {key: Value}}, and their
    Figures by key. A condition without trials of both classes has no figures.
    """
    rows, titles = [], {}
    for condition in conditions:
        both = len(condition.bonafide) > 0 and len(condition.spoof) > 0
        figures = []
        if both:
            rates = asv_rates(asv, condition.filters)
            try:
                figures = figures_of(rates, table.corpus)
            except UserError:  # the verification of this condition's few trials leaves a t-DCF no meaning
                if condition.by == "pooled":
                    raise
                figures = figures_of(None, table.corpus)
            if condition.by == "pooled":
                figures += pooled_figures(rates, table.corpus, args.miss_rates)
        titles |= {figure.key: figure for figure in figures}
        points = [figure.point for figure in figures if figure.point]
        for name, scores in systems.items():
            values = {}
            if both:
                (drawn,) = intervals.curves([scores], condition, points, cllr="cllr" in [f.key for f in figures])
                values = {figure.key: figure_value(figure, *drawn)[0] for figure in figures}
                if args.as_published:
                    classes = scores[condition.bonafide], scores[condition.spoof]
                    for key, value in published_figures(table.corpus, *classes).items():
                        values[key] = Value(value, math.nan, math.nan)
                        titles[key] = PUBLISHED[key]
            rows.append(
                {
                    "by": condition.by,
                    "name": condition.name,
                    "system": name,
                    "n_bonafide": len(condition.bonafide),
                    "n_spoof": len(condition.spoof),
                    "figures": values,
                }
            )
    return rows, titles


def compare(systems, pooled, intervals, corpus, asv):
    """Every pair of systems on the same trials and the same draws of them: {first, second, figure, difference, low,
    high, p}, the difference being first - second.
    """
    figures = figures_of(asv_rates(asv, {}), corpus)
    found = []
    for pair in itertools.combinations(systems, 2):
        both = intervals.curves([systems[name] for name in pair], pooled, [figure.point for figure in figures])
        for figure in figures:
            (first, drawn_first), (second, drawn_second) = (figure_value(figure, *c) for c in both)
            differences = drawn_first - drawn_second
            low, high = bootstrap.percentile_interval(differences)
            found.append(
                {
                    "first": pair[0],
                    "second": pair[1],
                    "figure": figure.key,
                    "difference": first.value - second.value,
                    "low": low,
                    "high": high,
                    "p": bootstrap.p_value(differences),
                }
            )
    return found


def sasv_figures(values, kind, n_replicates):
    """{key: Value} of what judges both detectors together: t-EER and, of a column sasv_score, a-DCF."""
    kinds = [kind == k for k in (corpora.TARGET, corpora.NONTARGET, corpora.ASV_SPOOF)]
    pairs = np.column_stack([values["asv_score"], values["cm_score"]])
    statistics = {"t_eer": (lambda *trials: metrics.compute_t_eer(*trials)[0], pairs)}
    if "sasv_score" in values:
        statistics["a_dcf"] = (metrics.compute_a_dcf, values["sasv_score"])
    found = {}
    for key, (statistic, trials) in statistics.items():
        classes = [trials[mask] for mask in kinds]
        interval = (math.nan, math.nan)
        if n_replicates:  # each computed anew from drawn trials: fewer replicates
            drawn = bootstrap.bootstrap_statistic(statistic, *classes, n_replicates=min(n_replicates, 200))
            interval = bootstrap.percentile_interval(drawn)
        found[key] = Value(statistic(*classes), *interval)
    return found


SASV = {"t_eer": Figure("t_eer", "t-EER %", None, None, 100, 3), "a_dcf": Figure("a_dcf", "a-DCF", None, None, 1, 4)}


# ------------------------------------------------------------------------------------------------------- the output


def print_ctrsvdd(scores, table, places):
    """The published text; see ctrsvdd_masks for the trials of each line."""
    rule = "-" * 57
    order = np.argsort(places)  # the order of the score file
    datasets, dataset_names = table.columns["dataset"]
    attacks, attack_names = table.columns["attack"]
    is_bonafide = table.label == BONAFIDE
    ace = datasets == (dataset_names.index("acesinger") if "acesinger" in dataset_names else -1)
    without_a14 = attacks != (attack_names.index("A14") if "A14" in attack_names else -1)
    without_both = without_a14 & ~ace

    def figures(mask):
        eer, min_dcf = published.published_ctrsvdd(scores[mask & is_bonafide], scores[mask & ~is_bonafide])
        return f"EER: {100 * eer:.4f}%  minDCF: {min_dcf:.6f}"

    print(rule)
    for code in dict.fromkeys(datasets[order].tolist()):
        if dataset_names[code] != "acesinger":
            print(f"dataset {dataset_names[code]} - {figures(datasets == code)}")
    print(rule)
    print(f"excluding A14 only, #: {without_a14.sum()}\n- {figures(without_a14)}")
    print(rule)
    print(f"excluding both acesinger and A14, #: {without_both.sum()}\n- {figures(without_both)}")
    for attack in sorted(attack_names[code] for code in np.unique(attacks[without_both & ~is_bonafide])):
        mask = attacks == attack_names.index(attack)
        print(f"(atkID {attack}) - {figures(without_both & (is_bonafide | mask))}")
    print(rule)


def aligned(rows):
    """Lines of a table, rows of str: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]).rstrip()
        for row in rows
    ]


def shown(figure, value):
    return "-" if value is None or math.isnan(value) else f"{figure.scale * value:.{figure.digits}f}"


def interval(figure, value):
    return "" if math.isnan(value.low) else f"{shown(figure, value.low)} to {shown(figure, value.high)}"


def table_rows(rows, titles, keys, by_system):
    """Rows of str for one breakdown: name, figures with their intervals, counts of trials."""
    head = [rows[0]["by"], *(["system"] if by_system else [])]
    with_intervals = any(not math.isnan(value.low) for row in rows for value in row["figures"].values())
    for key in keys:
        head += [titles[key].title] + (["95 % interval"] if with_intervals and not key.startswith("published") else [])
    head[0] = "" if rows[0]["by"] == "pooled" else head[0]
    lines = [[*head, "bona fide", "spoof"]]
    for row in rows:
        line = [row["name"], *([row["system"]] if by_system else [])]
        for key in keys:
            value = row["figures"].get(key, Value(math.nan, math.nan, math.nan))
            line.append(shown(titles[key], value.value))
            if with_intervals and not key.startswith("published"):
                line.append(interval(titles[key], value))
        lines.append([*line, str(row["n_bonafide"]), str(row["n_spoof"])])
    return lines


def sections(rows):
    """Consecutive rows of one breakdown; pooled and groups of attacks lead the first table."""
    by = {"group": "pooled", "excluding": "pooled"}
    return [list(part) for _, part in itertools.groupby(rows, key=lambda row: by.get(row["by"], row["by"]))]


def keys_of_tables(titles):
    pooled_only = {"act_dcf", "cllr", "min_cllr", "auc", *SASV}
    keys = [key for key in titles if key not in pooled_only and not key.startswith("far_at")]
    tdcf = [key for key in keys if key.startswith("min_tdcf")]
    return [key for key in keys if key not in tdcf[1:]]


def print_tables(report):
    rows, titles, systems = report["rows"], report["titles"], list(report["checks"])
    counts = rows[0]
    print(
        f"{report['corpus']}{report['subset']}: {counts['n_bonafide']} bona fide and {counts['n_spoof']} spoofed trials"
    )
    print(f"key: {report['key']}")
    for name, check in report["checks"].items():
        left_out = [
            f"{check[k]} {k.replace('_', ' ')}"
            for k in ("missing", "unknown", "duplicates", "not_finite")
            if check.get(k)
        ]
        print(f"scores: {check['path']}{f' ({name})' if len(systems) > 1 else ''}{', '.join(['', *left_out])}")
    print(report["intervals"])
    keys = keys_of_tables(titles)
    by_system = len({row["system"] for row in rows}) > 1
    for part in sections(rows):
        print()
        if " x " in part[0]["by"]:
            print_grids(part, titles, keys)
        else:
            print(*aligned(table_rows(part, titles, keys, by_system)), sep="\n")
    print()
    for row in rows:
        if row["by"] == "pooled":
            rest = [(titles[key], value) for key, value in row["figures"].items() if key not in keys]
            lines = [[figure.title, shown(figure, value.value), interval(figure, value)] for figure, value in rest]
            head = "all trials" + (f", {row['system']}" if by_system else "")
            print(*aligned([[head, "", "95 % interval" if any(line[2] for line in lines) else ""], *lines]), sep="\n")
    if not report["calibrated"]:
        print("actDCF and Cllr take scores for natural log-likelihood ratios; see --calibrate")
    if report["comparisons"]:
        lines = [["difference", "", "95 % interval", "p"]]
        for c in report["comparisons"]:
            figure = titles[c["figure"]]
            low, high = shown(figure, c["low"]), shown(figure, c["high"])
            name = f"{figure.title}: {c['first']} - {c['second']}"
            lines.append([name, shown(figure, c["difference"]), f"{low} to {high}", f"{c['p']:.3f}"])
        print(*["", *aligned(lines)], sep="\n")


def print_grids(rows, titles, keys):
    """A grid for each figure and system: the first column's values down, the second's across."""
    for system, key in itertools.product(dict.fromkeys(row["system"] for row in rows), keys):
        cells = {row["name"]: row["figures"].get(key) for row in rows if row["system"] == system}
        down, across = (list(dict.fromkeys(name.split(" / ")[i] for name in cells)) for i in (0, 1))
        lines = [[f"{titles[key].title}, {system}", *across]]
        for name in down:
            values = [cells.get(f"{name} / {other}") for other in across]
            lines.append([name, *(shown(titles[key], value and value.value) for value in values)])
        print(*aligned(lines), "", sep="\n")
    counts = {row["name"]: f"{row['n_bonafide']}+{row['n_spoof']}" for row in rows}
    lines = [["bona fide+spoof", *across]]
    print(*aligned(lines + [[name, *(counts[f"{name} / {other}"] for other in across)] for name in down]), sep="\n")


def as_json(report):
    def plain(value):
        interval = {} if math.isnan(value.low) else {"low": value.low, "high": value.high}
        return {"value": None if math.isnan(value.value) else value.value, **interval}

    rows = [{**row, "figures": {k: plain(v) for k, v in row["figures"].items()}} for row in report["rows"]]
    report = {key: value for key, value in report.items() if key != "titles"}
    return json.dumps({**report, "subset": report["subset"].strip(), "rows": rows}, indent=1)


def print_csv(report):
    keys = list(report["titles"])
    writer = csv.writer(sys.stdout, lineterminator="\n")
    counts = ["by", "name", "system", "n_bonafide", "n_spoof"]
    writer.writerow(counts + [column for key in keys for column in (key, f"{key}_low", f"{key}_high")])
    for row in report["rows"]:
        values = [v for key in keys for v in row["figures"].get(key, Value(math.nan, math.nan, math.nan))]
        writer.writerow([row[name] for name in counts] + ["" if math.isnan(v) else repr(float(v)) for v in values])


def print_latex(report):
    """A table for a paper, in the manner of the package booktabs; intervals in brackets."""

    def escaped(text):
        special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
        return re.sub(r"[\\~^%_&#${}]", lambda found: special.get(found[0], "\\" + found[0]), text)

    rows, titles = report["rows"], report["titles"]
    keys = keys_of_tables(titles)
    by_system = len({row["system"] for row in rows}) > 1
    n_left = 1 + by_system
    print(f"% \\usepackage{{booktabs}}; {escaped(report['intervals'])}")
    print(f"\\begin{{tabular}}{{{'l' * n_left}{'r' * (len(keys) + 2)}}}\n\\toprule")
    head = ["condition", *(["system"] if by_system else []), *(titles[key].title for key in keys), "bona fide", "spoof"]
    print(" & ".join(map(escaped, head)), r"\\")
    for part in sections(rows):
        print(r"\midrule")
        for row in part:
            cells = [row["name"], *([row["system"]] if by_system else [])]
            for key in keys:
                value = row["figures"].get(key, Value(math.nan, math.nan, math.nan))
                low_high = (
                    ""
                    if math.isnan(value.low)
                    else f" [{shown(titles[key], value.low)}, {shown(titles[key], value.high)}]"
                )
                cells.append(shown(titles[key], value.value) + low_high)
            print(" & ".join(map(escaped, [*cells, str(row["n_bonafide"]), str(row["n_spoof"])])), r"\\")
    print("\\bottomrule\n\\end{tabular}")


def draw(path, report, systems, pooled):
    """DET curves on normal deviates with the EER marked, histograms of the scores, and the EER of every condition."""
    try:
        from matplotlib import figure as drawing
    except ImportError as error:
        raise UserError(f"--plot needs matplotlib, which is not installed: {error}") from error

    parts = [part for part in sections(report["rows"]) if part[0]["by"] != "pooled"]
    bars = next((part for part in parts if part[0]["by"] == "attack"), parts[-1] if parts else None)
    figure = drawing.Figure(figsize=(11, 7 if bars else 4.5), layout="constrained")
    grid = figure.add_gridspec(2 if bars else 1, 2, width_ratios=[1, 1.2])
    classes = {name: (scores[pooled.bonafide], scores[pooled.spoof]) for name, scores in systems.items()}
    draw_det(figure.add_subplot(grid[0, 0]), classes)
    axes = grid[0, 1].subgridspec(len(systems), 1).subplots(squeeze=False)[:, 0]
    for i, (axis, name) in enumerate(zip(axes, systems)):
        draw_histogram(axis, *classes[name], f"C{i}")
        if len(systems) > 1:
            axis.set_title(name, fontsize="medium", loc="left")
        else:
            axis.set_ylabel("share of the class")
    axes[-1].set_xlabel("score")
    if bars:
        draw_bars(figure.add_subplot(grid[1, :]), bars, list(systems))
    with atomic_open(path, "wb") as file:
        figure.savefig(file, format=Path(path).suffix[1:].lower(), dpi=120)


def draw_det(axis, classes):
    """The DET curve of each system, {name: (bona fide, spoof)}; at most some thousand points of each."""
    lowest = 0.5 / max(len(scores) for pair in classes.values() for scores in pair)  # stands for a rate of 0
    clipped = partial(np.clip, a_min=lowest, a_max=1 - lowest)
    least, highest = [], 0.6
    for name, (bonafide, spoof) in classes.items():
        curve = curves.det_curve(bonafide, spoof)
        eer = float(curves.curve_eer(curve))
        kept = bootstrap.kept_points(curve, len(bonafide), len(spoof), [curves.eer_point], n=1500)
        far, frr = clipped(curve.far[kept]), clipped(curve.frr[kept])
        line, *_ = axis.plot(deviate(far), deviate(frr), drawstyle="steps-post", label=f"{name}, EER {100 * eer:.2f} %")
        axis.plot(deviate(clipped(eer)), deviate(clipped(eer)), "o", color=line.get_color())
        highest = max(highest, min(1.1 * eer, 0.99))
        least += [
            rate[(other <= highest) & (rate > lowest)].min(initial=eer) for rate, other in ((far, frr), (frr, far))
        ]
    ends = deviate(np.array([max(min(min(least), 0.05) / 1.5, lowest), highest]))
    rates = np.array([1e-5, 1e-4, 0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95])
    labels = [f"{100 * rate:g}" for rate in rates]
    axis.set_xticks(deviate(rates), labels)
    axis.set_yticks(deviate(rates), labels)
    axis.plot(ends, ends, color="0.7", linewidth=0.8, zorder=0)
    axis.set(xlim=ends, ylim=ends, xlabel="false acceptance rate, %", ylabel="false rejection rate, %", aspect="equal")
    axis.grid(color="0.9")
    axis.legend(fontsize="small", loc="best")


def deviate(rates):
    """The normal deviates of rates between 0 and 1, array or number."""
    from statistics import NormalDist

    return np.vectorize(NormalDist().inv_cdf)(rates)


def draw_histogram(axis, bonafide, spoof, colour):
    ends = np.quantile(bonafide, [0.001, 0.999]), np.quantile(spoof, [0.001, 0.999])
    low, high = np.min(ends), np.max(ends)
    edges = np.linspace(low, high, 81) if low < high else np.linspace(low - 0.5, low + 0.5, 81)
    looks = {"spoof": {"fill": True, "alpha": 0.4}, "bona fide": {"linewidth": 1.5}}
    for label, scores in (("spoof", spoof), ("bona fide", bonafide)):
        shares = np.histogram(scores, edges)[0] / len(scores)
        axis.stairs(shares, edges, color=colour, label=label, **looks[label])
    axis.set_yticks([])
    axis.legend(fontsize="small")


def draw_bars(axis, rows, systems):
    """The EER of each condition, with its interval."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    width = 0.8 / len(systems)
    for i, system in enumerate(systems):
        own = [row for row in rows if row["system"] == system and row["figures"]]
        x = [names.index(row["name"]) + (i - (len(systems) - 1) / 2) * width for row in own]
        value, low, high = 100 * np.array([row["figures"]["eer"] for row in own]).reshape(-1, 3).T
        axis.bar(x, value, width, label=system)
        if not np.isnan(low).any():
            ends = np.maximum([value - low, high - value], 0)
            axis.errorbar(x, value, ends, fmt="none", ecolor="0.2", capsize=2)
    crowded = sum(map(len, names)) > 110
    axis.set_xticks(range(len(names)), names, fontsize="x-small" if crowded else "small", rotation=90 if crowded else 0)
    axis.set(ylabel="EER, %", xlabel=rows[0]["by"], xlim=(-0.6, len(names) - 0.4))
    if len(systems) > 1:
        axis.legend(fontsize="small")


def warn_if_reversed(rows):
    for row in rows:
        if row["by"] == "pooled" and row["figures"]["eer"].value > 0.5:
            note(
                f"warning: {row['system']}: EER above 50 %: are its scores higher for spoofs (then negate them), or "
                "is the key of other trials?"
            )


def check_files(args):
    """Raise UserError where what will be written is read as well, or cannot be written."""
    keys = [args.labels_file] if args.labels_file else []
    if keys and os.path.isdir(keys[0]):
        keys = [os.path.join(keys[0], place) for place in corpora.key_places()]
    asv = [file for key in keys for name in corpora.CORPORA for file in corpora.find_asv(key, name) or ()]
    inputs = [*args.path, *keys, *asv, *(args.calibrate or []), args.attack_groups, args.asv_scores, args.asv_key]
    check_outputs([("--plot", args.plot), ("--write_scores", args.write_scores)], inputs)


def main(argv=None):
    args = parse_args(argv)
    check_files(args)
    sasv = None
    if args.labels_file:
        table, systems, checks, places = read_systems(args)
        asv = read_asv(args, table)
    else:
        table, sasv, asv = corpora.read_sasv(args.path[0])
        n = len(table)
        systems, checks = {"cm_score": sasv["cm_score"]}, {"cm_score": {"path": args.path[0], "trials": n, "scores": n}}
    for label, name in ((BONAFIDE, "bona fide"), (SPOOF, "spoof")):
        if not np.any(table.label == label):
            raise UserError(f"{table.path}: expected scored trials of both classes, found no {name} one")
    systems = calibrate_and_fuse(args, systems)
    if args.write_scores:
        corpora.write_scores(args.write_scores, dict(zip(table.utt_id, list(systems.values())[-1].tolist())))

    wishes = (args.form, args.by, args.as_published, args.plot, args.calibrate, args.attack_groups, args.cluster, asv)
    if table.corpus == "CtrSVDD" and len(systems) == 1 and not any(wishes):
        print_ctrsvdd(systems[next(iter(systems))], table, places)
        return
    groups = read_groups(args.attack_groups) if args.attack_groups else {}
    conditions = conditions_of(table, args, groups)
    intervals = Bootstrap(args, table)
    rows, titles = measure(table, systems, conditions, asv, args, intervals)
    if sasv:
        rows[0]["figures"] |= sasv_figures(sasv, asv.kind, intervals.n)
        titles |= {key: SASV[key] for key in rows[0]["figures"] if key in SASV}
    warn_if_reversed(rows)
    report = {
        "corpus": table.corpus,
        "subset": f" {args.subset or 'eval'}" if "subset" in table.columns else "",
        "key": table.path,
        "intervals": intervals.text,
        "calibrated": bool(args.calibrate),
        "checks": checks,
        "rows": rows,
        "titles": titles,
        "comparisons": compare(systems, conditions[0], intervals, table.corpus, asv) if intervals.n else [],
    }
    if args.plot:
        draw(args.plot, report, systems, conditions[0])
    {None: print_tables, "json": lambda r: print(as_json(r)), "csv": print_csv, "latex": print_latex}[args.form](report)


if __name__ == "__main__":
    run(main)
