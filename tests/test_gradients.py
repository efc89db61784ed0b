"""A training step of every model: which parameters it reaches, and that on a GPU it would wait for nothing."""

from pathlib import Path

import pytest
import torch
from test_any_front_end import ENCODERS, LAYER_NORMS
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from back_ends import BACK_ENDS
from back_ends.aasist import AASIST
from back_ends.moe import ExpertFusion
from front_ends import AGGREGATIONS
from model import ModelConfig, build_detector
from training.config import TrainingConfig
from training.losses import LOSSES, losses_for
from training.trainer import Training

NORM_LAST = {**LAYER_NORMS, "layer_norm_first": False}
FRONT_ENDS = {**ENCODERS, "wav2vec2, norm last": ("wav2vec2", {"ssl": "from_file", "ssl_config": NORM_LAST})}
SMALL = {"Nes_ratio": (2, 2)}


def detector_of(encoder, back_end, **options):
    front_end, fields = FRONT_ENDS[encoder]
    options |= SMALL if back_end.startswith("Nes2Net") else {}
    torch.manual_seed(0)
    return build_detector(ModelConfig(f"{front_end}_{back_end}", **fields, **options)).train()


def fits(encoder, back_end):
    return encoder != "LogMel" or not BACK_ENDS[back_end].least_layers


MODELS = [(encoder, back_end) for encoder in FRONT_ENDS for back_end in BACK_ENDS if fits(encoder, back_end)]


def check_declared(detector):
    """Of a backward pass that may reach everything, what it does not reach is what is declared."""
    detector.requires_grad_(True)
    detector(torch.randn(4, 4000)).square().sum().backward()
    unreached = {name for name, parameter in detector.named_parameters() if parameter.grad is None}
    detector.set_trained(front_end=True)
    assert {name for name, parameter in detector.named_parameters() if not parameter.requires_grad} == unreached
    detector.set_trained(front_end=False)
    frozen = {name for name, _ in detector.named_parameters() if name.startswith("front_end.")}
    assert {name for name, p in detector.named_parameters() if not p.requires_grad} == unreached | frozen
    return unreached


@pytest.mark.slow
@pytest.mark.parametrize("encoder, back_end", MODELS)
def test_what_no_step_reaches_is_declared(encoder, back_end):
    check_declared(detector_of(encoder, back_end))


@pytest.mark.parametrize("agg", AGGREGATIONS)
def test_an_aggregation_uses_all_that_it_has(agg):
    assert check_declared(detector_of("WavLM", "GF", agg=agg)) == {"front_end.model.mask_emb"}


def test_convolutions_without_a_gradient_are_declared():
    detector = detector_of("wav2vec2", "GF")
    detector.front_end.set_training({"feature_grad_mult": 0.0})
    unreached = check_declared(detector)
    assert unreached > {f"front_end.model.{name}" for name in ("mask_emb", "feature_extractor.conv_layers.0.0.weight")}


# Operations whose result, or its size, the host must know; and methods that read tensors without one on a CPU.
WAITING = ["_local_scalar_dense", "nonzero", "bincount", "_unique2", "unique_dim", "unique_consecutive"]
WAITING += ["masked_select", "equal", "is_nonzero", "repeat_interleave"]
READING = ["tolist", "numpy", "cpu", "__array__", "__bool__", "__int__", "__float__", "__index__", "item"]


class Waits(Exception):
    pass


class NoWaitingOperations(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("aten::").split(".")[0]
        indices = args[1] if name in ("index", "index_put", "index_put_") else []
        masks = any(index is not None and index.dtype == torch.bool for index in indices)
        if masks or (name in WAITING and "output_size" not in (kwargs or {})):
            raise Waits(function.name())
        return function(*args, **kwargs or {})


class NoReading(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in READING:
            raise Waits(function.__name__)
        return function(*args, **kwargs or {})


def step(detector, **flags):
    """A second step of training; the first sets up the optimiser."""
    criterion = LOSSES[losses_for(detector.config.n_output_logits)[0]]()
    flags |= {"optimizer": "Adam", "lr": 1e-4, "weight_decay": 1e-4, "schedule": "constant", "precision": "bf16"}
    config = TrainingConfig(**flags)
    training = Training(config, detector, criterion, torch.device("cpu"), Path("."), [None], {}, None)
    training.freeze(False)
    x, labels = torch.randn(4, 4000), torch.arange(4) % 2
    training.step(x, labels)
    with NoReading(), NoWaitingOperations():
        _, _, skipped = training.step(x, labels)
    assert not skipped


@pytest.mark.slow
@pytest.mark.parametrize("encoder, back_end", MODELS)
def test_no_step_waits_for_the_device(encoder, back_end, monkeypatch):
    monkeypatch.setattr(ExpertFusion, "_one_by_one", ExpertFusion._in_blocks)  # as on a GPU
    step(detector_of(encoder, back_end))


@pytest.mark.slow
def test_no_step_of_fine_tuning_waits_for_the_device():
    flags = {"sam": 0.05, "adaptive_sam": True, "ema": 0.9, "clip_grad_norm": 1.0, "layer_decay": 0.9}
    step(detector_of("WavLM", "AASIST"), **flags)


READS = [torch.Tensor.tolist, torch.Tensor.item, torch.nonzero, bool, torch.unique, torch.bincount]


@pytest.mark.slow
@pytest.mark.parametrize("read", [*READS, lambda x: x[x > 0], lambda x: x.repeat_interleave(x)])
def test_a_step_that_waits_is_noticed(read, monkeypatch):
    forward = AASIST.forward

    def waits(self, features):
        read(torch.ones((), dtype=torch.long) if read in (torch.Tensor.item, bool) else torch.ones(3, dtype=torch.long))
        return forward(self, features)

    monkeypatch.setattr(AASIST, "forward", waits)
    with pytest.raises(Waits):
        step(detector_of("LogMel", "AASIST"))


def test_a_backward_pass_that_waits_is_noticed(monkeypatch):
    forward = AASIST.forward

    def waits(self, features):
        out = forward(self, features)
        out.register_hook(lambda gradient: gradient * gradient.sum().item())
        return out

    monkeypatch.setattr(AASIST, "forward", waits)
    with pytest.raises(Waits):
        step(detector_of("LogMel", "AASIST"))


def test_the_loop_over_experts_would_wait():
    with pytest.raises(Waits):
        step(detector_of("wav2vec2", "MoE"))
