"""`easy_inference_demo.py voice.mp3`: which detector judges, which files, and how missing ones are told."""

import json
import os
import re

import numpy as np
import pytest
import soundfile
from conftest import speech_like

import easy_inference_demo
from inference import files

main = easy_inference_demo.main


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with two recordings, in which nothing names a detector."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NES2NET_MODEL", raising=False)
    monkeypatch.setattr(files, "DEMO_LOGS", tmp_path / "demo" / "logs")
    for name in ("voice.mp3", "other.wav"):
        soundfile.write(name, speech_like(np.random.default_rng(0), 2), 16000)
    return tmp_path


def keep(untrained, run, name):
    folder = files.DEMO_LOGS / run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    os.symlink(untrained, folder / name)


def detector_of(output, *argv):
    return re.search("^detector: (.*)$", output(main, list(argv)), re.M)[1]


def test_the_detector_is_the_flag_s_else_the_environment_s_else_the_newest(here, untrained, output, monkeypatch):
    keep(untrained, "b/20260101-000000", "average_best_3.pth")
    keep(untrained, "a/20260102-000000", "best_model.pth")
    (files.DEMO_LOGS / "c" / "20260103-000000" / "checkpoints").mkdir(parents=True)  # a run that has kept nothing yet
    newest = "demo/logs/a/20260102-000000/checkpoints/"
    assert detector_of(output, "voice.mp3") == f"{newest}best_model.pth, the newest of demo/logs"
    keep(untrained, "a/20260102-000000", "average_best_3.pth")
    assert detector_of(output, "voice.mp3") == f"{newest}average_best_3.pth, the newest of demo/logs"
    assert detector_of(output, "voice.mp3", "other.wav").startswith(newest)
    monkeypatch.setenv("NES2NET_MODEL", str(untrained))
    assert detector_of(output, "voice.mp3") == f"{untrained}, named by NES2NET_MODEL"
    link = str(files.DEMO_LOGS / "b/20260101-000000/checkpoints/average_best_3.pth")
    assert detector_of(output, "voice.mp3", "--model_path", link) == link
    assert detector_of(output, "--file_to_test", "voice.mp3", "--model_path", link) == link


def test_without_a_detector_it_says_in_two_lines_how_to_get_one(here, capsys, fails, monkeypatch):
    fails(main, ["voice.mp3"], "--model_path", "NES2NET_MODEL")
    with pytest.raises(files.UserError) as found:
        main(["voice.mp3"])
    trained, released = found.value.details
    assert trained.startswith("bash train.sh ") and "five minutes" in trained
    assert "hf://nielsr/nes2net-checkpoints/FILE" in released
    monkeypatch.setenv("NES2NET_MODEL", "gone.pth")
    fails(main, ["voice.mp3"], "gone.pth")
    monkeypatch.setenv("NES2NET_MODEL", "hf://x")
    fails(main, ["voice.mp3"], "NES2NET_MODEL", "hf://OWNER/NAME/FILE")


def test_files_stand_anywhere_among_the_flags(here, untrained, output):
    output(main, ["voice.mp3", "--model_path", str(untrained), "--json", "out.json", "other.wav"])
    written = json.loads((here / "out.json").read_text())["files"]
    assert [entry["file"] for entry in written] == ["voice.mp3", "other.wav"]


def test_files_that_are_missing_are_listed_and_the_rest_is_judged(here, untrained, capsys, fails):
    model = ["--model_path", str(untrained)]
    (here / "empty").mkdir()
    for names in (["gone.wav", "voice.mp3", "*.ogg", "empty"], ["--file_to_test", "voice.mp3", "gone.wav"]):
        missing = set(names) - {"voice.mp3", "--file_to_test"}
        assert main([*model, *names, "--json", "out.json"]) == 1
        captured = capsys.readouterr()
        errors = re.findall("^error: (.*): expected .* found nothing$", captured.out, re.M)
        assert set(errors) == missing
        assert len(re.findall(r"^likely \w+ +score: .*voice\.mp3", captured.out, re.M)) == 1
        assert f"{len(missing)} of {len(missing) + 1} files could not be read" in captured.err
        entries = json.loads((here / "out.json").read_text())["files"]
        assert {entry["file"] for entry in entries if "error" in entry} == missing
        assert [entry["file"] for entry in entries if "score" in entry] == ["voice.mp3"]
    fails(main, [*model, "gone.wav", "gone too.wav"], "gone too.wav")
    fails(main, [*model, "gone.wav", "voice.mp3", "--plot", "x.png"], "--plot", "found 2")
