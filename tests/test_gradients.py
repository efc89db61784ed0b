"""Which parameters a training step reaches, for every model: those that the parts do not declare as unused."""

import pytest
import torch
from test_any_front_end import ENCODERS, LAYER_NORMS

from back_ends import BACK_ENDS
from front_ends import AGGREGATIONS
from model import ModelConfig, build_detector

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
