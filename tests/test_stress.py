"""easy_inference_demo.py --stress: one recording judged under conditions."""

import json
import re

import numpy as np
import pytest
import soundfile
from test_demo import ByEar, by_ear, one, tone, wav  # noqa: F401

import easy_inference_demo
from augmentation.conditions import WITHOUT_FOLDER, apply_condition
from inference import stress
from inference.stress import about_stress, judge_under_conditions, stress_to_dict

main = easy_inference_demo.main
FEW = ["clean", "mulaw", "lowpass_3400", "white_20", "faster_10"]


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(stress, "WITHOUT_FOLDER", FEW)


def mixed(seconds):
    """Two tones, the weaker below 4 kHz: spoofed for ByEar, but not once the other is gone."""
    return 0.6 * tone(seconds, 1000) + 0.8 * tone(seconds, 6000)


def test_each_score_is_that_of_what_the_condition_makes(by_ear, few, tmp_path):  # noqa: F811
    path = wav(tmp_path / "x.wav", mixed(2), subtype="FLOAT")
    judged = one(by_ear, path)
    under = judge_under_conditions(by_ear, judged)
    assert list(under) == FEW[1:]
    x, _ = soundfile.read(path, dtype="float32")
    for name, changed in under.items():
        power = np.abs(np.fft.rfft(apply_condition(name, x, "x.wav").astype(np.float64))) ** 2
        expected = power[: len(power) // 2].sum() / power.sum() - 0.5
        assert changed.score == pytest.approx(expected, abs=1e-4), name
    assert judged.score < 0 and under["white_20"].score < 0 and under["faster_10"].score < 0
    assert under["mulaw"].score > 0.4 and under["lowpass_3400"].score > 0.4
    lines = about_stress(by_ear, judged, under)
    assert lines[0].startswith('the verdict "likely synthetic" stays under 2 of 4 conditions')
    assert lines[1] == "likely genuine under mulaw, lowpass_3400"
    assert re.fullmatch(r"score -0\.14 without .*, -0\.1\d+ \(\w+\) to 0\.5 \((mulaw|lowpass_3400)\)", lines[2])
    content = stress_to_dict(by_ear, judged, under)
    assert content["n_conditions"] == 4 and content["n_changed"] == 2
    assert content["score_low"] == min(one.score for one in under.values())
    assert [row["condition"] for row in content["conditions"] if row["changes_finding"]] == ["mulaw", "lowpass_3400"]


def test_long_recordings_are_judged_in_windows(by_ear, few, tmp_path):  # noqa: F811
    under = judge_under_conditions(by_ear, one(by_ear, wav(tmp_path / "x.flac", mixed(31))))
    assert all(changed.is_mean and changed.windows for name, changed in under.items() if name != "faster_10")
    assert not under["faster_10"].windows  # 28 s


def test_what_a_condition_leaves_without_speech_has_no_verdict(by_ear, few, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("inference.doubts.speech_model", lambda: lambda frames, state: (frames.std(1) > 0.35, state))
    path = wav(tmp_path / "x.wav", mixed(2))
    judged = one(by_ear, path)
    under = judge_under_conditions(by_ear, judged)
    assert "cannot tell under mulaw, lowpass_3400" in about_stress(by_ear, judged, under)
    rows = {row["condition"]: row for row in stress_to_dict(by_ear, judged, under)["conditions"]}
    assert rows["mulaw"]["refusal"] and rows["mulaw"]["finding"] is None and rows["mulaw"]["changes_finding"]


def test_an_error_under_a_condition_is_told(by_ear, few, tmp_path, monkeypatch):  # noqa: F811
    path = wav(tmp_path / "x.wav", mixed(2))
    judged = one(by_ear, path)
    monkeypatch.setattr(by_ear.detector, "score", lambda x, normalized: ByEar.score(None, x, normalized) / 0)
    under = judge_under_conditions(by_ear, judged)
    lines = about_stress(by_ear, judged, under)
    assert len(lines) == 5 and lines[1].startswith("not judged under mulaw: ") and "x.wav (mulaw)" in lines[1]
    assert stress_to_dict(by_ear, judged, under)["n_conditions"] == 0


def test_the_command_says_it_and_is_silent_without_the_flag(untrained, few, tmp_path, output):
    flags = ["--model_path", str(untrained), wav(tmp_path / "x.wav", mixed(1)), "--json", str(tmp_path / "out.json")]
    text = output(main, [*flags, "--stress"])
    assert re.search(r'^stress: the verdict ".*" stays under \d of 4 conditions', text, re.MULTILINE)
    assert re.search(r"^time under stress: [\d.]+ s, 4 conditions$", text, re.MULTILINE)
    (row,) = json.loads((tmp_path / "out.json").read_text())["files"]
    assert row["stress"]["n_conditions"] == 4
    assert "stress" not in output(main, flags)
    (row,) = json.loads((tmp_path / "out.json").read_text())["files"]
    assert "stress" not in row


def test_mistakes(untrained, tmp_path, fails):
    flags = ["--model_path", str(untrained), "--stress"]
    names = [wav(tmp_path / f"{i}.wav", mixed(1)) for i in range(2)]
    fails(main, [*flags, *names], "--stress: expected one file, found 2")
    fails(main, [*flags, "--web"], "--stress: expected FILE, found --web")


def test_without_librosa_the_pitch_stays(by_ear, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(stress.importlib.util, "find_spec", lambda name: None)
    under = judge_under_conditions(by_ear, one(by_ear, wav(tmp_path / "x.wav", mixed(0.6))))
    assert list(under) == [name for name in WITHOUT_FOLDER if name not in ("clean", "pitch_up_4", "pitch_down_4")]
