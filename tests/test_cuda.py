"""What only a GPU shows: pytest -m cuda tests/test_cuda.py."""

from pathlib import Path

import numpy as np
import pytest
import torch

from back_ends import BACK_ENDS
from common.console import UserError
from inference import precision, scoring
from model import ModelConfig, build_detector
from tools import benchmark
from training import memory, trainer
from training.config import TrainingConfig
from training.cuda_graph import WARM_UP, GraphedGradients
from training.losses import LOSSES, losses_for

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DEVICE = torch.device("cuda")


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """float32 means it."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.set_float32_matmul_precision("highest")


def detector_of(name, **fields):
    torch.manual_seed(0)
    return build_detector(ModelConfig(name, ssl="tiny", **fields))


def started(detector, **flags):
    flags = {"optimizer": "Adam", "lr": 1e-4, "weight_decay": 0.0, "schedule": "constant", "precision": "fp32"} | flags
    criterion = LOSSES[losses_for(detector.config.n_output_logits)[0]]().to(DEVICE)
    training = trainer.Training(
        TrainingConfig(**flags), detector.to(DEVICE), criterion, DEVICE, Path("."), [None], {}, None
    )
    training.freeze(False)
    detector.train()
    return training


def recorded(training):
    training.compute_gradients = GraphedGradients(training.gradients, training.detector.parameters())
    return training


def steps(training, sizes, samples=16000):
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    losses = []
    for size in sizes:
        x = 0.1 * torch.randn(size, samples, generator=generator)
        losses.append(training.step(x, torch.arange(size) % 2)[0].item())
    return losses


@pytest.mark.parametrize("name", ["Nes2Net", "Nes2Net_X", "Conformer", "TCM", "Mamba", "SLS", "LGF", "MHFA", "ASP_MLP"])
@pytest.mark.parametrize("grad_accum", [1, 2])
def test_a_recorded_step_is_the_step(name, grad_accum):
    """An odd batch comes between: what it leaves in the gradients must not count."""
    sizes = [8] * (WARM_UP + 2) + [5, 8, 8]
    expected = steps(started(detector_of(f"wav2vec2_{name}"), grad_accum=grad_accum), sizes)
    training = recorded(started(detector_of(f"wav2vec2_{name}"), grad_accum=grad_accum))
    found = steps(training, sizes)
    assert training.compute_gradients.graph is not None
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_replays_drop_out_anew():
    training = recorded(started(detector_of("wav2vec2_AASIST"), lr=0.0))
    x, labels = 0.1 * torch.randn(8, 16000), torch.arange(8) % 2
    losses = [training.step(x, labels)[0].item() for _ in range(WARM_UP + 6)]
    assert len(set(losses[WARM_UP:])) == 6


def test_losses_that_are_not_finite_leave_a_recorded_training_as_it_was():
    training = recorded(started(detector_of("wav2vec2_Nes2Net_X")))
    steps(training, [8] * (WARM_UP + 1))
    before = {name: value.clone() for name, value in training.detector.state_dict().items()}
    *_, skipped = training.step(torch.full((8, 16000), torch.nan), torch.arange(8) % 2)
    assert skipped
    counters = [name for name in before if name.endswith("num_batches_tracked")]
    after = training.detector.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before.keys() - set(counters))


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("front_end", ["wav2vec2", "WavLM"])
def test_no_step_waits_for_the_device(front_end, back_end):
    training = started(detector_of(f"{front_end}_{back_end}"), precision="bf16")
    if not training.detector.back_end.same_kernels:
        pytest.skip(f"{back_end} says that it waits")
    x, labels = (0.1 * torch.randn(8, 16000)).to(DEVICE), (torch.arange(8) % 2).to(DEVICE)
    training.step(x, labels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            training.step(x, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("back_end", ["Nes2Net_X", "AASIST", "MoE"])
def test_bfloat16_gradients_are_those_of_float64(back_end):
    detector = detector_of(f"wav2vec2_{back_end}").eval()
    if back_end == "MoE":  # its gates start equal, so that rounding would choose
        torch.nn.init.normal_(detector.back_end.moe_l.w_gate)
    x = 0.1 * torch.randn(2, 64600)

    def gradients(autocast):
        detector.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            outputs = detector(x.to(next(detector.parameters())))
        outputs[:, 1].sum().backward()
        grads = [p.grad for p in detector.back_end.parameters() if p.grad is not None]
        return torch.cat([grad.flatten().double().cpu() for grad in grads])

    detector.double()
    expected = gradients(False)
    detector.float().to(DEVICE)
    exact, rounded = gradients(False), gradients(True)
    assert (exact - expected).norm() < 1e-4 * expected.norm()
    assert (rounded - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("front_end", ["wav2vec2", "WavLM"])
def test_scores_are_those_of_a_cpu(front_end, tmp_path):
    import soundfile

    generator = np.random.default_rng(0)
    paths = []
    for i, n in enumerate(generator.integers(8000, 64000, 40)):
        paths.append(tmp_path / f"{i}.wav")
        soundfile.write(paths[-1], 0.1 * generator.standard_normal(n), 16000)
    detector = detector_of(f"{front_end}_Nes2Net_X").eval()
    expected, *_ = scoring.score_files(detector, paths)
    detector.to(DEVICE)
    precision.prepare(detector, "fp32")
    found, failures, _ = scoring.score_files(detector, paths, num_workers=2)
    assert not failures and np.std(list(expected.values())) > 1e-3
    np.testing.assert_allclose([found[i] for i in range(40)], [expected[i] for i in range(40)], atol=2e-5)


@pytest.mark.parametrize("grad_checkpoint", [False, True])
def test_a_compiled_training_goes_as_one_that_is_not(grad_checkpoint):
    sizes = [8] * 6 + [5, 8]
    expected = steps(started(detector_of("wav2vec2_GF")), sizes)
    training = started(detector_of("wav2vec2_GF"), compile=True, grad_checkpoint=grad_checkpoint)
    found = steps(training, sizes)
    assert isinstance(training.compute_gradients, GraphedGradients) != grad_checkpoint
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize("name", ["wav2vec2_Nes2Net_X", "WavLM_Nes2Net_X"])
@pytest.mark.parametrize("flags", [{"precision": "fp32"}, {"precision": "bf16"}, {"grad_checkpoint": True}])
def test_a_step_needs_the_memory_of_the_estimate(name, flags):
    training = started(build_detector(ModelConfig(name)), batch_size=16, crop=64600, epochs=1, **flags)
    expected = memory.step_bytes(training.config, training.detector)
    x, labels = 0.1 * torch.randn(16, 64600), torch.arange(16) % 2
    training.step(x, labels)
    torch.cuda.reset_peak_memory_stats()
    training.step(x, labels)
    assert torch.cuda.max_memory_allocated() == pytest.approx(expected, rel=0.15)


def test_a_run_out_of_memory_is_told_which_flags_help():
    training = started(build_detector(ModelConfig("wav2vec2_Nes2Net_X")), batch_size=16, crop=64600, epochs=1)
    x, labels = 0.1 * torch.randn(16, 64600), torch.arange(16) % 2
    torch.cuda.empty_cache()
    there = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 2**30) / there)
    try:
        with pytest.raises(UserError, match="training: CUDA out of memory.*--grad_checkpoint"):
            with memory.explained(training.config, training.detector):
                training.step(x, labels)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_what_does_not_fit_is_a_row_of_the_benchmark(output):
    torch.cuda.empty_cache()
    there = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 2**28) / there)
    flags = ["train", "--device", "cuda", "--ssl", "tiny", "--batch_sizes", "4", "2000", "--repeats", "1"]
    try:
        text = output(benchmark.main, flags)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    rows = {line[: line.index("  ")]: line for line in text.splitlines() if " x " in line}
    assert "out of memory" in rows["2000 x naive"] and "out of memory" not in rows["4 x bf16"]
