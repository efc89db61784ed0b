"""The flags of EER_minDCF.py and the checks of their combinations."""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import corpora
from common.console import Number
from common.flags import CommandParser
from reports import metrics, segments
from reports.bootstrap import FEWEST_CLUSTERS
from reports.sets import sets_of_flags
from reports.submissions import SUBMISSIONS


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the flags and check their combinations. Adds `eval_sets`: the sets of --sets or --set, else []."""
    parser = CommandParser(
        description="Report the error rates of score files, pooled and by condition, with confidence intervals.",
        allow_abbrev=False,
    )
    data = parser.add_argument_group("data")
    data.add_argument("published", nargs="*", metavar="SCORES KEY [SUBSET]", help="instead of the three flags")
    data.add_argument("--path", nargs="+", metavar="SCORES", help="score files, a line `utt_id score` a trial")
    data.add_argument("--names", nargs="+", metavar="NAME", help="of the systems, instead of those of their files")
    data.add_argument("--labels_file", metavar="KEY", help="protocol with labels, or a folder of keys")
    data.add_argument(
        "--sets", metavar="TABLE", help="instead: many corpora, a table with the columns name, key, systems"
    )
    data.add_argument(
        "--set",
        nargs="+",
        action="append",
        metavar="NAME KEY SCORES",
        help="instead: many corpora, a flag for each; score files of as many systems in each",
    )
    data.add_argument(
        "--conditions",
        nargs="+",
        metavar="SCORES",
        help="instead of --path: clean score files; report on the conditions beside them, SCORES@NAME, as eval.py "
        "--condition writes them",
    )
    data.add_argument(
        "--subset", choices=corpora.SUBSETS, help="of an ASVspoof 2021 key, hidden_track being hidden (eval)"
    )
    data.add_argument(
        "--allow_missing",
        action="store_true",
        help="warn of trials without a score, scores without a trial, double and infinite ones, and report on the rest",
    )
    corpora.add_score_flags(data)
    frames = parser.add_argument_group("scores of frames, against labels of segments (corpora/segments.py)")
    frames.add_argument(
        "--frames",
        metavar="FILE",
        help="frame scores of eval.py --frames; --labels_file: the segments, or a list with them around it, for --by",
    )
    frames.add_argument(
        "--unit", type=Number(float, 0.001), nargs="+", metavar="SECONDS", help="of the trials (1, 2, ... 32 frames)"
    )
    frames.add_argument(
        "--unit_score", choices=segments.RULES, default="mean", help="of a coarser unit, from its frames (%(default)s)"
    )
    frames.add_argument("--dev", nargs=2, metavar=("FRAMES", "SEGMENTS"), help="of the dev set, to set thresholds on")
    frames.add_argument("--plot_utt", metavar="UTT", help="utterance that --plot draws (the first spoofed)")
    asv = parser.add_argument_group("speaker verification, for the t-DCF")
    asv.add_argument("--asv_scores", metavar="FILE", help="its scores; not given: the organisers' beside the key")
    asv.add_argument("--asv_key", metavar="FILE", help="its key, for --asv_scores in ASVspoof 2021's form")
    asv.add_argument(
        "--asv_rates",
        nargs="+",
        metavar="RATE",
        help="its rates instead: of accepting nontargets, rejecting targets, accepting spoofs; or the word asvspoof5",
    )
    breakdowns = dict.fromkeys(column for record in corpora.CORPORA.values() for column in record.breakdowns)
    what = parser.add_argument_group("what to report")
    what.add_argument(
        "--by",
        nargs="+",
        action="append",
        metavar="COLUMN",
        help="break down by a column of the key; by two: a grid; several times; none: pooled alone "
        f"(of {', '.join(breakdowns)} what the key has)",
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
    out.add_argument(
        "--arena",
        nargs=2,
        metavar=("BOARD", "OUT"),
        help="instead of a report: write the scores of one system on --sets or --set as a submission to dfarena, "
        "benchmarks (OUT is a folder) or asvspoof5 (a file)",
    )
    out.add_argument("--plot", metavar="FILE", help="draw DET curves, histograms and conditions (.png, .pdf, .svg)")
    args = parser.parse_args(argv)

    of_frames = ("frames", "unit", "unit_score", "dev", "plot_utt")
    both = ("labels_file", "allow_missing", "bonafide", "by", "replicates", "form", "plot")
    given = [
        name for name, value in vars(args).items() if name not in both and value not in (parser.get_default(name), [])
    ]
    wrong = [f"--{name}" for name in given if (name in of_frames) != bool(args.frames)]
    if wrong:
        parser.error(f"{', '.join(wrong)}: {'cannot be combined with' if args.frames else 'only with'} --frames")
    if args.plot and not args.plot.lower().endswith((".png", ".pdf", ".svg")):
        parser.error(f"--plot: expected a file name that ends in .png, .pdf or .svg, found {args.plot}")
    if args.by and any(len(columns) > 2 for columns in args.by):
        parser.error("--by: expected one or two columns")
    if args.frames:
        if not args.labels_file or (args.plot_utt and not args.plot):
            parser.error("--frames needs --labels_file, and --plot_utt needs --plot")
        return args
    if args.published:
        if not 2 <= len(args.published) <= 3 or args.path or args.labels_file:
            parser.error("expected SCORES KEY [SUBSET], or --path and --labels_file")
        args.path, args.labels_file = args.published[:1], args.published[1]
        if len(args.published) == 3:
            if args.subset or args.published[2] not in corpora.SUBSETS:
                parser.error(
                    f"SUBSET: expected one of {', '.join(corpora.SUBSETS)}, given once; found {args.published[2]}"
                )
            args.subset = args.published[2]
    args.eval_sets = []
    if args.sets or args.set:
        of_one = ("path", "conditions", "labels_file", "asv_scores", "asv_key", "attack_groups", "write_scores")
        given = [f"--{name}" for name in of_one if getattr(args, name)] + ["--sets"] * bool(args.sets and args.set)
        if given:
            parser.error(f"--{'set' if args.set else 'sets'} cannot be combined with {', '.join(given)}")
        if any(len(group) < 3 for group in args.set or ()):
            parser.error("--set: expected NAME KEY SCORES [SCORES ...]")
        if args.by and any(len(columns) > 1 for columns in args.by):
            parser.error("--by: expected one column; with --sets or --set, the grid's other axis is the set")
        args.eval_sets = corpora.read_sets(args.sets) if args.sets else sets_of_flags(args.set)
    elif args.arena:
        parser.error("--arena needs --sets or --set")
    elif args.conditions:
        others = ("path", "by", "attack_groups", "calibrate", "fuse", "write_scores", "as_published")
        if given := [f"--{'published' if name == 'as_published' else name}" for name in others if getattr(args, name)]:
            parser.error(f"--conditions cannot be combined with {', '.join(given)}")
        if not args.labels_file:
            parser.error("--conditions needs --labels_file")
    elif not args.path:
        parser.error("expected --path SCORES")
    elif not args.labels_file and (len(args.path) > 1 or not args.path[0].endswith(".csv")):
        parser.error("--path needs --labels_file, except for one .csv with the columns asv_score, cm_score, sasv_label")
    if args.path and not args.labels_file and (args.score_column or args.higher_is == "spoof"):
        parser.error("--score_column and --higher_is need --labels_file; a table with asv_score has fixed columns")
    n = len(args.eval_sets[0].scores if args.eval_sets else args.path or args.conditions)
    if args.names and (len(args.names) != n or len(set(args.names)) < n or not all(args.names)):
        parser.error(f"--names: expected {n} different names, one for each system, found {', '.join(args.names)}")
    if args.fuse and "fusion" in (args.names or ()):
        parser.error("--names: expected a name other than fusion, which is the system that --fuse adds")
    if args.names and args.eval_sets:
        args.eval_sets = [replace(one, scores=dict(zip(args.names, one.scores.values()))) for one in args.eval_sets]
    if args.arena:
        others = ("by", "as_published", "cluster", "calibrate", "fuse", "form", "plot", "allow_missing", "asv_rates")
        flag = {"as_published": "published", "form": args.form}
        if given := [f"--{flag.get(name, name)}" for name in others if getattr(args, name)]:
            parser.error(f"--arena writes a submission, not a report, and cannot be combined with {', '.join(given)}")
        if args.arena[0] not in SUBMISSIONS:
            parser.error(f"--arena: expected one of {', '.join(SUBMISSIONS)}, found {args.arena[0]}")
    if args.calibrate and len(args.calibrate) != n + 1:
        parser.error(f"--calibrate: expected {n} score files, then their key, found {len(args.calibrate)} files")
    if args.fuse and n < 2:
        parser.error("--fuse: expected at least two score files")
    if args.fuse == "logistic" and not args.calibrate:
        parser.error("--fuse logistic needs --calibrate, on which it is trained")
    if args.write_scores and not (args.fuse or (args.calibrate and n == 1)):
        parser.error("--write_scores needs --fuse, or --calibrate with one score file")
    if args.asv_key and not args.asv_scores:
        parser.error("--asv_key needs --asv_scores")
    if args.asv_rates and args.asv_scores:
        parser.error("--asv_rates cannot be combined with --asv_scores")
    if args.asv_rates and args.asv_rates != ["asvspoof5"]:
        try:
            args.asv_rates = metrics.AsvRates(*map(Number(float, 0, 1), args.asv_rates))
        except (TypeError, argparse.ArgumentTypeError):
            parser.error(
                f"--asv_rates: expected three rates from 0 to 1 or asvspoof5, found {' '.join(args.asv_rates)}"
            )
    elif args.asv_rates:
        args.asv_rates = metrics.ASVSPOOF5_ASV_RATES
    return args
