"""Clipping, rates by layer, the moving average of weights, sharpness-aware minimisation: each against its formula."""

import copy
import signal
from pathlib import Path

import pytest
import torch
from conftest import TINY_FLAGS
from test_crash import assert_same_run, pair
from torch import nn

import checkpoints
import train
from model import Detector, ModelConfig, build_detector
from training import layer_rates
from training.config import TrainingConfig
from training.losses import LOSSES, Loss
from training.schedules import EVERY_STEP, SCHEDULES

FLAGS = {"optimizer": "Adam", "lr": 1e-3, "weight_decay": 0.0, "schedule": "constant", "precision": "fp32", "epochs": 9}
LABELS = torch.tensor([0, 1, 0, 1, 1, 0])


def training_of(detector, criterion=None, **flags):
    criterion = criterion or LOSSES["weighted_CCE"]()
    folder, device = Path("."), torch.device("cpu")
    training = train.Training(
        TrainingConfig(**{**FLAGS, **flags}), detector, criterion, device, folder, [None] * 4, {}, None
    )
    training.freeze(False)
    detector.train()
    return training


def tiny(back_end="Nes2Net_X", **options):
    options |= {"Nes_ratio": (2, 2)} if back_end == "Nes2Net_X" else {}
    torch.manual_seed(0)
    return build_detector(ModelConfig(f"wav2vec2_{back_end}", ssl="tiny", **options))


def batch(seed=0):
    return 0.1 * torch.randn(6, 4000, generator=torch.Generator().manual_seed(seed)), LABELS


# -------------------------------------------------------------------------------------------------------- quadratic


class Point(nn.Module):
    """In the place of a detector: its outputs are its weights, whatever it hears."""

    def __init__(self, w):
        super().__init__()
        self.front_end, self.back_end, self.w = nn.Identity(), nn.Identity(), nn.Parameter(w.clone())

    def set_trained(self, front_end):
        pass

    def forward(self, x):
        return self.w.expand(len(x), -1)


class Bowl(Loss):
    """wᵀ H w / 2 of the weights, for each trial."""

    H = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, -0.5], [0.0, -0.5, 1.0]])

    def weight(self, labels):
        return torch.tensor(float(len(labels)))

    def total(self, outputs, labels):
        return ((outputs @ self.H) * outputs).sum() / 2


W = torch.tensor([0.4, -1.2, 0.0])


def uphill(w, rho, adaptive):
    """The gradient of the bowl at SAM's place, in double precision."""
    w, h = w.double(), Bowl.H.double()
    g = h @ w
    e = rho * w**2 * g / (w.abs() * g).norm() if adaptive else rho * g / g.norm()
    return h @ (w + e)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("rho", [0.05, 2.0])
@pytest.mark.parametrize("grad_accum", [1, 3])
def test_the_gradient_of_sam_on_a_quadratic(adaptive, rho, grad_accum):
    detector = Point(W)
    training = training_of(detector, Bowl(), sam=rho, adaptive_sam=adaptive, grad_accum=grad_accum)
    loss, norm, skipped = training.step(*batch())
    expected = uphill(W, rho, adaptive)
    assert not skipped and loss.item() == pytest.approx((W @ Bowl.H @ W / 2).item())
    torch.testing.assert_close(detector.w.grad.double(), expected, rtol=1e-5, atol=1e-6)
    assert norm.item() == pytest.approx(expected.norm().item(), rel=1e-5)
    # Adam's first step, from the weights as they were: by the rate against the gradient's sign.
    torch.testing.assert_close(detector.w.data, W - 1e-3 * expected.float().sign(), rtol=0, atol=1e-6)


def test_where_the_gradient_is_zero_sam_goes_nowhere():
    detector = Point(torch.zeros(3))
    training = training_of(detector, Bowl(), sam=0.05)
    assert not training.step(*batch())[2] and torch.equal(detector.w.data, torch.zeros(3))


@pytest.mark.parametrize("most", [0.5, 100.0])
def test_the_gradient_is_clipped_to_its_norm(most):
    detector, gradient = Point(W), Bowl.H @ W
    _, norm, _ = training_of(detector, Bowl(), clip_grad_norm=most).step(*batch())
    assert norm.item() == pytest.approx(gradient.norm().item())  # what is logged is the length before
    expected = gradient * min(1, most / gradient.norm())
    torch.testing.assert_close(detector.w.grad, expected, rtol=1e-5, atol=1e-7)


# ---------------------------------------------------------------------------------------------------- SAM, networks


def state_of(training):
    return {name: value.clone() for name, value in training.detector.state_dict().items()}


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in state.items())


@pytest.mark.slow
@pytest.mark.parametrize("back_end", ["Nes2Net_X", "LLGF"])
def test_both_passes_draw_the_same_numbers_and_batch_norms_count_one(back_end):
    """At a distance of next to nothing a step is the plain one, bit for bit: dropout, statistics, random state."""
    results = []
    for flags in ({}, {"sam": 1e-30}):
        detector = tiny(back_end)
        detector.front_end.set_training({"dropout": 0.3, "encoder_layerdrop": 0.3})
        training = training_of(detector, **flags)
        torch.manual_seed(3)
        for seed in range(3):
            training.step(*batch(seed))
        results.append((state_of(training), torch.get_rng_state()))
    assert same(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    counts = [value for name, value in results[1][0].items() if name.endswith("num_batches_tracked")]
    assert counts and all(count == 3 for count in counts)


def test_at_a_distance_the_step_is_another_one_and_statistics_are_those_of_the_first_pass():
    plain, distant = (training_of(tiny(), **flags) for flags in ({}, {"sam": 0.05}))
    for training in (plain, distant):
        training.step(*batch())
    found, expected = state_of(distant), state_of(plain)
    for name, value in expected.items():
        if "running_" in name or "num_batches" in name:
            assert torch.equal(found[name], value), name
    name = "front_end.model.encoder.layers.0.fc1.weight"
    assert not torch.equal(found[name], expected[name])


@pytest.mark.parametrize("bad_pass", [1, 2])
def test_a_pass_that_is_not_finite_skips_the_step(bad_pass, monkeypatch):
    detector = tiny()
    training = training_of(detector, sam=0.05, ema=0.9, clip_grad_norm=1.0)
    training.step(*batch())
    before, moments = state_of(training), copy.deepcopy(training.optimizer.state_dict()["state"])
    means = [mean.clone() for mean in training.ema.means]
    forward, calls = Detector.forward, 0

    def poisoned(self, x, **options):
        nonlocal calls
        calls += 1
        return forward(self, x * (float("nan") if calls == bad_pass else 1), **options)

    monkeypatch.setattr(Detector, "forward", poisoned)
    _, _, skipped = training.step(*batch(1))
    assert skipped and calls == 2
    after = {name: value for name, value in state_of(training).items() if not name.endswith("num_batches_tracked")}
    assert same(after, {name: before[name] for name in after})
    for one, other in zip(moments.values(), training.optimizer.state_dict()["state"].values()):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(map(torch.equal, means, training.ema.means))


# ---------------------------------------------------------------------------------------------------- rates by layer

DEPTHS = {  # of parameters of tiny, which has two layers and the norm first
    "front_end.model.feature_extractor.conv_layers.0.0.weight": 3,
    "front_end.model.layer_norm.weight": 3,
    "front_end.model.encoder.layer_norm.weight": 0,
    "front_end.model.encoder.layers.0.fc1.weight": 2,
    "front_end.model.encoder.layers.1.self_attn.q_proj.weight": 1,
    "back_end": 0,
}


def test_a_rate_is_that_of_the_top_times_the_decay_by_depth():
    training = training_of(tiny(), layer_decay=0.5)
    before = state_of(training)
    training.step(*batch())
    after, seen = state_of(training), set()
    for name in after:
        depth = next((depth for start, depth in DEPTHS.items() if name.startswith(start)), None)
        if depth is not None and name.endswith("weight"):
            moved = (after[name] - before[name]).abs().max().item()  # Adam's first step: nearly the rate
            assert moved == pytest.approx(1e-3 * 0.5**depth, rel=0.1), name
            seen.add(depth)
    assert seen == {0, 1, 2, 3}


def test_a_norm_before_the_layers_is_below_them():
    fields = {**tiny().config.encoder_fields, "layer_norm_first": False}
    front_end = build_detector(ModelConfig("wav2vec2_GF", ssl="from_file", ssl_config=fields)).front_end
    assert layer_rates.depths(front_end)[front_end.model.encoder.layer_norm.weight] == 3


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_keeps_the_shares(schedule):
    flags = {"schedule": schedule, "lr": 1e-3, "min_lr": 1e-4, "warmup_epochs": 2, "T_max": 2}
    plain, decayed = (training_of(tiny(), **flags, **more) for more in ({}, {"layer_decay": 0.5}))
    for step in range(12):
        rates = []
        for training in (plain, decayed):
            training.step(*batch())
            rates.append([group["lr"] for group in training.optimizer.param_groups])
            if schedule in EVERY_STEP or step % 4 == 3:
                training.scheduler.step()
        assert rates[1] == [pytest.approx(rates[0][0] * share) for share in (1, 0.5, 0.25, 0.125)]


# ------------------------------------------------------------------------------------------------- whole runs, resuming


@pytest.fixture
def trained(tmp_path, train_flags, output):
    """trained(*flags): the folder of a run."""

    def call(*flags, name="run"):
        flags = [*train_flags, "--algo", "0", *flags, "--log_dir", str(tmp_path / "logs"), "--foldername", name]
        output(train.main, flags)
        (folder,) = (tmp_path / "logs" / name).iterdir()
        return folder

    return call


def test_what_is_validated_and_saved_is_the_moving_average(trained, monkeypatch):
    """Weights and running statistics of each step, averaged here in double precision; the third step is skipped."""
    step, forward, name = train.Training.step, Detector.forward, "back_end.fc.weight"
    means, states, validated = None, [], []

    def floats(detector):
        return {name: value.double() for name, value in detector.state_dict().items() if value.is_floating_point()}

    def recorded(self, x, labels):
        nonlocal means
        means = means or floats(self.detector)
        result = step(self, x * float("nan") if len(states) == 2 else x, labels)
        if len(states) != 2:
            means = {name: 0.75 * mean + 0.25 * floats(self.detector)[name] for name, mean in means.items()}
        states.append(means)
        return result

    def watched(self, x, **options):
        if not self.training:
            validated.append(dict(self.named_parameters())[name].detach().clone())
        return forward(self, x, **options)

    monkeypatch.setattr(train.Training, "step", recorded)
    monkeypatch.setattr(Detector, "forward", watched)
    folder = trained("--ema", "0.75", "--epochs", "2", "--average_best", "2")
    for epoch in (1, 2):
        saved = checkpoints.read_checkpoint(folder / "checkpoints" / f"epoch_{epoch}.pth")["model"]
        for key, mean in states[4 * epoch - 1].items():
            torch.testing.assert_close(saved[key].double(), mean, rtol=1e-5, atol=1e-7)
        assert any(torch.equal(weight, saved[name]) for weight in validated)
    average = checkpoints.read_checkpoint(folder / "checkpoints" / "average_best_2.pth")["model"]
    assert torch.equal(validated[-1], average[name]) and len({tuple(w.flatten().tolist()) for w in validated}) == 3
    resume = checkpoints.read_checkpoint(folder / "checkpoints" / checkpoints.RESUME_NAME)
    assert not torch.equal(resume["model"][name], saved[name])  # what is trained goes on from what is trained


ALL = ["--lora_rank", "2", "--sam", "0.05", "--ema", "0.9", "--clip_grad_norm", "0.5", "--layer_decay", "0.5"]
CASES = {
    "LoRA, first layer": ["--lora_rank", "2", "--lora_targets", "all-linear", "--ssl_layers", "1"],
    "SAM": ["--sam", "0.05"],
    "ASAM, rates": ["--sam", "0.5", "--adaptive_sam", "--layer_decay", "0.5", "--SSL_freeze_epoch", "1"],
    "all": [*ALL, "--ssl_layers", "1", "--grad_accum", "2", "--precision", "bf16"],
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_was_stopped_within_an_epoch_ends_as_if_it_had_not_been(case, tmp_path, train_flags, processes):
    flags = [*train_flags, "--epochs", "2", "--average_best", "2", *CASES[case], "--log_dir", str(tmp_path)]
    whole, stopped = ({"flags": [*flags, "--foldername", name, "--resume", "auto"]} for name in ("whole", "stopped"))
    # Two at once, to save time.
    statuses, text = processes(whole, {**stopped, "at": ["step", 6, signal.SIGTERM]})
    assert statuses == [0, 143], text
    statuses, text = processes(stopped)
    assert statuses == [0] and "resumed after epoch 1 and 2 batches" in text, text
    whole, stopped = (next((tmp_path / name).iterdir()) for name in ("whole", "stopped"))
    assert_same_run(stopped, whole)


def test_a_run_that_is_stopped_while_its_average_is_validated_goes_on_from_what_is_trained(
    tmp_path, train_flags, processes
):
    flags = [*train_flags, "--epochs", "2", "--ema", "0.9", "--log_dir", str(tmp_path), "--resume", "auto"]
    whole, stopped = ({"flags": [*flags, "--foldername", name]} for name in ("whole", "stopped"))
    statuses, text = processes(whole, {**stopped, "at": ["validation", 1, signal.SIGTERM]})
    assert statuses == [0, 143], text
    assert processes(stopped)[0] == [0]
    whole, stopped = (next((tmp_path / name).iterdir()) for name in ("whole", "stopped"))
    assert_same_run(stopped, whole)


@pytest.mark.parametrize("case", [["--sam", "0.05", "--batch_size", "9"], [*ALL, "--grad_accum", "2"]])
def test_two_processes_train_as_one_does(case, tmp_path, train_flags, processes):
    """In double precision, see test_crash."""
    flags = [*train_flags, "--schedule", "constant", "--epochs", "2", "--average_best", "2", *case]
    flags += ["--log_dir", str(tmp_path)]
    one, two = ({"flags": [*flags, "--foldername", name], "double": True} for name in ("one", "two"))
    for runs in ([one], pair(two)):
        statuses, text = processes(*runs)
        assert not any(statuses), text
    one, two = (next((tmp_path / name).iterdir()) for name in ("one", "two"))
    for name in ("epoch_1.pth", "epoch_2.pth", "average_best_2.pth"):
        found, expected = (checkpoints.read_checkpoint(run / "checkpoints" / name) for run in (two, one))
        assert max((v - expected["model"][n]).abs().max() for n, v in found["model"].items()) < 1e-5


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--sam", "0.05", "--precision", "fp16"], ["--sam and --precision fp16"]),
        (["--adaptive_sam"], ["--adaptive_sam needs --sam"]),
        (["--sam", "0"], ["--sam"]),
        (["--ema", "1"], ["--ema"]),
        (["--layer_decay", "1.5"], ["--layer_decay"]),
        (["--layer_decay", "0.5", "--model_name", "LogMel_GF"], ["--layer_decay: LogMel has no layers"]),
        (["--clip_grad_norm", "0"], ["--clip_grad_norm"]),
    ],
)
def test_what_does_not_go_is_one_line(flags, words, train_flags, tmp_path, fails):
    given = [flag for flag in train_flags if "--model_name" not in flags or flag not in TINY_FLAGS]
    fails(train.main, [*given, *flags, "--log_dir", str(tmp_path)], *words)
