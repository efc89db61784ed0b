import numpy as np
import pytest
import soundfile

from augmentation.noise import MUSAN, add_noise, apply_musan, level, random_part
from augmentation.rooms import apply_room, reverberate
from common.console import UserError


def write(path, x, rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, x, rate, subtype="FLOAT")
    return path


def test_the_ratio_of_signal_to_noise_is_as_asked_for():
    rng = np.random.default_rng(0)
    x, noise = 0.3 * rng.standard_normal(16000), 2 * rng.standard_normal(16000)
    for snr in (-5, 0, 7.5, 20):
        added = add_noise(x, noise, snr) - x
        assert 10 * np.log10(np.mean(x**2) / np.mean(added**2)) == pytest.approx(snr, abs=0.1)


def test_a_room_is_a_convolution_of_unit_energy_cut_to_the_length(tmp_path):
    rng = np.random.default_rng(0)
    x, response = rng.standard_normal(3000), rng.standard_normal(500)
    expected = np.convolve(x, response / np.linalg.norm(response))[:3000]
    np.testing.assert_allclose(reverberate(x, 3 * response), expected, atol=1e-12)
    impulse = np.zeros(100)
    impulse[0] = 0.25
    np.testing.assert_allclose(reverberate(x, impulse), x, atol=1e-12)
    write(tmp_path / "a" / "impulse.wav", impulse)
    np.testing.assert_allclose(apply_room(x, tmp_path, rng), x, atol=1e-12)


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
    x = 0.2 * np.random.default_rng(1).standard_normal(16000)
    ratios, counts = [], set()
    for seed in range(60):
        added = apply_musan(x, tmp_path, np.random.default_rng(seed)) - x
        ratios.append(level(x) - 10 * np.log10(np.mean(added**2)))
        lines = np.abs(np.fft.rfft(added))
        counts.add(int(np.sum(lines > 0.3 * lines.max())))
    low, high = category.snr
    # The level of several tones' mean is small beside the 1e-4 that every level is raised by.
    slack = 2 if name == "speech" else 0.2
    assert low - 0.1 < min(ratios) < low + 2 and high - 2 < max(ratios) < high + slack
    assert counts == set(range(category.n_files[0], category.n_files[1] + 1))


def test_folders_without_recordings_are_named(tmp_path):
    rng, x = np.random.default_rng(0), np.ones(100)
    with pytest.raises(UserError, match="expected sub-folders noise, speech, music"):
        apply_musan(x, tmp_path, rng)
    (tmp_path / "music").mkdir()
    with pytest.raises(UserError, match="music: expected recordings"):
        apply_musan(x, tmp_path, rng)
    with pytest.raises(UserError, match="expected recordings"):
        apply_room(x, tmp_path, rng)
    write(tmp_path / "rooms" / "silent.wav", np.zeros(100))
    with pytest.raises(UserError, match="silent.wav: expected a room response, found silence"):
        apply_room(x, tmp_path / "rooms", rng)
