"""Training steps and back-ends, for tools/benchmark.py."""

import contextlib
import functools
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from back_ends import BACK_ENDS, build_back_end
from common.console import AT_LEAST_1
from front_ends.wav2vec2 import Wav2Vec2
from model import ModelConfig, build_detector
from tools.cost import costs
from tools.cost import published as published_back_end
from tools.timing import time_ways
from training.config import TrainingConfig
from training.losses import LOSSES, losses_for
from training.trainer import Training

# Multiplications and additions a second, dense, as the makers publish them: half precision, TF32.
PEAKS = {"H100": (989e12, 494e12), "H200": (989e12, 494e12), "A100": (312e12, 156e12), "L40S": (362e12, 183e12)}


def train(args):
    """A step of training, against one in float32 that waits for its loss."""
    device = torch.device(args.device)
    config = ModelConfig(args.model_name, ssl=args.ssl or ("xlsr_300m" if args.device == "cuda" else "tiny"))
    ways = {"fp32": ("fp32", False), "bf16": ("bf16", False), "bf16, compiled": ("bf16", True)}
    rows = []
    for batch_size in args.batch_sizes:
        x = 0.1 * torch.randn(batch_size, args.crop, device=device)
        labels = torch.arange(batch_size, device=device) % 2
        naive = _naive_step(config, device)
        with FlopCounterMode(display=False) as counter:
            naive(x, labels)
        trainings = {
            name: _training(config, device, precision, compiled)
            for name, (precision, compiled) in ways.items()
            if not compiled or args.compile
        }
        steps = {"naive": naive} | {name: training.step for name, training in trainings.items()}
        calls = {
            f"{name}, batch {batch_size}": functools.partial(_in_mode, name, step, x, labels)
            for name, step in steps.items()
        }
        for (name, _), row in zip(steps.items(), time_ways(calls, args.repeats, args.device)):
            per_second = counter.get_total_flops() / row["seconds"]
            row |= {"utterances/s": batch_size / row["seconds"], "TFLOP/s": per_second / 1e12}
            peak = _peak(device, name)
            row |= {"of the peak": f"{per_second / peak:.1%}"} if peak else {}
            if name in trainings and not ways[name][1]:
                row |= _shares(trainings[name], x, labels)
            rows.append(row)
    return rows


def _in_mode(name, step, x, labels):
    torch.set_float32_matmul_precision("highest" if name == "naive" else "high")
    torch.backends.cudnn.allow_tf32 = name != "naive"
    step(x, labels)


@contextlib.contextmanager
def plainly():
    """Within, a detector computes as it is first written: fairseq's convolutions, transposed for every norm."""
    extract = Wav2Vec2.extract
    Wav2Vec2.extract = lambda self, waveforms: self.model.feature_extractor(waveforms)
    try:
        yield
    finally:
        Wav2Vec2.extract = extract


def _naive_step(config, device):
    """A step as it is first written: float32, one kernel a weight, its loss read at once."""
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


def _training(config, device, precision, compiled):
    flags = {"optimizer": "Adam", "lr": 1e-6, "weight_decay": 1e-4, "schedule": "constant"}
    flags = TrainingConfig(**flags, precision=precision, compile=compiled)
    detector = build_detector(config).to(device)
    criterion = LOSSES[losses_for(config.n_output_logits)[0]]().to(device)
    training = Training(flags, detector, criterion, device, Path("."), [None], {}, None)
    training.freeze(False)
    detector.train()
    return training


def _peak(device, name):
    half, single = next(
        (peak for gpu, peak in PEAKS.items() if device.type == "cuda" and gpu in torch.cuda.get_device_name(device)),
        (None, None),
    )
    return half if "bf16" in name else single


def _shares(training, x, labels):
    """Where the time of a step goes, {part: share}: waits for the device after each part."""
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
    return {name: f"{part / sum(seconds.values()):.0%}" for name, part in seconds.items()}


def train_flags(parser):
    parser.add_argument("--model_name", default="wav2vec2_Nes2Net_X", help="(%(default)s)")
    parser.add_argument("--ssl", help="encoder; not given: xlsr_300m on cuda, tiny on the CPU")
    parser.add_argument("--batch_sizes", type=AT_LEAST_1, nargs="+", default=[12], help="(12)")
    parser.add_argument("--crop", type=AT_LEAST_1, default=64600, help="samples of an utterance (%(default)s)")
    parser.add_argument("--compile", action="store_true", help="also by torch.compile")


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

        def step(function, net=net):
            net.zero_grad()
            function(features).sum().backward()

        rows += time_ways(
            {key: functools.partial(step, function) for key, function in functions.items()}, args.repeats, args.device
        )
    return rows


def backend_flags(parser):
    parser.add_argument("--batch_size", type=AT_LEAST_1, default=12, help="(%(default)s)")
    parser.add_argument("--frames", type=AT_LEAST_1, default=201, help="(%(default)s)")
    parser.add_argument("--compile", action="store_true", help="also by torch.compile")


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
