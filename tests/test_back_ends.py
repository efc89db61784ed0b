import pytest
import torch
from conftest import read_reference, reference_input, reference_weights

from back_ends import build_back_end
from back_ends.nes2net import AttentiveStatistics
from common.console import UserError
from model import ModelConfig, build_detector, count_parameters


@pytest.mark.parametrize("name, file", [("Nes2Net", "nes2net.json"), ("Nes2Net_X", "nes2net_x.json")])
def test_reference_vectors(name, file):
    reference = read_reference(file)
    architecture = reference["architecture"]
    config = ModelConfig(
        f"wav2vec2_{name}",
        Nes_ratio=architecture["Nes_ratio"],
        SE_ratio=architecture["SE_ratio"],
        dilation=architecture["dilation"],
        pool_func=architecture["pool_func"],
        n_output_logits=architecture.get("n_output_logits", 1),
    )
    back_end = build_back_end(config, architecture["input_channel"]).eval()
    back_end.load_state_dict(reference_weights(reference["state_dict"]), strict=True)
    with torch.no_grad():
        found = back_end(reference_input(reference["input"]).transpose(1, 2))
    torch.testing.assert_close(found, torch.tensor(reference["output"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name, options, count",
    [
        ("Nes2Net", {"n_output_logits": 1, "dilation": 1}, 510_769),
        ("Nes2Net_X", {}, 512_039),
        ("Nes2Net_X_SeLU", {"n_output_logits": 1, "dilation": 1}, 511_014),
        ("Nes2Net_X", {"pool_func": "ASTP"}, 777_383),
    ],
)
def test_published_parameter_counts(name, options, count):
    assert count_parameters(build_back_end(ModelConfig(f"wav2vec2_{name}", **options), 1024)) == count


@pytest.mark.parametrize("name", ["Nes2Net", "Nes2Net_X", "Nes2Net_X_SeLU"])
@pytest.mark.parametrize("ratios, channels", [((2, 2), 8), ((4, 2), 24), ((2, 8), 48)])
@pytest.mark.parametrize("pool_func", ["mean", "ASTP"])
def test_any_width_that_the_ratios_divide(name, ratios, channels, pool_func):
    config = ModelConfig(f"wav2vec2_{name}", Nes_ratio=ratios, pool_func=pool_func, n_output_logits=1)
    back_end = build_back_end(config, channels)
    logits = back_end(torch.randn(3, 17, channels))
    assert logits.shape == (3, 1)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in back_end.parameters())


def test_selu_model_has_selu_and_a_gate_of_at_least_two():
    config = {"Nes_ratio": (2, 2), "SE_ratio": (100,), "n_output_logits": 1}
    selu = build_back_end(ModelConfig("wav2vec2_Nes2Net_X_SeLU", **config), 16)
    relu = build_back_end(ModelConfig("wav2vec2_Nes2Net_X", **config), 16)
    assert selu.Build_in_Res2Nets[0].se.se[1].out_channels == 2
    assert relu.Build_in_Res2Nets[0].se.se[1].out_channels == 1
    relu_gate_2 = build_back_end(ModelConfig("wav2vec2_Nes2Net_X", **{**config, "SE_ratio": (4,)}), 16)
    relu_gate_2.load_state_dict(selu.state_dict())
    x = torch.randn(2, 9, 16)
    assert not torch.allclose(relu_gate_2.eval()(x), selu.eval()(x))


def test_attentive_statistics_equal_weighted_moments():
    torch.manual_seed(0)
    pooling = AttentiveStatistics(6, bottleneck=4)
    x = torch.randn(2, 6, 11)
    found = pooling(x)
    weights = torch.softmax(pooling.linear2(torch.tanh(pooling.linear1(x))), dim=2)
    for b in range(2):
        for c in range(6):
            mean = sum(weights[b, c, t] * x[b, c, t] for t in range(11))
            variance = sum(weights[b, c, t] * (x[b, c, t] - mean) ** 2 for t in range(11))
            assert found[b, c].item() == pytest.approx(mean.item(), abs=1e-5)
            assert found[b, 6 + c].item() == pytest.approx(variance.sqrt().item(), abs=1e-5)


def test_ratios_that_do_not_divide_the_encoder_are_named():
    with pytest.raises(UserError, match="--Nes_ratio 3 5.* 64 channels"):
        build_detector(ModelConfig("wav2vec2_Nes2Net_X", ssl="tiny", Nes_ratio=(3, 5)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"pool_func": "max"},
        {"Nes_ratio": (8,)},
        {"SE_ratio": ()},
        {"dilation": 0},
        {"ssl": "xlsr"},
        {"n_output_logits": 3},
    ],
)
def test_wrong_configuration_names_the_flag(wrong):
    (flag,) = wrong
    with pytest.raises(UserError, match=f"--{flag}"):
        ModelConfig("wav2vec2_Nes2Net_X", **wrong)
