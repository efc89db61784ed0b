"""The memory tables of docs/speed.md and docs/fine_tuning.md: GiB of a training step, and trials that fit a card.

    python tools/memory_table.py
Both are the estimate of training/memory.py, from shapes alone: no weights, no GPU.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the project, from wherever this is started

import common.threads  # noqa: F401

from common.console import run
from common.flags import CommandParser
from front_ends import lora
from model import Detector, ModelConfig, build_detector
from training import memory
from training.config import TrainingConfig

BASE = {
    **{"extractor_mode": "default", "layer_norm_first": False, "conv_bias": False, "normalize": False},
    **{"encoder_layers": 12, "encoder_embed_dim": 768, "encoder_ffn_embed_dim": 3072, "encoder_attention_heads": 12},
}
XLSR_1B = {
    **{"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True, "normalize": True},
    **{"encoder_layers": 48, "encoder_embed_dim": 1280, "encoder_ffn_embed_dim": 5120, "encoder_attention_heads": 16},
}
MODELS = {  # title: (name, encoder if it is of no preset)
    "wav2vec 2.0 Base, Nes2Net-X": ("wav2vec2_Nes2Net_X", BASE),
    "XLS-R 300M, Nes2Net-X": ("wav2vec2_Nes2Net_X", None),
    "XLS-R 300M, AASIST": ("wav2vec2_AASIST", None),
    "WavLM Large, SEA, Nes2Net-X": ("WavLM_Nes2Net_X", None),
    "XLS-R 1B, Nes2Net-X": ("wav2vec2_Nes2Net_X", XLSR_1B),
}
TRAINED = {  # title: (layers of XLS-R 300M, targets of adapters of rank 8)
    "all": (24, None),
    "LoRA, q,v": (24, "q,v"),
    "LoRA, q,k,v,o": (24, "q,k,v,o"),
    "LoRA, all-linear": (24, "all-linear"),
    "`--ssl_layers 12`, all": (12, None),
    "`--ssl_layers 12`, LoRA, q,v": (12, "q,v"),
}
CARDS = (8, 12, 24, 80)  # GB
CROP, RANK = 64600, 8


def gib(detector: Detector, trials: int, precision: str, **flags: object) -> float:
    """Peak GiB of a training step with this many trials."""
    config = TrainingConfig(batch_size=trials, precision=precision, crop=CROP, epochs=1, **flags)
    return memory.step_bytes(config, detector) / 2**30


def trials_that_fit(detector: Detector, cards: Sequence[int], **flags: object) -> list[int]:
    """Most trials per bf16 step for each card size [GB], leaving 3 % and 1 GiB of its memory free."""
    # The estimate is the highest of several straight lines: at many trials it is the steepest of them.
    low, high = gib(detector, 512, "bf16", **flags), gib(detector, 1024, "bf16", **flags)
    slope, found = (high - low) / 512, []
    for card in cards:
        limit = 0.97 * card - 1
        trials = max(int(512 + (limit - low) / slope), 0)
        while trials and gib(detector, trials, "bf16", **flags) > limit:
            trials -= 1
        found.append(trials)
    return found


def cells_that_fit(detector: Detector, **flags: object) -> str:
    """Of every card: trials, in brackets with --grad_checkpoint."""
    both = [trials_that_fit(detector, CARDS, grad_checkpoint=recomputing, **flags) for recomputing in (False, True)]
    return " | ".join(f"{plain} ({recomputing})" if plain else "-" for plain, recomputing in zip(*both))


def main(argv: list[str] | None = None) -> None:
    CommandParser(
        description="Print the memory tables of docs/speed.md and docs/fine_tuning.md: GiB per training "
        "step, and trials that fit a card.",
        allow_abbrev=False,
    ).parse_args(argv)
    detectors = {}
    for title, (name, fields) in MODELS.items():
        own = {"ssl": "from_file", "ssl_config": fields} if fields else {}
        detectors[title] = build_detector(ModelConfig(name, **own), empty="all")
    print(f"| GiB | trials | fp32 | fp32, recomputing | bf16 | bf16, recomputing |\n| --- |{' ---: |' * 5}")
    for title, detector in detectors.items():
        for trials in (12, 34, 64):
            ways = [(precision, again) for precision in ("fp32", "bf16") for again in (False, True)]
            cells = [f"{gib(detector, trials, one, grad_checkpoint=again):.1f}" for one, again in ways]
            print(f"| {title} | {trials} | {' | '.join(cells)} |")
    cards = " | ".join(f"{card} GB" for card in CARDS)
    print(f"\n| trials at once | {cards} |\n| --- |{' ---: |' * len(CARDS)}")
    for title, detector in detectors.items():
        print(f"| {title} | {cells_that_fit(detector)} |")
    print(f"\n| trained | fp32 | bf16 | {cards} |\n| --- | ---: | ---: |{' ---: |' * len(CARDS)}")
    whole = ModelConfig("wav2vec2_Nes2Net_X")
    for title, (n_layers, targets) in TRAINED.items():
        detector = build_detector(whole.with_first_layers(n_layers), empty="all")
        flags = {}
        if targets:
            lora.add_adapters(detector.front_end, RANK, RANK, targets)
            flags = {"lora_rank": RANK, "lora_targets": targets}
        cells = [f"{gib(detector, 12, precision, **flags):.1f}" for precision in ("fp32", "bf16")]
        print(f"| {title} | {' | '.join(cells)} | {cells_that_fit(detector, **flags)} |")


if __name__ == "__main__":
    run(main)
