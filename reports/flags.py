"""The flags of EER_minDCF.py and the checks of their combinations."""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import corpora
from common.console import Number
from common.flags import CommandParser, did_you_mean
from reports import metrics, segments
from reports.bootstrap import FEWEST_CLUSTERS
from reports.sets import sets_of_flags
from reports.submissions import SUBMISSIONS


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the flags and check their combinations. Adds `eval_sets`: the sets of --sets or --set, else []."""
    parser = CommandParser(
        description="Report error rates of score files, pooled and by condition, with confidence intervals.",
        examples=[
            "python EER_minDCF.py --labels_file KEY --path SCORES",
            "python EER_minDCF.py --labels_file KEY --path A.txt B.txt --by attack --latex",
        ],
        allow_abbrev=False,
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "published",
        nargs="*",
        metavar="SCORES KEY [SUBSET]",
        help="instead of --path, --labels_file and --subset",
    )
    data.add_argument(
        "--path", nargs="+", metavar="SCORES", help="score files of the systems\none line `utt_id score` per trial"
    )
    data.add_argument("--labels_file", metavar="KEY", help="protocol with labels, or a folder of keys")
    data.add_argument("--names", nargs="+", metavar="NAME", help="names of the systems (those of their files)")
    data.add_argument(
        "--sets",
        metavar="TABLE",
        help="report on several corpora\ninstead of --path and --labels_file; a table with the columns name, key and "
        "one per system",
    )
    data.add_argument(
        "--set",
        nargs="+",
        action="append",
        metavar="NAME KEY SCORES",
        rare=True,
        help="report on several corpora: repeat the flag for each, with score files of the same number of systems",
    )
    data.add_argument(
        "--conditions",
        nargs="+",
        metavar="SCORES",
        help="clean score files: report on their conditions\ninstead of --path; the conditions are SCORES@NAME "
        "next to them, as eval.py --condition writes them",
    )
    data.add_argument(
        "--subset",
        choices=corpora.SUBSETS,
        rare=True,
        help="subset of an ASVspoof 2021 key (eval); hidden_track is hidden",
    )
    data.add_argument(
        "--allow_missing",
        action="store_true",
        help="report on trials with one finite score each\nwarn of missing, unknown, double and infinite scores",
    )
    corpora.add_score_flags(data)
    frames = parser.add_argument_group("frame scores, with segment labels (docs/partial.md)")
    frames.add_argument(
        "--frames",
        metavar="FILE",
        help="frame scores of eval.py --frames\n--labels_file: the segments, or, for --by, a trial list near them",
    )
    frames.add_argument(
        "--unit",
        type=Number(float, 0.001),
        nargs="+",
        metavar="SECONDS",
        rare=True,
        help="duration of a unit [s] (1, 2, ... 32 frames)",
    )
    frames.add_argument(
        "--unit_score",
        choices=segments.RULES,
        default="mean",
        rare=True,
        help="score of a unit of several frames",
    )
    frames.add_argument(
        "--dev",
        nargs=2,
        metavar=("FRAMES", "SEGMENTS"),
        rare=True,
        help="the same of the dev set, to set thresholds on",
    )
    frames.add_argument(
        "--plot_utt", metavar="UTT", rare=True, help="utterance drawn by --plot (the first spoofed one)"
    )
    asv = parser.add_argument_group("speaker verification, for the t-DCF")
    asv.add_argument(
        "--asv_scores", metavar="FILE", help="verification scores (the organisers')\ndefault: those next to the key"
    )
    asv.add_argument(
        "--asv_key", metavar="FILE", rare=True, help="key of --asv_scores, if they are in ASVspoof 2021's form"
    )
    asv.add_argument(
        "--asv_rates",
        nargs="+",
        metavar="RATE",
        rare=True,
        help="verification rates instead of scores: of accepted nontargets, rejected targets and accepted spoofs; or "
        "the word asvspoof5",
    )
    breakdowns = dict.fromkeys(column for record in corpora.CORPORA.values() for column in record.breakdowns)
    what = parser.add_argument_group("report")
    what.add_argument(
        "--by",
        nargs="+",
        action="append",
        metavar="COLUMN",
        help="break down by a column of the key, such as attack\ntwo columns: a grid; may be repeated; none: pooled "
        f"only; default: those of {', '.join(breakdowns)} that the key has",
    )
    what.add_argument(
        "--attack_groups", metavar="CSV", rare=True, help="report each group of a table with the columns attack,group"
    )
    what.add_argument(
        "--published", dest="as_published", action="store_true", help="add the corpus's published figures"
    )
    what.add_argument(
        "--miss_rates",
        type=Number(float, 0, 100),
        nargs="+",
        default=[1, 10],
        metavar="PERCENT",
        rare=True,
        help="false-alarm rates at these miss rates [%%]",
    )
    what.add_argument(
        "--replicates",
        type=Number(int, 0, 100_000),
        default=1000,
        metavar="N",
        help="bootstrap replicates; 0: no intervals",
    )
    what.add_argument(
        "--cluster",
        metavar="COLUMN",
        rare=True,
        help="column whose values are resampled as clusters; none: single trials; default: speaker, if the key has at "
        f"least {FEWEST_CLUSTERS} of each class",
    )
    change = parser.add_argument_group("calibration and fusion")
    change.add_argument(
        "--calibrate",
        nargs="+",
        metavar="FILE",
        help="dev scores of each system, then the dev key\nturn scores into log-likelihood ratios",
    )
    change.add_argument(
        "--fuse",
        choices=["average", "logistic"],
        metavar="METHOD",
        help="add a fused system: average or logistic\n"
        "mean of the scores, or logistic regression trained on --calibrate",
    )
    change.add_argument("--write_scores", metavar="FILE", help="write the fused or calibrated scores")
    out = parser.add_argument_group("output")
    form = out.add_mutually_exclusive_group()
    for name, title in (("json", "JSON"), ("csv", "CSV"), ("latex", "LaTeX")):
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=f"print {title}")
    out.add_argument(
        "--arena",
        nargs=2,
        metavar=("BOARD", "OUT"),
        rare=True,
        help="write the scores of one system on --sets or --set as a submission to dfarena, benchmarks (OUT is a "
        "folder) or asvspoof5 (OUT is a file), instead of a report",
    )
    out.add_argument("--plot", metavar="FILE", help="draw DET curves, histograms, conditions\n.png, .pdf or .svg")
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
            board = args.arena[0]
            near = did_you_mean(board, SUBMISSIONS)
            parser.error(f"--arena: expected one of {', '.join(SUBMISSIONS)}, found {board}{near}")
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
