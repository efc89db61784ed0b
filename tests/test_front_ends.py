import pytest
import torch
from conftest import read_reference, reference_input, reference_weights
from torch import nn

import front_ends
from front_ends import SEA, Wav2Vec2, n_frames
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
    "tiny": front_ends.PRESETS["tiny"][2],
}


def small_front_end(name, normalize=False):
    torch.manual_seed(0)
    return Wav2Vec2(SMALL[name], normalize).eval()


def test_xlsr_300m_has_its_published_size():
    model = front_ends._wav2vec2_model(front_ends.PRESETS["xlsr_300m"][2])
    assert count_parameters(model) == 317_390_592
    front_end = Wav2Vec2(front_ends.PRESETS["xlsr_300m"][2], normalize=False)
    heads = ("quantizer", "project_q", "final_proj")
    kept = {name: p.shape for name, p in model.named_parameters() if not name.startswith(heads)}
    assert {name: p.shape for name, p in front_end.model.named_parameters()} == kept
    assert (front_end.channels, front_end.n_hidden_states) == (1024, 25)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("n", [400, 719, 720, 6799, 16000])
def test_hidden_states_equal_fairseqs_own_forward(name, n):
    front_end = small_front_end(name)
    x = torch.randn(2, n)
    with torch.no_grad():
        states = front_end(x)
        expected = front_end.model.extract_features(x, padding_mask=None, mask=False)
    assert len(states) == front_end.n_hidden_states
    assert all(state.shape == (2, n_frames(n), front_end.channels) for state in states)
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
    assert n_frames(x.shape[1]) == 7
    with torch.no_grad():
        torch.testing.assert_close(front_end(x)[-1], front_end(x[:, : 400 + 320 * 6])[-1], rtol=0, atol=5e-6)


def test_a_waveform_below_one_frame_is_an_error():
    assert n_frames(399) == 0
    with pytest.raises(ValueError, match="at least 400 samples, found 399"):
        small_front_end("tiny")(torch.randn(1, 399))


def test_layer_drop_and_dropout_follow_torchs_generator():
    front_end = Wav2Vec2({**SMALL["xlsr-like"], "encoder_layerdrop": 0.5, "dropout": 0.1}, False).train()
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


@pytest.mark.parametrize("agg", ["last", "SEA"])
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
