"""The rivals of Nes2Net: published outputs, sizes, lengths, and which parameters training reaches."""

import pytest
import torch
from conftest import read_reference, reference_input, reference_weights

from back_ends import RIVALS, build_back_end
from model import ModelConfig, count_parameters


def build(name, channels=1024, **options):
    return build_back_end(ModelConfig(f"wav2vec2_{name}", **options), channels)


# name -> file of the published output
VECTORS = {"AASIST": "aasist.json"}
# name -> parameters at 1024 channels and 2 outputs
COUNTS = {"AASIST": 447_242}
# name -> beginnings of the names of parameters that the published network has but never uses
UNUSED = {"AASIST": [f"encoder.{i}.0.bn1." for i in range(1, 6)]}


@pytest.mark.parametrize("name", VECTORS)
def test_published_output(name):
    reference = read_reference(VECTORS[name])
    back_end = build(name).eval()
    back_end.load_state_dict(reference_weights(reference["state_dict"]), strict=True)
    with torch.no_grad():
        found = back_end(reference_input(reference["input"]))
    torch.testing.assert_close(found, torch.tensor(reference["output"]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", COUNTS)
def test_published_parameter_counts(name):
    assert count_parameters(build(name)) == COUNTS[name]


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize("n_frames", [1, 2, 70])
def test_any_length_any_outputs_and_every_used_parameter_is_trained(name, n_frames):
    torch.manual_seed(0)
    back_end = build(name, 64, n_output_logits=1)
    logits = back_end(torch.randn(4, n_frames, 64))
    assert logits.shape == (4, 1)
    (logits**2).sum().backward()
    unreached = {name for name, p in back_end.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    if n_frames == 70:
        expected = {n for n, _ in back_end.named_parameters() if n.startswith(tuple(UNUSED.get(name, ["-"])))}
        assert unreached == expected
    assert torch.isfinite(logits).all()
