"""Single augmentations: length, level and frequency response, by scipy or by hand."""

import numpy as np
import pytest
from scipy import signal
from test_codecs import speech_like
from test_noise import write

from augmentation.bands import BandPass, HighPass, LowPass, limit_band
from augmentation.clipping import Clip, clip
from augmentation.codecs import FORMATS, LADDER, Codec, codec
from augmentation.gaps import PacketLoss, Zero, lose_packets
from augmentation.noise import Noise, add_noise
from augmentation.rooms import Room
from augmentation.settings import check_range, draw
from augmentation.speed import Speed, change_speed
from common.console import UserError


def tone(frequency, n=16000):
    return np.sin(2 * np.pi * frequency * np.arange(n) / 16000)


def frequency_of(x):
    return 16000 * np.argmax(np.abs(np.fft.rfft(x * np.hanning(len(x)), 16 * len(x)))) / (16 * len(x))


def every_part(tmp_path):
    write(tmp_path / "noise.wav", speech_like(9000, seed=4))
    folder = str(tmp_path)
    by_rng = [LowPass(), HighPass(), BandPass(), Speed(), Clip(), Zero(), PacketLoss()]
    return [Noise(folder), Room(), Codec(("mp3", "vorbis")), *by_rng]


def test_all_keep_the_length_and_what_they_are_given_and_draw_from_the_generator_alone(tmp_path):
    parts = every_part(tmp_path)
    for n in (1, 50, 3000):
        x = speech_like(n).astype(np.float32)
        before = x.copy()
        for part in parts:
            for seed in range(3):
                y = part(x, np.random.default_rng(seed))
                assert y.shape == x.shape and np.isfinite(y).all(), part
                np.testing.assert_array_equal(y, part(x, rng=np.random.default_rng(seed)))
            np.testing.assert_array_equal(x, before)
    x = speech_like(20000)
    for part in parts:
        outcomes = {part(x, np.random.default_rng(seed)).tobytes() for seed in range(6)}
        assert len(outcomes) >= (2 if isinstance(part, Speed) else 4), part


@pytest.mark.parametrize("level", [1, 0.001])
@pytest.mark.parametrize("snr", [-5, 0, 7.5, 30])
def test_noise_lies_as_far_below_the_signal_as_asked_for_at_any_level(tmp_path, level, snr):
    write(tmp_path / "deep" / "er" / "noise.wav", 0.3 * speech_like(9000, seed=7))
    x = level * speech_like(16000)
    added = Noise(str(tmp_path), snr=(snr, snr))(x, np.random.default_rng(0)) - x
    assert 10 * np.log10(np.mean(x**2) / np.mean(added**2)) == pytest.approx(snr, abs=0.1)


def test_noise_of_a_plain_folder_has_ranges_and_numbers_of_its_own(tmp_path):
    for number in range(6):
        write(tmp_path / f"{number}.wav", 0.1 * tone(500 * (number + 1)))
    x = speech_like(16000)
    ratios, counts = [], set()
    augment = Noise(str(tmp_path), files=(2, 4))
    for seed in range(60):
        added = augment(x, np.random.default_rng(seed)) - x
        ratios.append(10 * np.log10(np.mean(x**2) / np.mean(added**2)))
        lines = np.abs(np.fft.rfft(added))
        counts.add(int(np.sum(lines > 0.3 * lines.max())))
    assert 0 <= min(ratios) < 2 and 13 < max(ratios) <= 15 and counts == {2, 3, 4}
    assert augment.files() == {"noise_dir": {f"{number}.wav": str(tmp_path / f"{number}.wav") for number in range(6)}}


def test_noise_of_a_folder_like_musan_has_the_ranges_of_its_categories_unless_given(tmp_path):
    write(tmp_path / "music" / "a.wav", 0.1 * tone(500))
    write(tmp_path / "speech" / "b.wav", 0.1 * tone(1500))
    write(tmp_path / "c.wav", 0.1 * tone(3000))  # of no category
    x = speech_like(16000)
    for snr, expected in (None, {500: (5, 25), 1500: (13, 20)}), ((30, 31), {500: (30, 31), 1500: (30, 31)}):
        augment = Noise(str(tmp_path), snr=snr)
        ratios = {}
        for seed in range(80):
            added = augment(x, np.random.default_rng(seed)) - x
            ratio = 10 * np.log10(np.mean(x**2) / np.mean(added**2))
            ratios.setdefault(round(frequency_of(added)), []).append(ratio)
        assert ratios.keys() == expected.keys()
        for frequency, (low, high) in expected.items():
            assert low <= min(ratios[frequency]) + 1e-6 and max(ratios[frequency]) - 1e-6 <= high
            assert max(ratios[frequency]) - min(ratios[frequency]) > 0.7 * (high - low)


def test_silence_has_no_ratio_and_stays_as_it_is():
    x = speech_like(100)
    np.testing.assert_array_equal(add_noise(x, np.zeros(100), 10), x)
    np.testing.assert_array_equal(add_noise(np.zeros(100), x, 10), np.zeros(100))


@pytest.mark.parametrize("low, high", [(None, 3000), (300, None), (300, 3400), (None, 7500), (50, None)])
def test_band_limits_have_the_squared_response_of_a_butterworth_filter(low, high):
    impulse = np.zeros(16001)
    impulse[8000] = 1
    y = limit_band(impulse, low, high)
    np.testing.assert_allclose(y, y[::-1], atol=1e-6)  # not delayed
    hz = np.fft.rfftfreq(16001, 1 / 16000)
    expected = np.ones(len(hz))
    nyquist = np.tan(np.pi * np.minimum(hz, 7999.9) / 16000)
    if low and high:
        edges = [np.tan(np.pi * edge / 16000) for edge in (low, high)]
        ratio = (nyquist**2 - edges[0] * edges[1]) / np.maximum(nyquist * (edges[1] - edges[0]), 1e-12)
        expected = 1 / (1 + ratio**12)
    elif high:
        expected = 1 / (1 + (nyquist / np.tan(np.pi * high / 16000)) ** 12)
    else:
        expected = 1 / (1 + (np.tan(np.pi * low / 16000) / np.maximum(nyquist, 1e-12)) ** 12)
    np.testing.assert_allclose(np.abs(np.fft.rfft(y)), expected, atol=2e-3)


@pytest.mark.parametrize(
    "part, passed, stopped",
    [(LowPass((2000, 3000)), 1000, 6000), (HighPass((300, 500)), 2000, 100), (BandPass(), 1200, 7000)],
)
def test_random_bands_differ_and_pass_what_they_should(part, passed, stopped):
    outcomes = set()
    for seed in range(20):
        y = part(tone(passed) + tone(stopped), np.random.default_rng(seed))[4000:12000]
        spectrum = np.abs(np.fft.rfft(y)) / 4000
        assert spectrum[passed // 2] == pytest.approx(1, abs=0.05) and spectrum[stopped // 2] < 0.01
        outcomes.add(y.tobytes())
    assert len(outcomes) == 20


def test_speed_moves_a_tone_and_keeps_the_length():
    for factor in (0.9, 1.1, 1.5):
        y = change_speed(tone(1000), factor)
        assert y.shape == (16000,) and frequency_of(y[:9000]) == pytest.approx(1000 * factor, abs=2)
    y = change_speed(np.arange(1600.0), 1.25)  # 1280 samples, then again from the start
    np.testing.assert_array_equal(y[1280:], y[:320])
    expected = signal.resample_poly(tone(300), 10, 11)
    np.testing.assert_allclose(change_speed(tone(300), 1.1)[200:14000], expected[200:14000], atol=1e-3)
    augment = Speed((0.5, 1.0))
    frequencies = [round(frequency_of(augment(tone(1000), np.random.default_rng(seed)))) for seed in range(60)]
    assert set(frequencies) == {500, 1000} and 15 < frequencies.count(500) < 45


def test_clipping_cuts_the_peaks_off():
    x = speech_like(5000)
    peak = np.abs(x).max()
    y = clip(x, 0.5)
    np.testing.assert_array_equal(y, [max(min(v, 0.5 * peak), -0.5 * peak) for v in x])
    peaks = [np.abs(Clip((0.2, 0.4))(x, np.random.default_rng(seed))).max() / peak for seed in range(50)]
    assert 0.2 <= min(peaks) < 0.22 and 0.38 < max(peaks) <= 0.4


def test_zeroed_chunks_are_as_many_and_as_long_as_asked_for():
    x = np.ones(20_000)
    counts, lengths = set(), []
    for seed in range(100):
        y = Zero(chunks=(2, 4), samples=(10, 20))(x, np.random.default_rng(seed))
        edges = np.flatnonzero(np.diff(np.concatenate([[1], y, [1]])))
        counts.add(len(edges) // 2)
        lengths += list(edges[1::2] - edges[::2])
        assert set(y) == {0, 1}
    assert counts == {2, 3, 4} and min(lengths) == 10 and np.quantile(lengths, 0.99) <= 20 and 20 in lengths
    np.testing.assert_array_equal(Zero((1, 1), (50, 50))(np.ones(20), np.random.default_rng(0)), np.zeros(20))


def test_packets_are_lost_one_by_one():
    x = 1 + np.random.default_rng(1).random(320 * 5000 + 100)
    y = lose_packets(x, 0.05, np.random.default_rng(0))
    packets = y[: 320 * 5000].reshape(5000, 320)
    is_lost = ~packets.any(axis=1)
    assert abs(is_lost.sum() - 250) < 4 * np.sqrt(5000 * 0.05 * 0.95)
    np.testing.assert_array_equal(packets[~is_lost], x[: 320 * 5000].reshape(5000, 320)[~is_lost])
    y = PacketLoss(loss=(1, 1), ms=10)(x, np.random.default_rng(0))
    assert not y.any()
    assert lose_packets(x, 0, np.random.default_rng(0)).tobytes() == x.tobytes()


@pytest.mark.slow
def test_a_random_codec_draws_kinds_and_bitrates_within_its_range():
    x = speech_like(4000)
    candidates = {(kind, rate): codec(x, kind, rate) for kind in ("mp3", "vorbis") for rate in LADDER[1:7] if rate > 23}
    candidates |= {("gsm", 13): codec(x, "gsm")}
    augment = Codec(("mp3", "vorbis", "gsm"), (24, 56))
    drawn = set()
    for seed in range(150):
        y = augment(x, np.random.default_rng(seed))
        (name,) = [name for name, expected in candidates.items() if np.array_equal(y, expected)] or [None]
        drawn.add(name)
    assert drawn == candidates.keys()
    assert Codec(("opus",), (19.5, 19.5)).bitrates == {"opus": (19.5,)}
    assert Codec().bitrates.keys() == FORMATS.keys()


def test_ranges_are_drawn_with_both_ends_and_checked():
    rng = np.random.default_rng(0)
    assert {draw((1, 3), rng) for _ in range(100)} == {1, 2, 3}
    assert {type(draw((1, 3), rng)), type(draw((1.0, 3.0), rng))} == {int, float}
    assert draw((2.5, 2.5), rng) == 2.5
    with pytest.raises(ValueError, match=r"level: expected LOWEST..HIGHEST within 0..1, found 0.9..0.5"):
        check_range("level", (0.9, 0.5), 0, 1)


def test_settings_that_make_no_sense_are_named(tmp_path):
    for wrong, words in [
        (lambda: Clip((0.5, 2)), "level: "),
        (lambda: Zero(samples=(0, 5)), "samples: "),
        (lambda: PacketLoss(loss=(0, 2)), "loss: "),
        (lambda: PacketLoss(ms=0), "ms: "),
        (lambda: LowPass((3000, 9000)), "cutoff: expected .* within 10..7900"),
        (lambda: HighPass((0, 100)), "cutoff: "),
        (lambda: BandPass(low=(100, 3500)), "low below high"),
        (lambda: limit_band(np.ones(9)), "expected low or high"),
        (lambda: limit_band(np.ones(9), 3000, 300), "low below high"),
        (lambda: limit_band(np.ones((2, 9)), 3000), "shape"),
        (lambda: Speed((0.9, 10.0)), "factors: expected 0.25 to 4, found 10"),
        (lambda: Codec(("mp4",)), "kind must be one of .*, found mp4"),
        (lambda: Codec(("vorbis", "mp3"), (8, 16)), "bitrate of vorbis: expected 24 to 100, found 8..16"),
        (lambda: Codec(("mp3",), (50, 50)), "bitrate of mp3 must be one of"),
        (lambda: Noise(), "dir: expected a folder"),
        (lambda: Noise(str(tmp_path), snr=(20, 10)), "snr: "),
        (lambda: Noise(str(tmp_path), files=(0, 1)), "files: "),
        (lambda: Room(t60=(0.2, 3)), "t60: "),
        (lambda: Room(side=(1, 3)), "side: "),
        (lambda: Room(str(tmp_path), t60=(0.2, 0.3)), "t60, side and height .* cannot be combined with dir"),
    ]:
        with pytest.raises(ValueError, match=words):
            wrong()
    for part in (Noise, Room):
        with pytest.raises(UserError, match="expected recordings .*, found no such folder"):
            part(str(tmp_path / "gone"))
