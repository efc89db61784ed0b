"""Benchmarks of training steps and back-ends for tools/benchmark.py."""

import contextlib
import functools
import gc
import time
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from back_ends import BACK_ENDS, build_back_end
from back_ends.mamba import Mixer
from back_ends.mambo import Hydra
from common.console import AT_LEAST_1
from front_ends.wav2vec2 import Wav2Vec2
from model import ModelConfig, build_detector
from tools.cost import Products, costs
from tools.cost import published as published_back_end
from tools.timing import figures, seconds_of, time_ways
from training.config import TrainingConfig
from training.losses import LOSSES, losses_for
from training.trainer import Training

# Multiplications and additions a second, dense, as the makers publish them: bfloat16, TF32, float32. The first that the
# device's name contains counts.
PEAKS = {
    "H100 PCIe": (756e12, 378e12, 51e12),
    "H100 NVL": (835e12, 417e12, 60e12),
    "H100": (989e12, 494e12, 67e12),
    "H200": (989e12, 494e12, 67e12),
    "A100": (312e12, 156e12, 19.5e12),
    "L40S": (362e12, 183e12, 91.6e12),
    "RTX 4090": (165e12, 82.6e12, 82.6e12),
    "RTX 3090": (71e12, 35.6e12, 35.6e12),
    "T4": (None, None, 8.1e12),
}
OTHER_CARDS = ("Laptop", " D", " Ti")  # of like names, and slower or faster
WAYS = {  # name -> (flags of train.py, column of PEAKS that it may reach)
    "naive": (None, 2),
    "fp32": ({"precision": "fp32"}, 1),
    "bf16": ({"precision": "bf16"}, 0),
    "bf16, recomputing": ({"precision": "bf16", "grad_checkpoint": True}, 0),
    "bf16, compiled": ({"precision": "bf16", "compile": True}, 0),
}
SHARES = "% parts"  # front-end, back-end, backward, optimiser
# Before those that are timed: a step is recorded as a CUDA graph after some.
WARM_UP = {"naive": 1, "bf16, compiled": 6}


def train(args):
    """Benchmark a training step against one in float32 that waits for its loss.

    One detector is in memory at a time, so the ways do not take turns. What does not fit the memory is said in its row.
    Columns: of peak, the share of what the card may reach in that precision; GiB, the most memory that was in use;
    % parts, of the time, those of front-end, back-end, backward pass and optimiser.
    """
    device = torch.device(args.device)
    config = ModelConfig(args.model_name, ssl=args.ssl or ("xlsr_300m" if args.device == "cuda" else "tiny"))
    per_utterance = _products(config, device, args.crop)
    ways = [name for name in WAYS if args.compile or "compiled" not in name]
    rows = []
    for batch_size in args.batch_sizes:
        x = 0.1 * torch.randn(batch_size, args.crop, device=device)
        labels = torch.arange(batch_size, device=device) % 2
        naive = None
        for name in ways:
            row = {"name": f"{batch_size} x {name}"}
            try:
                taken, facts = _timed(name, config, device, x, labels, args.repeats)
            except torch.OutOfMemoryError:
                rows.append({**row, "GiB": "out of memory"})
                continue
            naive = taken if name == "naive" else naive
            row |= figures(taken, naive)
            per_second = 2 * per_utterance * batch_size / row["seconds"]
            row |= {"utt/s": batch_size / row["seconds"], "TFLOP/s": per_second / 1e12}
            peak = _peak(device, WAYS[name][1])
            row |= {"of peak": f"{per_second / peak:.1%}"} if peak else {}
            rows.append(row | facts)
    return rows


def _products(config, device, crop):
    """Multiply-accumulates of a training step per utterance; recomputation to save memory is not counted."""
    step, _ = _step("naive", config, device)
    with sdpa_kernel(SDPBackend.MATH), Products() as products:
        step(0.1 * torch.randn(2, crop, device=device), torch.arange(2, device=device))
    return products.n / 2


def _step(name, config, device):
    """(a training step of waveforms and labels, its Training or None) of a new detector."""
    if name == "naive":
        return _naive_step(config, device), None
    training = _training(config, device, WAYS[name][0])
    return training.step, training


def _timed(name, config, device, x, labels, repeats):
    """Seconds of each step, and other facts of it."""
    torch._dynamo.reset()
    gc.collect()  # the detector before this one
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    step, training = _step(name, config, device)
    call = functools.partial(_in_mode, name, step, x, labels)
    for _ in range(WARM_UP.get(name, 3)):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    taken = [seconds_of(call, device) for _ in range(repeats)]
    facts = {}
    if device.type == "cuda":
        facts = {"GiB": torch.cuda.max_memory_allocated(device) / 2**30, "launches": _launches(call)}
    return taken, facts | ({SHARES: _shares(training, x, labels)} if name in ("fp32", "bf16") else {})


def _launches(call):
    """Number of GPU launches of a call."""
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profiled:
        call()
        torch.cuda.synchronize()
    return sum(event.count for event in profiled.key_averages() if "Launch" in event.key)


def _in_mode(name, step, x, labels):
    torch.set_float32_matmul_precision("highest" if name == "naive" else "high")
    torch.backends.cudnn.allow_tf32 = name != "naive"
    step(x, labels)


@contextlib.contextmanager
def plainly():
    """Context in which a detector computes naively: fairseq's convolutions, transposed for every norm."""
    extract = Wav2Vec2.extract
    Wav2Vec2.extract = lambda self, waveforms: self.model.feature_extractor(waveforms)
    try:
        yield
    finally:
        Wav2Vec2.extract = extract


def _naive_step(config, device):
    """Naive step: float32, one kernel per weight, its loss read at once."""
    detector = build_detector(config).to(device).train()
    optimizer = torch.optim.Adam(detector.parameters(), lr=1e-6, weight_decay=1e-4, foreach=False)
    criterion = LOSSES[losses_for(config.n_output_logits)[0]]().to(device)

    def step(x, labels):
        with plainly():
            loss = criterion(detector(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _training(config, device, flags):
    flags = TrainingConfig(**flags, optimizer="Adam", lr=1e-6, weight_decay=1e-4, schedule="constant")
    detector = build_detector(config).to(device)
    criterion = LOSSES[losses_for(config.n_output_logits)[0]]().to(device)
    training = Training(flags, detector, criterion, device, Path("."), [None], {}, None)
    training.freeze(False)
    detector.train()
    return training


def _peak(device, column):
    """Peak FLOP/s of a GPU; None if unknown."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    if any(gpu.endswith(word) or f"{word} " in gpu for word in OTHER_CARDS):
        return None
    return next((peaks[column] for name, peaks in PEAKS.items() if name in gpu), None)


def _shares(training, x, labels):
    """Shares of the parts of a step in its time, in words; synchronises with the device after each part."""
    moments = {}

    def now(name):
        def hook(*_):
            if training.device.type == "cuda":
                torch.cuda.synchronize(training.device)
            moments[name] = time.perf_counter()

        return hook

    detector, optimizer = training.detector, training.optimizer
    handles = [
        detector.front_end.register_forward_pre_hook(now("start")),
        detector.front_end.register_forward_hook(now("front-end")),
        detector.register_forward_hook(now("back-end")),
        optimizer.register_step_pre_hook(now("backward")),
        optimizer.register_step_post_hook(now("optimiser")),
    ]
    training.step(x, labels)
    for handle in handles:
        handle.remove()
    names = list(moments)
    seconds = {name: moments[name] - moments[before] for before, name in zip(names, names[1:])}
    return "/".join(f"{100 * part / sum(seconds.values()):.0f}" for part in seconds.values())


def train_flags(parser):
    parser.add_argument("--model_name", default="wav2vec2_Nes2Net_X", help="detector")
    parser.add_argument("--ssl", help="encoder (xlsr_300m on cuda, tiny on the CPU)")
    parser.add_argument("--batch_sizes", type=AT_LEAST_1, nargs="+", default=[12], help="trials per step")
    parser.add_argument("--crop", type=AT_LEAST_1, default=64600, help="length of an utterance [samples]")
    parser.add_argument("--compile", action="store_true", help="time torch.compile as well")


def backend(args):
    """The Nes2Net family on features of XLS-R 300M, forward and backward."""
    torch.manual_seed(0)
    features = torch.randn(args.batch_size, args.frames, 1024, device=args.device, requires_grad=True)
    rows = []
    for name in ("Nes2Net", "Nes2Net_X", "Nes2Net_X_SeLU"):
        net = build_back_end(ModelConfig(f"wav2vec2_{name}"), 1024).to(args.device)
        functions = {name: net}
        if args.compile:
            functions[f"{name}, compiled"] = torch.compile(net)
        ways = {name: functools.partial(_forward_and_backward, way, net, features) for name, way in functions.items()}
        rows += time_ways(ways, args.repeats, args.device)
    return rows


def backend_flags(parser):
    parser.add_argument("--batch_size", type=AT_LEAST_1, default=12, help="utterances per batch")
    parser.add_argument("--frames", type=AT_LEAST_1, default=201, help="frames per utterance")
    parser.add_argument("--compile", action="store_true", help="time torch.compile as well")


def mixers(args):
    """State-space mixers and the back-ends made of them, forward and backward, against AASIST."""
    torch.manual_seed(0)
    names = ("AASIST", "Mamba", "Fake_Mamba", "MamBo")
    networks = {name: (build_back_end(ModelConfig(f"wav2vec2_{name}"), 1024), 1024) for name in names}
    networks |= {"a mixer of Mamba": (Mixer(144, 6, 16, 4), 144), "a mixer of MamBo (Hydra)": (Hydra(128, 64, 7), 128)}
    ways = {}
    for name, (network, channels) in networks.items():
        x = torch.randn(args.batch_size, args.frames, channels, device=args.device, requires_grad=True)
        ways[name] = functools.partial(_forward_and_backward, network.to(args.device), network, x)
    return time_ways(ways, args.repeats, args.device)


def _forward_and_backward(function, network, x):
    network.zero_grad()
    function(x).sum().backward()


def mixers_flags(parser):
    parser.add_argument("--batch_size", type=AT_LEAST_1, default=12, help="utterances per batch")
    parser.add_argument("--frames", type=AT_LEAST_1, default=208, help="frames per utterance")


def cost(args):
    """Every back-end at its published size, forward on 4 s: parameters, multiply-accumulates, time against AASIST's."""
    torch.manual_seed(0)
    parts = {name: published_back_end(name) for name in ("AASIST", *(name for name in BACK_ENDS if name != "AASIST"))}
    facts = [costs(*part) for part in parts.values()]
    ways = {}
    for name, (network, features) in parts.items():
        features = [x.to(args.device) for x in features] if isinstance(features, list) else features.to(args.device)
        ways[name] = functools.partial(network.to(args.device), features)
    with torch.inference_mode():
        rows = time_ways(ways, args.repeats, args.device)
    return [{**row, **fact} for row, fact in zip(rows, facts)]
