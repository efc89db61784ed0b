"""Flags of a training, of the group fine-tuning: what is trained of a pre-trained encoder, and how carefully.

Each is a field of TrainingConfig, see options.option.
"""

from dataclasses import dataclass
from functools import partial

from common.console import ABOVE_0, AT_LEAST_1, Number, UserError
from front_ends.lora import TARGETS
from training.options import option

_tuning = partial(option, group="tuning", rare=True)


@dataclass(frozen=True)
class TuningFlags:
    """Flags of the group fine-tuning."""

    lora_rank: int = _tuning(
        None,
        "train low-rank adapters (LoRA) of this rank instead of the encoder's weights; checkpoints contain the encoder "
        "with the adapters merged",
        kind=AT_LEAST_1,
        metavar="R",
    )
    lora_alpha: float = _tuning(
        None, "--lora_rank: scale adapters by ALPHA / rank (the rank)", kind=ABOVE_0, metavar="ALPHA"
    )
    lora_targets: str = _tuning(
        None, "--lora_rank: projections with adapters, in every layer (q,v)", choices=tuple(TARGETS)
    )

    save_adapters: bool = _tuning(
        False,
        "--lora_rank: save the adapters without the encoder; loading them then needs the encoder's file",
        runtime=True,
    )
    ssl_layers: int = _tuning(
        None,
        "use only the first N layers of the encoder, in the checkpoint too",
        kind=AT_LEAST_1,
        metavar="N",
    )

    layer_decay: float = _tuning(
        None,
        "layer-wise learning-rate decay: lr * DECAY ^ depth; depth 0 is the back-end, 1 the encoder's last layer, and "
        "so on",
        kind=Number(float, 0, 1),
        metavar="DECAY",
    )
    clip_grad_norm: float = _tuning(None, "clip the norm of the gradient to this value", kind=ABOVE_0, metavar="NORM")
    ema: float = _tuning(
        None,
        "validate and save an exponential moving average of the weights with this decay per step, such as 0.999",
        kind=Number(float, 0, 0.999999),
        metavar="DECAY",
    )
    sam: float = _tuning(
        None,
        "sharpness-aware minimisation with radius RHO; a step takes twice the time",
        kind=ABOVE_0,
        metavar="RHO",
    )
    adaptive_sam: bool = _tuning(False, "--sam: adaptive radius, relative to the size of each weight (ASAM)")

    def _check_tuning(self):
        if self.adaptive_sam and not self.sam:
            raise UserError("--adaptive_sam needs --sam")
        if self.sam and self.precision == "fp16":
            raise UserError("--sam and --precision fp16, whose gradients are scaled, exclude each other; bf16 is fine")
        if self.ssl_layers and self.model_path:
            raise UserError("--ssl_layers, of a new detector, and --model_path exclude each other")
        if self.lora_rank is None:
            for name in ("lora_alpha", "lora_targets", "save_adapters"):
                if getattr(self, name):
                    raise UserError(f"--{name} needs --lora_rank")
            return
        object.__setattr__(self, "lora_alpha", float(self.lora_alpha or self.lora_rank))
        object.__setattr__(self, "lora_targets", self.lora_targets or "q,v")
