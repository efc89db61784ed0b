"""--ssl_layers: the first layers of an encoder, in training, in checkpoints and in scoring."""

import json
import re

import pytest
import torch
from conftest import TINY_FLAGS, reference_weights, whisper_folder
from test_encoder_settings import command

import checkpoints
import easy_inference_demo
import train
from front_ends import FRONT_ENDS
from model import ModelConfig

KINDS = ["wav2vec2", "WavLM", "Whisper"]


@pytest.fixture
def files(tmp_path):
    """{front-end: a file of a pre-trained encoder of two layers}."""
    paths = {"Whisper": whisper_folder(tmp_path / "whisper")}
    for kind in ("wav2vec2", "WavLM"):
        fields = FRONT_ENDS[kind].presets["tiny"].fields
        settings = {name: value for name, value in fields.items() if name != "normalize"}
        settings["relative_position_embedding"] = kind == "WavLM"
        weights = FRONT_ENDS[kind](fields).model.state_dict()
        weights = reference_weights({name: tuple(tensor.shape) for name, tensor in weights.items()})
        paths[kind] = tmp_path / f"{kind}.pt"
        torch.save({"cfg": {"model": settings}, "model": weights}, paths[kind])
    return paths


@pytest.mark.parametrize("kind", KINDS)
def test_the_states_of_the_first_layers_are_those_of_the_whole_encoder(kind, files):
    config = checkpoints.resolve_encoder({"model_name": f"{kind}_LLGF", "agg": "last"}, files[kind])
    whole, first = (checkpoints.new_detector(config, files[kind], n).front_end.eval() for n in (None, 1))
    assert whole.n_hidden_states > first.n_hidden_states == 2 and len(first.layers()) == 1
    with torch.no_grad():
        x = torch.randn(2, 4000)
        expected = whole(x, raw_last=True)[:2]
        assert all(map(torch.equal, first(x, raw_last=True), expected))
    own = {name for name in whole.state_dict() if not re.search(r"\blayers\.[12]\.", name)}
    assert first.state_dict().keys() == own and len(own) < len(whole.state_dict())


def test_a_shape_that_has_a_name_keeps_it():
    config = ModelConfig("WavLM_Nes2Net_X")
    assert config.with_first_layers(12).ssl == "wavlm_large_12" and config.with_first_layers(24) == config
    assert config.with_first_layers(9).ssl_config["encoder_layers"] == 9


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder of test_encoder_settings: see there."""
    from test_encoder_settings import place

    return place.__wrapped__(tmp_path, monkeypatch)


def test_a_run_its_checkpoint_scoring_and_resuming(place, output, fails, capsys):
    """The published file of the encoder is found as without the flag; scoring and the demo need no flag."""
    flags = ["--ssl_layers", "1", "--epochs", "2"]
    text = output(train.main, command("run", *flags))
    assert "(tiny.pt)" in text  # the encoder's settings in training
    (folder,) = (place / "logs" / "run").iterdir()
    path = folder / "checkpoints" / "epoch_2.pth"
    content = checkpoints.read_checkpoint(path)
    assert content["config"]["ssl"] == "from_file" and content["config"]["ssl_config"]["encoder_layers"] == 1
    assert not any(".layers.1." in name for name in content["model"])
    assert "'encoder_layers': 1" in str(checkpoints.show(path)["ssl_config"])
    saved = json.loads((folder / "config.json").read_text())
    assert saved["training"]["ssl_layers"] == 1 and saved["model"] == content["config"]
    assert output(easy_inference_demo.main, ["--model_path", str(path), "--file_to_test", str(place / "t1.wav")])
    fails(train.main, command("run", "--resume", "auto"), "--ssl_layers: ", " 1", "None")
    (place / "tiny.pt").unlink()
    assert "resumed after epoch 2" in output(train.main, command("run", *flags, "--resume", "auto"))


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--ssl_layers", "3"], ["--ssl_layers: expected at most 2, the layers of the encoder, found 3"]),
        (["--ssl_layers", "0"], ["--ssl_layers"]),
        (["--ssl_layers", "1", "--model_path", "x.pth"], ["--ssl_layers", "--model_path exclude each other"]),
    ],
)
def test_what_does_not_go_is_one_line(flags, words, train_flags, tmp_path, fails):
    fails(train.main, [*train_flags, *flags, "--log_dir", str(tmp_path)], *words)


def test_an_encoder_without_layers_has_no_first_ones(tmp_path, train_flags, fails):
    flags = [flag for flag in train_flags if flag not in TINY_FLAGS]
    flags += ["--model_name", "LogMel_GF", "--ssl_layers", "1", "--log_dir", str(tmp_path)]
    fails(train.main, flags, "--ssl_layers: ", " 0")
