"""Report the error rates of score files: EER, minDCF and more, pooled and by condition, with confidence intervals.

    python EER_minDCF.py --labels_file KEY --path SCORES
    python EER_minDCF.py --labels_file KEY --path A.txt B.txt --by attack --by codec transmission --plot report.png
    python EER_minDCF.py --labels_file KEY --path A.txt B.txt --names Nes2Net AASIST --latex
    python EER_minDCF.py SCORES KEYS eval                                       (as ASVspoof 2021's evaluation scripts)
    python EER_minDCF.py --labels_file KEY --path SCORES --calibrate DEV_SCORES DEV_KEY
    python EER_minDCF.py --labels_file KEY --path A B --fuse logistic --calibrate A_DEV B_DEV DEV_KEY --write_scores OUT
    python EER_minDCF.py --frames FRAME_SCORES --labels_file SEGMENTS --dev DEV_FRAME_SCORES DEV_SEGMENTS
    python EER_minDCF.py --sets TABLE                                                               (many corpora)
    python EER_minDCF.py --labels_file KEY --conditions SCORES --plot robustness.png    (after eval.py --condition)
    python EER_minDCF.py --set LA KEY SCORES --set DF KEY SCORES --arena benchmarks SUBMISSION
KEY is a protocol with labels of any corpus (see corpora/), or a folder that contains the organisers' key. SCORES has
one line `utt_id score` per trial, higher for bona fide; score files of other programs are read as well. With a CtrSVDD
key and no further flags, the output equals the published script's, including its own EER and minDCF. Otherwise the
report is printed as aligned tables, --json, --csv or --latex. The t-DCF is added if verification scores are given or
are next to the key. `--path FILE.csv` alone reports on a table with the columns asv_score, cm_score, sasv_label.
"""

import itertools
import os
from functools import partial

import common.threads  # noqa: F401

import numpy as np

import corpora
from common.atomic import check_outputs
from common.console import UserError, note, run
from corpora import BONAFIDE, SPOOF
from reports import plots, segments
from reports.bootstrap import Bootstrap
from reports.calibration import calibrate_and_fuse
from reports.conditions import PUBLISHED_REPORTS, conditions_of, read_groups
from reports.figures import Setting, compare, measure
from reports.flags import parse_args
from reports.robustness import CLEAN, PAIRED, measure_conditions, read_conditions
from reports.sets import measure_sets, pooled_condition, read_set_systems
from reports.submissions import write_submission
from reports.systems import read_asv, read_systems, system_names
from reports.tables import FORMS, Report


def check_files(args):
    """Raise UserError if an output file is also an input, or cannot be written."""
    keys = [args.labels_file] if args.labels_file else [one.key for one in args.eval_sets]
    folders = [key for key in keys if os.path.isdir(key)]
    keys += [os.path.join(folder, place) for folder in folders for place in corpora.key_places()]
    asv = [file for key in keys for name in corpora.CORPORA for file in corpora.find_asv(key, name) or ()]
    inputs = [
        *(args.path or ()),
        *itertools.chain.from_iterable(
            (path, *corpora.condition_files(path).values()) for path in args.conditions or ()
        ),
        args.sets,
        *keys,
        *asv,
        *(args.calibrate or []),
        args.attack_groups,
        args.asv_scores,
        args.asv_key,
    ]
    inputs += [file for one in args.eval_sets for file in (one.key, *one.scores.values())]
    out = args.arena[1] if args.arena and args.arena[0] == "asvspoof5" else None
    check_outputs([("--plot", args.plot), ("--write_scores", args.write_scores), ("--arena", out)], inputs)


def warn_of_reversed(rows, args):
    """Warn of systems with an EER above 50 %; if it is all of them, name the flag that reverses the scores."""
    told = [("condition", CLEAN), ("pooled", "pooled")]
    rows = [row for row in rows if row.condition.by == "set" or row.condition[:2] in told]
    rows = [row for row in rows if "eer" in row.figures]
    reversed_rows = [row for row in rows if row.figures["eer"].value > 0.5]
    of, mend = "spoofs", "negate them"
    if (args.labels_file or args.eval_sets) and len(reversed_rows) == len(rows):
        of, mend = ("bona fide trials", "leave out") if args.higher_is == "spoof" else ("spoofs", "add")
        mend += " --higher_is spoof"
    for row in reversed_rows:
        name = f"{row.condition.name}, {row.system}" if args.eval_sets else row.system
        note(
            f"warning: {name}: EER above 50 %: are its scores higher for {of} (then {mend}), or "
            "does the key belong to other trials?"
        )


def check_classes(table):
    """Raise UserError if all trials of a table belong to one class."""
    for label, name in ((BONAFIDE, "bona fide"), (SPOOF, "spoof")):
        if not np.any(table.label == label):
            raise UserError(f"{table.path}: expected scored trials of both classes, found no {name} trial")


def score_reader(args):
    return partial(corpora.read_score_columns, column=args.score_column, higher_is=args.higher_is)


def report_sets(args):
    """Print the report over several sets."""
    by = [columns for columns in args.by or () if columns != ["none"]]
    read, wanted = score_reader(args), [args.cluster, *itertools.chain(*by)]
    parts, systems, checks = read_set_systems(
        args.eval_sets, args.subset, wanted, args.allow_missing, read, args.asv_rates, args.bonafide
    )
    pooled = pooled_condition(parts)
    systems, lines = calibrate_and_fuse(systems, args.calibrate, args.fuse, args.allow_missing, read, args.bonafide)
    for line in lines:
        note(line)
    bootstraps = [Bootstrap(part.table, args.replicates, args.cluster, seed) for seed, part in enumerate(parts)]
    setting = Setting(corpora.CORPORA["csv"], args.asv_rates, args.miss_rates, args.as_published, {})
    rows, figures, comparisons, intervals = measure_sets(parts, systems, bootstraps, setting, by)
    warn_of_reversed(rows, args)
    subsets = [one.subset or args.subset or "eval" for one in args.eval_sets]
    report = Report(
        corpus=f"{len(parts)} sets",
        subset="",
        key=args.sets or "",
        intervals=intervals,
        calibrated=bool(args.calibrate),
        checks=checks,
        rows=rows,
        figures=figures,
        comparisons=comparisons,
        sets={
            name: {"corpus": t.corpus, "subset": subset if "subset" in t.columns else "", "key": t.path}
            for subset, (name, t, *_) in zip(subsets, parts)
        },
    )
    if args.plot:
        plots.draw(args.plot, report.corpus, report.parts(), systems, pooled)
    FORMS[args.form or "text"](report)


def report_conditions(args):
    """Print the robustness report: one trial list under several conditions."""
    systems = dict(zip(args.names or system_names(args.conditions), args.conditions))
    table, scores, checks = read_conditions(
        args.labels_file, systems, args.subset, [args.cluster], args.allow_missing, score_reader(args), args.bonafide
    )
    check_classes(table)
    asv = args.asv_rates or read_asv(table, args.subset, args.asv_scores, args.asv_key)
    bootstrap = Bootstrap(table, args.replicates, args.cluster)
    setting = Setting(table.record, None, args.miss_rates, False, {})
    (pooled,) = conditions_of(table, [["none"]])
    rows, figures = measure_conditions(scores, pooled, asv, setting, bootstrap)
    warn_of_reversed(rows, args)
    report = Report(
        corpus=table.corpus,
        subset=args.subset or "eval" if "subset" in table.columns else "",
        key=table.path,
        intervals=bootstrap.text + ("; " + PAIRED if bootstrap.n else ""),
        calibrated=False,
        checks=checks,
        rows=rows,
        figures=figures,
        comparisons=[],
    )
    if args.plot:
        plots.draw_conditions(args.plot, f"{report.corpus} {report.subset}".strip(), rows, list(systems))
    FORMS[args.form or "text"](report)


def main(argv=None):
    args = parse_args(argv)
    if args.frames:
        check_outputs([("--plot", args.plot)], [args.frames, args.labels_file, *(args.dev or [])])
        segments.report_frames(
            args.frames,
            args.labels_file,
            args.unit,
            args.unit_score,
            args.dev,
            args.replicates,
            args.allow_missing,
            args.form,
            args.plot,
            args.plot_utt,
            args.by,
            args.bonafide,
        )
        return
    check_files(args)
    sasv, places = {}, None
    if args.arena:
        for file in write_submission(*args.arena, args.eval_sets, score_reader(args)):
            print(f"written: {file}")
        return
    if args.eval_sets:
        report_sets(args)
        return
    if args.conditions:
        report_conditions(args)
        return
    read = score_reader(args)
    if args.labels_file:
        by = {args.cluster, *itertools.chain(*(args.by or []))}
        table, systems, checks, places = read_systems(
            args.labels_file, args.path, args.subset, by, args.allow_missing, read, args.bonafide, args.names
        )
        asv = args.asv_rates or read_asv(table, args.subset, args.asv_scores, args.asv_key)
    else:
        table, sasv, asv = corpora.read_sasv(args.path[0])
        n, (name,) = len(table), args.names or ["cm_score"]
        systems, checks = {name: sasv["cm_score"]}, {name: {"path": args.path[0], "trials": n, "scores": n}}
    check_classes(table)
    systems, lines = calibrate_and_fuse(systems, args.calibrate, args.fuse, args.allow_missing, read, args.bonafide)
    for line in lines:
        note(line)
    if args.write_scores:
        corpora.write_scores(args.write_scores, dict(zip(table.utt_id, list(systems.values())[-1].tolist())))

    wishes = (args.form, args.by, args.as_published, args.plot, args.calibrate, args.attack_groups, args.cluster, asv)
    published = PUBLISHED_REPORTS.get(table.record.published_report)
    if published and len(systems) == 1 and not any(wishes):
        published.print_report(*systems.values(), table, places)
        return
    conditions = conditions_of(table, args.by, read_groups(args.attack_groups) if args.attack_groups else {})
    bootstrap = Bootstrap(table, args.replicates, args.cluster)
    setting = Setting(table.record, None, args.miss_rates, args.as_published, sasv)
    rows, figures = measure(systems, conditions, asv, setting, bootstrap)
    warn_of_reversed(rows, args)
    report = Report(
        corpus=table.corpus,
        subset=args.subset or "eval" if "subset" in table.columns else "",
        key=table.path,
        intervals=bootstrap.text,
        calibrated=bool(args.calibrate),
        checks=checks,
        rows=rows,
        figures=figures,
        comparisons=compare(systems, conditions[0], asv, setting, bootstrap) if bootstrap.n else [],
    )
    if args.plot:
        plots.draw(args.plot, f"{report.corpus} {report.subset}".strip(), report.parts(), systems, conditions[0])
    FORMS[args.form or "text"](report)


if __name__ == "__main__":
    run(main)
