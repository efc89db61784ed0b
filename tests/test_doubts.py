"""Recordings that a detector cannot judge, and what it says of them."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT, TINY, speech_like
from scipy import signal

import checkpoint
import checkpoints
import easy_inference_demo
from common.sound import Meter
from inference import doubts
from inference.judging import Judge
from inference.verdicts import Calibration, Judged
from model import build_detector
from tools import non_speech

CPU = torch.device("cpu")
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
    assert "audio not found" in capsys.readouterr().err
    assert "seen" not in checkpoints.read_checkpoint(tmp_path / "out.pth")


# ------------------------------------------------------------------------------------------------ is there any speech?


def voice(seconds):
    """Speech-like enough for silero-vad, which few of conftest's voices are."""
    return np.resize(speech_like(np.random.default_rng(6), 3, pitch=150), round(seconds * RATE))


def wav(path, x):
    soundfile.write(path, x, RATE)
    return str(path)


def judge_one(judge, path):
    (judged,) = judge.judge({path: path})
    return judged


@pytest.mark.slow
@pytest.mark.hears
@pytest.mark.parametrize("seconds", [1.5, 4])
def test_what_is_no_speech_gets_no_confident_verdict(tmp_path, untrained, seconds):
    judge = Judge(untrained, CPU)
    judge.calibration = Calibration(1.0, 0.0, 99, 99)
    files = {name: wav(tmp_path / f"{name}.wav", x) for name, x in non_speech.sounds(seconds).items()}
    assert len(files) == 29
    with_verdict = []
    for judged in judge.judge(files):
        assert judge.doubts(judged), judged.file
        if judge.verdict(judged) is None:
            assert judge.probability(judged) is judge.finding(judged) is judge.headline(judged) is None
            assert judge.in_words(judged) == "cannot tell" and judge.reason(judged) and judge.stretches(judged) == []
        else:
            with_verdict.append(judged.file)
    assert len(with_verdict) <= 1, with_verdict


@pytest.mark.hears
def test_two_tones_with_noise_were_bona_fide_once(tmp_path, untrained, output):
    path = wav(tmp_path / "x.wav", non_speech.sounds()["two tones with noise"])
    flags = ["--model_path", str(untrained), "--threshold", "-99", "--file_to_test", path]
    text = output(easy_inference_demo.main, [*flags, "--timeline", "--json", str(tmp_path / "out.json")])
    assert text.count("no speech was detected in it") == 1 and text.startswith(f"cannot tell: {path}")
    (entry,) = json.loads((tmp_path / "out.json").read_text())["files"]
    assert entry["verdict"] is None and entry["score"] > -99
    assert entry["doubts"] == [{"name": "no_speech", "text": "no speech was detected in it"}]


@pytest.mark.hears
@pytest.mark.parametrize("seconds", [0.6, 4, 35])
def test_speech_gets_its_verdict_in_whatever_blocks_it_comes(tmp_path, untrained, seconds):
    judge, x = Judge(untrained, CPU), voice(seconds).astype(np.float32)
    judged = judge_one(judge, wav(tmp_path / "x.wav", x))
    assert judge.verdict(judged) and not judge.refusal(judged)
    assert judged.sound.speech > 0.6 * seconds
    listener = doubts.Listener()
    for start in range(0, len(x), 7777):
        listener.hear(x[start : start + 7777])
    assert listener.sound(seconds).speech == pytest.approx(judged.sound.speech, abs=0.1)


@pytest.mark.slow
@pytest.mark.hears
@pytest.mark.parametrize("order, refused", [(("music", "voice"), True), (("voice", "music"), False)])
def test_a_verdict_on_the_first_four_seconds_asks_for_speech_in_those(tmp_path, untrained, order, refused):
    parts = {"music": non_speech.sounds()["chords"], "voice": voice(4)}
    path = wav(tmp_path / "x.wav", np.concatenate([parts[name] for name in order]))
    judge = Judge(untrained, CPU, test_mode="4s")
    assert bool(judge.refusal(judge_one(judge, path))) == refused
    judge = Judge(untrained, CPU)
    assert not judge.refusal(judge_one(judge, path))


@pytest.mark.slow
@pytest.mark.hears
def test_a_detector_of_units_asks_for_speech_too(tmp_path):
    config = dataclasses.replace(TINY, unit=0.16)
    valid = {"eer": 0.1, "threshold": 0.0, "unit_eer": 0.1, "unit_threshold": 0.0}
    checkpoints.save_checkpoint(tmp_path / "x.pth", config, build_detector(config).state_dict(), valid=valid)
    judge = Judge(tmp_path / "x.pth", CPU)
    assert judge.verdict(judge_one(judge, wav(tmp_path / "voice.wav", voice(3))))
    judged = judge_one(judge, wav(tmp_path / "chords.wav", non_speech.sounds()["chords"]))
    assert judge.refusal(judged) == "no speech was detected in it" and judged.score is not None


def test_of_a_long_recording_one_piece_in_eight_is_heard(monkeypatch):
    """Of 56 pieces the first 40 are, and two more. Speech: pieces 0 to 19 and the one that begins with 40."""
    heard = []

    def model(frames, state):
        heard.append(len(frames))
        return frames[:, -1], state

    monkeypatch.setattr(doubts, "speech_model", lambda: model)
    listener = doubts.Listener()
    for piece in range(56):
        listener.hear(np.full(512 * 512, float(piece < 20 or piece == 40), np.float32))
    assert heard == [16, *[512] * 42]
    assert listener.sound(56.0).speech == pytest.approx(56 * 21 / 42)


@pytest.mark.hears
def test_without_silero_vad_there_is_no_check_and_a_note(tmp_path, untrained, monkeypatch):
    path = wav(tmp_path / "x.wav", non_speech.sounds()["chords"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    doubts.speech_model.cache_clear()
    try:
        judge = Judge(untrained, CPU)
        judged = judge_one(judge, path)
    finally:
        doubts.speech_model.cache_clear()
    assert judged.sound.speech is None and judge.verdict(judged)
    (note,) = judge.notes(judged)
    assert "pip install silero-vad" in note


@pytest.mark.slow
@pytest.mark.hears
def test_the_speech_check_leaves_torch_its_threads():
    code = "import torch; torch.set_num_threads(3); from inference.doubts import speech_model; assert speech_model(); "
    code += "import sys; print(torch.get_num_threads(), 'silero_vad' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "3 False\n" and not found.stderr


# ------------------------------------------------------------------------------------------------ unlike the dev set?

SEEN = {"seconds_low": 0.8, "level_low": -30.0, "level_high": -20.0, "band_low": 3400.0, "band_high": 4600.0}


@pytest.mark.parametrize(
    "seconds, score, sound, expected",
    [
        (3, 0.0, (2.0, -25, 3900), []),
        (3, 0.0, (None, None, None), []),
        (0.19, 0.0, (0.1, -25, 3900), ["short"]),
        (0.7, 0.0, (0.7, -25, 3900), ["short"]),
        (3, 0.0, (0.2, -25, 3900), ["no_speech"]),
        (3, 0.0, (0.27, -25, 3900), ["little_speech"]),
        (3, 0.0, (0.7, -25, 3900), ["little_speech"]),
        (3, 5.1, (2.0, -25, 3900), ["score_beyond_dev"]),
        (3, -4.1, (2.0, -25, 3900), ["score_beyond_dev"]),
        (3, 0.0, (2.0, -41, 3900), ["level"]),
        (3, 0.0, (2.0, -9, 3900), ["level"]),
        (3, 0.0, (2.0, -25, 2500), ["narrow_band"]),
        (3, 0.0, (2.0, -25, 7900), ["wide_band"]),
    ],
)
def test_what_is_unlike_the_dev_set_is_named(seconds, score, sound, expected):
    found = doubts.doubts_of(seconds, score, doubts.Sound(*sound), SEEN, (-4.0, 5.0))
    assert [doubt.name for doubt in found] == expected
    refused = seconds < 0.5 or (sound[0] or 9) < max(0.25, 0.1 * seconds)
    assert any(doubt.refuses for doubt in found) == refused


def test_a_checkpoint_that_keeps_nothing_doubts_nothing_but_short_recordings():
    sound = doubts.Sound(3, -90, 900)
    assert doubts.doubts_of(3, 1e9, sound, {}, None) == []
    assert [doubt.name for doubt in doubts.doubts_of(0.9, 0, sound, {}, None)] == ["short"]


def test_a_fifth_of_a_second_gets_no_verdict(tmp_path, untrained):
    judge = Judge(untrained, CPU)
    judge.calibration = Calibration(1.0, 0.0, 99, 99)
    judged = judge_one(judge, wav(tmp_path / "x.wav", voice(0.19)))
    assert judge.reason(judged) == "it is only 0.19 s long" and judge.probability(judged) is None


def test_no_probability_is_beyond_those_of_the_dev_set(untrained):
    judge = Judge(untrained, CPU)
    judge.calibration, judge.dev_scores = Calibration(1.0, 0.0, 999, 999), (-3.0, 2.0)

    def probability(score):
        return judge.probability(Judged("x", "x", 3.0, score, silent=False))

    assert probability(1.0) == pytest.approx(1 / (1 + np.exp(-1)))
    assert probability(50.0) == probability(2.0) == pytest.approx(1 / (1 + np.exp(-2)))
    assert probability(-50.0) == probability(-3.0) == pytest.approx(1 / (1 + np.exp(3)))
    judged = Judged("x", "x", 3.0, 50.0, silent=False)
    assert judge.verdict(judged) == "bona fide" and judge.notes(judged) == [
        "its score is above 2, the highest of the dev set"
    ]


@pytest.mark.hears
def test_what_hears_speech_tells_nobody_and_leaves_nothing(tmp_path):
    program = "import numpy; from inference.doubts import speech_model; assert speech_model()"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert not list(tmp_path.iterdir())  # onnxruntime's telemetry keeps a file there
