"""Table of the detectors that export to ONNX, with lengths and accuracy; or the speed of onnxruntime.

python tools/onnx_table.py [--front_ends NAME ...] [--back_ends NAME ...]   the table of docs/onnx.md, small encoders
python tools/onnx_table.py --speed MODEL_NAME [--ssl NAME]                  seconds of 4 s of audio, beside torch's
Weights are random.
"""

import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the project, from wherever this is started

import common.threads  # noqa: F401

import numpy as np
import torch

import checkpoints
from back_ends import BACK_ENDS
from common.console import Number, UserError, run
from common.flags import CommandParser
from common.onnx_file import read_onnx
from common.workers import usable_cores
from front_ends import FRONT_ENDS
from inference.scoring import score_batch
from model import ModelConfig, build_detector
from tools.timing import print_rows, time_ways

SMALL = {
    "wav2vec2": {"ssl": "tiny"},
    "WavLM": {"ssl": "tiny"},
    "Whisper": {
        "ssl": "from_file",
        "ssl_config": {
            "d_model": 64,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 128,
            "num_mel_bins": 16,
        },
    },
    "LogMel": {},
}


def parse_args(argv=None):
    parser = CommandParser(description="Tabulate which detectors export to ONNX, or time one of them.")
    parser.add_argument("--front_ends", nargs="+", choices=[*FRONT_ENDS], metavar="NAME", help="front-ends (all)")
    parser.add_argument("--back_ends", nargs="+", choices=[*BACK_ENDS], metavar="NAME", help="back-ends (all)")
    parser.add_argument("--speed", metavar="MODEL_NAME", help="time this detector instead of the table")
    parser.add_argument("--ssl", metavar="NAME", help="--speed: its encoder (the published one)")
    parser.add_argument("--repeats", type=Number(int, 1, 1000), default=5, metavar="N", help="--speed: timed turns")
    args = parser.parse_args(argv)
    args.front_ends, args.back_ends = args.front_ends or [*FRONT_ENDS], args.back_ends or [*BACK_ENDS]
    return args


def saved_detector(path, config):
    torch.manual_seed(0)
    detector = build_detector(config).eval()
    for name, parameter in detector.named_parameters():
        if name.endswith("w_gate"):  # of MoE: zeros, which choose no expert rather than another
            torch.nn.init.normal_(parameter)
    checkpoints.save_checkpoint(path, config, detector.state_dict())


def cell(front_end, back_end, folder):
    """Lengths that an exported detector takes, and the largest difference of its scores from torch's."""
    ratio = {"Nes_ratio": (2, 2)} if "Nes_ratio" in BACK_ENDS[back_end].options() else {}
    try:
        config = ModelConfig(model_name=f"{front_end}_{back_end}", **SMALL[front_end], **ratio)
        saved_detector(folder / "d.pth", config)
    except UserError:
        return ""  # a spectrogram has no layers that a back-end could take
    try:
        said = checkpoints.export(folder / "d.pth", folder / "d.onnx")
    except UserError as error:
        return f"refused: {error}"
    takes, differs = re.match(r"takes audio of (any length|\d+ samples).* by (\S+) at most", said).groups()
    return f"{takes}, {differs}"


def speed(config, folder, repeats):
    saved_detector(folder / "d.pth", config)
    print(checkpoints.export(folder / "d.pth", folder / "d.onnx"), flush=True)
    detector = checkpoints.load_detector(folder / "d.pth")
    session, _ = read_onnx(folder / "d.onnx")
    x = 0.1 * np.random.default_rng(0).standard_normal(64_000).astype(np.float32)
    ways = {
        "torch": lambda: score_batch(detector, detector.front_end.ready(x).unsqueeze(0)),
        "onnxruntime": lambda: session.run(None, {"waveforms": x[None]}),
    }
    title = f"{config.model_name} {config.ssl}, 4 s of audio, {usable_cores()} threads"
    print_rows(title, time_ways(ways, repeats))


def main(argv=None):
    args = parse_args(argv)
    torch.set_num_threads(usable_cores())
    with tempfile.TemporaryDirectory() as folder:
        if args.speed:
            return speed(ModelConfig(model_name=args.speed, ssl=args.ssl), Path(folder), args.repeats)
        print(f"| back-end | {' | '.join(args.front_ends)} |")
        print("|---" * (1 + len(args.front_ends)) + "|")
        for back_end in args.back_ends:
            cells = (cell(front_end, back_end, Path(folder)) for front_end in args.front_ends)
            print(f"| {back_end} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    run(main)
