"""Options of a back-end's own: from the command line into the checkpoint and back."""

import json
import resource
from typing import Literal

import pytest
import torch
from conftest import with_back_end
from torch import nn

import checkpoint
import checkpoints
import train
from back_ends import BACK_ENDS
from back_ends.base import BackEnd
from common.console import UserError
from common.values import options_text
from model import ModelConfig, build_detector
from training.config import TrainingConfig
from training.options import saved_settings

ATTENTION = "conformer.encoder_blocks.0.attn.fn."
# Per back-end: all of its options, none as published, and the shape of a weight that they ask for at 64 channels.
SMALLER = {
    "Nes2Net": ({"Nes_ratio": (4, 2), "dilation": 3, "pool_func": "ASTP", "SE_ratio": (2,)}, "fc.weight", (2, 128)),
    "AASIST": (
        {"size": 24, "filters": (8, 12), "gat_dims": (10, 6), "pool_ratio": 0.4},
        "HtrgGAT_layer_ST11.att_proj.weight",
        (6, 10),
    ),
    "Conformer": (
        {"size": 24, "heads": 2, "blocks": 1, "kernel": 5},
        ATTENTION + "rel_pos_emb.weight",
        (1025, 12),
    ),
    "TCM": ({"size": 24, "heads": 3, "blocks": 2, "kernel": 7}, ATTENTION + "pos_embed", (1, 3, 24)),
    "Mamba": (
        {"size": 24, "blocks": 2, "state": 4, "kernel": 2},
        "conformer.backward_layers.1.mixer.A_log",
        (48, 4),
    ),
    "Fake_Mamba": ({"size": 24, "layers": 2, "state": 4, "kernel": 2}, "encoder.layers.1.mamba.A_log", (48, 4)),
    "MamBo": (
        {"layout": 3, "units": 2, "hydras": 3, "size": 32, "state": 4, "kernel": 5, "mixer": "Mamba2"},
        "stacked_mamba2.layers.layers.8.mamba.in_proj.weight",
        (64 + 64 + 8 + 1, 32),
    ),
    "SLS": ({"window": 30}, "fc1.weight", (64, 10 * 21)),
    "AttM_LSTM": ({"hidden": 12}, "decoder.LL.weight", (2, 12)),
    "LLGF": ({"size": 48, "dropout": 0.1}, "m_before_pooling.0.0.l_blstm.weight_ih_l0", (192, 96)),
    "LGF": ({"size": 48}, "m_before_pooling.0.0.l_blstm.weight_ih_l0", (96, 48)),
    "GF": ({"size": 48}, "m_output_act.0.weight", (2, 48)),
    "MoE": ({"experts_per_layer": 3, "chosen": 1, "hidden": 16}, "moe_l.w_gate", (64, 6)),
    "MHFA": ({"heads": 4, "compressed": 16, "embedding": 32}, "pooling_fc.weight", (32, 64)),
    "PT_AASIST": ({"tokens": 3, "wavelet_tokens": 2}, "wav2vec2_with_prompt.fprompt_embedding", (2, 2, 64)),
    "AASIST2": (
        {"size": 24, "filters": (8, 16), "gat_dims": (10, 6), "pool_ratio": 0.4},
        "encoder.2.0.convs.0.0.weight",
        (4, 4, 3, 3),
    ),
    "MFA": ({"attention_size": 16}, "over_time.1.attention.0.weight", (16, 64)),
    "LayerASP_MLP": ({"hidden": 32}, "mlp.2.weight", (2, 32)),
    "Vicomtech": ({"size": 24}, "pool.attention.0.weight", (24, 24)),
    "ResNet": ({"reduced": 16, "channels": 4}, "fc.weight", (2, 32)),
    "Res2Net": ({"reduced": 16, "channels": 8}, "layer2.0.convs.1.weight", (6, 6, 3, 3)),
    "ECAPA_TDNN": ({"reduced": 16, "channels": 24}, "pool.0.attention.0.weight", (6, 216, 1)),
    "SLIM": ({"size": 16}, "style.head.weight", (16, 64)),
    "ASP_MLP": ({"attention_size": 16, "hidden": 32}, "mlp.2.weight", (2, 32)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLER)
def test_other_sizes_than_published_are_trained_stored_and_loaded(name, tmp_path, output):
    options, weight, shape = SMALLER[name]
    published = ModelConfig(f"wav2vec2_{name}").options
    assert published.keys() == options.keys() and not published.items() & options.items()
    torch.manual_seed(0)
    detector = build_detector(ModelConfig(f"wav2vec2_{name}", ssl="tiny", back_end_options=options))
    assert detector.back_end.state_dict()[weight].shape == shape
    loss = nn.functional.cross_entropy(detector(torch.randn(4, 15_000)), torch.tensor([0, 1, 1, 0]))
    loss.backward()
    detector.eval()

    file = tmp_path / "a.pth"
    checkpoints.save_checkpoint(file, detector.config, detector.state_dict())
    assert json.loads(json.dumps(detector.config.to_dict())) == checkpoints.read_checkpoint(file)["config"]
    loaded = checkpoints.load_detector(file, ssl="tiny", back_end_options=options)
    assert loaded.config == detector.config and loaded.config.options == options
    for n_samples in (9000, 30_000):
        x = torch.randn(2, n_samples)
        with torch.inference_mode():
            assert torch.equal(loaded.score(x), detector.score(x))
    lines = output(checkpoint.main, ["show", str(file)]).splitlines()
    (line,) = (
        line for line in lines if line.split(":")[0] == ("dilation" if name == "Nes2Net" else "back_end_options")
    )
    assert line.split(": ", 1)[1].strip() == ("3" if name == "Nes2Net" else options_text(options))


class Own(BackEnd):
    """A back-end as a reader of the README would write it."""

    def __init__(
        self,
        in_channels,
        n_output_logits=2,
        width=8,
        dropout: float = 0,
        act: Literal["relu", "tanh"] = "relu",
        bias=True,
        taps=(1, 2),
        more: tuple[str, ...] = ("a",),
        skip=0,
    ):
        if width > 100:
            raise ValueError(f"width {width}: expected at most 100")
        super().__init__()
        self.arguments = {"width": width, "dropout": dropout, "act": act, "bias": bias, "taps": taps, "more": more}
        self.arguments["skip"] = skip
        self.net = nn.Sequential(nn.Linear(in_channels, width, bias=bias), nn.Linear(width, n_output_logits))

    def forward(self, features):
        return self.net(features.mean(dim=1))


@pytest.fixture(autouse=True)
def own(monkeypatch):
    monkeypatch.setitem(BACK_ENDS, "Own", Own)  # the one line


def test_an_own_back_end_goes_through_every_command(tmp_path, train_flags, output, fails):
    flags = with_back_end(train_flags, "Own")
    flags += ["--epochs", "1", "--log_dir", str(tmp_path), "--foldername", "run", "--resume", "auto"]
    flags += ["--schedule", "constant"]
    options = ["--back_end_options", "width=5", "taps=3,4", "bias=false", "dropout=0.5", "act=tanh", "more=b,c"]
    output(train.main, [*flags, *options])
    (folder,) = (tmp_path / "run").iterdir()
    expected = {"width": 5, "dropout": 0.5, "act": "tanh", "bias": False, "taps": [3, 4], "more": ["b", "c"], "skip": 0}
    assert json.loads((folder / "config.json").read_text())["model"]["back_end_options"] == expected
    file = str(folder / "checkpoints" / "epoch_1.pth")
    shown = output(checkpoint.main, ["show", file, "--back_end_options", "width=5"])
    assert "width=5 dropout=0.5 act=tanh bias=False taps=3,4 more=b,c skip=0\n" in shown
    detector = checkpoints.load_detector(file)
    assert detector.back_end.net[0].weight.shape == (5, 64)
    expected = {name: tuple(value) if isinstance(value, list) else value for name, value in expected.items()}
    assert detector.back_end.arguments == expected
    fails(checkpoint.main, ["show", file, "--back_end_options", "width=6"], "--back_end_options width", "with 5", "6")
    fails(checkpoint.main, ["show", file, "--Nes_ratio", "8", "8"], "--Nes_ratio", "Own")

    output(train.main, [*flags, *options, "--epochs", "2"])
    assert (folder / "checkpoints" / "epoch_2.pth").exists() and len(list((tmp_path / "run").iterdir())) == 1
    fails(train.main, [*flags, *options[:1], "width=6", *options[2:]], "--back_end_options", "'width': 5", "'width': 6")


@pytest.mark.parametrize(
    "words, message",
    [
        (["width"], "expected KEY=VALUE, found width"),
        (["width="], "expected KEY=VALUE"),
        (["width=5", "width=5"], "every KEY once"),
        (
            ["heads=4"],
            "--back_end_options heads: Own has no such option; it has width=8 dropout=0 act=relu bias=True ",
        ),
        (["width=wide"], "--back_end_options width: expected a whole number from 1 to 10,000, found wide"),
        (["width=2.5"], "--back_end_options width: expected a whole number"),
        (["width=true"], "--back_end_options width: expected a whole number"),
        (["width=0"], "--back_end_options width: expected a whole number from 1"),
        (["width=1,2"], "--back_end_options width: expected a whole number"),
        (["width=1000000000"], "--back_end_options width: expected a whole number"),
        (["width=200"], "--back_end_options width 200: expected at most 100"),
        (["skip=-1"], "--back_end_options skip: expected a whole number from 0"),
        (["dropout=nan"], "--back_end_options dropout: expected a finite number, found nan"),
        (["act=gelu"], "--back_end_options act: expected one of relu, tanh, found gelu"),
        (["bias=1"], "--back_end_options bias: expected true or false, found 1"),
        (["taps=1"], "--back_end_options taps: expected 2 values, found 1"),
        (["taps=1,x"], "--back_end_options taps: expected a whole number"),
        (["more=a,1"], "--back_end_options more: expected a word, found 1"),
    ],
)
def test_mistakes_in_options_are_one_line(words, message, train_flags, tmp_path, fails):
    flags = with_back_end(train_flags, "Own")
    fails(train.main, [*flags, "--log_dir", str(tmp_path), "--back_end_options", *words], message)


def test_options_of_another_back_end_are_an_error():
    for name, value in {"Nes_ratio": (8, 8), "SE_ratio": (1,), "dilation": 2, "pool_func": "mean"}.items():
        for given in ({name: value}, {"back_end_options": {name: value}}):
            with pytest.raises(UserError, match=f"--{name}: .*AASIST.* size=128 filters=32,64 "):
                ModelConfig("wav2vec2_AASIST", **given)
    with pytest.raises(UserError, match="--back_end_options heads: .*Nes2Net_X.* Nes_ratio=8,8"):
        ModelConfig("wav2vec2_Nes2Net_X", back_end_options={"heads": 4})
    with pytest.raises(UserError, match="--dilation: "):
        ModelConfig("wav2vec2_Nes2Net_X", dilation=3, back_end_options={"dilation": 3})
    with pytest.raises(UserError, match="--back_end_options: "):
        ModelConfig("wav2vec2_MHFA", back_end_options=["heads"])


def test_flags_of_the_published_programs_are_options_of_nes2net():
    options = {"Nes_ratio": [4, 2], "dilation": 3, "pool_func": "ASTP", "SE_ratio": [2]}
    config = ModelConfig("wav2vec2_Nes2Net_X", back_end_options=options)
    assert config == ModelConfig("wav2vec2_Nes2Net_X", **options)
    assert (config.Nes_ratio, config.SE_ratio, config.dilation, config.pool_func) == ((4, 2), (2,), 3, "ASTP")
    assert ModelConfig("WavLM_Nes2Net").options == {**ModelConfig("wav2vec2_Nes2Net").options, "dilation": 1}


def test_published_values_beside_another_back_end_are_ignored_with_a_warning(capsys):
    """The published programs took these flags beside AASIST, too, and did nothing with them."""
    model = ["--base_dir", "x", "--model_name", "wav2vec2_AASIST", "--pool_func", "mean"]
    _, flags = train.parse_args([*model, "--dilation", "2", "--SE_ratio", "1", "--Nes_ratio", "8", "8"])
    assert ModelConfig(**flags) == ModelConfig("wav2vec2_AASIST")
    assert capsys.readouterr().err.count("AASIST has no such option; ignored") == 4
    _, flags = train.parse_args([*model, "--Nes_ratio", "4", "4"])
    with pytest.raises(UserError, match="--Nes_ratio: .*AASIST"):
        ModelConfig(**flags)


@pytest.mark.parametrize("name", ["AASIST", "MHFA", "Nes2Net_X"])
def test_checkpoints_and_runs_of_before_the_options_go_on(name, tmp_path):
    torch.manual_seed(0)
    detector = build_detector(ModelConfig(f"wav2vec2_{name}", ssl="tiny"))
    old = {"model_name": f"wav2vec2_{name}", "ssl": "tiny", "agg": None if name == "MHFA" else "last"}
    old |= {"pool_func": "mean", "dilation": 2, "Nes_ratio": [8, 8], "SE_ratio": [1]}
    old |= {"n_output_logits": 2, "output": "linear", "ssl_config": None}
    torch.save({"format": checkpoints.FORMAT, "config": old, "model": detector.state_dict()}, tmp_path / "a.pth")
    assert checkpoints.load_detector(tmp_path / "a.pth").config == detector.config
    assert checkpoints.read_checkpoint(tmp_path / "a.pth")["config"] == detector.config.to_dict()
    config = TrainingConfig(corpus="ASVspoof2019_LA")
    settings = {"model": old, "training": saved_settings(config)}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert train.check_same_settings(config, detector.config, tmp_path) == json.loads(json.dumps(settings))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"heads": 10**9}, "--back_end_options heads: expected a whole number"),
        ({"heads": "4"}, "--back_end_options heads: expected a whole number"),
        ({"heads": 4.0}, "--back_end_options heads: expected a whole number"),
        ({"heads\x1b[2J": 4}, r"--back_end_options heads\x1b[2J: MHFA has no such option"),
        ([4], "--back_end_options: expected values by name"),
        ({"heads": 4}, "does not fit wav2vec2_MHFA"),
    ],
)
def test_what_a_checkpoint_says_of_its_options_is_checked(options, words, tmp_path, fails):
    detector = build_detector(ModelConfig("wav2vec2_MHFA", ssl="tiny"))
    config = {**detector.config.to_dict(), "back_end_options": options}
    torch.save({"format": checkpoints.FORMAT, "config": config, "model": detector.state_dict()}, tmp_path / "a.pth")
    with pytest.raises(UserError) as refused:
        checkpoints.load_detector(tmp_path / "a.pth")
    assert words in str(refused.value)


@pytest.mark.slow
def test_options_say_what_a_released_file_does_not(tmp_path, output, fails):
    torch.manual_seed(0)
    options = {"heads": 4, "compressed": 16}
    detector = build_detector(ModelConfig("wav2vec2_MHFA", ssl="tiny", back_end_options=options)).eval()
    encoder = {f"ssl_model.model.{key}": t for key, t in detector.front_end.model.state_dict().items()}
    torch.save(encoder | detector.back_end.state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match="fit no back-end of"):
        checkpoints.load_detector(tmp_path / "a.pth")
    assert checkpoints.load_detector(tmp_path / "a.pth", back_end_options=options).config == detector.config
    flags = ["--back_end_options", "heads=4", "compressed=16"]
    assert "heads=4 compressed=16 embedding=256" in output(checkpoint.main, ["show", str(tmp_path / "a.pth"), *flags])
    fails(checkpoint.main, ["show", str(tmp_path / "a.pth"), *flags, "size=8"], "--back_end_options size", "MHFA")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, options",
    [
        ("Conformer", {"blocks": 10_000}),
        ("Mamba", {"size": 10_000, "state": 10_000, "blocks": 10_000}),
        ("TCM", {"size": 10_000}),
        ("MHFA", {"heads": 10_000, "compressed": 10_000, "embedding": 10_000}),
    ],
)
def test_options_of_a_stranger_that_ask_for_a_network_without_end_are_refused_at_once(name, options, tmp_path):
    detector = build_detector(ModelConfig(f"wav2vec2_{name}", ssl="tiny"))
    config = {**detector.config.to_dict(), "back_end_options": options}
    torch.save({"format": checkpoints.FORMAT, "config": config, "model": detector.state_dict()}, tmp_path / "a.pth")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="far more weights than the file"):
        checkpoints.load_detector(tmp_path / "a.pth")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB
    build_detector(ModelConfig(f"wav2vec2_{name}", ssl="tiny"))  # the limit is that of a file alone
