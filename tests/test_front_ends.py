import re

import pytest
import torch
import torchaudio
from conftest import read_reference, reference_input, reference_weights
from torch import nn
from torchaudio.models.wav2vec2.utils import import_fairseq_model

from front_ends import wav2vec2
from front_ends.aggregation import SEA, AttM, WeightedSum
from front_ends.base import empty_weights
from front_ends.pretrained import FAIRSEQ_DEFAULTS, complete
from front_ends.wav2vec2 import Wav2Vec2, WavLM
from model import ModelConfig, build_detector, count_parameters

# XLS-R's architecture (layer norms, no group norm over time) in small, and what the demo uses.
SMALL = {
    "xlsr-like": {
        "extractor_mode": "layer_norm",
        "layer_norm_first": True,
        "conv_bias": True,
        "conv_feature_layers": "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2",
        "encoder_layers": 3,
        "encoder_embed_dim": 32,
        "encoder_ffn_embed_dim": 48,
        "encoder_attention_heads": 4,
        "conv_pos": 16,
        "conv_pos_groups": 4,
    },
    "tiny": Wav2Vec2.presets["tiny"].fields,
}
# WavLM-Base in small: norm last, group norm over time.
NORM_LAST = {**SMALL["tiny"], "layer_norm_first": False, "normalize": False, "encoder_embed_dim": 32}


def small_front_end(name, normalize=False):
    torch.manual_seed(0)
    return Wav2Vec2({**SMALL[name], "normalize": normalize}).eval()


def test_xlsr_300m_has_its_published_size():
    fields = {name: value for name, value in Wav2Vec2.presets["xlsr_300m"].fields.items() if name != "normalize"}
    with empty_weights():
        model = wav2vec2._wav2vec2_model({**fields, "final_dim": 768, "quantize_targets": True})
        front_end = Wav2Vec2(Wav2Vec2.presets["xlsr_300m"].fields)
    assert count_parameters(model) == 317_390_592
    heads = ("quantizer", "project_q", "final_proj")
    kept = {name: p.shape for name, p in model.named_parameters() if not name.startswith(heads)}
    assert {name: p.shape for name, p in front_end.model.named_parameters()} == kept
    assert (front_end.channels, front_end.n_hidden_states) == (1024, 25)


def random_weights(module, seed=0):
    """Give a module that was built on the meta device weights of the size that training would."""
    # Cut from one pool of random numbers, of prime length: drawing 300 million takes most of a test's time.
    pool = torch.rand(4_000_037, generator=torch.Generator().manual_seed(seed))
    state = {}
    for i, (name, tensor) in enumerate(module.state_dict().items()):
        start = 1009 * i
        values = pool[start:].repeat(-(-tensor.numel() // len(pool[start:])))[: tensor.numel()].view(tensor.shape)
        if name.endswith(("norm.weight", "2.1.weight", "0.2.weight", "weight_g", "grep_a")):
            state[name] = 1 + 0.1 * values
        else:
            state[name] = 0.1 * (values - 0.5)
            if "conv_layers" in name and tensor.dim() == 3:  # keeps the waveform's size through the convolutions
                state[name] *= 20 / tensor[0].numel() ** 0.5
            elif tensor.dim() == 2 and len(tensor) > 1024:
                state[name] *= 0.5
    module.load_state_dict(state, assign=True)
    return module.eval()


def torchaudios_wavlm(front_end):
    """torchaudio's WavLM with the weights of ours."""
    config = front_end.model.cfg
    attention = front_end.model.encoder.layers[0].self_attn
    with torch.device("meta"):
        oracle = torchaudio.models.wavlm_model(
            extractor_mode={"default": "group_norm", "layer_norm": "layer_norm"}[config.extractor_mode],
            extractor_conv_layer_config=eval(config.conv_feature_layers),
            extractor_conv_bias=config.conv_bias,
            encoder_embed_dim=config.encoder_embed_dim,
            encoder_projection_dropout=0.0,
            encoder_pos_conv_kernel=config.conv_pos,
            encoder_pos_conv_groups=config.conv_pos_groups,
            encoder_num_layers=config.encoder_layers,
            encoder_num_heads=config.encoder_attention_heads,
            encoder_num_buckets=len(attention.relative_attention_bias.weight),
            encoder_max_distance=attention.max_distance,
            encoder_attention_dropout=0.0,
            encoder_ff_interm_features=config.encoder_ffn_embed_dim,
            encoder_ff_interm_dropout=0.0,
            encoder_dropout=0.0,
            encoder_layer_norm_first=config.layer_norm_first,
            encoder_layer_drop=0.0,
            aux_num_out=None,
        )
    state = {}
    for name, tensor in front_end.model.state_dict().items():
        if name == "mask_emb" or ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            tensor = torch.cat([front_end.model.state_dict()[name.replace("q_proj", part)] for part in QKV])
        for ours, theirs in TORCHAUDIO_NAMES:
            name = re.sub(ours, theirs, name)
        state[name] = tensor
    oracle.load_state_dict(state, assign=True)
    return oracle.eval()


QKV = ("q_proj", "k_proj", "v_proj")
TORCHAUDIO_NAMES = [
    (r"conv_layers\.(\d+)\.0\.", r"conv_layers.\1.conv."),
    (r"conv_layers\.(\d+)\.2\.(1\.)?", r"conv_layers.\1.layer_norm."),
    (r"^layer_norm\.", "encoder.feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "encoder.feature_projection.projection."),
    (r"^encoder\.(pos_conv|layers|layer_norm)", r"encoder.transformer.\1"),
    (r"pos_conv\.0\.", "pos_conv_embed.conv."),
    (r"self_attn_layer_norm", "layer_norm"),
    (r"self_attn\.q_proj\.", "attention.attention.in_proj_"),
    (r"self_attn\.out_proj", "attention.attention.out_proj"),
    (r"self_attn\.grep_linear", "attention.gru_rel_pos_linear"),
    (r"self_attn\.grep_a", "attention.gru_rel_pos_const"),
    (r"self_attn\.relative_attention_bias", "attention.rel_attn_embed"),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
]


def assert_equal_hidden_states(front_end, oracle, x):
    """Every hidden state of ours but the first against torchaudio's, which gives what each layer puts out."""
    with torch.inference_mode():
        states = front_end(x)
        layer_outputs, _ = oracle.extract_features(front_end.normalized(x))
        last, _ = oracle(front_end.normalized(x))
    norm_first = front_end.model.encoder.layer_norm_first
    assert len(states) == len(layer_outputs) + 1
    for found, expected in zip(states[1:], [*layer_outputs[:-1], last] if norm_first else layer_outputs):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert states[-1].std() > 0.05  # there is something to compare


def padded_waveforms(trials, samples):
    """Noise of speech's size; the last trial ends in zeros, as a padded one does."""
    x = 0.1 * torch.randn(trials, samples, generator=torch.Generator().manual_seed(samples))
    x[-1, samples * 2 // 3 :] = 0
    return x


# 400 + 320 (T - 1) samples make T frames: one, an even and an odd number, more than the exact buckets hold.
LENGTHS = [(1, 400), (4, 400 + 320 * 7), (4, 400 + 320 * 8), (1, 400 + 320 * 130)]


@pytest.mark.slow
@pytest.mark.parametrize("trials, samples", LENGTHS)
@pytest.mark.parametrize("fields", [{**SMALL["xlsr-like"], "normalize": True}, NORM_LAST])
def test_wavlm_equals_torchaudios(fields, trials, samples):
    with empty_weights():
        front_end = WavLM({"num_buckets": 32, "max_distance": 80, **fields})
    front_end = random_weights(front_end)
    assert_equal_hidden_states(front_end, torchaudios_wavlm(front_end), padded_waveforms(trials, samples))


@pytest.mark.slow
@pytest.mark.parametrize("trials, samples", LENGTHS)
@pytest.mark.parametrize("fields", [{**SMALL["xlsr-like"], "normalize": False}, NORM_LAST])
def test_wav2vec2_equals_torchaudios(fields, trials, samples):
    with empty_weights():
        front_end = Wav2Vec2(fields)
    front_end = random_weights(front_end)
    oracle = import_fairseq_model(front_end.model).eval()
    assert_equal_hidden_states(front_end, oracle, padded_waveforms(trials, samples))


def test_nothing_is_transposed_for_the_norms_of_the_extractor():
    with empty_weights():
        front_end = Wav2Vec2({**SMALL["xlsr-like"], "normalize": False})
    extractor = random_weights(front_end).model.feature_extractor
    contiguous = []
    for _, _, (_, norm, _), _ in extractor.conv_layers:
        norm.register_forward_pre_hook(lambda norm, args: contiguous.append(args[0].is_contiguous()))
    for trials in (1, 3):
        front_end.extract(padded_waveforms(trials, 4000))
    assert contiguous == [True] * 14


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["xlsr_300m", "wavlm_large"])
def test_hidden_states_at_real_size_equal_torchaudios(preset):
    kind = WavLM if preset == "wavlm_large" else Wav2Vec2
    with empty_weights():
        front_end = kind(kind.presets[preset].fields)
    front_end = random_weights(front_end)
    if preset == "wavlm_large":
        oracle = torchaudios_wavlm(front_end)
    else:
        oracle = import_fairseq_model(front_end.model).eval()
    for trials, samples in [(1, 400 + 320 * 19), (4, 400 + 320 * 10)]:
        assert_equal_hidden_states(front_end, oracle, padded_waveforms(trials, samples))


def test_wavlms_gradients_reach_every_parameter_that_is_used():
    detector = build_detector(ModelConfig("WavLM_Nes2Net_X", ssl="tiny", agg="SEA", Nes_ratio=(2, 2)))
    detector(torch.randn(4, 4000)).sum().backward()
    without = [name for name, parameter in detector.named_parameters() if parameter.grad is None]
    assert without == ["front_end.model.mask_emb"]  # of the pre-training


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("n", [400, 719, 720, 6799, 16000])
def test_hidden_states_equal_fairseqs_own_forward(name, n):
    from fairseq.modules import MultiheadAttention  # behind a front-end, which imports fairseq quietly

    front_end = small_front_end(name)
    x = torch.randn(2, n)
    with torch.no_grad():
        states = front_end(x)
        for layer in front_end.layers():  # with its own attention too
            ours = layer.self_attn
            layer.self_attn = MultiheadAttention(front_end.channels, ours.num_heads, self_attention=True)
            layer.self_attn.load_state_dict(ours.state_dict())
        expected = front_end.model.extract_features(x, padding_mask=None, mask=False)
    assert len(states) == front_end.n_hidden_states
    assert all(state.shape == (2, Wav2Vec2.n_frames(n), front_end.channels) for state in states)
    torch.testing.assert_close(states[-1], expected["x"])
    outputs = [layer_output.transpose(0, 1) for layer_output, *_ in expected["layer_results"]]
    for state, output in zip(states[1:-1], outputs):  # the input of layer i + 1 is the output of layer i
        torch.testing.assert_close(state, output)


def test_the_waveform_is_normalised_where_asked():
    plain, normalising = small_front_end("xlsr-like"), small_front_end("xlsr-like", normalize=True)
    x = 2 * torch.randn(2, 2000) + 3
    standard = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True, correction=0)
    with torch.no_grad():
        torch.testing.assert_close(normalising(x)[-1], plain(standard)[-1], rtol=1e-3, atol=1e-4)
        assert not torch.allclose(plain(x)[-1], plain(standard)[-1], atol=1e-2)


def test_samples_past_the_last_frame_change_nothing():
    front_end = small_front_end("xlsr-like")
    x = torch.randn(1, 400 + 320 * 6 + 319)
    assert Wav2Vec2.n_frames(x.shape[1]) == 7
    with torch.no_grad():
        torch.testing.assert_close(front_end(x)[-1], front_end(x[:, : 400 + 320 * 6])[-1], rtol=0, atol=5e-6)


def test_a_waveform_below_one_frame_is_an_error():
    assert Wav2Vec2.n_frames(399) == 0
    with pytest.raises(ValueError, match="400 samples.* 399"):
        small_front_end("tiny")(torch.randn(1, 399))


def test_layer_drop_and_dropout_follow_torchs_generator():
    front_end = Wav2Vec2({**SMALL["xlsr-like"], "normalize": False, "encoder_layerdrop": 0.5, "dropout": 0.1}).train()
    x = torch.randn(1, 2000)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(front_end(x)[-1])
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_sea_reference_vector():
    reference = read_reference("agg_SEA.json")
    aggregation = SEA(25)
    aggregation.load_state_dict(reference_weights(reference["state_dict"]), strict=True)
    with torch.no_grad():
        found = aggregation(list(reference_input(reference["input"])))[..., :8]
    torch.testing.assert_close(found, torch.tensor(reference["output"]), rtol=1e-4, atol=1e-4)


def test_weighted_sum_and_attentive_merging_equal_their_formulas():
    torch.manual_seed(0)
    states = torch.randn(6, 2, 5, 3)  # (L, B, T, C)
    weighted_sum, merging = WeightedSum(6), AttM(6, 3)
    nn.init.normal_(weighted_sum.weight_hidd)
    with torch.no_grad():
        weights = weighted_sum.weight_hidd.exp() / weighted_sum.weight_hidd.exp().sum()
        torch.testing.assert_close(weighted_sum(list(states)), (weights[:, None, None, None] * states).sum(0))
        found = merging(list(states))
        silu = nn.SiLU()
        for b in range(2):
            gates = silu(torch.stack([states[layer, b].mean(0) @ merging.W[:, 0] for layer in range(6)]))
            gates = torch.sigmoid(silu(gates @ merging.W1) @ merging.W2)
            for t in range(5):
                side_by_side = [gates[layer] * states[layer, b, t, c] for c in range(3) for layer in range(6)]
                torch.testing.assert_close(found[b, t], merging.linear_proj(torch.stack(side_by_side)))


@pytest.mark.parametrize("agg", ["last", "SEA", "AttM", "WeightedSum"])
@pytest.mark.parametrize("n_output_logits", [1, 2])
def test_a_detector_scores_by_its_last_logit(agg, n_output_logits):
    detector = build_detector(
        ModelConfig("wav2vec2_Nes2Net", ssl="tiny", agg=agg, Nes_ratio=(2, 2), n_output_logits=n_output_logits)
    ).eval()
    x = torch.randn(3, 4000)
    with torch.no_grad():
        assert detector(x).shape == (3, n_output_logits)
        torch.testing.assert_close(detector.score(x), detector(x)[:, n_output_logits - 1])


def test_gradients_reach_every_parameter_that_is_used():
    detector = build_detector(ModelConfig("wav2vec2_Nes2Net_X", ssl="tiny", agg="SEA", Nes_ratio=(2, 2)))
    nn.functional.cross_entropy(detector(torch.randn(4, 4000)), torch.tensor([0, 1, 0, 1])).backward()
    without = [name for name, parameter in detector.named_parameters() if parameter.grad is None]
    assert without == ["front_end.model.mask_emb"]  # of the pre-training


@pytest.mark.slow
def test_the_defaults_of_a_shape_are_fairseqs():
    config = wav2vec2._wav2vec2_model({}).cfg
    assert complete({}) == complete({name: getattr(config, name) for name in FAIRSEQ_DEFAULTS})
