"""Noise and rooms from recordings: ratios, draws, folders, and a training with them."""

import json
from collections import Counter

import numpy as np
import pytest
import soundfile
from conftest import encode, waveforms_of_batches
from scipy import signal

import train
from augmentation import noise
from augmentation.musan_rir import MusanRir
from augmentation.noise import (
    MUSAN,
    MUSAN_FLOOR,
    add_noise,
    apply_musan,
    first_part,
    level,
    musan_files,
    random_part,
    recordings,
)
from augmentation.rooms import apply_room, reverberate
from common.console import UserError
from corpora import Trial
from data_utils import TrialDataset


def write(path, x, rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, x, rate, subtype="FLOAT")
    return path


def test_the_ratio_of_signal_to_noise_is_as_asked_for():
    rng = np.random.default_rng(0)
    x, other = 0.3 * rng.standard_normal(16000), 2 * rng.standard_normal(16000)
    for snr in (-5, 0, 7.5, 20):
        added = add_noise(x, other, snr) - x
        assert 10 * np.log10(np.mean(x**2) / np.mean(added**2)) == pytest.approx(snr, abs=0.1)


def test_quiet_waveforms_get_noise_by_the_published_levels():
    rng = np.random.default_rng(0)
    x, other = 0.004 * rng.standard_normal(500), 0.02 * rng.standard_normal(500)
    decibels = [10 * np.log10(sum(v * v for v in y) / 500 + 0.0001) for y in (x, other)]
    expected = x + 10 ** ((decibels[0] - decibels[1] - 12.5) / 20) * other
    np.testing.assert_allclose(add_noise(x, other, 12.5, MUSAN_FLOOR), expected, rtol=1e-12)


def test_musan_adds_noise_to_quiet_waveforms_by_the_published_levels(tmp_path):
    x = 0.004 * np.random.default_rng(0).standard_normal(500)
    write(tmp_path / "noise" / "hum.wav", np.full(500, 0.01))
    for seed in range(5):
        ratio = np.mean(apply_musan(x, musan_files(str(tmp_path)), np.random.default_rng(seed)) - x) / 0.01
        snr = np.random.default_rng(seed)
        snr.integers(1), snr.integers(1, 1, endpoint=True), snr.choice(1, 1, replace=False)  # category, number, which
        decibels = [10 * np.log10(power + 0.0001) for power in (np.mean(x**2), 0.0001)]
        assert 20 * np.log10(ratio) == pytest.approx(decibels[0] - decibels[1] - snr.uniform(0, 15), abs=1e-4)


def test_a_room_is_a_convolution_of_unit_energy_cut_to_the_length(tmp_path):
    rng = np.random.default_rng(0)
    x, response = rng.standard_normal(3000), rng.standard_normal(500)
    expected = np.convolve(x, response / np.linalg.norm(response))[:3000]
    np.testing.assert_allclose(reverberate(x, 3 * response), expected, atol=1e-12)
    impulse = np.zeros(100)
    impulse[0] = 0.25
    np.testing.assert_allclose(reverberate(x, impulse), x, atol=1e-12)
    write(tmp_path / "a" / "impulse.wav", impulse)
    np.testing.assert_allclose(apply_room(x, recordings(str(tmp_path)), rng), x, atol=1e-12)


def test_a_part_of_a_recording_is_random_and_a_short_one_is_repeated(tmp_path):
    ramp = np.linspace(0, 0.9, 5000, dtype=np.float32)
    path = write(tmp_path / "ramp.wav", ramp)
    starts = set()
    for seed in range(50):
        part = random_part(path, 1000, np.random.default_rng(seed))
        start = int(np.argmin(np.abs(ramp - part[0])))
        np.testing.assert_array_equal(part, ramp[start : start + 1000])
        starts.add(start)
    assert len(starts) > 40 and min(starts) < 500 and max(starts) > 3500
    np.testing.assert_array_equal(random_part(path, 12000, np.random.default_rng(0)), np.resize(ramp, 12000))
    path = write(tmp_path / "fast.wav", np.ones((96000, 2)), 48000)
    assert random_part(path, 1000, np.random.default_rng(0)).shape == (1000,)


@pytest.mark.parametrize("name", MUSAN)
def test_the_categories_of_musan_have_their_own_ratios_and_numbers_of_files(tmp_path, name):
    category = MUSAN[name]
    for number in range(10):  # at frequencies of their own: a spectrum says how many were added
        tone = 0.1 * np.sin(2 * np.pi * 500 * (number + 1) * np.arange(32000) / 16000)
        write(tmp_path / name / "part" / f"{number}.wav", tone)
    files = musan_files(str(tmp_path))
    x = 0.2 * np.random.default_rng(1).standard_normal(16000)
    ratios, counts = [], set()
    for seed in range(60):
        added = apply_musan(x, files, np.random.default_rng(seed)) - x
        ratios.append(level(x, MUSAN_FLOOR) - 10 * np.log10(np.mean(added**2)))
        lines = np.abs(np.fft.rfft(added))
        counts.add(int(np.sum(lines > 0.3 * lines.max())))
    low, high = category.snr
    # The level of several tones' mean is small beside the 1e-4 that every level is raised by.
    slack = 2 if name == "speech" else 0.2
    assert low - 0.1 < min(ratios) < low + 2 and high - 2 < max(ratios) < high + slack
    assert counts == set(range(category.n_files[0], category.n_files[1] + 1))


def test_a_part_of_any_recording_is_read_without_the_rest(tmp_path, monkeypatch):
    """A tone that rises from 1 to 3 kHz in 20 s: its frequency says where the part is from."""
    time = np.arange(20 * 44100) / 44100
    tone = 0.5 * np.sin(2 * np.pi * (1000 * time + 50 * time**2))
    write(tmp_path / "tone.wav", tone, 44100)
    encode(tmp_path / "tone.m4a", signal.resample_poly(tone, 160, 441), "aac", "ipod")
    read = []
    monkeypatch.setattr(noise, "first_part", lambda path, seconds: read.append(path) or first_part(path, 5))
    for name in ("tone.wav", "tone.m4a"):
        frequencies = []
        for seed in range(20):
            part = random_part(tmp_path / name, 8000, np.random.default_rng(seed))
            assert part.shape == (8000,) and part.dtype == np.float32 and 0.4 < np.abs(part).max() < 0.6
            spectrum = np.abs(np.fft.rfft(part * np.hanning(8000)))
            frequencies.append(2 * np.argmax(spectrum))
        low, high = min(frequencies), max(frequencies)
        assert 1000 < low < 1400 and (2600 < high < 3050 if name == "tone.wav" else 1300 < high < 1550)
    assert set(read) == {tmp_path / "tone.m4a"}


def test_folders_without_recordings_are_named(tmp_path):
    with pytest.raises(UserError, match="noise, speech, music"):
        musan_files(str(tmp_path))
    (tmp_path / "music").mkdir()
    with pytest.raises(UserError, match="music: "):
        musan_files(str(tmp_path))
    with pytest.raises(UserError, match="expected recordings .*, found no such folder"):
        recordings(str(tmp_path / "rooms"))
    silent = write(tmp_path / "rooms" / "silent.wav", np.zeros(100))
    with pytest.raises(UserError, match="silent.wav: "):
        apply_room(np.ones(100), [str(silent)], np.random.default_rng(0))
    (tmp_path / "music" / "text.wav").write_text("no audio")
    with pytest.raises(UserError, match="text.wav: "):
        apply_musan(np.ones(100), musan_files(str(tmp_path)), np.random.default_rng(0))


def test_half_of_the_waveforms_stay_and_noise_and_rooms_share_the_others(folders):
    """The counts of 1,200 draws are within 4 standard deviations of the published probabilities."""
    augment = MusanRir(**folders)
    x = 0.1 * np.random.default_rng(0).standard_normal(2000)
    delayed = np.concatenate([np.zeros(100), x[:-100]])
    counts = Counter()
    for seed in range(1200):
        y = augment(x.copy(), np.random.default_rng(seed))
        assert y.shape == x.shape
        added = y - x
        if not added.any():
            counts["none"] += 1
        elif np.allclose(y, delayed, atol=1e-9):
            counts["room"] += 1
        else:
            line = 8 * np.argmax(np.abs(np.fft.rfft(added)))
            counts["noise" if line < 1000 - 50 else "music" if line > 1350 else "speech"] += 1
    for name, p in {"none": 1 / 2, "room": 1 / 4, "noise": 1 / 12, "speech": 1 / 12, "music": 1 / 12}.items():
        assert abs(counts[name] - 1200 * p) < 4 * np.sqrt(1200 * p * (1 - p)), counts


def test_batches_with_noise_and_rooms_do_not_depend_on_the_workers(folders, tmp_path):
    rng = np.random.default_rng(0)
    trials = []
    for i in range(24):
        path = write(tmp_path / f"{i}.wav", 0.1 * rng.standard_normal(rng.integers(1000, 5000)))
        trials.append(Trial(str(i), label=i % 2, path=str(path)))

    dataset = TrialDataset(trials, 2000, "random_if_longer", augment=MusanRir(**folders), seed=5)
    expected = waveforms_of_batches(dataset, num_workers=0)
    assert len(expected) == 6
    for found, batch in zip(waveforms_of_batches(dataset, num_workers=4), expected, strict=True):
        np.testing.assert_array_equal(found, batch)


def test_training_takes_its_folders_and_goes_on_with_the_same_recordings_alone(
    folders, tmp_path, train_flags, fails, output
):
    command = [*train_flags, "--augment", "MUSAN_RIR", "--epochs", "1", "--schedule", "constant"]
    command += ["--log_dir", str(tmp_path / "logs"), "--foldername", "run"]
    fails(train.main, command, "--noise_dir")
    command += ["--noise_dir", folders["noise_dir"]]
    fails(train.main, command, "--room_dir")
    fails(train.main, [*command, "--room_dir", str(tmp_path / "none")], "--room_dir ", str(tmp_path / "none"))
    assert not (tmp_path / "logs").exists()
    output(train.main, [*command, "--room_dir", folders["room_dir"]])
    (folder,) = (tmp_path / "logs" / "run").iterdir()
    settings = json.loads((folder / "config.json").read_text())
    assert settings["data"]["noise_dir"]["trials"] == 6 and "room_dir" not in settings["training"]

    moved = tmp_path / "moved"
    (tmp_path / "rooms").rename(moved)
    again = [*command, "--epochs", "2", "--resume", "auto", "--room_dir", str(moved)]
    assert "resumed after epoch 1" in output(train.main, again)
    write(moved / "other.wav", np.ones(10))
    fails(train.main, again, "room_dir", ": 1 ", " 2 ")
