"""Whisper's encoder against Hugging Face's (vectors in reference/whisper.json), and the log-mel spectrogram."""

import librosa
import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import read_reference, whisper_folder

import checkpoint
import checkpoints
from common.console import UserError
from front_ends.log_mel import LogMel, mel_filters
from front_ends.whisper import Whisper, sinusoids
from model import ModelConfig, build_detector, count_parameters

REFERENCE = read_reference("whisper.json")
FIELDS = {name: REFERENCE["config"][name] for name in Whisper.allowed}


def waveform():
    x = 0.1 * np.random.default_rng(5).standard_normal(16000).astype(np.float32)
    return torch.from_numpy(x * np.linspace(0, 1, 16000, dtype=np.float32) ** 2)[None]


LAYOUTS = {
    "WhisperModel": ("encoder.", ["decoder.layers.0.fc1.weight"]),
    "WhisperForConditionalGeneration": ("model.encoder.", ["model.decoder.embed_tokens.weight", "proj_out.weight"]),
    "WhisperForAudioClassification": ("encoder.", ["projector.weight", "classifier.weight", "layer_weights"]),
    "WhisperEncoder": ("", []),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hidden_states_are_those_of_transformers(tmp_path, layout):
    folder = whisper_folder(tmp_path / "whisper", *LAYOUTS[layout])
    config = checkpoints.resolve_encoder({"model_name": "Whisper_Nes2Net_X", "Nes_ratio": (2, 2)}, folder)
    assert (config.ssl, config.ssl_config) == ("from_file", FIELDS)
    front_end = checkpoints.new_detector(config, folder).front_end.eval()
    with torch.inference_mode():
        features, states = front_end.features(waveform()), front_end(waveform())
        (*_, raw) = front_end(waveform(), raw_last=True)
        torch.testing.assert_close(front_end.model.layer_norm(raw), states[-1])
    expected = REFERENCE["features"]
    assert list(features.shape) == expected["shape"]
    torch.testing.assert_close(
        features[0, :, expected["frames"]].T, torch.tensor(expected["values"]), rtol=0, atol=1e-5
    )
    assert len(states) == front_end.n_hidden_states == 4
    for state, values in zip(states, REFERENCE["hidden_states"], strict=True):
        assert state.shape == (1, front_end.n_frames(16000), 32) and state.shape[1] == REFERENCE["n_frames"]
        torch.testing.assert_close(state[0, REFERENCE["frames"]], torch.tensor(values), rtol=0, atol=1e-5)


# Of transformers' WhisperModel(config).encoder, less its table of 1,500 positions, which is a formula here.
PARAMETERS = {
    "whisper_tiny": 7_632_384,
    "whisper_base": 19_822_592,
    "whisper_small": 87_002_112,
    "whisper_medium": 305_680_384,
    "whisper_large_v2": 634_864_640,
    "whisper_large_v3": 635_048_960,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_published_sizes(name):
    with torch.device("meta"):
        front_end = Whisper(Whisper.presets[name].fields)
    assert count_parameters(front_end) == PARAMETERS[name]


def test_positions_go_on_by_their_formula_and_a_file_with_others_is_refused(tmp_path, fails):
    frames, channels = torch.arange(1600.0, dtype=torch.float64)[:, None], torch.arange(16, dtype=torch.float64)
    angles = frames / 10_000 ** (channels / 15)
    torch.testing.assert_close(
        sinusoids(1600, 32).double(), torch.cat([angles.sin(), angles.cos()], 1), atol=3e-4, rtol=0
    )
    front_end = Whisper(FIELDS).eval()
    with torch.inference_mode():
        (*_, last) = front_end(torch.randn(1, 31 * 16000))
    assert last.shape == (1, 1550, 32) and last.isfinite().all()

    folder = whisper_folder(tmp_path / "a")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["embed_positions.weight"][7, 3] += 0.01
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match="Whisper .*embed_positions"):
        checkpoints.read_pretrained(folder, "Whisper")
    half = {name: tensor.half() for name, tensor in weights.items()} | {
        "embed_positions.weight": sinusoids(1500, 32).half()
    }
    safetensors.torch.save_file(half, folder / "model.safetensors")
    config = checkpoints.resolve_encoder({"model_name": "Whisper_Nes2Net_X", "Nes_ratio": (2, 2)}, folder)
    assert checkpoints.new_detector(config, folder).front_end.model.conv1.weight.dtype == torch.float32


@pytest.mark.parametrize(
    "setting, value, words",
    [
        ("model_type", "bert", "model_type bert, expected"),
        ("activation_function", "relu", "activation_function relu"),
        ("encoder_layers", 10**9, "encoder_layers"),
        ("encoder_ffn_dim", 900_000, "parameters"),
        ("encoder_attention_heads", 5, "d_model 32, expected"),
        ("num_mel_bins", None, "num_mel_bins"),
    ],
)
def test_settings_that_fit_no_encoder_are_named(tmp_path, setting, value, words):
    folder = whisper_folder(tmp_path / "a", **{setting: value})
    with pytest.raises(UserError, match=words):
        checkpoints.resolve_encoder({"model_name": "Whisper_Nes2Net_X"}, folder)


def test_a_whisper_folder_is_shown_and_is_no_other_encoder(tmp_path, output):
    folder = whisper_folder(tmp_path / "a", "model.encoder.", ["proj_out.weight"])
    assert "pre-trained Whisper encoder, for --ssl_path" in output(checkpoint.main, ["show", str(folder)])
    with pytest.raises(UserError, match="whisper.*wav2vec2.*hubert"):
        checkpoints.resolve_encoder({"model_name": "wav2vec2_Nes2Net_X"}, folder)
    with pytest.raises(UserError, match="whisper-medium"):
        checkpoints.new_detector(ModelConfig("Whisper_Nes2Net_X"))


@pytest.mark.parametrize("n_mels", [1, 40, 64, 80, 128])
def test_mel_filters_are_librosas(n_mels):
    torch.testing.assert_close(
        mel_filters(n_mels), torch.from_numpy(librosa.filters.mel(sr=16000, n_fft=400, n_mels=n_mels))
    )


@pytest.mark.parametrize("n_samples, n_frames", [(400, 1), (559, 1), (560, 2), (16000, 98)])
def test_log_mel_is_its_formula_and_sees_the_samples_of_its_frames(n_samples, n_frames):
    front_end = LogMel({})
    x = 0.1 * np.random.default_rng(0).standard_normal(n_samples).astype(np.float32)
    x[: n_samples // 3] = 0  # below the floor
    (state,) = front_end(torch.from_numpy(x)[None])
    power = np.abs(librosa.stft(x.astype(np.float64), n_fft=400, hop_length=160, center=False)) ** 2
    energies = librosa.filters.mel(sr=16000, n_fft=400, n_mels=64) @ power
    expected = (np.log10(np.maximum(energies, 1e-10)) + 4) / 4
    assert state.shape == (1, n_frames, 64) and front_end.n_frames(n_samples) == n_frames
    np.testing.assert_allclose(state[0].T, expected, atol=1e-4)
    assert torch.equal(front_end(front_end.ready(x)[None])[0], state)
    assert front_end.samples_seen(n_samples) == 400 + 160 * (n_frames - 1)


@pytest.mark.parametrize("features", [Whisper(FIELDS).features, LogMel({})])
def test_features_are_float32_within_autocast(features):
    expected = features(waveform())
    with torch.autocast("cpu", torch.bfloat16):
        found = features(waveform())
    assert found[0].dtype == torch.float32 and torch.equal(found[0], expected[0])


def test_what_does_not_fit_a_spectrogram_is_named(tmp_path):
    folder = whisper_folder(tmp_path / "a")
    with pytest.raises(UserError, match="LogMel "):
        checkpoints.resolve_encoder({"model_name": "LogMel_Nes2Net_X"}, folder)
    with pytest.raises(UserError, match="--agg SEA: .*2 layers.* 0"):
        build_detector(ModelConfig("LogMel_Nes2Net_X", agg="SEA"))
    with pytest.raises(UserError, match="--ssl tiny: .*wav2vec2 .*WavLM"):
        ModelConfig("LogMel_Nes2Net_X", ssl="tiny")
    with pytest.raises(UserError, match="n_mels 1000"):
        ModelConfig("LogMel_Nes2Net_X", ssl="from_file", ssl_config={"n_mels": 1000})
    detector = build_detector(
        ModelConfig("LogMel_Nes2Net_X", ssl="from_file", ssl_config={"n_mels": 80}, Nes_ratio=(4, 4))
    )
    assert detector.front_end.channels == 80 and count_parameters(detector.front_end) == 0
