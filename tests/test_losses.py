import math

import pytest
import torch
from conftest import read_reference

from back_ends import BACK_ENDS
from back_ends.base import CosineLinear
from common.console import UserError
from model import ModelConfig, build_detector
from training.losses import LOSSES

OUTPUTS = torch.tensor([[0.7, -0.2], [0.1, 0.95], [-0.4, 0.3]])
LABELS = torch.tensor([0, 1, 1])


def test_one_class_softmax_is_the_papers():
    """Zhang et al. 2021, eq. 4, trial by trial; there bona fide is class 0."""
    total = 0
    for cosine, label in zip(OUTPUTS[:, 0].tolist(), LABELS.tolist()):
        y = 1 - label
        margin = 0.9 if y == 0 else 0.2
        total += math.log(1 + math.exp(20 * (margin - cosine) * (-1) ** y))
    assert LOSSES["OC_softmax"]()(OUTPUTS[:, :1], LABELS).item() == pytest.approx(total / 3, rel=1e-5)


def test_additive_margin_softmax_is_the_papers():
    total = 0
    for cosines, label in zip(OUTPUTS.tolist(), LABELS.tolist()):
        own = math.exp(20 * (cosines[label] - 0.9))
        total -= math.log(own / (own + math.exp(20 * cosines[1 - label])))
    assert LOSSES["AM_softmax"]()(OUTPUTS, LABELS).item() == pytest.approx(total / 3, rel=1e-5)


def test_weighted_cross_entropy_and_focal_loss_trial_by_trial():
    total = weights = 0
    for logits, label in zip(OUTPUTS.tolist(), LABELS.tolist()):
        weight = (0.1, 0.9)[label]
        total -= weight * math.log(math.exp(logits[label]) / sum(map(math.exp, logits)))
        weights += weight
    assert LOSSES["weighted_CCE"]()(OUTPUTS, LABELS).item() == pytest.approx(total / weights, rel=1e-5)

    total = 0
    for logit, label in zip(OUTPUTS[:, 0].tolist(), LABELS.tolist()):
        p, target = 1 / (1 + math.exp(-logit)), 0.05 + 0.9 * label
        entropy = -target * math.log(p) - (1 - target) * math.log(1 - p)
        total += 0.25 * (1 - math.exp(-entropy)) ** 2 * entropy
    assert LOSSES["focal"]()(OUTPUTS[:, :1], LABELS).item() == pytest.approx(total / 3, rel=1e-5)


def test_weighted_focal_loss_is_mambos():
    numbers = read_reference("newer_systems.json")["mambo_focal"]
    loss, outputs, labels = (
        LOSSES["weighted_focal"](numbers["alpha"]),
        *map(torch.tensor, (numbers["logits"], numbers["labels"])),
    )
    for i, expected in enumerate(numbers["loss_per_trial"]):
        assert loss.total(outputs[i : i + 1], labels[i : i + 1]).item() == pytest.approx(expected, abs=1e-6)
    assert loss(outputs, labels).item() == pytest.approx(numbers["released_value"], abs=1e-6)


@pytest.mark.parametrize("name", sorted(set(BACK_ENDS) - {"SLS", "SLIM"}))  # SLIM with one output is its first stage
@pytest.mark.parametrize("loss", ["OC_softmax", "AM_softmax"])
def test_any_back_end_gives_cosines_where_they_are_asked_for(name, loss):
    torch.manual_seed(0)
    n_outputs, output = LOSSES[loss].n_outputs, LOSSES[loss].output
    detector = build_detector(ModelConfig(f"wav2vec2_{name}", ssl="tiny", n_output_logits=n_outputs, output=output))
    (layer,) = (module for module in detector.modules() if isinstance(module, CosineLinear))
    seen = []
    layer.register_forward_hook(lambda _, inputs, found: seen.extend([*inputs, found]))
    outputs = detector(torch.randn(4, 8000))
    embedding, found = seen
    expected = torch.nn.functional.cosine_similarity(embedding[:, None], layer.weight[None], dim=2)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(outputs, found.flip(-1) if BACK_ENDS[name].bonafide_column == 0 else found)
    assert layer.weight.shape[0] == n_outputs and layer.bias is None
    LOSSES[loss]()(outputs, torch.tensor([0, 1, 0, 1])).backward()
    assert layer.weight.grad.abs().sum() > 0


def test_log_probabilities_are_no_cosines():
    with pytest.raises(UserError, match="--loss: SLS"):
        build_detector(ModelConfig("wav2vec2_SLS", ssl="tiny", output="cosine"))
