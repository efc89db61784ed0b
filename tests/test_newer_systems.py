"""Systems built after their papers: vectors computed apart from this project's code, and what each must do."""

import pytest
import torch
from conftest import read_reference
from torch import nn

from back_ends.common import AttentivePooling
from back_ends.mfa import MFA
from model import ModelConfig, build_detector, count_parameters

VECTORS = read_reference("newer_systems.json")


def fill(pooling, values):
    """Set an AttentivePooling to the W, b, v and c of a vector."""
    first, _, last = pooling.attention
    for name, parameter in zip("Wbvc", (first.weight, first.bias, last.weight, last.bias)):
        parameter.data = torch.tensor(values[name], dtype=torch.float64).reshape(parameter.shape)


def test_mfa_pools_frames_then_layers():
    vector = VECTORS["mfa"]
    states = [torch.tensor(state, dtype=torch.float64)[None] for state in vector["hidden_states"]]
    mfa = MFA(3, 3, attention_size=3).double().eval()
    for i, pooling in enumerate(mfa.over_time):
        fill(pooling, {name: values[i] for name, values in vector["time_asp"].items()})
        weights = torch.softmax(pooling.attention(states[i]), dim=1).flatten()
        torch.testing.assert_close(weights, torch.tensor(vector["time_attention"][i]).double(), atol=1e-6, rtol=0)
        pooled = pooling(states[i])[0]
        torch.testing.assert_close(pooled, torch.tensor(vector["time_pooled"][i]).double(), atol=1e-6, rtol=0)
    fill(mfa.over_layers, vector["layer_asp"])
    for name in ("weight", "bias"):
        getattr(mfa.projection, name).data = torch.tensor(vector["projection"][name], dtype=torch.float64)
    seen = []
    mfa.embedding[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mfa([*states, torch.full_like(states[0], torch.nan)])
    torch.testing.assert_close(seen[0][0], torch.tensor(vector["layer_pooled"]).double(), atol=2e-6, rtol=0)


@pytest.mark.parametrize("width", [128, 1024])
def test_mfa_has_the_parameters_that_were_counted(width):
    counts = VECTORS["mfa_parameter_counts"][f"attention {width}"]
    with torch.device("meta"):
        mfa = MFA(1024, 25, attention_size=width)
    assert count_parameters(mfa) == counts["total_24_layers"]
    assert count_parameters(mfa.over_layers) == counts["one_asp"]


def test_attention_of_zeros_is_the_plain_mean_and_deviation():
    pooling = AttentivePooling(5, 4).double()
    for parameter in pooling.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 9, 5, dtype=torch.float64)
    expected = torch.cat([x.mean(dim=1), x.std(dim=1, correction=0)], dim=1)
    torch.testing.assert_close(pooling(x), expected)
    mean, deviation = pooling(x[:, :1]).chunk(2, dim=1)  # one frame
    assert torch.equal(mean, x[:, 0]) and torch.all(deviation == 1e-5)


def test_mfa_heeds_the_order_of_layers_and_not_that_of_frames():
    torch.manual_seed(0)
    mfa = MFA(6, 5).double().eval()
    states = list(torch.randn(5, 2, 7, 6, dtype=torch.float64))
    logits = mfa(states)
    order = torch.randperm(7)
    torch.testing.assert_close(mfa([state[:, order] for state in states]), logits)
    assert not torch.allclose(mfa([states[1], states[0], *states[2:]]), logits)


def test_equal_layers_get_equal_weights():
    torch.manual_seed(0)
    mfa = MFA(6, 5).double().eval()
    for pooling in mfa.over_time:
        pooling.load_state_dict(mfa.over_time[0].state_dict())
    state = torch.randn(2, 7, 6, dtype=torch.float64)
    seen = []
    mfa.over_layers.register_forward_hook(lambda module, inputs, output: seen.extend([*inputs, output]))
    mfa([state] * 5)
    layers, pooled = seen
    weights = torch.softmax(mfa.over_layers.attention(layers), dim=1)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 4))
    assert torch.all(pooled[:, 6:] == 1e-5)


def test_mfa_trains_neither_the_last_layer_nor_its_norm():
    torch.manual_seed(0)
    detector = build_detector(ModelConfig("WavLM_MFA", ssl="tiny"))
    detector.set_trained(front_end=True)
    detector(torch.randn(2, 5000)).sum().backward()
    encoder = detector.front_end.model.encoder
    idle = [*encoder.layers[-1].parameters(), *encoder.layer_norm.parameters()]
    assert all(not p.requires_grad and p.grad is None for p in idle)
    assert all(p.grad is not None for p in encoder.layers[0].parameters())
    before = detector.eval().score(x := torch.randn(2, 5000))
    for parameter in idle:
        nn.init.constant_(parameter, 7.0)
    assert torch.equal(detector.score(x), before)
