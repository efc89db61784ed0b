"""How much memory of a GPU a training step needs, and which flags make it less. Known of wav2vec 2.0, HuBERT and WavLM.

Axes: B trials, T frames, C channels, F channels within feed-forward parts, H heads.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator

import torch

from common.console import UserError
from front_ends import Wav2Vec2, lora
from front_ends.pretrained import convolutions
from model import Detector, count_parameters
from training import distributed
from training.config import TrainingConfig
from training.run_flags import PRECISIONS


def step_bytes(config: TrainingConfig, detector: Detector, world: int = 1) -> int | None:
    """Bytes of tensors at the height of a training step on a GPU, one of `world` processes; None if that is not known.

    The height is at the start of the backward pass, when all activations are there, or at its end, when all gradients
    are. Runs the back-end on two trials of zeros. Not known for a compiled step, or with another detector inside.
    """
    front_end = detector.front_end
    if config.compile or detector.inside or not isinstance(front_end, Wav2Vec2):
        return None
    trials = math.ceil(math.ceil(config.batch_size / world) / config.grad_accum)
    n_adapters, targets = 0, config.lora_targets
    if config.lora_rank:
        n_adapters = lora.n_adapter_parameters(front_end, config.lora_rank, targets)
    n_encoder = sum(p.numel() for name, p in front_end.named_parameters() if not lora.is_adapter(name))
    n_others = count_parameters(detector) - count_parameters(front_end)
    bytes_each = 4 if config.precision == "fp32" else 2
    frames, model = front_end.n_frames(config.longest_crop), front_end.model.cfg
    if detector.back_end.gives_prompts:
        frames += detector.back_end.prompts(0, 1).shape[1]
    state, n_layers = frames * model.encoder_embed_dim, model.encoder_layers
    first, extractor = _extractor_values(front_end, config.longest_crop, bytes_each)
    behind = _bytes_behind(config, detector, frames)
    frozen, prompted = config.SSL_freeze_epoch >= config.epochs, detector.back_end.gives_prompts
    if frozen and not prompted:  # no gradients of the encoder, and no activations are kept
        kept = (n_layers + 1) * state * bytes_each + behind
        return 4 * n_encoder + 16 * n_others + trials * max(3 * first * bytes_each, kept)
    layer = _layer_bytes(front_end, frames, bytes_each, targets)
    layers = n_layers * (state * bytes_each if config.grad_checkpoint else layer)
    before = extractor + 4 * state * bytes_each
    n_trained = n_others + (0 if frozen else n_adapters or n_encoder)
    if frozen or n_adapters:  # gradients pass the layers alone; what the convolutions give is not kept
        before = 4 * state * bytes_each
    # In float32, and two moments; a layer's weights are kept as they were multiplied, see Attention._projected.
    weights = 4 * (n_encoder + n_adapters + n_others) + 8 * n_trained
    weights += 4 * n_trained * ((config.ema is not None) + bool(config.sam))  # the average; the weights before SAM's e
    copies = 2 * n_encoder if bytes_each == 2 else 12 * n_layers * model.encoder_embed_dim**2
    if bytes_each == 4 and n_adapters:  # the sums of other weights and their adapters
        copies += 4 * n_layers * model.encoder_embed_dim**2 * (targets != "q,v")
        copies += 8 * n_layers * model.encoder_embed_dim * model.encoder_ffn_embed_dim * (targets == "all-linear")
    gradients = 4 * n_trained
    buckets = gradients if world > 1 else 0  # of DistributedDataParallel
    of_states = 4 * state * (n_layers + 1 if detector.back_end.takes_hidden_states else 1)  # their gradients
    at_start = copies + trials * (before + layers + behind + of_states)
    at_start += gradients if config.grad_accum > 1 else 4 * n_others
    at_end = gradients + trials * (before + layer)
    convolved = trials * 3 * first * bytes_each if n_adapters else 0  # at the start of the forward pass
    return weights + buckets + max(at_start, at_end, convolved)


def _extractor_values(front_end, n_samples, bytes_each):
    """Of the convolutions, a trial: the values that the first gives, and the bytes that are kept of all.

    A layer norm's input and output are kept, and what the activation gives; the group norm computes in float32.
    """
    outputs = []
    for channels, kernel, stride in convolutions(front_end.model.cfg.conv_feature_layers):
        n_samples = (n_samples - kernel) // stride + 1
        outputs.append(channels * n_samples)
    kept = 3 * sum(outputs) * bytes_each
    if not front_end.trims_to_frames:
        kept = 2 * sum(outputs) * bytes_each + 4 * outputs[0]
    return outputs[0], kept if front_end.model.feature_grad_mult > 0 else 0


def _layer_bytes(front_end, frames, bytes_each, targets):
    """Of a transformer layer, a trial: what is kept for the backward pass. targets: of adapters, None without."""
    model, settings = front_end.model.cfg, front_end.training_settings()
    channels, wide = model.encoder_embed_dim, model.encoder_ffn_embed_dim
    # Both norms' inputs and outputs, queries, keys, values and their weighted sum; before and behind the activation.
    kept = frames * (8 * channels + 2 * wide)
    if targets in ("q,v", "q,k,v,o"):  # no gradient of the feed-forward part's weights needs its inputs
        kept -= frames * (channels + wide)
    if front_end.relative_position:  # channels by head, the gated bias (H, T, T)
        kept += frames * (channels + model.encoder_attention_heads * frames)
    masks = frames * (2 * channels * (settings["dropout"] > 0) + wide * (settings["activation_dropout"] > 0))
    return kept * bytes_each + masks


def _bytes_behind(config, detector, frames):
    """Of aggregation and back-end, a trial: what is kept for the backward pass."""
    device, dtype = next(detector.parameters()).device, PRECISIONS[config.precision]
    front_end, back_end = detector.front_end, detector.back_end
    n_trials = 2 * back_end.least_batch
    shape = n_trials, frames, front_end.channels
    # One storage a state.
    states = [
        torch.zeros(shape, dtype=dtype, device=device, requires_grad=True) for _ in range(front_end.n_hidden_states)
    ]
    there = {t.untyped_storage().data_ptr() for t in (*states, *detector.parameters(), *detector.buffers())}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in there:
            kept[storage.data_ptr()] = storage
        return tensor

    buffers = {name: buffer.clone() for name, buffer in back_end.named_buffers()}
    was_training = back_end.training
    back_end.train()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                detector.classify(states)
    back_end.train(was_training)
    with torch.no_grad():
        for name, buffer in back_end.named_buffers():
            buffer.copy_(buffers[name])
    return sum(storage.nbytes() for storage in kept.values()) // n_trials


def in_words(config: TrainingConfig, detector: Detector, device: torch.device) -> str:
    """How much of the GPU's memory a step needs, for the reader of a log; "" if that is not known."""
    needed = step_bytes(config, detector, distributed.world_size()) if device.type == "cuda" else None
    if not needed:
        return ""
    there = torch.cuda.get_device_properties(device).total_memory
    advice = f": too much; {less(config, detector)}" if needed > there else ""
    return f"memory: a step needs about {_gib(needed)} of the GPU's {_gib(there)}{advice}"


@contextlib.contextmanager
def explained(config: TrainingConfig, detector: Detector) -> Iterator[None]:
    """Within, a GPU that is out of memory is a UserError, which names the flags that help."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        found = ". ".join(str(error).split(". ")[:3])  # then comes advice for programmers
        if detector.training:
            # What the GPU holds is not freed yet, and the back-end is to run once more.
            raise UserError(f"training: {found}; {less(config, detector.cpu())}") from error
        crop = config.validation == "eer" and not config.valid_crop
        raise UserError(f"validation: {found}{'; --valid_crop takes less' if crop else ''}") from error


def less(config: TrainingConfig, detector: Detector) -> str:
    """The flags that make the memory of a step less, but for those in use, and what is needed then."""
    world = distributed.world_size()
    now, parts = step_bytes(config, detector, world), 2 * config.grad_accum
    half = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    flags = {
        "--grad_checkpoint": {"grad_checkpoint": True},
        f"--grad_accum {parts}": {"grad_accum": parts},
        f"--precision {half}": {"precision": half},
        "--lora_rank 8, which trains adapters in place of the encoder": {"lora_rank": 8},
        f"--SSL_freeze_epoch {config.epochs}, which trains the back-end alone": {"SSL_freeze_epoch": config.epochs},
    }
    if config.precision != "fp32" or (config.sam and half == "fp16"):
        del flags[f"--precision {half}"]
    if config.batch_size // world // parts < detector.back_end.least_batch:
        del flags[f"--grad_accum {parts}"]
    if config.lora_rank or not detector.front_end.layers():
        del flags["--lora_rank 8, which trains adapters in place of the encoder"]
    words = []
    for words_of_flag, values in flags.items():
        then = step_bytes(dataclasses.replace(config, **values), detector, world)
        if all(getattr(config, name) == value for name, value in values.items()) or (then and then > 0.98 * now):
            continue
        words.append(f"{words_of_flag} (about {_gib(then)})" if then else words_of_flag)
    if not words:
        return "no flag makes it less; --batch_size is the recipe's"
    goes_on = "" if config.grad_checkpoint else "; a run that goes on (--resume auto) may add --grad_checkpoint alone"
    return f"less, without another --batch_size: {'; '.join(words)}{goes_on}"


def _gib(n_bytes):
    return f"{n_bytes / 2**30:.1f} GiB"
