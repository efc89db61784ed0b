"""Command lines of the published program, which is one for training and scoring, and the start of a fine-tuning."""

import json

import pytest
import torch
from test_published import published_layout, small_detector

import checkpoints
import eval as scoring
import train
from model import ModelConfig, build_detector

SCORE = ["--track", "DF", "--database_path", "DB", "--model_path", "a.pth", "--eval_output", "s.txt"]
SCORE += ["--model_name", "wav2vec2_Nes2Net_X"]
TRAIN = ["--database_path", "DB", "--model_name", "wav2vec2_Nes2Net_X"]


def test_training_flags_of_the_published_program_are_no_obstacle_to_scoring(capsys):
    flags = "--lr=0.00000025 --algo 4 --date 0520 --seed 12345 --loss=WCE --num_epochs 100 --SNRmin 10".split()
    args = scoring.parse_args([*SCORE, "--eval", *flags])
    names = "--date, --num_epochs, --lr, --loss, --seed, --algo, --SNRmin"
    assert f"warning: {names}: without effect" in capsys.readouterr().err
    assert args.track == "DF"
    scoring.parse_args([*SCORE, "--eval"])
    assert not capsys.readouterr().err
    for mistake, words in [
        (["--eval", "--lrr", "1"], "unknown flag --lrr"),
        (["--eval", "--epochs", "1"], "unknown flag --epochs"),  # of train.py alone
        (["--eval", "--lr"], "--lr: expected 1 argument"),
        (["--lr", "1"], "--lr: expected in train.py, or beside --eval"),
    ]:
        with pytest.raises(SystemExit) as ended:
            scoring.parse_args([*SCORE, *mistake])
        assert ended.value.code == 2 and words in capsys.readouterr().err.splitlines()[-2]


def test_the_toggles_of_cudnn(monkeypatch, untrained, tmp_path, fails, output):
    for parse, flags in ((scoring.parse_args, SCORE), (lambda flags: train.parse_args(flags)[0], TRAIN)):
        assert not parse(flags).cudnn_benchmark_toggle
        toggled = parse([*flags, "--cudnn-benchmark-toggle", "--cudnn-deterministic-toggle"])
        assert toggled.cudnn_benchmark_toggle and toggled.cudnn_deterministic_toggle
    with pytest.raises(SystemExit):
        train.parse_args([*TRAIN, "--deterministic", "--cudnn-deterministic-toggle"])
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.wav").write_bytes(b"")
    command = ["--base_dir", str(tmp_path / "audio"), "--model_path", str(untrained)]
    scoring.main([*command, "--eval_output", str(tmp_path / "s.txt"), "--cudnn-benchmark-toggle"])
    assert torch.backends.cudnn.benchmark


# ------------------------------------------------------------------------------------------------------- fine-tuning


@pytest.fixture
def fine_tune(tmp_path, train_flags, output):
    """fine_tune(path, *flags): (folder of a run from that checkpoint, its output)."""

    def start(path, *flags):
        places = ["--log_dir", str(tmp_path / "logs"), "--foldername", "run"]
        text = output(train.main, [*train_flags, *places, "--model_path", str(path), *flags])
        (folder,) = (tmp_path / "logs" / "run").iterdir()
        return folder, text

    return start


def weights(path):
    return checkpoints.read_detector(path)["model"]


def test_a_run_starts_from_the_weights_of_a_detector(fine_tune, finished_run, tmp_path):
    """With a learning rate of 0 it ends with them, but for the statistics of batch norms."""
    path = finished_run / "checkpoints" / "epoch_3.pth"
    still = ["--lr", "0", "--weight_decay", "0", "--schedule", "constant", "--epochs", "1"]
    folder, text = fine_tune(path, *still)
    assert f"fine-tuning {path}\n" in text and "dropout 0, " in text and "(no --ssl_path)" in text
    before, after = weights(path), weights(folder / "checkpoints" / "epoch_1.pth")
    assert before.keys() == after.keys()
    assert all(torch.equal(t, after[n]) for n, t in before.items() if "running_" not in n and "num_batches" not in n)
    config = json.loads((folder / "config.json").read_text())
    assert config["training"]["model_path"] == str(path)


def test_a_fine_tuning_that_was_cut_short_goes_on(fine_tune, finished_run, tmp_path):
    path = finished_run / "checkpoints" / "epoch_3.pth"
    folder, _ = fine_tune(path, "--epochs", "1", "--schedule", "constant")
    again, text = fine_tune(path, "--epochs", "2", "--schedule", "constant", "--resume", "auto")
    assert again == folder and "resumed after epoch 1" in text and "fine-tuning" not in text
    first, second = (weights(folder / "checkpoints" / f"epoch_{epoch}.pth") for epoch in (1, 2))
    assert not torch.equal(first["back_end.fc.weight"], second["back_end.fc.weight"])


def test_a_released_detector_is_fine_tuned(fine_tune, tmp_path):
    """Its dilation no weight tells: the flag counts, as in scoring. The encoder's dropouts are of --ssl_path."""
    detector = small_detector("wav2vec2_Nes2Net_X", n_output_logits=2)
    torch.save(published_layout(detector), tmp_path / "released.pth")
    fields = dict(detector.config.ssl_config or detector.front_end.presets[detector.config.ssl].fields)
    settings = {name: value for name, value in fields.items() if name != "normalize"} | {"dropout_input": 0.1}
    content = {"cfg": {"model": settings}, "model": detector.front_end.model.state_dict()}
    torch.save(content, tmp_path / "pretrained.pt")
    ssl = detector.config.ssl
    flags = ["--ssl", ssl, "--dilation", "1", "--Nes_ratio", *map(str, detector.config.Nes_ratio)]
    flags += ["--lr", "0", "--weight_decay", "0", "--schedule", "constant", "--epochs", "1"]
    folder, text = fine_tune(tmp_path / "released.pth", *flags, "--ssl_path", str(tmp_path / "pretrained.pt"))
    assert "dropout_input 0.1" in text and "pretrained.pt)" in text
    content = checkpoints.read_checkpoint(folder / "checkpoints" / "epoch_1.pth")
    assert content["config"]["dilation"] == 1
    assert torch.equal(content["model"]["back_end.fc.weight"], detector.back_end.fc.weight)


def test_mistakes_of_a_fine_tuning(fine_tune, train_flags, tmp_path, fails):
    config = ModelConfig("wav2vec2_Nes2Net_X", ssl="tiny", Nes_ratio=(2, 2), pool_func="ASTP")
    model = build_detector(config).state_dict()
    checkpoints.save_checkpoint(tmp_path / "a.pth", config, model)
    checkpoints.save_checkpoint(
        tmp_path / "nan.pth", config, {**model, "back_end.fc.bias": torch.full((2,), torch.nan)}
    )
    del model["back_end.fc.bias"]
    checkpoints.save_checkpoint(tmp_path / "less.pth", config, model)
    run = [*train_flags, "--log_dir", str(tmp_path / "logs")]
    for name, flags, words in [
        ("no.pth", [], ["no.pth"]),
        ("a.pth", ["--pool_func", "mean"], ["--pool_func", "trained with ASTP, found mean"]),
        ("a.pth", ["--loss", "AM_softmax"], ["--loss AM_softmax: expected weighted_CCE", "2 linear outputs"]),
        ("nan.pth", [], ["nan.pth: expected finite weights", "back_end.fc.bias"]),
        ("less.pth", [], ["less.pth", "missing back_end.fc.bias"]),
        ("a.pth", ["--resume_checkpoint_path", "x"], ["--model_path", "--resume_checkpoint_path exclude"]),
    ]:
        fails(train.main, [*run, "--model_path", str(tmp_path / name), *flags], *words)
    assert not list((tmp_path / "logs").glob("*/*/checkpoints/*"))
