"""Fake-Mamba and MamBo: counts, vectors and symmetries that their sources give."""

import re

import pytest
import torch
from conftest import read_reference
from test_front_ends import SMALL, random_weights
from torch.nn import functional as F
from torchaudio.models.wav2vec2.utils import import_fairseq_model
from torchaudio.pipelines._wav2vec2.utils import _extend_model

import checkpoints
import corpora
import eval as scoring
import train
from back_ends import build_back_end
from back_ends.fake_mamba import BidirectionalLayer
from back_ends.mambo import (
    Attention,
    FeedForward,
    GatedPool,
    Hydra,
    Layers,
    Mamba2,
    MamBo,
    kinds_of_layers,
    mix,
    mix_earlier,
)
from common.console import UserError
from inference.judging import Judge
from model import ModelConfig, build_detector, count_parameters
from training.recipes import RECIPES
from training.trainer import Training

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


# ---------------------------------------------------------------------------------------------------------------- MamBo


def test_parameters_of_mambo():
    counts = NUMBERS["mambo_counts"]
    found = [count_parameters(part) for part in (Hydra(128, 64, 7), FeedForward(128), Attention(128))]
    assert found == [counts["hydra_mixer"], counts["swiglu"], counts["attention"]]
    back_end = build("MamBo")
    units = back_end.stacked_mamba2["layers"].layers
    assert count_parameters(back_end) - count_parameters(units) == counts["outside_the_units"]
    for name, expected in counts.items():
        if name.startswith("MamBo-"):
            layout, hydras, units = map(int, re.findall(r"\d+", name))
            assert count_parameters(build("MamBo", layout=layout, hydras=hydras, units=units)) == expected, name
    # By hand: input, convolution, steps with decay and D, norm, output.
    mamba2 = 128 * (256 + 256 + 2 * 64 + 4) + (4 + 1) * (256 + 2 * 64) + 3 * 4 + 256 + 256 * 128
    assert count_parameters(Mamba2(128, 64, 4)) == mamba2
    expected = counts["outside_the_units"] + 2 * (mamba2 + counts["swiglu"] + 2 * 128)
    assert count_parameters(build("MamBo", layout=1, units=2, mixer="Mamba2", kernel=4)) == expected
    layer = build("MamBo", layout=3, units=2, size=32, state=4, kernel=5).stacked_mamba2["layers"].layers[4]
    assert layer.mamba.in_proj.weight.shape == (64 + 64 + 16 + 2, 32)


def values_of(*names):
    """Values of the published head of Hydra, each (1, T, ...) in float64."""
    return [torch.tensor(NUMBERS["hydra_one_head"][name], dtype=torch.float64).unsqueeze(0) for name in names]


def mixed_both_ways(x):
    """What the published head of Hydra makes of x (1, T, 1, P), but for its weight of a frame itself."""
    parts = values_of("dt_forward", "B_forward", "C_forward", "dt_backward", "B_backward", "C_backward")
    (dt, b, c), (dt_back, b_back, c_back) = parts[:3], (v.flip(1) for v in parts[3:])
    a = torch.tensor([NUMBERS["hydra_one_head"]["A"]], dtype=torch.float64)
    backward = mix_earlier(a, x.flip(1), dt_back.unsqueeze(2), b_back, c_back).flip(1)
    return mix_earlier(a, x, dt.unsqueeze(2), b, c) + backward


def test_one_head_of_hydra_and_its_matrix():
    (x, y, fc_d), numbers = values_of("x", "y", "fc_D"), NUMBERS["hydra_one_head"]
    found = mixed_both_ways(x.unsqueeze(2)).squeeze(2) + (x @ fc_d.mT + numbers["D"]) * x
    torch.testing.assert_close(found, y, rtol=0, atol=1e-6)
    matrix = mixed_both_ways(torch.eye(4, dtype=torch.float64)[None, :, None])[0, :, 0]
    torch.testing.assert_close(matrix, values_of("mixing_matrix_off_diagonal")[0][0], rtol=0, atol=1e-6)
    assert not matrix.diagonal().any()


@pytest.mark.parametrize("n_frames", [1, 2, 21])
def test_earlier_frames_are_mixed_as_by_the_recurrence(n_frames):
    generator = torch.Generator().manual_seed(n_frames)
    shapes = [(2,), (3, n_frames, 2, 4), (3, n_frames, 2), (3, n_frames, 5), (3, n_frames, 5)]
    a, x, dt, b, c = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    inputs = [v.requires_grad_() for v in (-a.exp(), x, 3 * F.softplus(dt), b, c)]

    def plain(a, x, dt, b, c):
        h, outputs = torch.zeros(3, 2, 4, 5, dtype=torch.float64), [torch.zeros(3, 2, 4, dtype=torch.float64)]
        for t in range(n_frames):
            h = torch.exp(dt[:, t] * a)[:, :, None, None] * h
            h = h + dt[:, t, :, None, None] * x[:, t].unsqueeze(-1) * b[:, t, None, None]
            outputs.append((h @ c[:, t, None, :, None]).squeeze(-1))
        return torch.stack(outputs[:-1], dim=1)

    found, expected = mix_earlier(*inputs), plain(*inputs)
    torch.testing.assert_close(found, expected)
    if n_frames > 1:
        gradients = (torch.autograd.grad(y.square().sum(), inputs) for y in (found, expected))
        torch.testing.assert_close(*gradients)


def test_mamba2_is_the_recurrence_of_its_heads():
    """Against a loop over frames, in numpy-like steps, of mamba-ssm's module: gate, then norm."""
    torch.manual_seed(0)
    mixer, u = Mamba2(64, 5, 4).double(), torch.randn(2, 11, 64, dtype=torch.float64)
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    z, x_b_c, dt = mixer.in_proj(u).split([128, 138, 2], dim=-1)
    taps = mixer.conv1d.weight[:, 0]
    padded = torch.cat([torch.zeros(2, 3, 138, dtype=torch.float64), x_b_c], dim=1)
    x_b_c = torch.stack([(padded[:, t : t + 4] * taps.T).sum(dim=1) for t in range(11)], dim=1)
    x, b, c = F.silu(x_b_c + mixer.conv1d.bias).split([128, 5, 5], dim=-1)
    x, dt = x.view(2, 11, 2, 64), torch.log(1 + torch.exp(dt + mixer.dt_bias))
    h, y = torch.zeros(2, 2, 64, 5, dtype=torch.float64), torch.empty(2, 11, 2, 64, dtype=torch.float64)
    for t in range(11):
        decay = torch.exp(-dt[:, t] * torch.exp(mixer.A_log))[:, :, None, None]
        h = decay * h + torch.einsum("bh,bhp,bn->bhpn", dt[:, t], x[:, t], b[:, t])
        y[:, t] = torch.einsum("bhpn,bn->bhp", h, c[:, t]) + mixer.D[:, None] * x[:, t]
    gated = y.flatten(2) * z * torch.sigmoid(z)
    normed = gated / (gated.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * mixer.norm.weight
    torch.testing.assert_close(mixer(u), normed @ mixer.out_proj.weight.T)
    later = u.clone()
    later[:, 7:] += 1
    torch.testing.assert_close(mixer(later)[:, :7], mixer(u)[:, :7])  # it hears nothing that comes later


def test_hydra_mixes_as_mamba2_a_frame_later():
    x, dt, b, c = (torch.randn(shape) for shape in ((2, 9, 3, 4), (2, 9, 3), (2, 9, 5), (2, 9, 5)))
    scanned = (-torch.rand(3), x, dt.abs(), b, c)
    assert torch.equal(mix_earlier(*scanned)[:, 1:], mix(*scanned)[:, :-1]) and not mix_earlier(*scanned)[:, 0].any()


def test_hydra_with_its_directions_swapped_reads_time_against_itself():
    torch.manual_seed(0)
    hydra, swapped = Hydra(64, 8, 5).double(), Hydra(64, 8, 5).double()
    torch.nn.init.normal_(hydra.A_log)
    torch.nn.init.normal_(hydra.D)
    # Rows: gate and x, each 128; b and c of 8, forward and then backward; steps of 2 heads, forward and then backward.
    rows = torch.tensor([*range(256), *range(272, 288), *range(256, 272), 290, 291, 288, 289])
    weights, convolved = hydra.state_dict(), rows[128:288] - 128
    weights["in_proj.weight"] = weights["in_proj.weight"][rows]
    weights["conv1d.weight"] = weights["conv1d.weight"][convolved].flip(-1)
    weights["conv1d.bias"] = weights["conv1d.bias"][convolved]
    swapped.load_state_dict(weights)
    u = torch.randn(2, 11, 64, dtype=torch.float64)
    torch.testing.assert_close(swapped(u.flip(1)), hydra(u).flip(1))
    assert not torch.allclose(hydra(u.flip(1)), hydra(u).flip(1))


def test_attention_of_mambo_sees_order_by_its_convolution_alone():
    torch.manual_seed(0)
    attention, x, order = Attention(32).double(), torch.randn(2, 9, 32, dtype=torch.float64), torch.randperm(9)
    assert not torch.allclose(attention(x[:, order]), attention(x)[:, order])
    with torch.no_grad():
        attention.conv1d.weight.copy_(torch.tensor([0.0, 0, 0, 1]))  # the last tap is the frame itself
        attention.conv1d.bias.zero_()
    torch.testing.assert_close(attention(x[:, order]), attention(x)[:, order])
    heads = [v.view(2, 9, 4, 8).transpose(1, 2) for v in attention.in_proj(x).chunk(3, dim=-1)]
    shares = torch.softmax(heads[0] @ heads[1].mT / 8**0.5, dim=-1)  # 8 channels a head
    expected = attention.out_proj((shares @ heads[2]).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x), expected)


def test_gated_pooling():
    numbers = {name: torch.tensor(values, dtype=torch.float64) for name, values in NUMBERS["mambo_gated_pool"].items()}
    pool = GatedPool(2).double().eval()
    assert pool.gate_value_proj.weight.shape == (10, 2)
    pool.gate_value_proj = torch.nn.Linear(2, 4, bias=False)
    pool.gate_value_proj.weight.data = torch.cat([numbers["W_gate"], numbers["W_value"]])
    pool.to_score.weight.data = numbers["w_score"].unsqueeze(0)
    torch.testing.assert_close(pool(numbers["x"].unsqueeze(0))[0], numbers["pooled"], rtol=0, atol=1e-6)
    torch.nn.init.zeros_(pool.to_score.weight)
    torch.testing.assert_close(pool(numbers["x"].unsqueeze(0))[0], numbers["x"].mean(dim=0))


RELEASED = [(1, 2, 1), (2, 1, 2), (3, 1, 3), (4, 2, 1)]  # layout, units, hydras
LAYERS = {
    1: "mamba mamba mlp",
    2: "mamba mamba mha",
    3: "mamba mamba mlp mha mlp",
    4: "mamba mamba mlp mamba mamba mha",
}


@pytest.mark.parametrize("layout", LAYERS)
def test_layers_add_then_normalise_then_mix(layout):
    """As the released program does, with what is mixed apart from the sum so far; the last output is added too."""
    kinds = kinds_of_layers(layout, units=2, hydras=2)
    assert kinds == 2 * LAYERS[layout].split()
    torch.manual_seed(0)
    layers = Layers(kinds, 32, Hydra, 4, 3).eval()
    mixed, residual = torch.randn(2, 7, 32), 0
    found = layers(mixed)
    for kind, layer in zip(kinds, layers.layers):
        residual = residual + mixed
        normalised = residual / (residual.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * layer.norm.weight
        mixed = dict(layer.named_children())[kind](normalised)
    expected = residual + mixed
    expected = expected / (expected.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * layers.norm.weight
    torch.testing.assert_close(found, expected)


def test_mambo_starts_as_published():
    back_end = build("MamBo", units=40)
    hydras = [layer.mamba for layer in back_end.stacked_mamba2["layers"].layers if layer.kind == "mamba"]
    steps = F.softplus(torch.cat([hydra.dt_bias for hydra in hydras]))
    assert 1e-3 <= steps.min() < 1.2e-3 and 0.09 < steps.max() <= 0.1
    assert all(not hydra.A_log.any() and torch.equal(hydra.D, torch.ones(4)) for hydra in hydras)
    feed_forward = back_end.stacked_mamba2["layers"].layers[1].mlp
    for weight in (back_end.attention_pool.gate_value_proj.weight, feed_forward.w2_out.weight):
        assert weight.std().item() == pytest.approx(weight.shape[1] ** -0.5, rel=0.02)


@pytest.mark.parametrize("option, value", [("layout", 5), ("units", 0), ("hydras", 0), ("size", 48), ("kernel", 4)])
def test_options_that_make_no_mambo_are_named(option, value):
    with pytest.raises(UserError, match=f"--back_end_options {option}: .* {value}"):
        build_detector(ModelConfig("wav2vec2_MamBo", ssl="tiny", back_end_options={option: value}))


@pytest.mark.parametrize("mixer, kernel", [("Hydra", 7), ("Hydra", 3), ("Mamba2", 4)])
@pytest.mark.parametrize("layout", LAYERS)
def test_options_are_read_off_released_weights(layout, mixer, kernel):
    options = {"layout": layout, "units": 2, "hydras": 3, "mixer": mixer, "kernel": kernel}
    with torch.device("meta"):
        assert MamBo.read_off(build("MamBo", **options).state_dict()) == options


@pytest.mark.slow
@pytest.mark.parametrize("layout, units, hydras, mixer", [(1, 2, 1, "Mamba2"), *((*one, "Hydra") for one in RELEASED)])
def test_a_released_mambo_is_recognised_and_scores_as_torchaudios_encoder_hears(layout, units, hydras, mixer, tmp_path):
    torch.manual_seed(0)
    options = {
        "layout": layout,
        "units": units,
        "hydras": hydras,
        "mixer": mixer,
        "kernel": 4 if mixer == "Mamba2" else 7,
    }
    fields = {**SMALL["xlsr-like"], "encoder_embed_dim": 64, "encoder_attention_heads": 16, "normalize": False}
    config = ModelConfig("wav2vec2_MamBo", ssl="from_file", ssl_config=fields, back_end_options=options)
    detector = build_detector(config).eval()
    random_weights(detector.front_end)
    # What the authors' bundle gives: a model of torchaudio, within one that normalises the waveforms of a batch.
    encoder = _extend_model(import_fairseq_model(detector.front_end.model), normalize_waveform=True).eval()
    weights = {f"feature_extractor.model.{name}": tensor for name, tensor in encoder.state_dict().items()}
    torch.save(weights | detector.back_end.state_dict(), tmp_path / "model_best.pt")
    found = checkpoints.load_detector(tmp_path / "model_best.pt")
    assert found.config.model_name == "wav2vec2_MamBo" and found.config.options.items() >= options.items()
    x = 0.05 + 0.01 * torch.randn(1, 9000)  # quiet, with an offset
    with torch.inference_mode():
        expected = detector.back_end(encoder(x)[0])[:, 1]
        torch.testing.assert_close(found.score(x), expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(detector.back_end(encoder.model(x)[0])[:, 1], expected, rtol=1e-3)


def test_other_mixers_are_no_mambo_of_this_project():
    weights = build("MamBo").state_dict()
    other = {name.replace("2.mamba", "2.mlp"): tensor for name, tensor in weights.items()}
    with pytest.raises(ValueError, match="order of layers"):
        MamBo.read_off(other)


@pytest.mark.parametrize(
    "recipe, option",
    [("Fake_Mamba", "layers=1"), ("MamBo_DF", "layout=3"), ("MamBo_Mamba2", "units=1"), ("FIR_NB", "size=24")],
)
def test_a_run_by_the_recipe_goes_on_where_it_was_and_scores(recipe, option, tmp_path, corpus, output, monkeypatch):
    flags = ["--recipe", recipe, "--ssl", "tiny", "--database_path", str(corpus), "--crop", "8000", "--lr", "1e-3"]
    flags += ["--epochs", "3", "--batch_size", "8", "--average_best", "2", "--num_workers", "0", "--foldername", "run"]
    flags += ["--back_end_options", option]
    output(train.main, [*flags, "--log_dir", str(tmp_path / "whole")])
    step, steps = Training.step, []

    def fails_once(training, *batch):
        steps.append(batch)
        if len(steps) == 7:
            raise RuntimeError("power cut")
        return step(training, *batch)

    monkeypatch.setattr(Training, "step", fails_once)
    command = [*flags, "--log_dir", str(tmp_path / "parts"), "--resume", "auto", "--save_every_minutes", "0"]
    with pytest.raises(RuntimeError, match="power cut"):
        output(train.main, command)
    assert "finished" in output(train.main, command)
    assert len(steps) == 3 * 4 + 1  # the seventh again, in the second of three epochs of four

    whole, parts = (next((tmp_path / name / "run").iterdir()) / "checkpoints" for name in ("whole", "parts"))
    path = parts / "average_best_2.pth"
    found, expected = (checkpoints.load_detector(folder / path.name).state_dict() for folder in (parts, whole))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    (betas,) = {group["betas"] for group in torch.load(parts / checkpoints.RESUME_NAME)["optimizer"]["param_groups"]}
    assert betas == (0.9, RECIPES[recipe].get("beta2", 0.999))

    protocol = corpora.official_files("ASVspoof2019_LA", "dev", corpus)[0]
    audio = corpus / "ASVspoof2019_LA_dev" / "flac"
    command = ["--protocol", str(protocol), "--audio_dir", str(audio), "--num_workers", "0", "--model_path", str(path)]
    output(scoring.main, [*command, "--eval_output", str(tmp_path / "scores.txt")])
    scores = corpora.read_scores(str(tmp_path / "scores.txt"))
    name = next(iter(scores))
    (judged,) = Judge(str(path), torch.device("cpu")).judge({name: str(audio / f"{name}.flac")})
    assert len(scores) == 20 and len(set(scores.values())) > 10 and judged.error is None
