"""The rivals of Nes2Net: published outputs, sizes, lengths, and which parameters training reaches."""

import math

import numpy as np
import pytest
import torch
from conftest import read_reference, reference_input, reference_weights
from torch.nn import functional as F

import checkpoints
from back_ends import BACK_ENDS, build_back_end, mamba, tcm
from back_ends.conformer import FARTHEST, RelativeAttention
from back_ends.moe import ExpertFusion
from common.console import UserError
from front_ends import build_front_end, empty_weights
from front_ends.pretrained import _HUGGING_FACE_NAMES
from front_ends.wav2vec2 import Wav2Vec2, WavLM
from model import ModelConfig, build_detector, count_parameters
from training.recipes import RECIPES

RIVALS = [name for name in BACK_ENDS if not name.startswith("Nes2Net")]
# name -> file of the published output, and number of hidden states
VECTORS = {
    "AASIST": ("aasist.json", 25),
    "Conformer": ("conformer.json", 25),
    "TCM": ("tcm.json", 25),
    "Mamba": ("mamba.json", 25),
    "SLS": ("sls.json", 25),
    "AttM_LSTM": ("attm_lstm.json", 13),
    "LLGF": ("llgf.json", 25),
    "LGF": ("lgf.json", 25),
    "GF": ("gf.json", 25),
    "MoE": ("moe.json", 25),
    "MHFA": ("mhfa.json", 25),
}
# name -> parameters at 1024 channels, 2 outputs, and that number of hidden states
COUNTS = [
    ("AASIST", 25, 447_242),
    ("Conformer", 25, 2_506_324),
    ("TCM", 25, 2_382_628),
    ("Mamba", 25, 1_936_950),
    ("Fake_Mamba", 25, 2_336_405),
    ("MamBo", 25, 693_615),
    ("SLS", 25, 23_399_429),
    ("AttM_LSTM", 13, 51_275_794 - (3072**2 + 3072)),
    ("AttM_LSTM", 25, 195_985_858 - (6144**2 + 6144)),  # published with a layer that nothing uses
    ("LLGF", 25, 1_079_746),
    ("LGF", 25, 330_114),
    ("GF", 25, 131_458),
    ("MoE", 25, 25_473_024 + 447_242),
    ("MHFA", 25, 1_315_410 + 1_026),
    ("MFA", 25, 7_483_675),
    ("AASIST2", 25, 310_882),
    ("PT_AASIST", 25, 693_002),
    ("LayerASP_MLP", 25, 1_051_139 + 25),
    ("Vicomtech", 25, 197_402 - 128 + 2 * 129),  # two outputs for a cosine
    ("ResNet", 25, 526_038),
    ("Res2Net", 25, 618_428),
    ("ECAPA_TDNN", 25, 592_418),
    ("SLIM", 25, 2 * 788_480 + 262_914 + 2 * (131_329 + 524_544)),  # two stages' modules, classifier, poolings
]
UNRELEASED = {"ASP_MLP", "LayerASP_MLP", "MFA", "AASIST2", "Vicomtech", "ResNet", "Res2Net", "ECAPA_TDNN", "SLIM"}
# name -> beginnings of the names of parameters that the published network has but never uses
UNUSED = {
    "AASIST": [f"encoder.{i}.0.bn1." for i in range(1, 6)],
    "MoE": [f"classifier.encoder.{i}.0.bn1." for i in range(1, 6)],
    "PT_AASIST": [f"w2vaasist.encoder.{i}.0.bn1." for i in range(1, 6)] + ["wav2vec2_with_prompt."],  # of the encoder
    "Mamba": ["conformer.forward_layers.5.", "conformer.backward_layers.5."],
}


def build(name, channels=1024, n_hidden_states=25, **options):
    return build_back_end(ModelConfig(f"wav2vec2_{name}", **options), channels, n_hidden_states)


def inputs_of(name, trials, frames, channels, n_hidden_states):
    if not BACK_ENDS[name].takes_hidden_states:
        return torch.randn(trials, frames, channels)
    return [torch.randn(trials, frames, channels) for _ in range(n_hidden_states)]


def reference_states(name, reference):
    """The reference input as the back-end takes it: features, or hidden states from the first layer's input on."""
    x = reference_input(reference["input"])
    if name == "SLS":
        return [torch.full_like(x[0], torch.nan), *x]  # published without the first, which it does not use
    if name == "MHFA":
        return list(x.permute(3, 0, 2, 1))
    return list(x) if BACK_ENDS[name].takes_hidden_states else x


@pytest.mark.parametrize("name", VECTORS)
def test_published_output(name):
    file, n_hidden_states = VECTORS[name]
    reference = read_reference(file)
    with torch.device("meta"):
        back_end = build(name, n_hidden_states=n_hidden_states).eval()
    weights = reference_weights(reference["state_dict"])
    if name == "TCM":  # the one tensor that the rule of the reference does not fill
        weights["conformer.positional_emb"] = tcm.sinusoids(torch.arange(10000), 144).unsqueeze(0)
    weights = {key: value for key, value in weights.items() if not key.startswith(back_end.unused_tensors)}
    back_end.load_state_dict(weights, strict=True, assign=True)
    with torch.no_grad():
        found = back_end(reference_states(name, reference))
    torch.testing.assert_close(found, torch.tensor(reference["output"]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["LLGF", "LGF", "GF"])
def test_published_score_is_the_difference(name):
    reference = read_reference(VECTORS[name][0])
    found = BACK_ENDS[name].score(torch.tensor(reference["output"]))
    torch.testing.assert_close(found, torch.tensor(reference["score"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name, n_hidden_states, count", COUNTS)
def test_published_parameter_counts(name, n_hidden_states, count):
    with torch.device("meta"):
        assert count_parameters(build(name, n_hidden_states=n_hidden_states)) == count


@pytest.mark.slow
@pytest.mark.parametrize("name", RIVALS)
def test_training_reaches_every_parameter_that_is_used(name):
    torch.manual_seed(0)
    back_end = build(name, 64, 3)
    logits = back_end(inputs_of(name, 4, 70, 64, 3))
    assert logits.shape == (4, 2)
    F.cross_entropy(logits, torch.tensor([0, 1, 1, 0])).backward()
    unreached = {key for key, p in back_end.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    unused = {key for key, _ in back_end.named_parameters() if key.startswith(tuple(UNUSED.get(name, ["-"])))}
    assert unreached == unused


@pytest.mark.slow
@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize("n_frames", [1, 2, 15, 16, 17, 202, 650])
def test_any_length_and_width_of_encoder(name, n_frames):
    torch.manual_seed(0)
    back_end = build(name, 48, 5, **({} if name == "SLS" else {"n_output_logits": 1})).eval()
    x = inputs_of(name, 3, n_frames, 48, 5)
    with torch.no_grad():
        logits = back_end(x)
        alone = back_end([state[1:2] for state in x] if BACK_ENDS[name].takes_hidden_states else x[1:2])
    assert logits.shape == (3, 2 if name == "SLS" else 1)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits[1:2], alone, rtol=1e-4, atol=1e-5)


def plain_scan(x, delta, a, b, c, d):
    """The recurrence as its definition has it, frame after frame, in float64."""
    x, delta, a, b, c, d = (v.double() for v in (x, delta, a, b, c, d))
    h, outputs = torch.zeros(x.shape[0], x.shape[2], a.shape[1], dtype=torch.float64), []
    for t in range(x.shape[1]):
        h = torch.exp(delta[:, t, :, None] * a) * h + (delta[:, t] * x[:, t]).unsqueeze(-1) * b[:, t, None]
        outputs.append((h * c[:, t, None]).sum(-1) + d * x[:, t])
    return torch.stack(outputs, dim=1)


def scan_inputs(n_frames):
    rng = torch.Generator().manual_seed(n_frames)
    shapes = {"x": (2, n_frames, 6), "delta": (2, n_frames, 6), "a": (6, 4)}
    shapes |= {"b": (2, n_frames, 4), "c": (2, n_frames, 4), "d": (6,)}
    values = {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    values["delta"], values["a"] = F.softplus(values["delta"] - 2), -values["a"].exp()
    return [v.requires_grad_() for v in values.values()]


SCANS = [mamba.selective_scan, mamba._chunked_scan]  # on a CPU, and on a GPU without the authors' kernel


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("n_frames", [1, 2, 3, 16, 17, 208])
def test_selective_scan_and_its_gradients_equal_the_plain_recurrence(n_frames, scan):
    inputs = scan_inputs(n_frames)
    found, expected = scan(*inputs), plain_scan(*inputs)
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)
    weights = torch.randn(found.shape)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), inputs), torch.autograd.grad((expected * weights).sum(), inputs)
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scan", SCANS)
def test_a_scan_of_float64_is_its_own_derivative(scan):
    inputs = [v.detach().double().requires_grad_() for v in scan_inputs(7)]
    assert torch.autograd.gradcheck(scan, inputs)


def test_an_installed_kernel_is_called_as_it_asks(monkeypatch):
    def kernel(u, delta, A, B, C, D):  # the signature of mamba-ssm: channels, or states, before frames
        return plain_scan(*(v.transpose(1, 2) for v in (u, delta)), A, *(v.transpose(1, 2) for v in (B, C)), D).mT

    monkeypatch.setattr(mamba, "selective_scan_fn", kernel)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    inputs = scan_inputs(9)
    torch.testing.assert_close(mamba.selective_scan(*inputs), plain_scan(*inputs))


def test_mamba_starts_as_published():
    torch.manual_seed(0)
    mixer = mamba.Mixer(144, blocks=6, state=16, kernel=4)
    torch.testing.assert_close(-mixer.A_log.exp(), -torch.arange(1.0, 17).expand(288, -1))
    steps = F.softplus(mixer.dt_proj.bias)
    assert 1e-3 < steps.min() < 1.2e-3 and 0.08 < steps.max() < 0.1
    assert mixer.dt_proj.weight.abs().max() <= 1 / 3
    assert mixer.out_proj.weight.abs().max() <= (1 / 288) ** 0.5 / 6**0.5


def test_relative_attention_equals_its_definition():
    """Offsets past the farthest share an embedding, and rows are queries."""
    torch.manual_seed(0)
    attention = RelativeAttention(16, heads=4)
    x = torch.randn(2, FARTHEST + 40, 16)
    n = x.shape[1]
    q = attention.to_q(x).view(2, n, 4, 4)
    k, v = (y.view(2, n, 4, 4) for y in attention.to_kv(x).split(16, dim=2))
    index = (torch.arange(n)[:, None] - torch.arange(n)).clamp(-FARTHEST, FARTHEST) + FARTHEST
    logits = torch.einsum("bihd,bjhd->bhij", q, k)
    logits += torch.einsum("bihd,ijd->bhij", q, attention.rel_pos_emb(index))
    out = torch.einsum("bhij,bjhd->bihd", torch.softmax(logits / 2, dim=3), v).reshape(2, n, 16)
    torch.testing.assert_close(attention(x), attention.to_out(out), rtol=1e-4, atol=1e-5)


def test_positions_past_the_stored_table_go_on(monkeypatch):
    torch.manual_seed(0)
    back_end = build("TCM", 16).eval()
    x = torch.randn(1, 60, 16)
    with torch.no_grad():
        expected = back_end(x)
        monkeypatch.setattr(tcm, "TABLE", 40)
        back_end.conformer.positional_emb = back_end.conformer.positional_emb[:, :40]
        torch.testing.assert_close(back_end(x), expected)


def test_long_utterances_are_scored_by_sls_in_windows():
    torch.manual_seed(0)
    back_end = build("SLS", 12, 3).eval()
    states = inputs_of("SLS", 2, 500, 12, 3)
    gates = [torch.sigmoid(back_end.fc0(s.mean(dim=1))) for s in states[1:]]

    def window(start):
        image = sum(s[:, start : start + 201] * g[:, None] for s, g in zip(states[1:], gates))
        image = F.selu(back_end.first_bn(image[:, None]))
        pooled = F.max_pool2d(image, 3)[:, 0].flatten(1)
        return F.log_softmax(F.selu(back_end.fc3(F.selu(back_end.fc1(pooled)))), dim=1)

    with torch.no_grad():
        expected = (window(0) + window(201) + window(299)) / 3
        torch.testing.assert_close(back_end(states), expected)


def test_sls_has_two_outputs():
    with pytest.raises(ValueError, match="n_output_logits 1"):
        build("SLS", n_output_logits=1)


def test_experts_fused_equal_all_experts_gated():
    torch.manual_seed(0)
    fusion = ExpertFusion(3, 8, experts_per_layer=4, chosen=2, hidden=128).eval()
    torch.nn.init.normal_(fusion.w_gate)
    states = torch.randn(4, 2, 5, 8)
    gates = states[3] @ fusion.w_gate
    gates = torch.softmax(gates.masked_fill(gates < gates.topk(2).values[..., 1:], -math.inf), dim=2)
    every = torch.stack([expert(states[e // 4]) for e, expert in enumerate(fusion.experts)], dim=2)
    expected = torch.log((gates.unsqueeze(-1) * every.exp()).sum(dim=2))
    torch.testing.assert_close(fusion(list(states)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "layers, each, chosen, shape", [(3, 4, 2, (2, 50)), (24, 4, 2, (1, 201)), (2, 3, 1, (2, 3)), (1, 4, 3, (1, 1))]
)
@pytest.mark.parametrize("favoured", [0, 30])
def test_experts_in_blocks_equal_experts_one_by_one(layers, each, chosen, shape, favoured, monkeypatch):
    """What a GPU computes, against what a CPU does; outputs and gradients. favoured: how much so the last expert is."""
    torch.manual_seed(0)
    fusion = ExpertFusion(layers, 8, each, chosen, hidden=16).double()
    torch.nn.init.normal_(fusion.w_gate)
    fusion.w_gate.data[:, -1] *= 1 + favoured
    states = [torch.randn(*shape, 8, dtype=torch.float64, requires_grad=True) for _ in range(layers + 1)]

    def results():
        torch.manual_seed(1)  # the same noise
        fused = fusion(states)
        return fused, *torch.autograd.grad(fused.square().sum(), [*states, *fusion.parameters()])

    expected = results()
    monkeypatch.setattr(ExpertFusion, "_one_by_one", ExpertFusion._in_blocks)
    torch.testing.assert_close(results(), expected, rtol=1e-10, atol=1e-10)
    if layers == 24:  # some experts had no frame
        assert not all(gradient.any() for gradient in expected)


def test_noise_parts_experts_in_training_only():
    torch.manual_seed(0)
    fusion = ExpertFusion(3, 8, experts_per_layer=4, chosen=2, hidden=128)
    states = list(torch.randn(4, 2, 40, 8))
    assert not torch.equal(fusion(states), fusion(states))
    fusion.eval()
    assert torch.equal(fusion(states), fusion(states))


def test_attentive_statistics_of_weighted_states():
    """Against numpy's weighted moments."""
    torch.manual_seed(0)
    back_end = build("ASP_MLP", 6, 3).double()
    torch.nn.init.normal_(back_end.weights)
    states = [s.double() for s in inputs_of("ASP_MLP", 2, 9, 6, 3)]
    layers = torch.softmax(back_end.weights, dim=0)
    x = sum(w * s for w, s in zip(layers, states))
    weights = torch.softmax(back_end.attention(x), dim=1)[..., 0].detach().numpy()
    x, expected = x.detach().numpy(), []
    for b in range(2):
        mean = np.average(x[b], axis=0, weights=weights[b])
        deviation = np.sqrt(np.average((x[b] - mean) ** 2, axis=0, weights=weights[b]))
        expected.append(np.concatenate([mean, deviation]))
    torch.testing.assert_close(back_end(states), back_end.mlp(torch.tensor(np.array(expected))))


def published_detector(name, **options):
    torch.manual_seed(0)
    return build_detector(ModelConfig(f"wav2vec2_{name}", ssl="tiny", **options))


@pytest.mark.slow
@pytest.mark.parametrize("name", RIVALS)
def test_a_step_saved_loaded_averaged_and_scored(name, tmp_path):
    detector = published_detector(name)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    files = [tmp_path / f"epoch_{epoch}.pth" for epoch in (1, 2)]
    generator = torch.Generator().manual_seed(1)
    for epoch, file in enumerate(files, start=1):
        loss = F.cross_entropy(detector(torch.randn(4, 9000, generator=generator)), torch.tensor([0, 1, 1, 0]))
        loss.backward()
        optimizer.step()
        checkpoints.save_checkpoint(file, detector.config, detector.state_dict(), epoch=epoch)
    trained = detector.front_end.model.encoder.layers[0].fc1.weight.grad
    assert trained.abs().sum() > 0

    averaged = checkpoints.load_average(files)
    loaded = [checkpoints.load_detector(file) for file in files]
    for key, tensor in averaged.state_dict().items():
        if tensor.is_floating_point():
            mean = sum(d.state_dict()[key].double() for d in loaded) / 2
            torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-7)
    with torch.inference_mode():
        for n_samples in (400, 5000, 70_001):
            x = torch.randn(2, n_samples, generator=generator)
            scores = averaged.score(x)
            assert scores.shape == (2,) and torch.isfinite(scores).all()
            torch.testing.assert_close(averaged.score(x[1:]), scores[1:], rtol=1e-4, atol=1e-4)


def test_states_that_a_back_end_is_fed():
    x = torch.randn(2, 6000)
    detector = published_detector("SLS").eval()
    with torch.no_grad():
        states, raw = detector.front_end(x), detector.front_end(x, raw_last=True)
        assert len(states) == len(raw) == 3
        torch.testing.assert_close(detector.front_end.model.encoder.layer_norm(raw[2]), states[2])
        assert all(torch.equal(a, b) for a, b in zip(states[:2], raw[:2]))
        for name, fed in [("SLS", raw), ("AttM_LSTM", raw), ("MoE", states), ("MHFA", states), ("ASP_MLP", states)]:
            rival = published_detector(name).eval()
            rival.front_end = detector.front_end
            logits = rival.back_end(fed)
            assert torch.equal(rival(x), logits.flip(1) if name == "MHFA" else logits)


def test_scores_are_those_that_the_authors_use():
    logits = torch.tensor([[1.0, 3.0], [0.5, -2.0]])
    expected = {name: logits[:, 1] for name in RIVALS}
    expected |= {name: logits[:, 1] - logits[:, 0] for name in ("LLGF", "LGF", "GF", "MHFA", "Linear", "PT_AASIST")}
    expected["MoE"] = torch.softmax(logits, dim=1)[:, 1]
    for name in RIVALS:
        torch.testing.assert_close(published_detector(name).scores_of(logits), expected[name])
    assert torch.equal(published_detector("GF", n_output_logits=1).scores_of(logits[:, :1]), logits[:, 0])


def test_no_aggregation_for_a_back_end_that_takes_all_states():
    assert ModelConfig("WavLM_MHFA").agg is None
    assert ModelConfig("WavLM_MHFA").n_output_logits == 2
    with pytest.raises(UserError, match="--agg SEA.*MHFA"):
        ModelConfig("WavLM_MHFA", agg="SEA")
    with pytest.raises(UserError, match="--agg: "):
        ModelConfig("WavLM_GF", agg="none")
    with pytest.raises(UserError, match="--n_output_logits 1"):
        published_detector("SLS", n_output_logits=1)


# Where the released checkpoints keep their encoder, and what wraps all their names.
PREFIXES = {
    "LGF": "m_ssl.model.",
    "GF": "m_ssl.model.",
    "Linear": "m_ssl.model.",
    "MHFA": "frontend.upstream.upstream.model.",
}
PREFIXES |= {"AttM_LSTM": "ssl_model.", "MoE": "pretrain_model.", "PT_AASIST": "wav2vec2_with_prompt.model."}
WRAPPINGS = {"SLS": "module.", "AttM_LSTM": "module.", "MoE": "model."}


def released_file(path, detector, more=()):
    """Write a detector as its authors would have; more: further names."""
    name = detector.config.back_end
    prefix, of_hugging_face = PREFIXES.get(name, "ssl_model.model."), name in ("MoE", "PT_AASIST")
    state = hugging_face_layout(detector.front_end) if of_hugging_face else detector.front_end.model.state_dict()
    encoder = {prefix + key: value for key, value in state.items()}
    ignored = [prefix + "1" if prefix.endswith(".") else prefix for prefix in BACK_ENDS[name].unused_tensors]
    weights = encoder | detector.back_end.state_dict() | {key: torch.ones(1) for key in [*ignored, *more]}
    torch.save({WRAPPINGS.get(name, "") + key: tensor for key, tensor in weights.items()}, path)


def hugging_face_layout(front_end):
    """The inverse of front_ends.fairseq_names for an encoder with layer norms in its convolutions."""
    renamed = {}
    for name, tensor in front_end.model.state_dict().items():
        for theirs, ours in _HUGGING_FACE_NAMES:
            if ours in ("layer_norm.",) and not name.startswith(ours):
                continue
            if theirs.startswith("encoder.pos_conv_embed.conv.") != name.startswith("encoder.pos_conv."):
                continue
            name = name.replace(ours, theirs)
        if name.startswith("feature_extractor."):
            name = name.replace(".2.1.", ".layer_norm.").replace(".0.weight", ".conv.weight")
            name = name.replace(".0.bias", ".conv.bias")
        renamed[name.replace("self_attn_layer_norm", "layer_norm")] = tensor
    return renamed


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    sorted(set(RIVALS) - UNRELEASED),
)
def test_a_released_checkpoint_is_recognised_and_loads(name, tmp_path, monkeypatch):
    fields = Wav2Vec2.presets["tiny"].fields | {"extractor_mode": "layer_norm", "conv_bias": True, "normalize": False}
    for kind in (Wav2Vec2, WavLM):
        monkeypatch.setitem(kind.presets, "tiny", kind.presets["tiny"]._replace(fields=fields))
    detector = published_detector(name).eval()
    released_file(tmp_path / "a.pth", detector)
    found = checkpoints.load_detector(tmp_path / "a.pth")
    x = normalized = torch.randn(2, 7000)
    if name == "MHFA":  # whose encoder had its waveform normalised
        assert found.config.ssl_config == fields | {"normalize": True}
        normalized = F.layer_norm(x, x.shape[1:])
    else:
        assert found.config == detector.config
    with torch.inference_mode():
        assert torch.equal(found.score(x), detector.score(normalized))

    released_file(tmp_path / "b.pth", detector, more=["more.weight"])
    with pytest.raises(UserError) as refused:
        checkpoints.load_detector(tmp_path / "b.pth", model_name=f"wav2vec2_{name}")
    assert any("left over back_end.more.weight" in line for line in refused.value.details)


@pytest.mark.slow
def test_the_first_layers_of_wavlm(tmp_path):
    with empty_weights():
        whole = build_front_end(ModelConfig("WavLM_AttM_LSTM")).model.state_dict()
        cut = build_detector(ModelConfig("WavLM_AttM_LSTM", ssl="wavlm_large_12"), empty="all")
    assert count_parameters(cut.back_end) == 41_835_538
    settings = WavLM.presets["wavlm_large"].fields | {"relative_position_embedding": True, "gru_rel_pos": True}
    one_each = torch.zeros(1024 * 64 * 128)  # every weight is a view of one storage
    weights = {name: one_each[: tensor.numel()].view(tensor.shape) for name, tensor in whole.items()}
    torch.save({"cfg": settings, "model": weights}, tmp_path / "WavLM-Large.pt")
    front_end = cut.front_end.model.state_dict()
    assert len(whole) - len(front_end) == 12 * len([name for name in whole if ".layers.12." in name])
    one_each = torch.zeros(3072 * 12288)
    small = {name: one_each[: tensor.numel()].view(tensor.shape) for name, tensor in cut.state_dict().items()}
    torch.nn.Module.load_state_dict(cut, small, assign=True)
    released_file(tmp_path / "released.pth", cut)
    found = checkpoints.load_detector(tmp_path / "released.pth")
    assert (found.config.model_name, found.config.ssl) == ("WavLM_AttM_LSTM", RECIPES["AttM_LSTM"]["ssl"])
    assert not found.front_end.normalize
    config = ModelConfig("WavLM_ASP_MLP", ssl="wavlm_large_12")
    detector = checkpoints.new_detector(config, tmp_path / "WavLM-Large.pt")
    assert detector.front_end.n_hidden_states == 13
