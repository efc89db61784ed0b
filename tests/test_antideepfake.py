"""AntiDeepfake's detectors: their layout written here, torchaudio's encoder as the oracle."""

import contextlib
from unittest import mock

import numpy as np
import pytest
import soundfile
import torch
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from test_front_ends import random_weights
from torch import nn
from torch.nn import functional as F
from torchaudio.models.wav2vec2.utils import import_fairseq_model

import checkpoint
import checkpoints
import train
from back_ends import BACK_ENDS, build_back_end
from checkpoints.published import read_published
from common.audio import load_audio
from common.console import UserError
from front_ends import FRONT_ENDS
from inference.judging import Judge
from inference.scoring import score_files
from model import ModelConfig, build_detector

SMALL_CONVOLUTIONS = "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2"
# What its authors build: layers, width, feed-forward width, heads; then what differs from the large ones.
RELEASED = {
    "wav2vec-small": (12, 768, 3072, 12, {"extractor_mode": "default", "layer_norm_first": False, "conv_bias": False}),
    "wav2vec-large": (24, 1024, 4096, 16, {}),
    "xls-r-1b": (48, 1280, 5120, 16, {}),
    "xls-r-2b": (48, 1920, 7680, 16, {}),
    "hubert-xl": (48, 1280, 5120, 16, {"conv_bias": False}),
}


def fairseq_encoder(layers, width, ffn, heads, more=(), **small):
    """fairseq's own model of that shape, on the meta device, with its pre-training heads."""
    settings = {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True, **dict(more), **small}
    config = Wav2Vec2Config(quantize_targets=True, final_dim=256, required_seq_len_multiple=1, **settings)
    config.encoder_layers, config.encoder_embed_dim, config.encoder_ffn_embed_dim = layers, width, ffn
    config.encoder_attention_heads = heads
    with on_meta_device():
        return Wav2Vec2Model(config)


@contextlib.contextmanager
def on_meta_device():
    """Within, a network has shapes alone. fairseq would copy weights to initialise them."""
    with torch.device("meta"), mock.patch("fairseq.models.wav2vec.wav2vec2.init_bert_params", lambda module: None):
        yield


def layout(encoder, generator=None, **head):
    """The released names: encoder, projection. A HuBERT has other heads."""
    weight = torch.zeros(2, encoder.cfg.encoder_embed_dim).normal_(generator=generator)
    head = {"proj_fc.weight": weight, "proj_fc.bias": torch.tensor([0.3, -0.2]), **head}
    return {f"m_ssl.model.{name}": t for name, t in encoder.state_dict().items()} | head


def write_released(path, layers, width, ffn, heads):
    """Write a file in the released layout: (its path, its weights, torchaudio's encoder with them)."""
    more = RELEASED["wav2vec-small"][-1] if width == 768 else {}
    encoder = fairseq_encoder(layers, width, ffn, heads, more, conv_feature_layers=SMALL_CONVOLUTIONS, conv_pos=16)
    random_weights(nn.ModuleList([encoder]))  # fairseq's own loading knows no assigning
    weights = layout(encoder, torch.Generator().manual_seed(0))
    torch.save(weights, path)
    encoder.remove_pretraining_modules()
    return path, weights, import_fairseq_model(encoder).eval()


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return write_released(tmp_path_factory.mktemp("released") / "model.ckpt", 3, 64, 96, 16)


def expected_score(weights, oracle, x):
    """logit 1 - logit 0 of W mean_t encoder(layer_norm(x)) + b, (samples,) in float64 behind the encoder."""
    x = torch.as_tensor(x, dtype=torch.float32)
    with torch.inference_mode():
        frames, _ = oracle(((x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt())[None])
    mean = frames[0].double().mean(dim=0)
    logits = weights["proj_fc.weight"].double() @ mean + weights["proj_fc.bias"].double()
    return (logits[1] - logits[0]).item()


def recordings_of(folder, n=3):
    rng = np.random.default_rng(0)
    paths = []
    for i in range(n):  # quiet, with an offset: what a normalisation changes
        x = 0.05 + 0.01 * rng.standard_normal(6000 + 777 * i)
        soundfile.write(folder / f"t{i}.wav", x, 16000, subtype="FLOAT")
        paths.append(str(folder / f"t{i}.wav"))
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 64, 96, 16), (2, 768, 900, 12), (1, 1024, 1100, 16)])
def test_a_released_file_scores_as_its_authors_define(shape, tmp_path):
    path, weights, oracle = write_released(tmp_path / "model.ckpt", *shape)
    detector = checkpoints.load_detector(path)
    assert detector.config.model_name == "wav2vec2_Linear"
    paths = recordings_of(tmp_path)
    expected = [expected_score(weights, oracle, load_audio(file)) for file in paths]
    scores, failures, _ = score_files(detector, paths)
    assert not failures and np.std(expected) > 1e-3
    np.testing.assert_allclose([scores[i] for i in range(3)], expected, rtol=0, atol=2e-6 * max(map(abs, expected)))
    judge = Judge(str(path), torch.device("cpu"))
    judged = [judged.score for judged in judge.judge({file: file for file in paths})]
    np.testing.assert_allclose(judged, expected, rtol=0, atol=2e-6 * max(map(abs, expected)))
    detector.front_end.normalize = False
    plain, *_ = score_files(detector, paths)
    assert all(abs(plain[i] - expected[i]) > 1e-2 for i in range(3))


def test_a_batch_in_training_is_normalised_trial_by_trial(released):
    detector = checkpoints.load_detector(released[0]).train()
    x = torch.randn(3, 5000) * torch.tensor([[0.1], [1.0], [7.0]]) + 1
    with torch.no_grad():
        torch.testing.assert_close(detector(x), detector(F.layer_norm(x, x.shape[1:])), rtol=1e-4, atol=1e-4)
        alone = torch.cat([detector(one[None]) for one in x])
        torch.testing.assert_close(detector(x), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ssl", ["wav2vec2", "WavLM", "Whisper", "LogMel"])
def test_every_encoder_behind_linear_hears_a_normalised_waveform(ssl):
    fields = {"wav2vec2": {"ssl": "tiny"}, "WavLM": {"ssl": "tiny"}, "Whisper": {"ssl": "whisper_tiny"}, "LogMel": {}}
    torch.manual_seed(0)
    config = ModelConfig(f"{ssl}_Linear", **fields[ssl], n_output_logits=2)
    detector = build_detector(config).eval()
    x = 0.1 * torch.randn(2, 5000) + 0.3
    with torch.inference_mode():
        scores = detector.score(x)
        torch.testing.assert_close(detector.score(20 * x - 3), scores, rtol=1e-3, atol=1e-4)
        ready = torch.stack([detector.front_end.ready(one.numpy()) for one in x])
        torch.testing.assert_close(detector.score(ready, normalized=True), scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("missing", ["proj_fc.bias", "m_ssl.model.encoder.layers.0.fc1.bias"])
def test_a_missing_weight_is_named(released, tmp_path, missing):
    _, weights, _ = released
    torch.save({name: t for name, t in weights.items() if name != missing}, tmp_path / "a.ckpt")
    with pytest.raises(UserError) as refused:
        checkpoints.load_detector(tmp_path / "a.ckpt")
    name = missing.replace("m_ssl.", "front_end.").replace("proj_fc", "back_end.proj_fc")
    assert f"missing {name}" in str(refused.value)


@pytest.mark.slow
def test_each_missing_matrix_is_named(released, tmp_path):
    """Those whose sizes say what to build, too."""
    _, weights, _ = released
    for missing in [name for name, t in weights.items() if t.dim() > 1 and "encoder.layers.2." not in name]:
        if "quantizer" not in missing and "project_q" not in missing and "final_proj" not in missing:
            torch.save({name: t for name, t in weights.items() if name != missing}, tmp_path / "a.ckpt")
            with pytest.raises(UserError) as refused:
                checkpoints.load_detector(tmp_path / "a.ckpt")
            assert missing.replace("m_ssl.model.", "") in str(refused.value)


def test_weights_under_names_of_no_layout_are_shown(released, tmp_path):
    torch.save({f"detector.{name}": t for name, t in released[1].items()}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"detector\.m_ssl\.model\..* \.\.\.$"):
        checkpoints.load_detector(tmp_path / "a.ckpt")


def test_left_over_weights_are_named(released, tmp_path):
    torch.save(released[1] | {"more.weight": torch.zeros(2)}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="fit no back-end"):
        checkpoints.load_detector(tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="back_end.more.weight"):
        checkpoints.load_detector(tmp_path / "a.ckpt", model_name="wav2vec2_Linear")


@pytest.mark.slow
@pytest.mark.parametrize("name", RELEASED)
def test_every_released_size_is_read_off_names_and_shapes(name):
    layers, width, ffn, heads, more = RELEASED[name]
    encoder = fairseq_encoder(layers, width, ffn, heads, more)
    weights = layout(encoder)
    if name == "hubert-xl":
        weights = {key: t for key, t in weights.items() if "quantizer" not in key and "project_q" not in key}
        weights |= {"m_ssl.model.label_embs_concat": torch.zeros(504, 1024)}
    content = read_published("model.ckpt", weights, {})
    config = ModelConfig(**content["config"])
    kind = FRONT_ENDS["wav2vec2"]
    fields = kind.complete(config.ssl_config or kind.presets[config.ssl].fields)
    expected = {"encoder_layers": layers, "encoder_embed_dim": width, "encoder_ffn_embed_dim": ffn}
    expected |= {"encoder_attention_heads": heads, "extractor_mode": "layer_norm", "layer_norm_first": True}
    expected |= {"conv_bias": True, "conv_pos": 128, "conv_pos_groups": 16, **more}
    assert {key: fields[key] for key in expected} == expected
    with on_meta_device():
        detector = build_detector(config)
    assert {key: t.shape for key, t in detector.state_dict().items()} == {
        key: t.shape for key, t in content["model"].items()
    }
    assert "ASVspoof 5" in content["trained_on"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, width, layers",
    [(name, 768, 12) for name in sorted(set(BACK_ENDS) - {"ASP_MLP"})]
    + [("Nes2Net_X", 1280, 48), ("SLS", 1920, 48), ("AttM_LSTM", 1920, 48)],
)
def test_other_back_ends_in_published_layouts_take_encoders_of_other_widths(name, width, layers):
    encoder = fairseq_encoder(layers, width, 4 * width, 12 if width == 768 else 16)
    encoder.remove_pretraining_modules()
    prefix = {"LGF": "m_ssl.model.", "GF": "m_ssl.model.", "Linear": "m_ssl.model."}.get(name, "ssl_model.model.")
    below = BACK_ENDS[name].published_prefix
    with torch.device("meta"):
        back_end = build_back_end(ModelConfig(f"wav2vec2_{name}"), width, layers + 1)
    weights = {prefix + key: t for key, t in encoder.state_dict().items()}
    weights |= {below + key: t for key, t in back_end.state_dict().items()}
    flags = {"model_name": f"wav2vec2_{name}"} if "Nes2Net" in name else {}
    config = read_published("a.pth", weights, flags)["config"]
    assert (config["model_name"], config["ssl_config"]["encoder_embed_dim"]) == (f"wav2vec2_{name}", width)


@pytest.mark.slow
def test_show_names_the_corpora_that_are_not_unseen(released, tmp_path, output):
    lines = output(checkpoint.main, ["show", str(released[0])])
    assert "2019 LA" in lines and "MLAAD" in lines and "layer-normalised" in lines
    output(checkpoint.main, ["convert", str(released[0]), str(tmp_path / "a.pth")])
    lines = output(checkpoint.main, ["show", str(tmp_path / "a.pth")])
    assert "detector of this project" in lines
    x = torch.randn(1, 4000)
    with torch.inference_mode():
        scores = [checkpoints.load_detector(path).score(x) for path in (released[0], tmp_path / "a.pth")]
    assert torch.equal(*scores)


@pytest.fixture
def lists(tmp_path, monkeypatch):
    recordings_of(tmp_path, 8)
    rows = [f"t{i}.wav,{'bonafide' if i % 2 else 'spoof'}\n" for i in range(8)]
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(rows))
    monkeypatch.chdir(tmp_path)
    flags = ["--train_protocol", "list.csv", "--dev_protocol", "list.csv", "--epochs", "1", "--batch_size", "4"]
    flags += ["--crop", "4000", "--num_workers", "0", "--algo", "0", "--validation", "loss", "--keep", "every"]
    return [*flags, "--foldername", "run"]


@pytest.mark.slow
def test_the_encoder_alone_serves_another_back_end(released, lists, output, tmp_path, fails):
    path, weights, oracle = released
    model = ["--model_name", "wav2vec2_GF", "--ssl_path", str(path)]
    text = output(train.main, [*lists, *model, "--lr", "0"])
    assert "dropout 0, attention_dropout 0" in text  # no detector's file says another
    (run,) = (tmp_path / "logs" / "run").iterdir()
    detector = checkpoints.load_detector(run / "checkpoints" / "epoch_1.pth")
    assert detector.front_end.normalize
    x = torch.as_tensor(load_audio("t0.wav"), dtype=torch.float32)
    with torch.inference_mode():
        found = detector.front_end(x[None])[-1]
        frames, _ = oracle(F.layer_norm(x, x.shape)[None])
    torch.testing.assert_close(found, frames, rtol=1e-4, atol=1e-4)
    # The encoder of a detector of this project serves as well.
    encoder = checkpoints.read_pretrained(run / "checkpoints" / "epoch_1.pth", "wav2vec2")[1]
    assert all(torch.equal(t, weights[f"m_ssl.model.{name}"]) for name, t in encoder.items())
    fails(train.main, [*lists, "--model_name", "WavLM_GF", "--ssl_path", str(path)], "WavLM", "wav2vec2", str(path))


def test_a_released_file_is_fine_tuned(released, lists, output, tmp_path):
    path, weights, _ = released
    output(train.main, [*lists, "--model_name", "wav2vec2_Linear", "--model_path", str(path), "--lr", "1e-4"])
    (run,) = (tmp_path / "logs" / "run").iterdir()
    state = checkpoints.read_checkpoint(run / "checkpoints" / "epoch_1.pth")["model"]
    moved = (state["back_end.proj_fc.weight"] - weights["proj_fc.weight"]).abs().max()
    assert 0 < moved < 1e-2
