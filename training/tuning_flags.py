"""Flags of a training, of the group fine-tuning: what is trained of a pre-trained encoder, and how carefully.

Each is a field of TrainingConfig, see options.option.
"""

from dataclasses import dataclass
from functools import partial

from common.console import ABOVE_0, AT_LEAST_1, UserError
from front_ends.lora import TARGETS
from training.options import option

_tuning = partial(option, group="tuning")


@dataclass(frozen=True)
class TuningFlags:
    """Flags of the group fine-tuning."""

    lora_rank: int = _tuning(
        None,
        "train low-rank adapters (LoRA) of this rank in place of the encoder's weights; checkpoints hold the encoder "
        "with the adapters merged",
        kind=AT_LEAST_1,
        metavar="R",
    )
    lora_alpha: float = _tuning(
        None, "--lora_rank: adapters are scaled by alpha / rank; not given: the rank", kind=ABOVE_0, metavar="ALPHA"
    )
    lora_targets: str = _tuning(
        None, "--lora_rank: the projections that get adapters, in every layer (q,v)", choices=tuple(TARGETS)
    )

    ssl_layers: int = _tuning(
        None,
        "use the first N layers of the encoder alone; the checkpoint has no others",
        kind=AT_LEAST_1,
        metavar="N",
    )

    def _check_tuning(self):
        if self.ssl_layers and self.model_path:
            raise UserError("--ssl_layers, of a new detector, and --model_path exclude each other")
        if self.lora_rank is None:
            for name in ("lora_alpha", "lora_targets"):
                if getattr(self, name) is not None:
                    raise UserError(f"--{name} needs --lora_rank")
            return
        object.__setattr__(self, "lora_alpha", float(self.lora_alpha or self.lora_rank))
        object.__setattr__(self, "lora_targets", self.lora_targets or "q,v")
