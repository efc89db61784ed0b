"""Judge one audio file.

    python easy_inference_demo.py --model_path CKPT.pt --file_to_test FILE.flac
Set CUDA_VISIBLE_DEVICES= (empty) to stay on the CPU.
"""

import argparse

import torch

import checkpoint
from console import run
from data_utils import SAMPLE_RATE, first_samples, load_audio, repeat_pad
from front_ends import RECEPTIVE_FIELD
from model import add_model_flags, choose_device, given_model_flags


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Judge one audio file.", allow_abbrev=False)
    parser.add_argument("--model_path", required=True, help="a checkpoint")
    parser.add_argument("--file_to_test", required=True, help="an audio file")
    parser.add_argument(
        "--test_mode", choices=["4s", "full"], default="full", help="first 4 s or all of it (%(default)s)"
    )
    parser.add_argument(
        "--threshold", type=float, help="scores above it are bona fide; not given: the checkpoint's own"
    )
    add_model_flags(parser, required=False)
    parser.add_argument("--AASIST_scale", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def reading(score, threshold, content):
    """What the score says, in words that claim no more than it does. content: of the checkpoint."""
    valid = content.get("valid", {})
    at = threshold if threshold is not None else valid.get("threshold")
    if at is None:
        return "this checkpoint has no threshold of its own; give --threshold (higher scores are more bona fide)"
    verdict = f"bona fide: the score is above {at:.4g}" if score > at else f"spoof: the score is not above {at:.4g}"
    if threshold is not None:
        return f"{verdict}, the threshold given"
    return (
        f"{verdict}, where this detector errs on {100 * valid['eer']:.1f} % of either class of the dev set "
        f"of {content.get('trained_on', 'a corpus not named')}; expect more errors on other recordings"
    )


def main(argv=None):
    args = parse_args(argv)
    x = load_audio(args.file_to_test)
    seconds = len(x) / SAMPLE_RATE
    x = first_samples(x, 64000) if args.test_mode == "4s" else repeat_pad(x, RECEPTIVE_FIELD)
    content = checkpoint.read_checkpoint(args.model_path)
    detector = checkpoint.load_detector(args.model_path, **given_model_flags(args))
    device = choose_device()
    with torch.inference_mode():
        score = detector.to(device).score(torch.from_numpy(x)[None].to(device)).item()
    print(f"file: {args.file_to_test}, {seconds:.2f} s")
    print(f"score: {score}")
    print(reading(score, args.threshold, content))


if __name__ == "__main__":
    run(main)
