"""Recordings that a detector cannot judge, and what it says of them."""

import numpy as np
import pytest
import soundfile
from conftest import speech_like
from scipy import signal

import checkpoint
import checkpoints
from common.sound import Meter

RATE = 16000


def figures(x, block=None):
    meter = Meter()
    for start in range(0, len(x), block or len(x)):
        meter.add(x[start : start + (block or len(x))].astype(np.float32))
    return meter.figures()


# ------------------------------------------------------------------------------------------------ level and bandwidth


@pytest.mark.parametrize("rms", [0.5, 0.01])
def test_the_level_is_that_of_speech_without_its_pauses(rms):
    noise = np.random.default_rng(0).normal(0, rms, 4 * RATE)
    level, _ = figures(noise)
    assert level == pytest.approx(20 * np.log10(rms), abs=0.1)
    paused = np.concatenate([noise, 0.001 * noise[: 3 * RATE]])
    assert figures(paused)[0] == pytest.approx(level, abs=0.1)


@pytest.mark.parametrize("cut", [1000, 3400, 4000, 6500])
def test_the_bandwidth_is_where_a_low_pass_filter_cuts(cut):
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * RATE)
    filtered = signal.sosfiltfilt(signal.cheby2(12, 40, cut, fs=RATE, output="sos"), noise)  # 80 dB down at `cut`
    assert 0.75 * cut < figures(filtered)[1] <= cut + 64
    assert figures(noise)[1] == pytest.approx(8000, abs=32)
    assert figures(filtered + 0.3)[1] == pytest.approx(figures(filtered)[1], abs=100)  # a DC offset is no sound


def test_blocks_change_nothing_and_silence_has_no_figures():
    x = speech_like(np.random.default_rng(0), 3)
    assert figures(x, 777) == pytest.approx(figures(x), rel=1e-9)
    assert figures(np.zeros(RATE)) is None and figures(x[:100]) is None


# --------------------------------------------------------------------------------------------- what a checkpoint keeps


def test_what_is_measured_are_percentiles_of_what_can_be_read(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for i in range(100):
        paths.append(tmp_path / f"{i}.wav")
        x = 10 ** (-(20 + i / 10) / 20) * signal.square(np.pi * np.arange((1 + i / 100) * RATE) + 0.1)
        soundfile.write(paths[-1], x + 1e-4 * rng.standard_normal(len(x)), RATE)
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    seen = checkpoints.measure([*paths, tmp_path / "text.wav", tmp_path / "silent.wav"], num_workers=2)
    assert seen["n"] == 100
    assert (seen["seconds_low"], seen["seconds_high"]) == pytest.approx((1.01, 1.98), abs=0.02)
    assert (seen["level_low"], seen["level_high"]) == pytest.approx((-29.8, -20.1), abs=0.15)
    assert seen == checkpoints.measure([*paths, tmp_path / "text.wav", tmp_path / "silent.wav"])
    assert checkpoints.measure([tmp_path / "silent.wav"]) == {}


def test_training_keeps_what_its_dev_set_looks_like(finished_run, corpus):
    """Telephone prompts of 8 kHz: nothing above 4 kHz."""
    files = sorted((corpus / "ASVspoof2019_LA_dev" / "flac").iterdir())
    lengths = [soundfile.info(path).duration for path in files]
    for name in ("best_model.pt", "epoch_3.pth", "average_best_2.pth"):
        content = checkpoints.read_checkpoint(finished_run / "checkpoints" / name)
        seen, valid = content["seen"], content["valid"]
        assert seen["n"] == len(files) == 20
        assert (seen["seconds_low"], seen["seconds_high"]) == pytest.approx(np.percentile(lengths, [1, 99]), abs=1e-3)
        assert 3000 < seen["band_low"] < 4300 and -60 < seen["level_low"] < seen["level_high"] < 0
        assert valid["score_low"] <= valid["threshold"] <= valid["score_high"]


def test_calibrating_keeps_what_the_recordings_of_its_key_look_like(tmp_path, untrained, corpus, output, capsys):
    key = corpus / "ASVspoof2019_LA_cm_protocols" / "ASVspoof2019.LA.cm.dev.trl.txt"
    names = [line.split()[1] for line in key.read_text().splitlines()]
    scores = np.random.default_rng(0).normal(size=len(names))
    (tmp_path / "scores.txt").write_text("".join(f"{name} {score}\n" for name, score in zip(names, scores)))
    command = ["calibrate", str(untrained), str(tmp_path / "out.pth"), str(tmp_path / "scores.txt")]
    output(checkpoint.main, [*command, str(key)])
    content = checkpoints.read_checkpoint(tmp_path / "out.pth")
    folder = corpus / "ASVspoof2019_LA_dev" / "flac"
    assert content["seen"] == checkpoints.measure([folder / f"{name}.flac" for name in names])
    assert content["valid"]["score_high"] == pytest.approx(scores.max())
    assert f"seconds_low {content['seen']['seconds_low']:.6g}" in output(
        checkpoint.main, ["show", str(tmp_path / "out.pth")]
    )
    (tmp_path / "key.txt").write_text(key.read_text())
    capsys.readouterr()
    output(checkpoint.main, [*command, str(tmp_path / "key.txt")])
    assert "its audio not found" in capsys.readouterr().err
    assert "seen" not in checkpoints.read_checkpoint(tmp_path / "out.pth")
