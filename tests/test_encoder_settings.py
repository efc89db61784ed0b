"""What acts on the encoder in training alone: where its values come from, that they act, that runs keep theirs."""

import copy
import json
import re

import numpy as np
import pytest
import soundfile
import torch
from fairseq.modules import Fp32LayerNorm
from torch import nn

import checkpoints
import corpora
import train
from data_utils import TrialDataset, make_loader
from front_ends import FRONT_ENDS
from front_ends.base import Preset
from front_ends.wav2vec2 import Wav2Vec2, WavLM
from model import ModelConfig, build_detector
from training.config import TrainingConfig
from training.losses import LOSSES

SHAPE = WavLM.presets["tiny"].fields | {"normalize": False, "extractor_mode": "layer_norm"}
SHAPE = {name: value for name, value in SHAPE.items() if name not in ("num_buckets", "max_distance")}
SAID = {"dropout": 0.3, "attention_dropout": 0.2, "activation_dropout": 0.05}
SAID |= {"dropout_input": 0.1, "encoder_layerdrop": 0.25, "feature_grad_mult": 0.5}
WORDS = "dropout 0.3, attention_dropout 0.2, activation_dropout 0.05, dropout_input 0.1, encoder_layerdrop 0.25"
EXTRACTOR = "front_end.model.feature_extractor."


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder: recordings with lists of no corpus and of CtrSVDD, and the published file of `tiny`, which is
    the published encoder of wav2vec 2.0 here.
    """
    rng = np.random.default_rng(0)
    for i in range(8):
        soundfile.write(tmp_path / f"t{i}.wav", 0.1 * rng.standard_normal(5000), 16000)
    rows = [f"t{i}.wav,{'bonafide' if i % 2 else 'spoof'}\n" for i in range(8)]
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(rows))
    rows = [f"kising S t{i} - {'- bonafide' if i % 2 else 'A09 deepfake'}\n" for i in range(8)]
    (tmp_path / "singing.txt").write_text("".join(rows))
    monkeypatch.setitem(Wav2Vec2.presets, "tiny", Preset("tiny.pt", SHAPE))
    monkeypatch.setitem(Wav2Vec2.published, "ssl", "tiny")
    torch.manual_seed(5)
    settings = {name: value for name, value in SHAPE.items() if name != "normalize"} | SAID
    content = {"cfg": {"model": settings}, "model": Wav2Vec2(SHAPE).model.state_dict()}
    torch.save(content, tmp_path / "tiny.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(name, *flags, data="list.csv"):
    small = ["--Nes_ratio", "2", "2", "--epochs", "1", "--batch_size", "4", "--crop", "4000", "--num_workers", "0"]
    small += ["--algo", "0", "--lr", "1e-3", "--schedule", "constant", "--validation", "loss", "--keep", "every"]
    small += ["--model_name", "wav2vec2_Nes2Net_X", "--seed", "1", "--foldername", name]
    data = ["--train_protocol", data, "--dev_protocol", data, "--train_audio_dir", ".", "--dev_audio_dir", "."]
    return [*data, *small, *flags]


def run_of(place, name):
    (folder,) = (place / "logs" / name).iterdir()
    return folder, json.loads((folder / "config.json").read_text())


def weights(folder, name="epoch_1.pth"):
    return checkpoints.read_checkpoint(folder / "checkpoints" / name)["model"]


def same(some, others):
    return some.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in some.items())


def extractor_of(state_dict):
    return {name: value for name, value in state_dict.items() if name.startswith(EXTRACTOR)}


# ----------------------------------------------------------------------------------------------- that they act


@pytest.mark.slow
@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("kind", [Wav2Vec2, WavLM])
def test_a_setting_acts_as_in_an_encoder_that_fairseq_built_with_it(kind, name):
    fields = kind.presets["tiny"].fields
    torch.manual_seed(2)
    built, plain = kind(fields | {name: 0.5}), kind(fields)
    plain.load_state_dict(built.state_dict())
    values = []
    for front_end in (plain, built, plain):
        torch.manual_seed(3)
        loss = sum(state.square().mean() for state in front_end.train()(torch.ones(1, 3000).cumsum(1).sin()))
        (gradient,) = torch.autograd.grad(loss, front_end.model.feature_extractor.conv_layers[0][0].weight)
        values.append((loss.detach(), gradient))
        plain.set_training({name: 0.5})
    assert torch.equal(values[1][0], values[2][0]) and torch.equal(values[1][1], values[2][1])
    assert not torch.equal(values[0][1], values[1][1])
    assert built.training_settings() == plain.training_settings() == {**undropped(), name: 0.5}


def undropped():
    return {**dict.fromkeys(SAID, 0.0), "feature_grad_mult": 1.0}


def test_every_setting_of_a_front_end_is_a_flag():
    for front_end in FRONT_ENDS.values():
        assert front_end.in_training.keys() <= TrainingConfig.__dataclass_fields__.keys()


def published_steps(detector, batches, lr=1e-3, decay=1e-4):
    """Losses of the published singing program's steps: convolutions without gradient; focal loss and AdamW, by hand.

    Source: Lin et al. 2017; Loshchilov and Hutter 2019, algorithm 2.
    """
    detector.front_end.model.feature_extractor.requires_grad_(False)
    moments, losses = {}, []
    for step, (x, labels) in enumerate(batches, 1):
        p, target = torch.sigmoid(detector(x)[:, 0]), 0.05 + 0.9 * labels.double()
        entropy = -target * p.log() - (1 - target) * (1 - p).log()
        loss = (0.25 * (1 - (-entropy).exp()) ** 2 * entropy).mean()
        trained = [q for q in detector.parameters() if q.requires_grad]
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        with torch.no_grad():
            for q, gradient in zip(trained, gradients):
                if gradient is not None:
                    m, v = moments.get(q, (0, 0))
                    m, v = moments[q] = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
                    q *= 1 - lr * decay
                    q -= lr * m / (1 - 0.9**step) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_singing_with_frozen_convolutions_trains_as_the_published_loop(monkeypatch, scale):
    """Five steps in double precision, from the same weights on the same batches."""
    monkeypatch.setattr(Fp32LayerNorm, "forward", nn.LayerNorm.forward)
    fields = WavLM.presets["tiny"].fields | {"extractor_mode": "layer_norm"}
    config = ModelConfig("WavLM_Nes2Net_X", ssl="from_file", ssl_config=fields, Nes_ratio=(2, 2))
    torch.manual_seed(0)
    detector, theirs = build_detector(config).double(), build_detector(config).double().train()
    theirs.load_state_dict(detector.state_dict())
    start = copy.deepcopy(detector.state_dict())
    batches = [(torch.randn(6, 4000).double(), torch.tensor([0, 1, 0, 0, 1, 0])) for _ in range(5)]

    config = TrainingConfig(corpus="CtrSVDD", lr=1e-3, schedule="constant", precision="fp32", loss="focal")
    assert (config.feature_grad_mult, config.encoder_layerdrop) == (0, 0)  # the corpus's
    detector.front_end.set_training({"feature_grad_mult": scale})
    loader = make_loader(TrialDataset([None] * 6), 6, shuffle=True)
    folder = train.run_folder.Path(".")
    training = train.Training(config, detector, LOSSES["focal"](), torch.device("cpu"), folder, loader, {}, None)
    training.freeze(False)
    detector.train()
    losses = [training.step(*batch)[0].item() for batch in batches]
    found = detector.state_dict()

    expected = published_steps(theirs, batches)
    largest = max(((found[n] - value).abs().max().item() for n, value in theirs.state_dict().items()), default=0)
    if scale:
        assert all(not torch.equal(value, start[name]) for name, value in extractor_of(found).items() if ".0." in name)
        assert abs(losses[-1] - expected[-1]) > 1e-6 and largest > 1e-4
    else:
        assert same(extractor_of(found), extractor_of(start))
        assert losses == pytest.approx(expected, abs=1e-8) and largest < 1e-9
    name = "front_end.model.encoder.layers.0.fc1.weight"
    assert not torch.equal(found[name], start[name])


def test_a_run_on_singing_leaves_the_convolutions_as_they_were(place, output):
    text = output(train.main, command("recipe", data="singing.txt"))
    words = "dropout 0.3, attention_dropout 0.2, activation_dropout 0.05, dropout_input 0.1 (tiny.pt); "
    assert f"encoder in training: {words}encoder_layerdrop 0, feature_grad_mult 0 (recipe)\n" in text
    output(train.main, command("flag", "--feature_grad_mult", "1", data="singing.txt"))
    start = checkpoints.new_detector(ModelConfig("wav2vec2_Nes2Net_X", Nes_ratio=(2, 2)))
    start = extractor_of(start.state_dict())
    folder, config = run_of(place, "recipe")
    assert same(extractor_of(weights(folder)), start)
    assert {name: config["training"][name] for name in SAID} == SAID | {"encoder_layerdrop": 0, "feature_grad_mult": 0}
    folder, config = run_of(place, "flag")
    assert not any(torch.equal(value, start[name]) for name, value in extractor_of(weights(folder)).items())
    assert config["training"]["feature_grad_mult"] == 1


# ------------------------------------------------------------------------------------- where the values come from


@pytest.mark.slow
def test_a_file_says_the_same_however_it_is_named(place, output):
    ways = {"path": ["--ssl_path", "tiny.pt"], "name": ["--ssl", "tiny"], "folder": []}
    ways["both"] = ["--ssl", "tiny", "--ssl_path", "tiny.pt"]
    found = []
    for name, flags in ways.items():
        text = output(train.main, command(name, *flags))
        assert f"encoder in training: {WORDS}, feature_grad_mult 0.5 (tiny.pt)\n" in text
        folder, config = run_of(place, name)
        assert (config["model"]["ssl"], config["model"]["ssl_config"]) == ("tiny", None)
        assert {name: config["training"][name] for name in SAID} == SAID
        found.append(weights(folder))
    assert all(same(found[0], other) for other in found[1:])
    output(train.main, command("none", "--ssl_path", "none"))
    assert {n: run_of(place, "none")[1]["training"][n] for n in SAID} == undropped()


def test_flags_count_more_than_recipes_and_those_more_than_the_file(place, output):
    flags = ["--recipe", "AttM_LSTM", "--SSL_freeze_epoch", "-1", "--ssl", "tiny", "--average_best", "0"]
    flags += ["--dropout", "0"]
    text = output(train.main, command("run", *flags))
    assert "encoder in training: dropout 0 (flag); attention_dropout 0.2, activation_dropout 0.05, " in text
    assert "encoder_layerdrop 0.25 (tiny.pt); feature_grad_mult 1 (recipe)\n" in text
    _, config = run_of(place, "run")
    assert {n: config["training"][n] for n in SAID} == SAID | {"dropout": 0, "feature_grad_mult": 1}


def test_published_recipes():
    assert {corpora.recipe_of("CtrSVDD")[name] for name in ("feature_grad_mult", "encoder_layerdrop")} == {0}
    assert not corpora.recipe_of("ASVspoof2019_LA").keys() & SAID.keys()
    for name in ("AttM_LSTM", "MHFA"):
        config, _ = train.parse_args(["--recipe", name, "--base_dir", "x"])
        assert config.feature_grad_mult == 1


@pytest.mark.slow
def test_a_setting_that_the_encoder_lacks_is_an_error_in_a_flag_and_passed_over_in_a_recipe(place, output, fails):
    log_mel = ["--model_name", "LogMel_Nes2Net_X", "--Nes_ratio", "2", "2"]
    fails(train.main, command("run", *log_mel, "--dropout", "0.1"), "--dropout", "LogMel_Nes2Net_X")
    fails(train.main, command("run", "--dropout", "2"), "--dropout")
    assert "encoder in training" not in output(train.main, command("run", *log_mel, data="singing.txt"))
    assert "encoder in training" not in output(train.main, command("run", "--recipe", "MHFA", *log_mel))


# ------------------------------------------------------------------------------------------- runs that go on


@pytest.mark.slow
def test_a_run_keeps_its_settings(place, output, fails):
    flags = ["--epochs", "2", "--dropout", "0.5"]
    output(train.main, command("whole", *flags))
    output(train.main, command("run", *flags[2:]))
    other = command("run", "--dropout", "0.1", "--resume", "auto")
    fails(train.main, other, "--dropout", "0.5", "0.1")
    (place / "tiny.pt").unlink()
    text = output(train.main, command("run", "--epochs", "2", "--resume", "auto"))
    assert f"encoder in training: {WORDS.replace('0.3', '0.5', 1)}, feature_grad_mult 0.5 (as the run began)\n" in text
    assert same(weights(run_of(place, "run")[0], "epoch_2.pth"), weights(run_of(place, "whole")[0], "epoch_2.pth"))


def as_older_versions_wrote(folder, ssl_config):
    """Make a run's files those of a version that had no such flags, and took the file's shape for one of its own."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name in SAID:
        del config["training"][name]
    if ssl_config:
        config["model"] |= {"ssl": "from_file", "ssl_config": ssl_config}
    path.write_text(json.dumps(config))
    for path in (folder / "checkpoints").iterdir():
        content = torch.load(path, weights_only=True)
        content["config"] |= {name: config["model"][name] for name in ("ssl", "ssl_config")}
        torch.save(content, path)


@pytest.mark.slow
def test_a_run_of_an_older_version_goes_on_as_it_began(place, output, fails):
    """Named by --ssl_path alone the file's settings counted; else there was no dropout, and all was trained."""
    output(train.main, command("whole", "--epochs", "2"))
    output(train.main, command("run"))
    folder, _ = run_of(place, "run")
    as_older_versions_wrote(folder, SHAPE | SAID)
    on = ["--ssl_path", "tiny.pt", "--epochs", "2", "--resume", "auto"]
    fails(train.main, command("run", *on, "--dropout", "0.4"), "--dropout", "0.3", "0.4")
    text = output(train.main, command("run", *on))
    assert f"{WORDS}, feature_grad_mult 0.5 (as the run began)\n" in text
    whole, _ = run_of(place, "whole")
    assert same(weights(folder, "epoch_2.pth"), weights(whole, "epoch_2.pth"))
    both = [folder / "checkpoints" / f"epoch_{epoch}.pth" for epoch in (1, 2)]
    assert same(checkpoints.load_average(both).state_dict(), checkpoints.average_checkpoints(both))

    trained = [word for name in SAID for word in (f"--{name}", "1" if name == "feature_grad_mult" else "0")]
    output(train.main, command("sung", *trained, data="singing.txt"))
    folder, _ = run_of(place, "sung")
    as_older_versions_wrote(folder, None)
    text = output(train.main, command("sung", "--epochs", "2", "--resume", "auto", data="singing.txt"))
    assert re.search(r"in training: dropout 0, .* feature_grad_mult 1 \(as the run began\)\n", text)
    before, after = extractor_of(weights(folder)), extractor_of(weights(folder, "epoch_2.pth"))
    assert not any(torch.equal(value, after[name]) for name, value in before.items())
