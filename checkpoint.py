"""Show, convert, average, export and calibrate checkpoints.

python checkpoint.py show FILE               what a file is: a detector or a pre-trained encoder
python checkpoint.py convert IN OUT          write a published checkpoint, or LoRA adapters, as one of this project
python checkpoint.py average OUT IN IN ...   write the mean of checkpoints
python checkpoint.py export IN OUT.onnx      write a detector that onnxruntime computes, without torch
python checkpoint.py calibrate IN OUT SCORES KEY
    write a checkpoint with the threshold and calibration of its scores on a dev set, as eval.py made them
"""

from pathlib import Path

import common.threads  # noqa: F401

import checkpoints
import corpora
from checkpoints import average_checkpoints, load_detector, save_checkpoint  # noqa: F401  (scripts of users call them here)
from common.atomic import check_outputs
from common.console import UserError, printable, run
from common.flags import CommandParser
from model import ModelConfig, add_model_flags, given_model_flags


def parse_args(argv=None):
    parser = CommandParser(
        description="Show, convert, average, export and calibrate checkpoints.",
        examples=["python checkpoint.py show FILE", "python checkpoint.py convert --help"],
    )
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")

    def add_command(name, title, **options):
        return commands.add_parser(name, help=title, description=f"{title[0].upper()}{title[1:]}.", **options)

    command = add_command("show", "show what a file is: a detector or a pre-trained encoder", allow_abbrev=False)
    command.add_argument(
        "file",
        metavar="FILE",
        help=f"a checkpoint, or an encoder's Hugging Face folder\nor {checkpoints.FORM}, hf://OWNER/NAME",
    )
    add_model_flags(command)
    command = add_command("convert", "convert a published checkpoint, or LoRA adapters, to one of this project")
    command.add_argument("source", metavar="IN", help="the checkpoint to convert")
    command.add_argument("out", metavar="OUT", help="the checkpoint to write")
    command.add_argument(
        "--base",
        metavar="FILE",
        help="encoder or detector of the LoRA adapters in IN\ndefault: the file of that name next to IN or in the "
        "current folder",
    )
    add_model_flags(command)
    command = add_command("average", "average checkpoints of one network")
    command.add_argument("out", metavar="OUT", help="the checkpoint to write")
    command.add_argument("sources", metavar="IN", nargs="+", help="the checkpoints to average")
    command.add_argument(
        "--average_as_published",
        action="store_true",
        rare=True,
        help=f"average IN c1 ... cn as the authors' program did: {checkpoints.AS_PUBLISHED}",
    )
    add_model_flags(command)
    command = add_command("export", "export a detector to ONNX, which runs without torch")
    command.add_argument("source", metavar="IN", help="the checkpoint to export")
    command.add_argument("out", metavar="OUT.onnx", help="the file to write")
    add_model_flags(command)
    command = add_command("calibrate", "add the threshold and calibration of a dev set to a checkpoint")
    command.add_argument("source", metavar="IN", help="the checkpoint to calibrate")
    command.add_argument("out", metavar="OUT", help="the checkpoint to write")
    command.add_argument("scores", metavar="SCORES", help="its scores of the dev set, from eval.py")
    command.add_argument("key", metavar="KEY", help="key of the dev set")
    corpora.add_score_flags(command)
    add_model_flags(command)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    flags = given_model_flags(args)
    if args.command == "show":
        path, name = checkpoints.fetch(args.file, "FILE", encoder=args.file.startswith("hf://"))
        lines = checkpoints.show(path, **flags)
        lines["file"] = lines["file"].replace(path, name)
        width = max(map(len, lines)) + 2
        print(*(printable(f"{name + ':':{width}}{value}") for name, value in lines.items()), sep="\n")
        return
    sources = args.sources if args.command == "average" else [args.source]
    endings = (".onnx",) if args.command == "export" else (".pt", ".pth")
    if Path(args.out).suffix not in endings:
        raise UserError(f"{args.out}: expected a name that ends in {' or '.join(endings)}")
    check_outputs([("OUT", args.out)], [*sources, *((args.scores, args.key) if args.command == "calibrate" else ())])
    if args.command == "convert":
        content = checkpoints.read_detector(args.source, args.base, **flags)
        checkpoints.check_weights(args.source, content)
        facts = {name: value for name, value in content.items() if name not in ("format", "config", "model")}
        save_checkpoint(args.out, ModelConfig(**content["config"]), content["model"], **facts)
    elif args.command == "calibrate":
        figures = checkpoints.calibrate(
            args.source, args.out, args.scores, args.key, args.score_column, args.higher_is, args.bonafide, **flags
        )
        print(*(f"{name} {value:.6g}" for name, value in figures.items()))
    elif args.command == "export":
        print(checkpoints.export(args.source, args.out, **flags))
    else:
        checkpoints.average_to(args.out, sources, args.average_as_published, **flags)
    print(f"written: {args.out}")


if __name__ == "__main__":
    run(main)
