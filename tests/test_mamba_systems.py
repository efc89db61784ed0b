"""Fake-Mamba and MamBo: counts, vectors and symmetries that their sources give."""

import torch
from conftest import read_reference

from back_ends import build_back_end
from back_ends.fake_mamba import BidirectionalLayer
from model import ModelConfig, count_parameters

NUMBERS = read_reference("newer_systems.json")


def build(name, channels=1024, **options):
    torch.manual_seed(0)
    return build_back_end(ModelConfig(f"wav2vec2_{name}", back_end_options=options), channels)


# ----------------------------------------------------------------------------------------------------------- Fake-Mamba


def test_parameters_of_fake_mamba():
    back_end, counts = build("Fake_Mamba"), NUMBERS["fake_mamba_counts"]
    layer = back_end.encoder.layers[0]
    found = [count_parameters(part) for part in (layer.mamba, layer, back_end)]
    assert found == [counts["mixer"], counts["layer"], counts["total_7_layers"]]


def test_fake_mamba_does_not_know_which_way_time_runs():
    back_end, x = build("Fake_Mamba", 12, size=32, layers=3).eval(), torch.randn(2, 19, 12)
    with torch.no_grad():
        torch.testing.assert_close(back_end(x.flip(1)), back_end(x), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(back_end(x[:, torch.randperm(19)]), back_end(x), rtol=1e-3)
        x = back_end.stem(x)
        for layer in back_end.encoder.layers:
            torch.testing.assert_close(layer(x.flip(1)), layer(x).flip(1), rtol=1e-5, atol=1e-6)
            x = layer(x)


def test_a_layer_of_fake_mamba_has_one_residual():
    """Without what its mixer gives, it adds the same to every frame."""
    layer, x = BidirectionalLayer(32, 16, 4), torch.randn(2, 9, 32)
    torch.nn.init.normal_(layer.norm2.bias)
    with torch.no_grad():
        m = layer.mamba(layer.norm1(x)) + layer.mamba(layer.norm1(x).flip(1)).flip(1)
        torch.testing.assert_close(layer(x), x + layer.feed_forward(layer.norm2(m)))
        torch.nn.init.zeros_(layer.mamba.out_proj.weight)
        torch.testing.assert_close(layer(x) - x, layer.feed_forward(layer.norm2.bias).expand(2, 9, -1))
