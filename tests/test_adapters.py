"""--save_adapters: checkpoints of LoRA adapters without the encoder, and what they load over."""

import os
import signal

import pytest
import torch
from test_crash import assert_same_run
from test_encoder_settings import command, run_of, same
from test_encoder_settings import place as encoder_place

import checkpoint
import checkpoints
import eval as scoring
import train

LORA = ["--lora_rank", "2", "--lora_targets", "q,k,v,o", "--epochs", "2"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder: see test_encoder_settings; the published file of the encoder is tiny.pt."""
    return encoder_place.__wrapped__(tmp_path, monkeypatch)


@pytest.fixture
def runs(place, output):
    """The checkpoints' folders of two runs that differ in --save_adapters alone."""
    output(train.main, command("whole", *LORA, "--average_best", "2"))
    output(train.main, command("adapters", *LORA, "--average_best", "2", "--save_adapters"))
    return [run_of(place, name)[0] / "checkpoints" for name in ("whole", "adapters")]


def test_they_are_the_detector_once_merged_with_the_encoder(runs, place, output):
    whole, adapters = (folder / "epoch_2.pth" for folder in runs)
    content = checkpoints.read_checkpoint(adapters)
    assert content["adapters"]["base"] == "tiny.pt" and content["adapters"]["alpha"] == 2
    of_encoder = {name for name in content["model"] if name.startswith("front_end.")}
    assert len(of_encoder) == 16 and all(name.endswith((".lora_A", ".lora_B")) for name in of_encoder)
    assert adapters.stat().st_size < whole.stat().st_size - 200_000
    expected = checkpoints.read_checkpoint(whole)["model"]
    assert same(checkpoints.read_detector(adapters)["model"], expected)
    assert same(checkpoints.load_detector(adapters).state_dict(), expected)
    # The mean of low-rank sums is none: the average is whole.
    average = [checkpoints.read_checkpoint(folder / "average_best_2.pth") for folder in runs]
    assert "adapters" not in average[1] and same(average[1]["model"], average[0]["model"])
    assert same(checkpoints.average_checkpoints([folder / "epoch_1.pth" for folder in runs]),
                checkpoints.read_checkpoint(runs[0] / "epoch_1.pth")["model"])  # fmt: skip
    scores = []
    for path in (whole, adapters):
        output(scoring.main, ["--protocol", "list.csv", "--model_path", str(path), "--eval_output", "scores.txt"])
        scores.append((place / "scores.txt").read_text())
        (place / "scores.txt").unlink()
    assert scores[0] == scores[1]
    assert "base tiny.pt" in str(checkpoints.show(adapters)["adapters"])


def test_the_encoder_is_found_named_and_checked(runs, place, output, fails):
    whole, adapters = (folder / "epoch_2.pth" for folder in runs)
    convert = ["convert", str(adapters), "merged.pth"]
    encoder = place / "tiny.pt"
    encoder.rename(adapters.parent / "tiny.pt")  # beside the checkpoint
    checkpoints.load_detector(adapters)
    (adapters.parent / "tiny.pt").rename(place / "elsewhere.pt")
    fails(checkpoint.main, convert, "epoch_2.pth: holds LoRA adapters", "as tiny.pt", "--base")
    assert "tiny.pt" in str(checkpoints.show(adapters)["adapters"])  # needs no encoder
    output(checkpoint.main, [*convert, "--base", "elsewhere.pt"])
    assert same(checkpoints.read_checkpoint("merged.pth")["model"], checkpoints.read_checkpoint(whole)["model"])
    content = torch.load(place / "elsewhere.pt", weights_only=True)
    content["model"]["encoder.layers.1.fc2.bias"][3] += 1e-3
    torch.save(content, encoder)
    fails(checkpoint.main, convert, "sha256", " in tiny.pt")
    del content["model"]["encoder.layers.1.fc2.bias"]
    torch.save(content, encoder)
    fails(checkpoint.main, convert, "sha256")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"base": "../tiny.pt"}, "adapters base"),
        ({"alpha": float("nan")}, "adapters alpha"),
        ({"sha256": None}, "adapters sha256"),
    ],
)
def test_a_damaged_checkpoint_of_adapters_is_one_line(change, words, place, tmp_path, fails):
    from conftest import TINY

    facts = {"alpha": 2.0, "base": "tiny.pt", "sha256": 64 * "0", **change}
    checkpoints.save_checkpoint(tmp_path / "a.pth", TINY, {"x": torch.zeros(1)}, adapters=facts)
    fails(checkpoint.main, ["show", str(tmp_path / "a.pth")], words)
    fails(checkpoint.main, ["convert", str(tmp_path / "a.pth"), "b.pth"], words)


def test_adapters_that_do_not_fit_are_one_line(runs, fails):
    path = runs[1] / "epoch_1.pth"
    whole = torch.load(path, weights_only=True)
    name = next(n for n in whole["model"] if n.endswith(".lora_B"))
    for other in (name, name.replace("_B", "_A")):
        for value in (None, torch.zeros(64, 3)):
            content = {**whole, "model": {**whole["model"], other: value}}
            if value is None:
                del content["model"][other]
            torch.save(content, path)
            fails(checkpoint.main, ["convert", str(path), "out.pth"], "epoch_1.pth: ", name.removesuffix(".lora_B"))


def test_on_the_first_layer_alone_and_after_a_stop_without_the_encoder_at_hand(place, output, monkeypatch):
    """The base is the encoder of the file, cut; a run that goes on remembers its name."""
    flags = [*LORA, "--ssl_layers", "1", "--save_adapters", "--resume", "auto"]
    output(train.main, command("whole", *flags))
    step, calls = train.Training.step, []

    def stopping(self, x, labels):
        calls.append(x)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, x, labels)

    monkeypatch.setattr(train.Training, "step", stopping)
    with pytest.raises(SystemExit) as ended:
        train.main(command("stopped", *flags))
    assert ended.value.code == 143
    (place / "tiny.pt").rename(place / "away.pt")
    assert "resumed after epoch 1 and 1 batches" in output(train.main, command("stopped", *flags))
    whole, stopped = (run_of(place, name)[0] for name in ("whole", "stopped"))
    assert_same_run(stopped, whole)
    (place / "away.pt").rename(place / "tiny.pt")
    detector = checkpoints.load_detector(stopped / "checkpoints" / "epoch_2.pth")
    assert len(detector.front_end.layers()) == 1


def test_a_detector_may_be_the_base(place, output):
    output(train.main, command("first"))
    start = run_of(place, "first")[0] / "checkpoints" / "epoch_1.pth"
    output(train.main, command("second", *LORA, "--model_path", str(start), "--save_adapters"))
    path = run_of(place, "second")[0] / "checkpoints" / "epoch_2.pth"
    found = checkpoints.read_detector(path, base=start)["model"]
    expected = checkpoints.read_checkpoint(start)["model"]
    name = "front_end.model.encoder.layers.0.fc1.weight"
    assert torch.equal(found[name], expected[name]) and found.keys() == expected.keys()


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--save_adapters"], ["--save_adapters needs --lora_rank"]),
        (["--save_adapters", "--lora_rank", "2", "--ssl_path", "none"], ["--save_adapters", "found random weights"]),
    ],
)
def test_what_does_not_go_is_one_line(flags, words, place, fails):
    fails(train.main, command("run", *flags), *words)
