"""LoRA: counts, identities, what is trained and what checkpoints hold."""

import copy

import pytest
import torch
from conftest import TINY_FLAGS
from test_any_front_end import ENCODERS
from torch import nn
from torch.nn import functional as F

import checkpoints
import train
from front_ends import FRONT_ENDS, empty_weights, lora
from model import ModelConfig, build_detector
from training.config import TrainingConfig
from training.losses import LOSSES

# What each family has; HuBERT Base is wav2vec 2.0 with the norm last.
FAMILIES = {name: ENCODERS[name] for name in ("wav2vec2", "WavLM", "Whisper")}
FAMILIES["HuBERT"] = ("wav2vec2", {"ssl": "from_file", "ssl_config": None})
FAMILIES["HuBERT"][1]["ssl_config"] = {**FRONT_ENDS["wav2vec2"].presets["tiny"].fields, "layer_norm_first": False}
PER_LAYER = {"q,v": 2, "q,k,v,o": 4, "all-linear": 6}


def detector_of(family):
    front_end, options = FAMILIES[family]
    torch.manual_seed(0)
    return build_detector(ModelConfig(f"{front_end}_Nes2Net_X", Nes_ratio=(2, 2), n_output_logits=2, **options))


def copy_of(detector):
    copied = build_detector(detector.config).train(detector.training)
    copied.load_state_dict(detector.state_dict())
    return copied


def adapted(detector, rank=3, alpha=6.0, targets="q,v", drawn=False):
    """A copy with adapters; drawn: of random values rather than zero."""
    detector = copy_of(detector)
    torch.manual_seed(1)
    lora.add_adapters(detector.front_end, rank, alpha, targets)
    for name, parameter in detector.named_parameters():
        if drawn and name.endswith("lora_B"):
            nn.init.normal_(parameter, std=0.1)
    return detector


def adapters_of(module):
    return [p for name, p in module.named_parameters() if name.endswith(("lora_A", "lora_B"))]


@pytest.fixture(scope="module")
def xls_r_300m():
    with empty_weights():
        return FRONT_ENDS["wav2vec2"](FRONT_ENDS["wav2vec2"].presets["xlsr_300m"].fields).to("meta")


@pytest.mark.parametrize("rank", [1, 8])
@pytest.mark.parametrize("targets, per_rank", [("q,v", 98_304), ("q,k,v,o", 196_608), ("all-linear", 442_368)])
def test_the_numbers_of_parameters_on_xls_r_300m(xls_r_300m, rank, targets, per_rank):
    front_end = copy.deepcopy(xls_r_300m)
    before = sum(p.numel() for p in front_end.parameters())
    assert lora.n_adapter_parameters(front_end, rank, targets) == per_rank * rank
    assert lora.add_adapters(front_end, rank, 1.0, targets) == per_rank * rank
    assert sum(p.numel() for p in front_end.parameters()) == before + per_rank * rank
    assert all(p.is_meta for p in front_end.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", lora.TARGETS)
def test_new_adapters_change_no_output_and_drawn_ones_do(family, targets):
    plain = detector_of(family).eval()
    x = torch.randn(2, 4000)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
            expected = plain(x)
            assert torch.equal(adapted(plain, targets=targets)(x), expected)
            assert not torch.equal(adapted(plain, targets=targets, drawn=True)(x), expected)
    n_layers = len(plain.front_end.layers())
    assert len(adapters_of(adapted(plain, targets=targets))) == 2 * n_layers * PER_LAYER[targets]


def low_rank_beside(linear):
    """A layer's function as the paper draws it: the product of the adapter beside that of the weight, in float64."""
    a, b, scale = linear.lora_A.double(), linear.lora_B.double(), 2.0  # alpha 6, rank 3
    bias = None if linear.bias is None else linear.bias.double()
    return lambda x: (F.linear(x.double(), linear.weight.double(), bias) + scale * x.double() @ a.T @ b.T).to(x.dtype)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", lora.TARGETS)
def test_merged_is_unmerged_is_the_low_rank_product_beside_the_weight(family, targets):
    plain, x = detector_of(family).eval(), torch.randn(2, 4000)
    detector = adapted(plain, targets=targets, drawn=True)
    with torch.no_grad():
        unmerged = detector(x)
        merged = copy_of(plain)
        merged.load_state_dict(lora.merged_state_dict(detector))
        assert torch.equal(merged(x), unmerged)
        in_place = adapted(plain, targets=targets, drawn=True)
        lora.merge_adapters(in_place)
        assert torch.equal(in_place(x), unmerged) and in_place.state_dict().keys() == plain.state_dict().keys()
        for module in detector.modules():
            if isinstance(module, lora.LoRALinear):
                module.forward = low_rank_beside(module)
        torch.testing.assert_close(detector(x), unmerged, rtol=0, atol=1e-6)


def test_on_a_gpu_queries_keys_and_values_are_one_product_with_the_adapters(monkeypatch):
    attention = adapted(detector_of("wav2vec2"), drawn=True).front_end.layers()[0].self_attn
    x = torch.randn(2, 7, 64)
    apart = attention._projected(x)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    for one, other in zip(attention._projected(x), apart):
        torch.testing.assert_close(one, other)


def started(detector, **flags):
    flags = {"optimizer": "AdamW", "lr": 1e-2, "schedule": "constant", "precision": "fp32", "epochs": 4} | flags
    training = train.Training(
        TrainingConfig(**flags), detector, LOSSES["weighted_CCE"](), torch.device("cpu"), train.run_folder.Path("."),
        [None], {}, None,
    )  # fmt: skip
    training.freeze(False)
    detector.train()
    return training


def steps(training, n=3):
    generator = torch.Generator().manual_seed(2)
    for _ in range(n):
        x = 0.1 * torch.randn(6, 4000, generator=generator)
        training.step(x, torch.tensor([0, 1, 0, 1, 0, 1]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("flags", [{}, {"precision": "bf16"}, {"grad_checkpoint": True, "grad_accum": 2}])
def test_steps_train_the_adapters_and_leave_every_weight_of_the_encoder_as_it_was(family, flags):
    detector = adapted(detector_of(family), targets="q,k,v,o")
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    training = started(detector, **flags)
    steps(training)
    for name, value in detector.state_dict().items():
        if name.startswith("front_end.") and not name.endswith(("lora_A", "lora_B")):
            assert torch.equal(value, before[name]), name
        elif name.endswith(("lora_A", "lora_B", "weight")):
            assert not torch.equal(value, before[name]), name
    n_adapters = sum(p.numel() for p in adapters_of(detector))
    moments = sum(moment["exp_avg"].numel() for moment in training.optimizer.state.values())
    n_behind = sum(p.numel() for p in detector.parameters()) - sum(p.numel() for p in detector.front_end.parameters())
    assert moments == n_adapters + n_behind


def test_recomputing_changes_no_adapter():
    detectors = [adapted(detector_of("WavLM")) for _ in range(2)]
    for detector, flags in zip(detectors, ({}, {"grad_checkpoint": True})):
        steps(started(detector, **flags))
    for one, other in zip(adapters_of(detectors[0]), adapters_of(detectors[1])):
        assert torch.equal(one, other)


# ------------------------------------------------------------------------------------------------ whole runs


@pytest.fixture
def tuned(tmp_path, train_flags, untrained, output):
    """tuned(*flags): the folder of a run that fine-tunes `untrained`, a detector, and what it printed."""

    def call(*flags, name="run"):
        flags = [*train_flags, "--model_path", str(untrained), "--algo", "0", "--foldername", name, *flags]
        text = output(train.main, [*flags, "--log_dir", str(tmp_path / "logs")])
        (folder,) = (tmp_path / "logs" / name).iterdir()
        return folder, text

    return call


def weights(path, name="epoch_3.pth"):
    return checkpoints.read_checkpoint(path / "checkpoints" / name)["model"]


def test_a_checkpoint_is_the_encoder_with_the_adapters_merged(tuned, untrained):
    folder, text = tuned("--lora_rank", "2", "--lora_targets", "q,k,v,o", "--average_best", "2")
    assert "LoRA: 2,048 parameters of rank 2 on q,k,v,o are trained in place of the encoder's" in text
    start = checkpoints.read_checkpoint(untrained)["model"]
    for name in ("epoch_3.pth", "average_best_2.pth"):
        found, n_moved = weights(folder, name), 0
        assert found.keys() == start.keys()
        for key in (key for key in start if key.startswith("front_end.")):
            moved = found[key] - start[key]
            assert moved.any() == key.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "out_proj.weight"))
            if moved.any() and name == "epoch_3.pth":
                n_moved += 1
                assert torch.linalg.matrix_rank(moved.double(), rtol=1e-3) == 2
    detector = checkpoints.load_detector(folder / "checkpoints" / "average_best_2.pth")
    assert not adapters_of(detector)


def test_adapters_are_frozen_with_the_encoder(tuned, untrained):
    folder, _ = tuned("--lora_rank", "2", "--SSL_freeze_epoch", "1", "--epochs", "2")
    start = checkpoints.read_checkpoint(untrained)["model"]
    moved = [
        sum(not torch.equal(weights(folder, name)[key], start[key]) for key in start if key.startswith("front_end."))
        for name in ("epoch_1.pth", "epoch_2.pth")
    ]
    assert moved == [0, 4]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--lora_rank", "65"], ["--lora_rank: expected at most 64", "found 65"]),
        (["--lora_rank", "0"], ["--lora_rank"]),
        (["--lora_alpha", "8"], ["--lora_alpha needs --lora_rank"]),
        (["--lora_targets", "q,v"], ["--lora_targets needs --lora_rank"]),
        (["--lora_rank", "2", "--model_name", "LogMel_GF"], ["--lora_rank: LogMel has no layers with q_proj, v_proj"]),
    ],
)
def test_what_does_not_go_is_one_line(flags, words, train_flags, tmp_path, fails):
    given = [flag for flag in train_flags if "--model_name" not in flags or flag not in (*TINY_FLAGS,)]
    fails(train.main, [*given, *flags, "--log_dir", str(tmp_path)], *words)
