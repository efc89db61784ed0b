"""Judge recordings: is this genuine speech, and where in the file is it not?

    python easy_inference_demo.py voice.mp3
    python easy_inference_demo.py FOLDER '*.mp3' --csv verdicts.csv
    python easy_inference_demo.py talk.m4a --timeline --plot talk.png
    python easy_inference_demo.py voice.mp3 --stress
    python easy_inference_demo.py --web
    python easy_inference_demo.py --model_path CKPT.pt --file_to_test FILE.flac       # as published
The detector is --model_path, else $NES2NET_MODEL, else the newest of demo/logs.
Set CUDA_VISIBLE_DEVICES= (empty) to stay on the CPU.
"""

import argparse
import contextlib
import csv
import json
import sys
import time
from collections import Counter

import common.threads  # noqa: F401

from common.atomic import atomic_open, check_outputs, is_standard_output
from common.console import Number, UserError, note, printable, run
from common.flags import CommandParser
from common.workers import usable_cores
from inference.files import find_detector, find_files
from inference.judging import LONGEST_WHOLE, SAMPLE_RATE, Judge
from inference.picture import draw
from inference.stress import about_stress, judge_under_conditions, stress_to_dict
from inference.verdicts import Judged

try:
    import torch

    import checkpoints
    from inference.precision import PRECISIONS, check_precision
    from model import add_model_flags, choose_device, given_model_flags
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    torch = None  # ONNX files work without torch, see requirements-onnx.txt


def parse_args(argv=None):
    parser = CommandParser(
        description="Judge recordings: is this genuine speech, and if not, where is it spoofed?",
        examples=[
            "python easy_inference_demo.py voice.mp3",
            "python easy_inference_demo.py FOLDER '*.mp3' --csv verdicts.csv",
            "python easy_inference_demo.py talk.m4a --timeline --plot talk.png",
            "python easy_inference_demo.py --web",
        ],
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="audio, video, folders, patterns; -: standard input")
    parser.add_argument(
        "--file_to_test", nargs="+", default=[], metavar="FILE", rare=True, help="FILE, as in the published program"
    )
    parser.add_argument(
        "--model_path",
        metavar="CKPT",
        help="a checkpoint, or FILE.onnx of checkpoint.py export\nor hf://OWNER/NAME/FILE[@REVISION]; default: "
        "NES2NET_MODEL of the environment, else the newest detector in demo/logs",
    )
    parser.add_argument(
        "--threshold", type=Number(), metavar="SCORE", help="higher scores are bona fide (the checkpoint's own)"
    )
    parser.add_argument(
        "--test_mode",
        choices=["4s", "full"],
        default="full",
        help="first 4 s, or the whole file",
    )
    if torch:
        parser.add_argument(
            "--precision", choices=PRECISIONS, default="fp32", rare=True, help="precision of the arithmetic"
        )
    parser.add_argument(
        "--stress",
        action="store_true",
        help="print how codecs, noise and more move the verdict\nunder the conditions of eval.py --condition list; "
        "takes about 40 times as long as the verdict, at least a few seconds",
    )
    if torch:
        add_model_flags(parser)

    where = parser.add_argument_group("parts of a file")
    where.add_argument("--timeline", action="store_true", help="score windows and name the suspicious parts")
    where.add_argument("--plot", metavar="FILE.png", help="draw waveform, spectrogram and scores of one file")
    where.add_argument(
        "--window",
        type=Number(),
        default=4.0,
        metavar="SECONDS",
        help=f"length of a window\nfiles longer than {LONGEST_WHOLE // SAMPLE_RATE} s are always judged by windows",
    )
    where.add_argument("--hop", type=Number(), metavar="SECONDS", help="step between windows (half a window)")

    out = parser.add_argument_group("output")
    out.add_argument("--json", metavar="FILE", help="write all results as JSON; -: standard output")
    out.add_argument("--csv", metavar="FILE", help="write one line per file as CSV; -: standard output")

    page = parser.add_argument_group("web page")
    page.add_argument("--web", action="store_true", help="open a local page to drop or record audio on")
    page.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on\nany but the default admits other machines, without a password",
    )
    page.add_argument("--port", type=Number(int, 0, 65535), default=7860, metavar="N", help="port to listen on")
    parser.add_argument("--AASIST_scale", help=argparse.SUPPRESS)
    args = parser.parse_intermixed_args(argv)
    args.files += args.file_to_test
    if args.web == bool(args.files):
        parser.error("expected either FILE or --web")
    if args.web and args.stress:
        parser.error("--stress: expected FILE, found --web")
    if args.json == "-" and args.csv == "-":
        parser.error("--json - and --csv -: only one of them can use standard output")
    args.named_by = "--model_path"
    if args.model_path is None:
        args.model_path, args.named_by = find_detector()
    return args


def read_judge(args):
    options = {"threshold": args.threshold, "test_mode": args.test_mode, "window": args.window, "hop": args.hop}
    if args.model_path.endswith(".onnx") and not args.model_path.startswith("hf://"):
        if torch and (given_model_flags(args) or args.precision != "fp32"):
            flag = [*given_model_flags(args), "precision"][0]
            raise UserError(f"--{flag}: expected a checkpoint, found the ONNX file {args.model_path}")
        from inference.onnx_judge import OnnxJudge

        return OnnxJudge(args.model_path, **options)
    if not torch:
        raise UserError(
            f"{args.named_by} {args.model_path}: a checkpoint needs torch (bash setup.sh); without torch, expected an "
            "ONNX file written by checkpoint.py export"
        )
    device = choose_device()
    check_precision(args.precision, device)
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    path, _ = checkpoints.fetch(args.model_path, args.named_by)
    return Judge(path, device, precision=args.precision, **options, **given_model_flags(args))


def print_one(judge, judged, args, under):
    """Print the results of one file; `score:` is the published line. under: see stress.judge_under_conditions."""
    print(f"{judge.in_words(judged)}: {printable(judged.file)}, {judged.seconds:.2f} s")
    print(f"{judge.about_errors()}")
    if judge.warning:
        print(f"warning: {judge.warning}")
    print(f"score: {judged.score if judged.score is not None else 'nan'}")
    reason = judge.reason(judged)
    print(f"reason: {reason}")
    if probability := judge.about_probability(judged):
        print(f"probability: {probability}")
    for remark in judge.notes(judged):
        if remark not in reason:
            print(f"note: {remark}")
    if judged.windows:
        print(f"windows: {judge.about_windows(judged)}")
    if args.timeline or judge.finding(judged) != judge.verdict(judged):
        print_stretches(judge, judged)
    for line in about_stress(judge, judged, under) if under else ():
        print(f"stress: {line}")
    print(f"detector: {about_detector(args)}")
    print(f"time: {judged.took:.2f} s, and {judge.loading_took:.2f} s to load the detector")


def about_detector(args):
    return f"{printable(args.model_path)}{f', {args.named_by}' * (args.named_by != '--model_path')}"


def print_stretches(judge, judged, indent=""):
    lines = judge.about_stretches(judged)
    for line in lines:
        print(f"{indent}suspicious: {line}")
    if not judged.windows:
        print(f"{indent}suspicious: unknown, the file is not longer than one window")
    elif judge.window_threshold is None:
        print(f"{indent}suspicious: unknown, there is no threshold")
    elif refusal := judge.refusal(judged):
        print(f"{indent}suspicious: unknown, {refusal}")
    elif not lines:
        print(f"{indent}suspicious: none")


def print_row(judge, judged, args):
    """Print the results of one of many files as a single line."""
    if judged.error:
        print(f"error: {printable(judged.error)}")
        return
    score = f"{judged.score:.5g}" if judged.score is not None else "nan"
    probability = judge.probability(judged)
    probability = f"p {probability:.3f}" if probability is not None else ""
    remarks = [*judge.notes(judged), *([judge.about_windows(judged)] if judged.windows else [])]
    remarks = f"  ({'; '.join(remarks)})" if remarks else ""
    scored = f"score: {score:10} {probability:7} {judged.seconds:8.2f} s"
    print(f"{judge.brief(judged):16} {scored}  {printable(judged.file)}{remarks}")
    if args.timeline:
        print_stretches(judge, judged, "    ")


def print_summary(judge, results, seconds):
    counts = Counter("not read" if judged.error else judge.brief(judged) for judged in results)
    text = ", ".join(f"{n} {what}" for what, n in counts.most_common())
    each = f"{seconds / len(results):.3f} s per file, and {judge.loading_took:.2f} s to load the detector"
    print(f"{len(results)} files: {text}; time: {seconds:.2f} s, {each}")


def write_tables(judge, results, args, under):
    rows = [judge.to_dict(judged) for judged in results]
    if under:
        rows[0]["stress"] = stress_to_dict(judge, results[0], under)
    if args.json:
        content = {
            "detector": {"checkpoint": args.model_path, **judge.detector.config.to_dict()},
            "threshold": judge.about_threshold(),
            "warning": judge.warning or None,
            "files": rows,
        }
        with _out(args.json) as file:
            json.dump(content, file, indent=1)
            file.write("\n")
    if args.csv:
        columns = ["file", "seconds", "score", "verdict", "threshold", "probability_bonafide", "n_windows"]
        columns += ["n_suspicious_stretches", "seconds_taken", "notes", "error", "headline", "suspicious", "warning"]
        with _out(args.csv) as file:
            table = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            table.writeheader()
            for row in rows:  # a name with a line break stays on one line
                row = {**row, **{name: printable(row[name]) for name in ("file", "error") if name in row}}
                if "error" not in row:
                    row = {
                        **row,
                        "notes": "; ".join(row["notes"]),
                        "n_windows": len(row["windows"]),
                        "warning": judge.warning,
                    }
                    ranked = sorted(row["suspicious"], key=lambda stretch: stretch["rank"])
                    row["suspicious"] = "; ".join(f"{s['start']:g}-{s['end']:g} {s['score']:g}" for s in ranked)
                    row["n_suspicious_stretches"] = len(ranked)
                table.writerow(row)


def _out(path):
    return contextlib.nullcontext(sys.stdout) if path == "-" else atomic_open(path)


def main(argv=None):
    args = parse_args(argv)
    if args.web:
        from inference import web_page

        judge = read_judge(args)
        if args.named_by != "--model_path":
            print(f"detector: {about_detector(args)}")
        return web_page.serve(judge, args.host, args.port)
    with find_files(args.files) as (files, missing):
        many = len(files) + len(missing) > 1
        for flag in ["--plot"] * bool(args.plot) + ["--stress"] * args.stress:
            if many:
                raise UserError(f"{flag}: expected one file, found {len(files) + len(missing)}")
        outputs = [("--json", args.json), ("--csv", args.csv), ("--plot", args.plot)]
        outputs = [(flag, "/dev/stdout" if path == "-" else path) for flag, path in outputs]
        standard_input = "/dev/stdin" if "-" in args.files else None
        check_outputs(outputs, [args.model_path, standard_input, *files.values()])
        judge = read_judge(args)
        quiet = any(path and is_standard_output(path) for _, path in outputs)  # standard output carries a table
        results = [Judged(name, name, error=reason) for name, reason in missing.items()]
        if many and not quiet:
            print(f"detector: {about_detector(args)}")
            print(f"{judge.about_errors()}")
            if judge.warning:
                print(f"warning: {judge.warning}")
            for judged in results:
                print_row(judge, judged, args)
        started = time.monotonic()
        for judged in judge.judge(files, timeline=args.timeline or args.plot is not None):
            results.append(judged)
            if many and not quiet:
                print_row(judge, judged, args)
        took = time.monotonic() - started
        failed = [judged.error for judged in results if judged.error]
        if failed and not many:
            raise UserError(failed[0])
        if args.plot:
            draw(args.plot, results[0], judge)
            note(f"picture: {args.plot}")
        started = time.monotonic()
        under = judge_under_conditions(judge, results[0]) if args.stress else {}
        stress_took = time.monotonic() - started
    write_tables(judge, results, args, under)
    if not quiet and judge.difference is not None:
        print(f"precision: {args.precision}; the first scores differ from float32 by at most {judge.difference:.2g}")
    if not quiet and many:
        print_summary(judge, results, took)
    elif not quiet:
        print_one(judge, results[0], args, under)
        if under:
            print(f"time under stress: {stress_took:.2f} s, {len(under)} conditions")
    if failed:
        print(f"easy_inference_demo.py: {len(failed)} of {len(results)} files could not be read", file=sys.stderr)
        return 1


if __name__ == "__main__":
    run(main)
