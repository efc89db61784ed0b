"""Objectives that see more of a detector than its outputs: vectors computed apart from this project's code, what each
must do, and runs from the first step to a score.
"""

import json
import math

import numpy as np
import pytest
import torch
from conftest import read_reference, with_back_end
from test_compile import counter  # noqa: F401
from test_crash import pair
from test_gradients import NoReading, NoWaitingOperations
from torch.nn import functional as F

import checkpoints
import easy_inference_demo
import eval as eval_script
import train
from back_ends.base import Prototypes
from back_ends.slim import SLIM
from common.console import UserError
from inference.precision import prepare
from model import ModelConfig, Teacher, agreement, build_detector, mixture
from training.compressed import frequency_distance, softened
from training.config import TrainingConfig
from training.contrastive import contrastive_losses
from training.latent import LatentSpaceAugmentation, angular_margin, made_up_embeddings, prototype_cosines
from training.losses import LOSSES
from training.slim import dependency_terms, normalised_columns
from training.steps import Steps

VECTORS = read_reference("newer_systems.json")
CPU = torch.device("cpu")


def double(values, **options):
    return torch.tensor(values, dtype=torch.float64, **options)


def close(found, expected, atol=2e-6):
    torch.testing.assert_close(found, double(expected), atol=atol, rtol=0)


# ----------------------------------------------------------------------------------------------------- contrastive


def test_the_contrastive_loss_is_the_vector():
    vector = VECTORS["supcon"]
    z, labels = double(vector["embeddings"]), torch.tensor(vector["labels"])
    losses = contrastive_losses(F.normalize(z, dim=1), labels, vector["temperature"])
    close(losses, vector["loss_per_anchor"], 1e-5)
    assert losses.mean().item() == pytest.approx(vector["loss"], abs=1e-5)


def test_the_contrastive_loss_of_equal_embeddings_and_of_two_tight_classes():
    z, labels = F.normalize(torch.ones(7, 3, dtype=torch.float64), dim=1), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    close(contrastive_losses(z, labels, 0.1), [math.log(6)] * 7)
    z[labels == 1] *= -1
    close(contrastive_losses(z, labels, 1e-3), [math.log(n - 1) for n in (3, 3, 3, 4, 4, 4, 4)])


def test_the_contrastive_loss_heeds_no_order_and_skips_who_is_alone():
    torch.manual_seed(0)
    z, labels = F.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1), torch.tensor([0, 0, 0, 0, 1, 0])
    losses, order = contrastive_losses(z, labels, 0.1), torch.randperm(6)
    close(contrastive_losses(z[order], labels[order], 0.1), losses[order].tolist())
    assert losses[4] == 0 and torch.all(losses[labels == 0] > 0)
    assert torch.isfinite(contrastive_losses(z, torch.zeros(6, dtype=torch.long), 0.1)).all()
    absent = torch.cat([z, torch.zeros(2, 4, dtype=torch.float64)])
    close(contrastive_losses(absent, torch.tensor([0, 0, 0, 0, 1, 0, -1, -1]), 0.1)[:6], losses.tolist())
    alone = z[:1].clone().requires_grad_()
    contrastive_losses(alone, labels[:1], 0.1).sum().backward()
    assert not alone.grad.any()


def test_the_contrastive_objective_is_the_sum_of_its_two_means():
    detector, loss = of_loss("weighted_CCE_SupCon"), LOSSES["weighted_CCE_SupCon"]((0.1, 0.9))
    detector.eval()
    x, labels = torch.randn(5, 4000), torch.tensor([0, 0, 1, 0, 0])
    z = F.normalize(detector.back_end.mlp[0](pooled(detector, x)), dim=1)
    losses = contrastive_losses(z, labels, 0.1)
    expected = F.cross_entropy(detector(x), labels, weight=torch.tensor([0.1, 0.9])) + losses.sum() / 4
    torch.testing.assert_close((loss.of_detector(detector, x, labels) / loss.weight(labels)).sum(), expected)


def pooled(detector, x):
    seen = []
    hook = detector.back_end.mlp[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    detector(x)
    hook.remove()
    return seen[0]


# ------------------------------------------------------------------------------------- latent space, prototypes


def of_vector():
    vector = VECTORS["lsr_prototype_loss"]
    layer = Prototypes(3, n_spoof=2).double()
    layer.weight.data = double([*vector["spoof_prototypes"], vector["bonafide_prototype"]])
    loss = LOSSES["LSR"]()
    loss.SCALE, loss.MARGIN = vector["gamma"], vector["angular_margin"]
    return vector, layer, loss, double(vector["embeddings"], requires_grad=True), torch.tensor(vector["labels"])


def test_the_loss_of_prototypes_is_the_vector():
    vector, layer, loss, z, labels = of_vector()
    outputs = layer(z)
    close(outputs, vector["similarity_spoof_bonafide"])
    totals = [loss.total(outputs[i : i + 1], labels[i : i + 1]).item() for i in range(3)]
    assert totals == pytest.approx(vector["loss_per_trial"], abs=2e-5)
    intra, inter = prototype_cosines(layer.weight)
    assert intra.item() == pytest.approx(vector["intra_mean_cosine"], abs=1e-6)
    assert inter.item() == pytest.approx(vector["inter_mean_cosine"], abs=1e-6)
    close(outputs[:, 1] - outputs[:, 0], vector["score"])
    loss.MARGIN = 0.0
    assert loss(outputs, labels).item() == pytest.approx(vector["loss_mean_no_margin"], abs=2e-5)


def test_one_prototype_of_spoof_without_margin_is_cross_entropy_of_two_directions():
    torch.manual_seed(0)
    layer, loss, labels = Prototypes(5, n_spoof=1), LOSSES["LSR"](), torch.tensor([0, 1, 1, 0])
    loss.MARGIN = 0.0
    z = torch.randn(4, 5)
    cosines = F.cosine_similarity(z[:, None], layer.weight[None], dim=2)
    torch.testing.assert_close(loss(layer(z), labels), F.cross_entropy(32 * cosines, labels))


def test_only_the_nearest_prototype_of_spoof_learns_from_a_trial():
    vector, layer, loss, z, labels = of_vector()
    for i in range(3):
        layer.zero_grad()
        loss.total(layer(z[i : i + 1]), labels[i : i + 1]).backward()
        nearest = np.argmax(vector["cosines_spoof_prototypes"][i])
        moved = layer.weight.grad.abs().sum(dim=1) > 0
        assert moved.tolist() == [nearest == 0, nearest == 1, True]


def test_neither_the_order_of_prototypes_nor_any_length_changes_an_output():
    torch.manual_seed(0)
    layer, z = Prototypes(5).double(), torch.randn(4, 5, dtype=torch.float64)
    expected = layer(z)
    order = torch.cat([torch.randperm(8), torch.tensor([8])])
    layer.weight.data = layer.weight[order] * torch.rand(9, 1, dtype=torch.float64)
    torch.testing.assert_close(layer(3 * z), expected)
    other = Prototypes(5, bonafide_column=0).double()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(z), layer(z).flip(-1))


def test_equal_prototypes_are_the_worst_that_the_regulariser_knows():
    spoof = torch.randn(1, 5).expand(8, 5)
    intra, _ = prototype_cosines(torch.cat([spoof, torch.randn(1, 5)]))
    assert intra.item() == pytest.approx(1)
    assert prototype_cosines(torch.randn(2, 5))[0] == 0  # one of spoof has no pairs


def test_the_objective_of_prototypes_is_the_loss_and_a_tenth_of_each_regulariser():
    detector, loss = of_loss("LSR").eval(), LOSSES["LSR"]()
    x, labels = torch.randn(5, 4000), torch.tensor([0, 0, 1, 0, 0])
    prototypes = F.normalize(detector.back_end.out_layer.weight, dim=1)
    cosines = prototypes @ prototypes.T
    intra, inter = (cosines[:8, :8].sum() - 8) / 56, cosines[:8, 8].mean()
    found = loss.of_detector(detector, x, labels) / loss.weight(labels)
    torch.testing.assert_close(found, loss(detector(x), labels) + 0.1 * intra + 0.1 * inter)
    torch.testing.assert_close(detector.score(x), detector(x)[:, 1] - detector(x)[:, 0])


def test_the_margin_falls_to_the_end():
    cosines = torch.linspace(-1, 1, 2001, dtype=torch.float64, requires_grad=True)
    found = angular_margin(cosines, 0.2)
    angles = torch.arccos(cosines.detach().clamp(-1 + 1e-7, 1 - 1e-7))
    within = angles < math.pi - 0.2
    torch.testing.assert_close(found[within], torch.cos(angles + 0.2)[within])
    assert torch.all(found.diff() > 0) and torch.all(found < cosines)
    found.sum().backward()
    assert torch.isfinite(cosines.grad).all()


def test_made_up_embeddings_are_the_vector():
    vector = VECTORS["lsa"]
    z, partner = double([vector["z1"]]), double([vector["z2"]])
    given = {"noise": 0.1 * double([vector["noise"]]), "scale": double([[1.1] * 3]), "share": double([[0.7]])}
    given |= {"shift": double(vector["affine_a_1_1_b"]) - 1.1 * z, "step": double([[0.5]])}
    found = made_up_embeddings(z, partner, torch.cat([z, partner]).mean(dim=0), **given)[:, 0]
    assert given["shift"].abs().max() <= 0.1
    names = "additive_beta_0_1 affine_a_1_1_b mixup_lambda_0_7 interpolation_towards_mean_0_5"
    names += " extrapolation_from_mean_0_5"
    close(found, [vector[name] for name in names.split()])
    nothing = {"noise": 0 * z, "scale": torch.ones_like(z), "share": double([[1.0]]), "shift": 0 * z}
    for same in made_up_embeddings(z, partner, partner[0], **nothing, step=double([[0.0]])):
        assert torch.equal(same, z)


def test_embeddings_of_spoof_are_made_up_in_training_alone():
    torch.manual_seed(0)
    loss, z, labels = LatentSpaceAugmentation(), torch.randn(400, 6), torch.arange(400) % 4 > 0
    found = loss.augmented(z, ~labels)
    changed = (found != z).any(dim=1)
    assert found.shape == z.shape and not changed[labels].any()
    assert 0.3 < changed[~labels].float().mean() < 0.7
    assert torch.equal(loss.eval().augmented(z, ~labels), z)
    assert torch.equal(loss.train().augmented(z, torch.zeros(400, dtype=torch.bool)), z)
    # Mixed embeddings lie between two of spoof: with bona fide far away, none comes near it.
    z[labels] += 1e4
    assert loss.augmented(z, ~labels)[~labels].abs().max() < 100


# ------------------------------------------------------------------------------------------------- distillation


def test_agreement_is_the_vector():
    vector = VECTORS["ockd_cosine"]
    teacher, student = (list(double(vector[name])[:, None]) for name in ("teacher", "student"))
    found = agreement([double([[[9.0] * 4] * 3]), *student], [double([[[-9.0] * 4] * 3]), *teacher])
    assert found.item() == pytest.approx(vector["score"], abs=1e-6)
    assert 1 - found.item() == pytest.approx(vector["loss"], abs=1e-6)
    for layer in range(2):
        found = agreement([student[layer]] * 2, [teacher[layer]] * 2)
        assert 1 - found.item() == pytest.approx(vector["loss_per_layer"][layer], abs=1e-6)
    scaled = agreement([teacher[0], student[0], 3 * student[1]], [teacher[0], *teacher])
    assert 1 - scaled.item() == pytest.approx(vector["loss"], abs=1e-6)


TEACHER = ModelConfig("wav2vec2_AASIST", ssl="tiny")
OCKD = ("OCKD", "OCKD_MSE")


def pair_of_networks():
    """A student that is a copy of its teacher, and its loss."""
    torch.manual_seed(0)
    teacher = build_detector(TEACHER, kind=Teacher)
    loss = LOSSES["OCKD"]()
    student = build_detector(ModelConfig(**loss.model_fields(TEACHER.to_dict())))
    loss.take_teacher(student, teacher)
    student.front_end.load_state_dict(teacher.front_end.state_dict())
    theirs = {n: v for n, v in teacher.back_end.state_dict().items() if not n.startswith("out_layer.")}
    assert set(student.back_end.load_state_dict(theirs, strict=False).missing_keys) == {
        "out_layer.weight",
        "out_layer.bias",
    }
    return student, loss


def test_a_student_that_is_its_teacher_agrees_and_learns_nothing():
    student, loss = pair_of_networks()
    student.set_trained(front_end=True)
    x = torch.randn(3, 4000)
    student.eval()
    total = loss.of_detector(student, x, torch.tensor([1, 1, 0]))
    total.backward()
    assert abs(total.item()) < 1e-5
    torch.testing.assert_close(student.score(x), torch.ones(3))
    gradients = [parameter.grad.abs().max() for parameter in student.parameters() if parameter.grad is not None]
    assert len(gradients) > 100 and max(gradients) < 1e-4
    assert all(parameter.grad is None for parameter in student.teacher.parameters())


def test_a_loss_that_keeps_its_teacher_leaves_it_as_it_is():
    loss, teacher = LOSSES["weighted_CCE"](), build_detector(TEACHER, kind=Teacher)
    detector = build_detector(TEACHER)
    loss.take_teacher(detector, teacher)
    steps = Steps(TrainingConfig(optimizer="Adam", lr=1e-3, schedule="constant"), detector, loss, CPU)
    steps.objective.train()
    assert detector.training and not any(module.training for module in teacher.modules())
    assert [*map(id, steps.trained)] == [*map(id, detector.parameters())]
    assert len(loss.state_dict()) == len(teacher.state_dict())  # in the file to resume from, in no checkpoint
    assert not any("teacher" in name for name in detector.state_dict())


def test_spoofs_teach_a_student_nothing():
    student, loss = pair_of_networks()
    student.train()
    with torch.no_grad():
        student.back_end.LL.weight.normal_()
    x, labels = torch.randn(4, 4000), torch.tensor([0, 1, 0, 1])
    torch.manual_seed(1)
    loss.of_detector(student.eval(), x, labels).backward()
    found = student.back_end.LL.weight.grad.clone()
    student.zero_grad()
    loss.of_detector(student, x[1::2], labels[1::2]).backward()
    largest = found.abs().max().item()
    assert largest > 1e-6
    torch.testing.assert_close(student.back_end.LL.weight.grad, found, atol=1e-3 * largest, rtol=0)
    assert loss.weight(labels) == 2
    assert loss(student(x), 0 * labels) == 0  # no division by the weight of nothing
    assert torch.isfinite(stepper("OCKD", student).step(x, 0 * labels)[0])


def test_a_student_is_of_its_teachers_architecture(fails):
    fields = LOSSES["OCKD"].model_fields(TEACHER.to_dict())
    wrongs = {"model_name": "wav2vec2_AASIST2", "n_output_logits": 2, "ssl": "xlsr_300m", "agg": "SEA"}
    for name, wrong in wrongs.items():
        with pytest.raises(UserError, match=f"--{name}: expected .*, which an agreement with that teacher needs"):
            ModelConfig(**{**fields, name: wrong})
    for teacher in (None, [], {"nothing": 1}, {**fields["teacher"], "teacher": fields["teacher"]}):
        with pytest.raises(UserError, match="--teacher: expected a detector of the same architecture"):
            ModelConfig(**{**fields, "teacher": teacher})
    with pytest.raises(UserError, match="LogMel_AASIST: expected a front-end of layers"):
        build_detector(ModelConfig(**LOSSES["OCKD"].model_fields(ModelConfig("LogMel_AASIST").to_dict())))


def test_the_squared_distance_of_a_student_grows_with_a_layer_that_the_cosine_does_not_see():
    states = [torch.randn(2, 5, 64) for _ in range(3)]
    embeddings = torch.randn(2, 160)
    scaled = [states[0] + 1, states[1], 3 * states[2]]
    cosine, squared = (LOSSES[name]().distances(scaled, states, 2 * embeddings, embeddings) for name in OCKD)
    torch.testing.assert_close(cosine, torch.zeros(2), atol=1e-5, rtol=0)
    expected = 4 * states[2].square().mean(dim=(1, 2)) / 2 + embeddings.square().mean(dim=1)
    torch.testing.assert_close(squared, expected)


# ------------------------------------------------------------------------------------------------ gated ensemble


def test_the_mixture_is_the_vector():
    vector = VECTORS["ensemble_dynamic_weights"]
    scores, gate = double(vector["scores"]), double(vector["gate_logits"])
    close(gate.softmax(dim=1), vector["weights"])
    close(mixture(gate, scores), vector["fused"])
    close(mixture(0 * gate, scores), vector["fused_equal"])
    one = torch.tensor([[-math.inf, 0.0, -math.inf], [-math.inf, -math.inf, 0.0]], dtype=torch.float64)
    close(mixture(one, scores), [scores[0, 1].item(), scores[1, 2].item()])


# Members that prepare waveforms in three ways: normalised and cut, neither, and cut to frames of another size.
MEMBERS = (
    ModelConfig("wav2vec2_Linear", ssl="tiny"),
    ModelConfig("wav2vec2_AASIST", ssl="tiny"),
    ModelConfig("LogMel_Nes2Net_X", Nes_ratio=(2, 2)),
)
MIXTURE = {"output": "mixture", "n_output_logits": 1, "members": [config.to_dict() for config in MEMBERS]}


def ensemble():
    torch.manual_seed(0)
    return build_detector(ModelConfig("wav2vec2_Linear", ssl="tiny", **MIXTURE)).eval()


def test_an_ensemble_of_equal_gate_logits_scores_the_mean_of_its_members():
    detector = ensemble()
    x = torch.randn(3, 8123)
    expected = torch.stack([member.score(x) for member in detector.members], dim=1)
    assert expected.std(dim=1).min() > 1e-3
    gate = detector.back_end.proj_fc
    assert gate.weight.shape == (3, 64)  # one output per member
    with torch.no_grad():
        gate.weight.zero_(), gate.bias.zero_()
        torch.testing.assert_close(detector.score(x), expected.mean(dim=1))
        gate.bias[2] = 1e4
        torch.testing.assert_close(detector.score(x), expected[:, 2])


def test_an_ensemble_hears_what_its_members_hear(tmp_path):
    detector = ensemble()
    x = 0.1 * np.random.default_rng(0).standard_normal(9001).astype(np.float32) + 0.05
    ready = detector.front_end.ready(x)
    assert torch.equal(ready, torch.from_numpy(x)) and detector.front_end.samples_ready(9001) == 9001
    scores = [m.score(m.front_end.ready(x)[None], normalized=True) for m in detector.members]
    weights = detector.classify(detector.hidden_states(torch.from_numpy(x)[None])).softmax(dim=1)
    expected = (weights * torch.stack(scores, dim=1)).sum(dim=1)
    torch.testing.assert_close(detector.score(ready[None], normalized=True), expected)
    assert detector.front_end.least_samples == max(m.front_end.least_samples for m in detector.members)


def test_the_loss_of_an_ensemble_heeds_no_unit_of_its_scores():
    loss, labels = LOSSES["gated_ensemble"]((0.1, 0.9)), torch.tensor([0, 1, 0, 0, 1])
    scores = torch.randn(5, 1)
    expected = F.binary_cross_entropy(scores[:, 0].sigmoid(), labels.float(), torch.tensor([0.1, 0.9])[labels])
    torch.testing.assert_close(loss(scores, labels), 5 * expected / 2.1)
    with torch.no_grad():
        loss.log_scale.fill_(math.log(4)), loss.offset.fill_(-2)
    torch.testing.assert_close(loss(scores / 4 + 0.5, labels), 5 * expected / 2.1)


def test_what_makes_no_ensemble_is_said(flags_of, members, fails, tmp_path):
    fields = {"model_name": "wav2vec2_Linear", "ssl": "tiny", **MIXTURE}
    wrongs = [("n_output_logits", 2), ("output", "linear"), ("unit", 0.16), ("members", None), ("members", ["a", "b"])]
    wrongs += [("members", MIXTURE["members"][:1]), ("members", [fields, fields]), ("members", 3)]
    for name, wrong in wrongs:
        with pytest.raises(UserError, match=f"--{'labels' if name == 'unit' else name}: expected"):
            ModelConfig(**{**fields, name: wrong})
    flags = flags_of("gated_ensemble")
    place = flags.index("--members")
    fails(train.main, flags[:place] + flags[place + 4 :], "--loss gated_ensemble: needs --members")
    fails(train.main, [*flags[: place + 2], *flags[place + 4 :]], "--members: expected two or more")
    fails(train.main, [*flags, "--loss", "focal"], "--members: expected --loss gated_ensemble, found focal")
    config = ModelConfig(**fields)
    checkpoints.save_checkpoint(tmp_path / "ensemble.pth", config, ensemble().state_dict())
    flags[place + 1] = str(tmp_path / "ensemble.pth")
    fails(train.main, flags, "--members: expected detectors, none of them an ensemble")


@pytest.mark.slow
def test_a_file_of_an_ensemble_asks_for_no_more_than_it_holds(tmp_path, fails):
    fields = ModelConfig("wav2vec2_Linear", ssl="tiny", **MIXTURE).to_dict()
    large = {"encoder_layers": 24, "encoder_embed_dim": 4096, "encoder_ffn_embed_dim": 16384}
    large |= {"encoder_attention_heads": 16, "extractor_mode": "layer_norm"}
    fields["members"] = [*fields["members"], {"model_name": "wav2vec2_Linear", "ssl": "from_file", "ssl_config": large}]
    content = {"format": checkpoints.format.FORMAT, "config": fields, "model": ensemble().state_dict()}
    torch.save(content, tmp_path / "large.pth")
    with pytest.raises(UserError, match="large.pth"):
        checkpoints.load_detector(tmp_path / "large.pth")


# ------------------------------------------------------------------------------------- style and linguistics


def test_the_terms_of_dependency_are_the_vector():
    vector = VECTORS["slim_stage1"]
    groups = {name: double(vector[name]) for name in ("style", "linguistics")}
    there = torch.tensor([True] * 5 + [False] * 2)  # rows that are none change nothing
    more = [torch.cat([group, torch.full_like(group[:2], 7)]) for group in groups.values()]
    expected = [vector[name] for name in ("cross", "style_redundancy", "linguistics_redundancy")]
    close(dependency_terms(*groups.values(), there[:5]), expected)
    close(dependency_terms(*more, there), expected)
    for name, group in groups.items():
        close(normalised_columns(group, there[:5]), vector[f"{name}_normalised"])
    scaled = groups["style"] * double([3.0, 0.5, 9.0]) + double([1.0, -2.0, 4.0])
    close(dependency_terms(scaled, groups["linguistics"], there[:5]), expected)
    found = 1 - F.cosine_similarity(*groups.values())
    close(found, VECTORS["slim_mismatch_score"]["cosine_distance"])


def test_orthonormal_columns_that_agree_cost_nothing_and_correlations_what_they_are():
    torch.manual_seed(0)
    columns = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64) - 0)[0]
    columns = torch.linalg.qr(torch.cat([torch.ones(12, 1, dtype=torch.float64), columns[:, :5]], dim=1))[0][:, 1:]
    everyone = torch.ones(12, dtype=torch.bool)
    close(dependency_terms(columns, columns, everyone), [0.0, 0.0, 0.0])
    style, linguistics = torch.randn(2, 12, 4, dtype=torch.float64)
    cross, redundancy, _ = dependency_terms(style, linguistics, everyone)
    together = np.corrcoef(style.T, linguistics.T)
    assert cross.item() == pytest.approx(2 * (1 - np.diag(together[:4, 4:])).sum())
    assert redundancy.item() == pytest.approx((together[:4, :4] ** 2).sum() - 4)


def test_a_bottleneck_of_zeros_is_the_mean_of_the_layers():
    torch.manual_seed(0)
    back_end = SLIM(6, 25, size=4).eval()
    torch.nn.init.zeros_(back_end.style.expand.weight), torch.nn.init.zeros_(back_end.style.expand.bias)
    states = list(torch.randn(25, 2, 9, 6))
    style, linguistics = back_end.subspaces(states)
    torch.testing.assert_close(style, torch.stack(states[:11]).mean(dim=0))
    torch.testing.assert_close(linguistics, torch.stack(states[14:22]).mean(dim=0))
    torch.testing.assert_close(back_end.style(style), back_end.style.head(F.leaky_relu(style)))
    assert sum(p.numel() for p in SLIM(1024).style.parameters()) == VECTORS["slim_counts"]["compression_module"]
    classifier = sum(p.numel() for p in SLIM(1024).classifier.parameters())
    assert classifier == VECTORS["slim_counts"]["head_1024_256_2"]
    with torch.no_grad():
        cosine = SLIM(6, 25, n_output_logits=1).eval()(states)
    assert cosine.shape == (2, 1) and cosine.abs().max() <= 1


def stages():
    """A detector of the second stage, and its loss, of a random first one."""
    torch.manual_seed(0)
    fields = LOSSES["SLIM_stage1"].model_fields(None)
    teacher = build_detector(ModelConfig("wav2vec2_SLIM", ssl="tiny", **fields), kind=Teacher)
    loss = LOSSES["SLIM_stage2"]()
    detector = build_detector(ModelConfig(**loss.model_fields(teacher.config.to_dict())))
    loss.take_teacher(detector, teacher)
    return detector, loss, teacher


def test_the_classifier_stands_on_the_first_stage_which_stays_as_it_is():
    detector, _, teacher = stages()
    steps = stepper("SLIM_stage2", detector)
    steps.freeze(True)
    steps.step(torch.randn(4, 4000), torch.tensor([0, 1, 0, 1]))
    found, expected = detector.state_dict(), teacher.state_dict()
    assert all(torch.equal(found[n], value) for n, value in expected.items()) and len(expected) < len(found)
    trained = {n for n, parameter in detector.named_parameters() if parameter.grad is not None}
    assert trained == {
        f"back_end.{n}" for n, _ in detector.back_end.named_parameters() if n.split(".")[0] in CLASSIFIER
    }
    x = torch.randn(2, 4000)
    with torch.no_grad():
        style, linguistics = detector.back_end.dependencies(*detector.back_end.subspaces(detector.hidden_states(x)))
        torch.testing.assert_close(teacher(x)[:, 0], F.cosine_similarity(style, linguistics))


CLASSIFIER = ("pooling", "embedding", "classifier")


# -------------------------------------------------------------------------------------- frequency and time


def test_distances_in_frequency_and_time_are_the_vector():
    vector = VECTORS["ftdkd_own_reading"]
    student, teacher = (double(vector[name])[None].requires_grad_() for name in ("student", "teacher"))
    high = vector["first_high_bin"] / 5  # 8 frames have 5 bins
    distance = frequency_distance(student, teacher, high)
    assert distance.item() == pytest.approx(vector["frequency_loss"], abs=1e-6)
    assert (student - teacher).square().mean().item() == pytest.approx(vector["time_loss"], abs=1e-6)
    distance.backward()
    spectrum = torch.fft.rfft(student.grad, dim=1)
    assert spectrum[:, :2].abs().max() < 1e-12 < spectrum[:, 2:].abs().min()
    vector = VECTORS["kd_logits"]
    found = softened(double(vector["student"]), double(vector["teacher"]), vector["temperature"])
    assert found.mean().item() == pytest.approx(vector["loss"], abs=1e-6)


def taught():
    """A detector that is a copy of its teacher, and its loss."""
    torch.manual_seed(0)
    teacher = build_detector(TEACHER, kind=Teacher)
    detector, loss = build_detector(TEACHER), LOSSES["FTD"]()
    detector.load_state_dict(teacher.state_dict())
    loss.take_teacher(detector, teacher)
    return detector, loss


def test_a_copy_of_the_teacher_that_hears_the_same_is_not_apart():
    detector, loss = taught()
    x, labels = torch.randn(3, 4000), torch.tensor([0, 1, 0])
    entropies, apart = loss.eval().of_detector(detector.eval(), x, labels)
    assert abs(apart) < 1e-6
    torch.testing.assert_close(entropies / loss.weight(labels)[0], loss(detector(x), labels))
    assert loss.train().of_detector(detector, x, labels)[1] > 1e-3  # it hears less
    assert all(parameter.grad is None for parameter in loss.teacher.parameters())


def test_the_student_hears_low_passed_speech_that_is_not_delayed():
    _, loss = taught()
    x = torch.randn(6, 16000)
    y = loss.filtered(x)
    assert y.shape == x.shape and y.dtype == x.dtype
    loudness = [torch.fft.rfft(wave, dim=1).abs().square() for wave in (y, x)]
    shares = loudness[0] / loudness[1]
    torch.testing.assert_close(shares[:, :2000].mean(dim=1), torch.ones(6), atol=0.05, rtol=0)
    assert shares[:, 7900:].mean() < 0.1
    products = torch.fft.irfft(torch.fft.rfft(y, dim=1) * torch.fft.rfft(x, dim=1).conj(), dim=1)
    assert (products.argmax(dim=1) == 0).all()


# ------------------------------------------------------------------------------------------------- steps and runs

BACK_END = {"weighted_CCE_SupCon": "LayerASP_MLP", "LSR": "AASIST", "LSR_LSA": "AASIST", "OCKD": "AASIST"}
BACK_END |= {"FTD": "AASIST", "SLIM_stage1": "SLIM", "SLIM_stage2": "SLIM"}
BACK_END |= {"OCKD_MSE": "AASIST", "gated_ensemble": "Linear"}


def of_loss(name):
    """A detector that the loss of that name trains."""
    torch.manual_seed(0)
    if name in OCKD:
        return pair_of_networks()[0]
    if name == "gated_ensemble":
        return ensemble()
    if name == "SLIM_stage2":
        return stages()[0]
    fields = LOSSES[name].model_fields(None)
    return build_detector(ModelConfig(f"wav2vec2_{BACK_END[name]}", ssl="tiny", **fields))


def loss_of(name, detector):
    """The loss that `of_loss` made with this detector."""
    loss = LOSSES[name]()
    if name == "FTD":
        loss.take_teacher(detector, build_detector(TEACHER, kind=Teacher))
    return loss


def stepper(name, detector, **flags):
    # No decay, which moves what has no gradient, such as the bias behind a softmax.
    flags = {"optimizer": "Adam", "lr": 1e-3, "weight_decay": 0.0, "schedule": "constant", "precision": "fp32"} | flags
    steps = Steps(TrainingConfig(**flags), detector, loss_of(name, detector), CPU)
    steps.freeze(False)
    steps.objective.train()
    return steps


@pytest.mark.slow
@pytest.mark.parametrize("name", BACK_END)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_trains_what_it_should_and_waits_for_nothing(name, precision):
    detector = of_loss(name)
    steps = stepper(name, detector, precision=precision)
    x, labels = torch.randn(4, 4000), torch.tensor([0, 1, 0, 1])
    frozen = {n for n, parameter in detector.named_parameters() if not parameter.requires_grad}
    before = {n: value.clone() for n, value in detector.state_dict().items()}
    loss, _, skipped = steps.step(x, labels)
    assert loss.dtype == torch.float32
    while not all(torch.isfinite(p.grad).all() for p in steps.trained if p.grad is not None):  # fp16 finds its scale
        loss, _, skipped = steps.step(x, labels)
    assert not skipped
    parameters = dict(detector.named_parameters())
    for n, parameter in parameters.items():
        assert (parameter.grad is None) == (n in frozen), n
        assert torch.equal(parameter, before[n]) == (n in frozen or not parameter.grad.any()), n
    inside = {n for n in before if n.startswith(("teacher.", "members."))}
    assert bool(inside) == (name in (*OCKD, "gated_ensemble"))
    assert all(torch.equal(detector.state_dict()[n], before[n]) for n in inside)
    before = {n: value.clone() for n, value in detector.state_dict().items()}
    with NoReading(), NoWaitingOperations():
        steps.step(x, labels)
    after = {n: value.clone() for n, value in detector.state_dict().items()}
    *_, skipped = steps.step(x * float("nan"), labels)
    assert skipped and any(not torch.equal(after[n], before[n]) for n in after)
    assert all(torch.equal(value, after[n]) for n, value in detector.state_dict().items() if value.is_floating_point())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LSR_LSA", "OCKD", "gated_ensemble"])
def test_a_compiled_step_is_the_plain_one(name, counter):  # noqa: F811
    losses = []
    for compiled in (False, True):
        steps = stepper(name, of_loss(name), compile=compiled)
        torch.manual_seed(1)
        losses.append(steps.step(0.1 * torch.randn(4, 4000), torch.tensor([0, 1, 0, 1]))[0])
    torch.testing.assert_close(losses[1], losses[0], atol=1e-4, rtol=1e-4)
    assert counter.frame_count > 0


TEACHERS = {"OCKD": TEACHER, "FTD": TEACHER, "SLIM_stage2": ModelConfig("wav2vec2_SLIM", ssl="tiny", n_output_logits=1)}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """{loss: checkpoint of a teacher}."""
    paths = {}
    for name, config in TEACHERS.items():
        paths[name] = tmp_path_factory.mktemp(name) / "teacher.pth"
        torch.manual_seed(7)
        checkpoints.save_checkpoint(paths[name], config, build_detector(config).state_dict())
    return paths


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Checkpoints of the members of an ensemble."""
    folder = tmp_path_factory.mktemp("members")
    detector = ensemble()
    paths = [folder / f"{member.config.model_name}.pth" for member in detector.members]
    for path, member in zip(paths, detector.members):
        checkpoints.save_checkpoint(path, member.config, member.state_dict())
    return paths


@pytest.fixture
def teacher(teachers):
    return teachers["OCKD"]


@pytest.fixture
def flags_of(train_flags, teachers, members, tmp_path):
    def call(name):
        flags = [*with_back_end(train_flags, BACK_END[name]), "--loss", name, "--algo", "0", "--epochs", "2"]
        flags += ["--teacher", str(teachers[name]), "--batch_size", "4"] if name in teachers else []
        flags += ["--members", *map(str, members)] if name == "gated_ensemble" else []
        flags += ["--SSL_freeze_epoch", "2", "--batch_size", "4"] if name.startswith("SLIM") else []
        return [*flags, "--crop", "4000", "--average_best", "2", "--log_dir", str(tmp_path), "--schedule", "constant"]

    return call


@pytest.mark.parametrize(
    "name", ["weighted_CCE_SupCon", "LSR_LSA", "OCKD", "FTD", "SLIM_stage1", "SLIM_stage2", "gated_ensemble"]
)
def test_a_run_that_is_stopped_goes_on_and_its_average_scores(
    name, flags_of, tmp_path, teachers, members, corpus, processes, output
):
    flags = flags_of(name)
    whole, parts = ({"flags": [*flags, "--foldername", n, "--resume", "auto"]} for n in ("whole", "parts"))
    (status,), text = processes(whole)
    assert status == 0, text
    (status,), text = processes({**parts, "at": ["step", 3, 15]})
    assert status == 143, text
    (status,), text = processes(parts)
    assert status == 0, text
    one, other = (next((tmp_path / n).iterdir()) / "checkpoints" / "average_best_2.pth" for n in ("whole", "parts"))
    expected, found = (checkpoints.read_checkpoint(path) for path in (one, other))
    assert all(torch.equal(found["model"][n], value) for n, value in expected["model"].items())
    assert found["valid"] == expected["valid"] and math.isfinite(found["valid"]["loss"])
    if name in teachers and name != "FTD":
        prefix = "teacher." if name == "OCKD" else ""
        for n, value in checkpoints.read_checkpoint(teachers[name])["model"].items():
            assert torch.equal(found["model"][f"{prefix}{n}"], value)
    for i, member in enumerate(members if name == "gated_ensemble" else ()):
        for n, value in checkpoints.read_checkpoint(member)["model"].items():
            assert torch.equal(found["model"][f"members.{i}.{n}"], value)
    protocol = corpus / "ASVspoof2019_LA_cm_protocols" / "ASVspoof2019.LA.cm.dev.trl.txt"
    dev = ["--protocol", str(protocol), "--audio_dir", str(corpus / "ASVspoof2019_LA_dev" / "flac")]
    scores = tmp_path / "scores.txt"
    output(eval_script.main, [*dev, "--model_path", str(other), "--eval_output", str(scores)])
    scores = {line.split()[0]: float(line.split()[-1]) for line in scores.read_text().splitlines()}
    assert len(scores) == 20 and np.isfinite([*scores.values()]).all()
    if name in ("OCKD", "SLIM_stage1"):
        assert all(-1 <= score <= 1 for score in scores.values())
    file = next((corpus / "ASVspoof2019_LA_dev" / "flac").glob("*.flac"))
    text = output(easy_inference_demo.main, ["--model_path", str(other), "--file_to_test", str(file)])
    assert f"score: {scores[file.stem]:.3f}"[:10] in text
    assert checkpoints.show(other)["output"] == found["config"]["output"]
    prepared, plain = checkpoints.load_detector(other), checkpoints.load_detector(other)
    prepare(prepared, "fp32")
    x = torch.randn(2, 6000)
    with torch.inference_mode():
        torch.testing.assert_close(prepared.score(x), plain.score(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["weighted_CCE_SupCon", "LSR", "OCKD", "gated_ensemble"])
def test_two_processes_train_an_objective_as_one_does(name, flags_of, processes, tmp_path):
    # AASIST drops out, which no two processes do alike.
    config = ModelConfig("wav2vec2_LayerASP_MLP", ssl="tiny")
    checkpoints.save_checkpoint(tmp_path / "teacher.pth", config, build_detector(config).state_dict())
    flags = [config.model_name if flag == "wav2vec2_AASIST" else flag for flag in flags_of(name)]
    flags = [str(tmp_path / "teacher.pth") if flag.endswith("teacher.pth") else flag for flag in flags]
    # The log-mel spectrogram of a member has no double precision.
    flags = [*(flag for flag in flags if "LogMel" not in flag), "--batch_size", "7"]
    one, two = ({"flags": [*flags, "--foldername", n], "double": True} for n in ("one", "two"))
    for runs in ([one], pair(two)):
        statuses, text = processes(*runs)
        assert not any(statuses), text
    one, two = (next((tmp_path / n).iterdir()) / "checkpoints" / "epoch_2.pth" for n in ("one", "two"))
    one, two = (checkpoints.read_checkpoint(path)["model"] for path in (one, two))
    assert max((one[n].double() - two[n].double()).abs().max() for n in one) < 1e-5


@pytest.mark.parametrize("name", ["LSR_LSA", "SLIM_stage1", "SLIM_stage2"])
def test_what_draws_or_drops_out_runs_on_two_processes(name, flags_of, processes):
    statuses, text = processes(*pair({"flags": [*flags_of(name), "--foldername", "run"]}))
    assert statuses == [0, 0], text


def test_what_does_not_go_together_is_said(flags_of, teacher, fails):
    for name in ("weighted_CCE_SupCon", "LSR_LSA"):
        fails(train.main, [*flags_of(name), "--grad_accum", "2"], f"--loss {name}", "--grad_accum 1")
    flags = flags_of("OCKD")
    place = flags.index("--teacher")
    fails(train.main, flags[:place] + flags[place + 2 :], "--loss OCKD: needs --teacher")
    flags = flags_of("LSR")
    fails(
        train.main,
        [*flags, "--teacher", str(teacher)],
        "--teacher: expected --loss OCKD",
        "found LSR",
    )
    fails(train.main, [*flags, "--labels", "frames"], "--loss LSR", "--labels frames")
    name = ["wav2vec2_Nes2Net_X" if flag == "wav2vec2_AASIST" else flag for flag in flags_of("LSR_LSA")]
    fails(train.main, name, "--loss LSR_LSA: ", "Nes2Net_X")


OTHERS = {
    "LogMel_AASIST": {"n_output_logits": 2},  # other frames
    "wav2vec2_MHFA": {"ssl": "tiny", "n_output_logits": 1},  # other outputs
    "WavLM_SLIM": {"ssl": "tiny", "n_output_logits": 1},
}


@pytest.mark.parametrize(
    ("loss", "other", "flag"),
    [
        ("FTD", "LogMel_AASIST", "--teacher"),
        ("FTD", "wav2vec2_MHFA", "--teacher"),
        ("SLIM_stage2", "LogMel_AASIST", "--teacher"),
        ("SLIM_stage2", "WavLM_SLIM", "--model_name"),
        ("OCKD", "wav2vec2_MHFA", "--model_name"),
    ],
)
def test_a_teacher_of_another_network_is_one_line(loss, other, flag, flags_of, tmp_path, fails):
    config, flags, path = ModelConfig(other, **OTHERS[other]), flags_of(loss), tmp_path / "other.pth"
    checkpoints.save_checkpoint(path, config, build_detector(config).state_dict())
    flags[flags.index("--teacher") + 1] = str(path)
    fails(train.main, flags, flag, "found")


def test_options_that_are_not_the_teachers_are_one_line(flags_of, fails):
    flags = [*flags_of("SLIM_stage2"), "--back_end_options", "size=32"]
    fails(train.main, flags, "--back_end_options", "SLIM_stage2", "size=256", "size=32")


def test_a_checkpoint_to_fine_tune_is_no_teacher_unless_it_holds_one(flags_of, teachers, fails):
    for loss in ("FTD", "SLIM_stage2"):
        flags = flags_of(loss)
        place = flags.index("--teacher")
        without = flags[:place] + flags[place + 2 :]
        fails(train.main, [*without, "--model_path", str(teachers[loss])], f"--loss {loss}: needs --teacher")


def test_only_bonafide_trials_train_a_student(flags_of, tmp_path, output):
    text = output(train.main, [*flags_of("OCKD"), "--foldername", "run", "--epochs", "1", "--average_best", "0"])
    assert "OCKD trains on the 13 bona fide trials alone" in text, text
    (folder,) = (tmp_path / "run").iterdir()
    config = json.loads((folder / "config.json").read_text())
    assert config["training"]["teacher"].endswith("teacher.pth") and config["model"]["output"] == "agreement"
