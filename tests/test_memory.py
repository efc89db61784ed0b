import pytest
import torch
from conftest import ROOT, TINY

import checkpoints
import train
from back_ends import BACK_ENDS
from front_ends import lora
from model import ModelConfig, build_detector
from tools import memory_table
from tools.memory_table import BASE
from training import memory
from training.config import TrainingConfig
from training.trainer import Training

RELATIVE = {"num_buckets": 320, "max_distance": 800}
RECOMPUTING = {"grad_checkpoint": True}
FROZEN = {"SSL_freeze_epoch": 9}


def detector_of(name, fields=None):
    options = {} if fields is None else {"ssl": "from_file", "ssl_config": fields}
    return build_detector(ModelConfig(name, **options), empty="all")


def gib(detector, batch_size, precision, crop=64600, **flags):
    config = TrainingConfig(batch_size=batch_size, precision=precision, crop=crop, epochs=9, **flags)
    return memory.step_bytes(config, detector) / 2**30


# GiB of the tensors of Training.step at their height, followed through its CUDA kernels on tensors without content.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name, fields, steps",
    [
        (
            "wav2vec2_Nes2Net_X",
            None,
            [
                (5.11, 4, "bf16", {}),
                (9.38, 12, "fp32", {}),
                (33.36, 64, "fp32", {}),
                (19.47, 64, "bf16", {}),
                (6.66, 12, "fp32", RECOMPUTING),
                (10.44, 64, "bf16", RECOMPUTING),
                (7.25, 32, "bf16", {"grad_accum": 4}),
                (2.40, 32, "bf16", FROZEN),
                (11.28, 12, "bf16", {"crop": 160000}),
            ],
        ),
        (
            "WavLM_Nes2Net_X",
            None,
            [
                (7.51, 12, "bf16", {}),
                (38.84, 64, "fp32", {}),
                (10.47, 64, "bf16", RECOMPUTING),
                (13.84, 12, "bf16", {"crop": 160000}),
            ],
        ),
        ("wav2vec2_Nes2Net_X", BASE, [(17.01, 64, "fp32", {}), (2.96, 12, "bf16", {}), (7.0, 64, "bf16", RECOMPUTING)]),
        ("WavLM_Nes2Net_X", BASE | RELATIVE, [(18.96, 64, "fp32", {}), (2.39, 12, "bf16", RECOMPUTING)]),
        ("wav2vec2_AASIST", None, [(8.17, 16, "bf16", {})]),
        ("wav2vec2_Mamba", None, [(9.54, 16, "bf16", {})]),
        ("wav2vec2_MHFA", None, [(8.39, 16, "bf16", {}), (2.41, 32, "bf16", FROZEN)]),
        ("wav2vec2_SLS", None, [(8.40, 16, "bf16", {})]),
        ("wav2vec2_MoE", None, [(9.02, 16, "bf16", {})]),
        ("wav2vec2_Conformer", None, [(8.10, 16, "bf16", {})]),
    ],
)
def test_the_estimate_is_what_a_step_was_seen_to_need(name, fields, steps):
    detector = detector_of(name, fields)
    for seen, batch_size, precision, flags in steps:
        assert gib(detector, batch_size, precision, **flags) == pytest.approx(seen, rel=0.05), (precision, flags)


# GiB before the backward pass, followed on tensors without content in float32 (fake tensors have plain attention, whose
# (H, T, T) weights, less a copy of its output, are subtracted: 0.47 GiB).
@pytest.mark.slow
@pytest.mark.parametrize("targets, seen", [("q,v", 4.57 - 0.47), ("q,k,v,o", 4.88 - 0.69), ("all-linear", 6.75 - 0.69)])
def test_the_estimate_of_adapters(targets, seen):
    detector = detector_of("wav2vec2_Nes2Net_X")
    flags = {"lora_rank": 8, "lora_targets": targets}
    before = gib(detector, 12, "fp32", **flags)
    assert before == pytest.approx(seen, rel=0.05)
    assert "--lora_rank 8, which trains adapters in place of the encoder (about 4.1 GiB)" in memory.less(
        TrainingConfig(batch_size=12, precision="fp32", crop=64600, epochs=9), detector
    )
    lora.add_adapters(detector.front_end, 8, 8.0, targets)
    assert gib(detector, 12, "fp32", **flags) == pytest.approx(before, rel=1e-6)
    assert "--lora_rank" not in memory.less(TrainingConfig(batch_size=12, precision="fp32", **flags), detector)


@pytest.mark.slow
def test_average_and_sam_hold_the_weights_once_more_each():
    detector = detector_of("wav2vec2_Nes2Net_X")
    weights = 4 * sum(p.numel() for p in detector.parameters()) / 2**30
    plain, both = gib(detector, 12, "bf16"), gib(detector, 12, "bf16", ema=0.999, sam=0.05)
    assert both - plain == pytest.approx(2 * weights, rel=0.01)
    assert "fp16" not in memory.less(TrainingConfig(precision="fp32", sam=0.05), detector)


def test_what_acts_on_the_encoder_in_training_counts():
    detector = detector_of("wav2vec2_Nes2Net_X")
    detector.front_end.set_training({"dropout": 0.1, "activation_dropout": 0.1, "attention_dropout": 0.1})
    assert gib(detector, 12, "bf16") == pytest.approx(7.36, rel=0.02)
    detector = detector_of("WavLM_Nes2Net_X")
    detector.front_end.set_training({"feature_grad_mult": 0.0})
    assert gib(detector, 34, "bf16") == pytest.approx(11.14, rel=0.05)


def test_processes_share_the_trials_and_hold_gradients_twice():
    detector = detector_of("wav2vec2_Nes2Net_X")
    config = TrainingConfig(batch_size=32, precision="bf16", crop=64600)
    alone, half = (memory.step_bytes(TrainingConfig(batch_size=n, precision="bf16"), detector) for n in (32, 16))
    n_parameters = sum(p.numel() for p in detector.parameters())
    assert memory.step_bytes(config, detector, world=2) == half + 4 * n_parameters < alone


@pytest.mark.slow
@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_the_estimate_changes_nothing(back_end):
    """Neither running statistics nor random numbers, for a run is the same with and without it."""
    detector = build_detector(ModelConfig(f"wav2vec2_{back_end}", ssl="tiny")).eval()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    state = torch.get_rng_state()
    for precision in ("fp32", "bf16", "fp16"):
        assert memory.step_bytes(TrainingConfig(precision=precision, crop=16000), detector) > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    assert not any(module.training for module in detector.modules())


@pytest.mark.parametrize("flags", [{"compile": True}, {}])
def test_of_what_is_not_known_nothing_is_said(flags):
    name = "wav2vec2_GF" if flags else "LogMel_GF"
    detector = build_detector(ModelConfig(name, ssl="tiny" if flags else None))
    config = TrainingConfig(precision="fp32", **flags)
    assert memory.step_bytes(config, detector) is None
    assert memory.in_words(config, detector, torch.device("cuda")) == ""
    assert "GiB" not in memory.less(config, detector) and "--grad_accum 2" in memory.less(config, detector)


@pytest.mark.slow
def test_only_flags_that_help_are_named():
    detector = detector_of("wav2vec2_Nes2Net_X")
    config = TrainingConfig(batch_size=12, precision="fp32", crop=64600, epochs=9)
    words = memory.less(config, detector)
    for flag in ("--grad_checkpoint (about 6.7 GiB)", "--grad_accum 2", "--precision ", "--SSL_freeze_epoch 9"):
        assert flag in words
    config = TrainingConfig(batch_size=4, precision="bf16", crop=64600, epochs=9, grad_checkpoint=True)
    words = memory.less(config, detector)  # weights, gradients and moments are nearly all of it
    assert "--SSL_freeze_epoch 9" in words
    assert not any(flag in words for flag in ("--grad_checkpoint", "--grad_accum", "--precision"))
    config = TrainingConfig(batch_size=1, precision="bf16", crop=64600, epochs=9, **RECOMPUTING, **FROZEN)
    assert memory.less(config, detector).startswith("no flag")


@pytest.mark.slow
def test_too_much_is_said_before_a_run_starts(monkeypatch):
    class Card:
        total_memory = 8 * 2**30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    detector = detector_of("wav2vec2_Nes2Net_X")
    for batch_size, words in [(12, "about 7.0 GiB of the GPU's 8.0 GiB"), (32, "GiB: too much; less")]:
        config = TrainingConfig(batch_size=batch_size, precision="bf16", crop=64600)
        text = memory.in_words(config, detector, torch.device("cuda"))
        assert words in text and ("--grad_checkpoint" in text) == (batch_size == 32)


def test_a_run_out_of_memory_names_flags_and_goes_on(train_flags, finished_run, tmp_path, fails, monkeypatch):
    flags = [*train_flags, "--log_dir", str(tmp_path), "--foldername", "run", "--resume", "auto"]
    gradients, n_steps = Training.gradients, 0

    def out_of_memory(self, x, labels):
        nonlocal n_steps
        n_steps += 1
        if n_steps == 6:  # in the second of three epochs
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has none. Advice. More."
            )
        return gradients(self, x, labels)

    monkeypatch.setattr(Training, "gradients", out_of_memory)
    message = fails(train.main, flags, "training: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has none;")
    assert "--grad_accum 2" in message and "Advice" not in message
    assert train.main([*flags, "--grad_checkpoint"]) is None
    (run,) = (tmp_path / "run").iterdir()
    expected = checkpoints.read_checkpoint(finished_run / "checkpoints" / "epoch_3.pth")["model"]
    found = checkpoints.read_checkpoint(run / "checkpoints" / "epoch_3.pth")["model"]
    assert expected.keys() == found.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_validation_out_of_memory(fails):
    detector = build_detector(TINY).eval()
    config = TrainingConfig(validation="eer")

    def validate(argv):
        with memory.explained(config, detector):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    assert "grad" not in fails(validate, [], "validation: CUDA out of memory", "--valid_crop")


@pytest.mark.slow
def test_the_tables_of_the_docs_are_printed(monkeypatch, output):
    name = "wav2vec 2.0 Base, Nes2Net-X"
    monkeypatch.setattr(memory_table, "MODELS", {name: memory_table.MODELS[name]})
    monkeypatch.setattr(memory_table, "TRAINED", {"LoRA, q,v": (24, "q,v")})
    rows = [line for line in output(memory_table.main, []).splitlines() if line.startswith((f"| {name}", "| LoRA"))]
    text = "".join((ROOT / "docs" / page).read_text() for page in ("speed.md", "fine_tuning.md"))
    assert len(rows) == 5 and all(f"\n{row}\n" in text for row in rows)
