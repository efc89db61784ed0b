"""Make a trial list of a corpus that has none, from the names of its folders and files.

    python -m corpora NAME FOLDER > list.csv
A line a file: path,label,attack,speaker,language,split; paths are relative to FOLDER, `-` is what the names do not say.
The list goes to train.py (--train_protocol, --train_audio_dir FOLDER), eval.py (--protocol, --audio_dir FOLDER) and
EER_minDCF.py (--labels_file). What does not fit the corpus is counted and named on standard error.
"""

import argparse
import csv
import sys
from collections import Counter

from common.console import run, shown, warn
from common.flags import CommandParser, did_you_mean
from corpora.audio import warn_of_others
from corpora.listing import COLUMNS, list_corpus, list_of
from corpora.records import CORPORA


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    without_lists = {name: f"  {name:20}{record.layout}" for name, record in CORPORA.items() if record.paths}
    with_lists = [f"  {name:20}{list_of(record)}" for name, record in CORPORA.items() if record.lists or record.keys]
    parser = CommandParser(
        prog="python -m corpora",
        description="Make a trial list of a corpus that has none, from the names of its folders and files.",
        examples=["python -m corpora WaveFake FOLDER > list.csv"],
        epilog="\n".join(
            ["NAME, and files of it:", *without_lists.values(), "", "These have lists of their own:", *with_lists]
        ),
        allow_abbrev=False,
    )
    parser.add_argument(
        "corpus",
        metavar="NAME",
        nargs="?",
        help=f"one of {', '.join(without_lists)}; letter case does not matter\n--help-all explains them",
    )
    parser.add_argument(
        "folder", metavar="FOLDER", nargs="?", help="folder of the corpus, one above it, or one of its own folders"
    )
    args = parser.parse_args(argv)
    if args.corpus is None:
        print(parser.format_help(in_full=True), end="")
        return args
    if args.folder is None:
        parser.error("expected NAME and FOLDER")
    names = {name.lower(): name for name in CORPORA}
    if args.corpus.lower() not in names:
        near = did_you_mean(args.corpus, CORPORA)
        parser.error(f"{shown(args.corpus)}: expected the name of a corpus: {', '.join(without_lists)}{near}")
    args.corpus = names[args.corpus.lower()]
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.corpus is None:
        return
    corpus = args.corpus
    record = CORPORA[corpus]
    trials, misplaced, others, places = list_corpus(corpus, args.folder)

    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(trials)

    warn_of_others(args.folder, misplaced, f"do not match {record.layout}, or have names that a list cannot hold")
    warn_of_others(args.folder, others, "have no audio extension, or are links to folders")
    if len(places) > 1:
        warn(f"{args.folder}: found {len(places)} copies of {corpus}, all are listed: {', '.join(places[:5])}")
    n = Counter(trial["label"] for trial in trials)
    joined = f"; its bona fide speech comes from {record.bonafide_from}" if record.bonafide_from else ""
    print(f"{corpus}: {n['bonafide']} bona fide and {n['spoof']} spoofed trials{joined}", file=sys.stderr)


if __name__ == "__main__":
    sys.argv[0] = "corpora"  # the prefix of messages
    if sys.stdout:
        sys.stdout.reconfigure(encoding="utf-8")  # lists are UTF-8, whatever the terminal's encoding
    run(main)
