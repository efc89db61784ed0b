"""Conditions of robustness tests: what each does to a waveform, and eval.py --condition."""

import os
import re
import signal

import numpy as np
import pytest
import soundfile
from conftest import speech_like

import corpora
import eval as scoring
from augmentation.conditions import CONDITIONS, WITHOUT_FOLDER, apply_condition
from inference.partial_scores import PartialScores

LENGTHS = [4000, 4100, 9000, 400, 12345, 16000]
RANDOM = ("white_20", "white_10", "white_0", "packet_loss_5", "packet_loss_20", "voip")


@pytest.fixture(scope="module")
def speech():
    return speech_like(np.random.default_rng(0)).astype(np.float32)


def sine(hertz, seconds=1.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(16000 * seconds)) / 16000).astype(np.float32)


def loudest(x):
    """Hz of the strongest component."""
    return np.argmax(np.abs(np.fft.rfft(x * np.hanning(len(x))))) * 16000 / len(x)


def decibels(x, y):
    return 10 * np.log10(np.mean(x.astype(np.float64) ** 2) / np.mean(y.astype(np.float64) ** 2))


# -------------------------------------------------------------------------------------------------------- waveforms


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT_FOLDER)
def test_a_condition_depends_on_its_name_and_the_utterance_alone(name, speech):
    y = apply_condition(name, speech, "a")
    assert y.dtype == np.float32 and np.isfinite(y).all()
    assert np.array_equal(y, apply_condition(name, speech.copy(), "a"))
    assert np.array_equal(y, apply_condition(name, speech, "b")) == (name not in RANDOM)
    assert (y is speech) == (name == "clean")
    assert np.array_equal(y, speech) == (name == "clean")
    factor = {"slower_10": 0.9, "faster_10": 1.1}.get(name, 1)
    assert abs(len(y) - len(speech) / factor) <= 1
    for n in (1, 50, 700):
        short = apply_condition(name, speech[-n:], "a")
        assert np.isfinite(short).all() and abs(len(short) - n / factor) <= 1
    assert np.isfinite(apply_condition(name, np.zeros(500, np.float32), "a")).all()


@pytest.mark.parametrize("snr", [20, 10, 0])
def test_noise_is_as_loud_as_asked(snr, speech, tmp_path):
    noises = []
    for i, hertz in enumerate((300, 1100)):
        noises.append(str(tmp_path / f"{i}.wav"))
        soundfile.write(noises[-1], sine(hertz, 5), 16000)
    assert decibels(speech, apply_condition(f"white_{snr}", speech, "a") - speech) == pytest.approx(snr, abs=0.1)
    heard = set()
    for utt_id in "abcdefgh":
        added = apply_condition(f"noise_{snr}", speech, utt_id, noises) - speech
        assert decibels(speech, added) == pytest.approx(snr, abs=0.1)
        heard.add(round(loudest(added), -1))
    assert heard == {300, 1100}


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_bits(bits):
    x = np.linspace(-1, 1, 10_000, dtype=np.float32)
    y = apply_condition(f"bits_{bits}", x, "a")
    assert len(np.unique(y)) == 2**bits and y.min() == -1
    assert np.abs(y - x)[x < 1 - 2.0 ** (1 - bits)].max() <= 2.0**-bits + 1e-7


def test_pitch_and_speed():
    x = sine(440)
    for name, hertz, seconds in [
        ("pitch_up_4", 440 * 2 ** (4 / 12), 1),
        ("pitch_down_4", 440 * 2 ** (-4 / 12), 1),
        ("faster_10", 440 * 1.1, 1 / 1.1),
        ("slower_10", 440 * 0.9, 1 / 0.9),
    ]:
        y = apply_condition(name, x, "a")
        assert loudest(y) == pytest.approx(hertz, abs=2), name
        assert len(y) == pytest.approx(16000 * seconds, abs=1)


@pytest.mark.parametrize(
    "name, passed, stopped",
    [
        ("lowpass_4000", [100, 3000], [6000]),
        ("lowpass_3400", [100, 2500], [5000]),
        ("highpass_300", [600, 7000], [100]),
        ("bandpass_300_3400", [600, 2500], [100, 5000]),
        ("mulaw", [600, 2500], [5000]),
        ("gsm", [600, 2500], [5000]),
    ],
)
def test_bands(name, passed, stopped):
    for hertz in passed:
        assert abs(decibels(apply_condition(name, sine(hertz), "a"), sine(hertz))) < 1
    for hertz in stopped:
        assert decibels(apply_condition(name, sine(hertz), "a"), sine(hertz)) < -25


def test_packets_and_peaks():
    x = np.ones(16000 * 60, np.float32)
    for name, share in (("packet_loss_5", 0.05), ("packet_loss_20", 0.2)):
        packets = apply_condition(name, x, "a").reshape(-1, 320)
        lost = np.all(packets == 0, axis=1)
        assert np.all(packets[~lost] == 1) and np.mean(lost) == pytest.approx(share, abs=0.015)
    packets = apply_condition("voip", sine(1000, 60), "a").reshape(-1, 320)
    lost = np.all(packets == 0, axis=1)
    assert np.mean(lost) == pytest.approx(0.05, abs=0.015)
    assert np.all(np.abs(packets[~lost]).max(axis=1) > 0.4)
    assert np.abs(apply_condition("clip_20", sine(1000), "a")).max() == pytest.approx(0.1, abs=1e-6)


# ---------------------------------------------------------------------------------------------------------- eval.py


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A list with its audio, and a folder of noise."""
    folder, rng = tmp_path_factory.mktemp("recorded"), np.random.default_rng(0)
    for i, n in enumerate(LENGTHS):
        soundfile.write(folder / f"t{i}.wav", 0.3 * rng.standard_normal(n), 16000)
    (folder / "noise").mkdir()
    soundfile.write(folder / "noise" / "hum.wav", sine(100, 3), 16000)
    lines = [f"t{i}.wav,{'spoof' if i % 2 else 'bonafide'}" for i in range(len(LENGTHS))]
    (folder / "list.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    return folder


def command(folder, detector, out, *flags):
    flags = ["--protocol", folder / "list.csv", "--model_path", detector, "--eval_output", out, *flags]
    return [*map(str, flags), "--batch_samples", "9000", *([] if "--num_workers" in flags else ["--num_workers", "0"])]


def read(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def expected(recorded, untrained, tmp_path_factory):
    """The score files of calls with one condition each."""
    out = tmp_path_factory.mktemp("expected")
    for name in ("mulaw", "white_10", "faster_10"):
        assert not scoring.main(command(recorded, untrained, out / "s.txt", "--condition", name))
    assert not scoring.main(command(recorded, untrained, out / "s.txt"))
    return read(out)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_each_condition_has_its_score_file(recorded, untrained, expected, tmp_path, capsys, workers):
    names = ["mulaw", "clean", "white_10", "faster_10"]
    out = tmp_path / "s.txt"
    flags = ["--condition", *names, "--num_workers", workers]
    assert not scoring.main(command(recorded, untrained, out, *flags))
    assert sorted(expected) == ["s.txt", "s@faster_10.txt", "s@mulaw.txt", "s@white_10.txt"]
    assert read(tmp_path) == expected and len(set(expected.values())) == 4
    text = capsys.readouterr().out
    assert re.findall(r"(\w+): scores: ", text) == names
    report = f"report: python EER_minDCF.py --labels_file {recorded / 'list.csv'} --conditions {out}\n"
    assert text.endswith(report)


def test_scores_are_those_of_files_that_hold_what_a_condition_makes(recorded, untrained, expected, tmp_path):
    (tmp_path / "list.csv").write_text((recorded / "list.csv").read_text())
    for name in ("mulaw", "white_10", "faster_10"):
        for i in range(len(LENGTHS)):
            x, _ = soundfile.read(recorded / f"t{i}.wav", dtype="float32")
            y = apply_condition(name, x, f"t{i}")
            soundfile.write(tmp_path / f"t{i}.wav", y, 16000, subtype="FLOAT")
        assert not scoring.main(command(tmp_path, untrained, tmp_path / "s.txt"))
        (tmp_path / "there.txt").write_bytes(expected[f"s@{name}.txt"])
        scores, there = corpora.read_scores(tmp_path / "s.txt"), corpora.read_scores(tmp_path / "there.txt")
        assert scores == pytest.approx(there, abs=1e-5) and len(scores) == len(LENGTHS)


@pytest.mark.slow
def test_recorded_noise_and_all(recorded, untrained, tmp_path):
    flags = ["--condition", "noise_10", "--noise_dir", recorded / "noise"]
    assert not scoring.main(command(recorded, untrained, tmp_path / "s.txt", *flags))
    assert not scoring.main(command(recorded, untrained, tmp_path / "all" / "s.txt", "--condition", "all"))
    assert sorted(read(tmp_path / "all")) == sorted(
        "s.txt" if name == "clean" else f"s@{name}.txt" for name in CONDITIONS if not name.startswith("noise_")
    )
    assert (tmp_path / "s@noise_10.txt").read_bytes() != (tmp_path / "all" / "s.txt").read_bytes()


@pytest.mark.parametrize("nth", [1, 3, 9])
def test_killed_it_goes_on_in_the_condition_where_it_was(
    recorded, untrained, expected, tmp_path, processes, monkeypatch, capsys, nth
):
    names = ["clean", "mulaw", "white_10", "faster_10"]
    flags = command(recorded, untrained, tmp_path / "s.txt", "--condition", *names)
    statuses, log = processes({"command": "eval", "flags": flags, "at": ["scored", nth, signal.SIGKILL]})
    assert statuses == [-signal.SIGKILL], log
    added, add = [], PartialScores.add
    monkeypatch.setattr(PartialScores, "add", lambda self, *rest: added.append(self.out.name) or add(self, *rest))
    assert not scoring.main(flags)
    n_batches = [int(n) for n in re.findall(r"(\d+) batches,", capsys.readouterr().out)]
    assert len(n_batches) == 4 and len(added) == sum(n_batches) - (nth - 1)
    assert read(tmp_path) == expected


def test_partial_scores_of_another_condition_or_other_noise_are_not_taken(
    recorded, untrained, expected, tmp_path, processes, capsys
):
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "hiss.wav", sine(100, 2), 16000)

    def killed(name, *flags):
        flags = command(recorded, untrained, tmp_path / "s.txt", "--condition", name, *flags)
        statuses, log = processes({"command": "eval", "flags": flags, "at": ["scored", 3, signal.SIGKILL]})
        assert statuses == [-signal.SIGKILL], log
        assert (tmp_path / f"s@{name}.txt.partial-0").stat().st_size
        capsys.readouterr()

    killed("mulaw")
    assert not scoring.main(command(recorded, untrained, tmp_path / "s@mulaw.txt"))
    assert "is of another --condition" in capsys.readouterr().out
    assert (tmp_path / "s@mulaw.txt").read_bytes() == expected["s.txt"]
    killed("noise_0", "--noise_dir", recorded / "noise")
    flags = ["--condition", "noise_0", "--noise_dir", tmp_path / "noise"]
    assert not scoring.main(command(recorded, untrained, tmp_path / "s.txt", *flags))
    assert "is of another --noise_dir" in capsys.readouterr().out


def test_sets_in_conditions(recorded, untrained, expected, tmp_path, capsys):
    table = tmp_path / "sets.csv"
    table.write_text(f"name,key\nA,{recorded / 'list.csv'}\n")
    flags = ["--sets", table, "--model_path", untrained, "--output_path", tmp_path / "out", "--batch_samples", 9000]
    assert not scoring.main([*map(str, flags), "--condition", "mulaw", "clean"])
    assert read(tmp_path / "out") == {"A.txt": expected["s.txt"], "A@mulaw.txt": expected["s@mulaw.txt"]}
    assert "A, mulaw: scores: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, words",
    [
        (["mp3_61"], ["--condition: ", "--condition list, found mp3_61; ", "did you mean mp3_64?"]),
        (["gsm", "mulaw", "gsm"], ["--condition: expected each name once, found gsm twice"]),
        (["noise_0"], ["--condition noise_0: expected --noise_dir"]),
        (["mulaw", "--noise_dir", "NOISE"], ["--noise_dir: expected a --condition that needs it, found mulaw"]),
        (["noise_0", "--noise_dir", "EMPTY"], ["--noise_dir ", "expected recordings", "found none"]),
        (["mulaw", "--frames", "x"], ["--frames: expected one set, found --condition"]),
        (["list", "mulaw"], ["found list"]),
    ],
)
def test_mistakes(recorded, untrained, tmp_path, fails, flags, words):
    (tmp_path / "empty").mkdir()
    flags = [{"NOISE": recorded / "noise", "EMPTY": tmp_path / "empty"}.get(flag, flag) for flag in flags]
    fails(scoring.main, command(recorded, untrained, tmp_path / "s.txt", "--condition", *flags), *words)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_condition_needs_a_file_and_clean_does_not(recorded, untrained, tmp_path, fails):
    flags = command(recorded, untrained, os.devnull, "--condition", "mulaw")
    fails(scoring.main, flags, "--condition mulaw", "--eval_output", "/dev/null")
    flags = command(recorded, untrained, tmp_path / "s.txt")
    fails(scoring.main, [*flags, "--noise_dir", "x"], "--noise_dir", "--condition noise_...")


def test_the_list_names_all(capsys):
    with pytest.raises(SystemExit) as ended:
        scoring.parse_args(["--condition", "list"])
    assert not ended.value.code
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(CONDITIONS)
    assert all(len(line.split()) > 3 for line in lines)
