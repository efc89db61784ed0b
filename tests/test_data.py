import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

import data_utils
from augmentation import AUGMENTATIONS
from common import audio
from common.console import UserError
from corpora import Trial
from data_utils import (
    BadAudio,
    TrialDataset,
    check_audio,
    first_samples,
    load_audio,
    make_loader,
    random_samples,
    repeat_pad,
)
from RawBoost import ALGORITHMS, apply_rawboost


def sine(n, rate, frequency=440):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(n) / rate)


@pytest.mark.slow
@pytest.mark.parametrize(
    "ending, subtype", [("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", "PCM_16")]
)
@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_format_rate_and_channel_count(tmp_path, ending, subtype, rate, channels):
    path = tmp_path / f"x.{ending}"
    x = np.stack([sine(rate, rate), sine(rate, rate, 1000)], axis=1)[:, :channels]
    soundfile.write(path, x, rate, subtype=subtype)
    found = load_audio(path)
    assert found.dtype == np.float32 and found.shape == (16000,)
    expected, _ = librosa.load(path, sr=16000, mono=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 24000, 32000, 44100, 48000])
def test_a_resampled_file_has_the_length_and_samples_of_librosas(tmp_path, rate):
    for n in [1, 7, 100, 4321, rate, rate + 1, 2 * rate + 13]:
        x = (0.1 * np.random.default_rng(n).standard_normal(n)).astype(np.float32)
        soundfile.write(tmp_path / "x.wav", x, rate, subtype="FLOAT")
        expected = librosa.resample(x, orig_sr=rate, target_sr=16000)
        y = load_audio(tmp_path / "x.wav")
        assert len(y) == len(expected) == math.ceil(n * 16000 / rate)
        np.testing.assert_allclose(y, expected, atol=1e-6)


def test_audio_that_cannot_be_read_is_named(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    (tmp_path / "text.wav").write_text("no audio")
    for name, words in [("empty.wav", "without samples"), ("text.wav", "cannot be read"), ("gone.wav", "gone")]:
        with pytest.raises(UserError, match=f"{name}.*{words}" if name != "gone.wav" else words):
            load_audio(tmp_path / name)


def test_crops_and_repeats():
    x = np.arange(5)
    np.testing.assert_array_equal(first_samples(x, 3), [0, 1, 2])
    np.testing.assert_array_equal(first_samples(x, 12), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1])
    np.testing.assert_array_equal(repeat_pad(x, 6), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4])
    assert repeat_pad(x, 5) is x
    rng = np.random.default_rng(0)
    starts = {int(random_samples(x, 3, rng)[0]) for _ in range(100)}
    assert starts == {0, 1, 2}  # every place, the last one too
    for length in (5, 7):
        crops = [random_samples(x, length, rng) for _ in range(100)]
        assert all(np.all(np.diff(crop) % 5 == 1) and len(crop) == length for crop in crops)
        assert len({int(crop[0]) for crop in crops}) > 1


def test_a_shorter_utterance_is_repeated_from_its_start_where_only_longer_ones_are_cut_at_random(tmp_path):
    """As pad_random of the published ASVspoof 5 program."""
    x = np.arange(1000, dtype=np.float32) / 1000
    soundfile.write(tmp_path / "x.wav", x, 16000, subtype="FLOAT")
    trials = [Trial("x", label=1, path=str(tmp_path / "x.wav"))]
    for length in (1000, 2500):
        item, _, _ = TrialDataset(trials, length, "random_if_longer")[1, 0]
        np.testing.assert_array_equal(item, np.resize(x, length))
    starts = {float(TrialDataset(trials, 300, "random_if_longer")[epoch, 0][0][0]) for epoch in range(20)}
    assert len(starts) > 10


@pytest.fixture
def trials(tmp_path):
    rng = np.random.default_rng(0)
    found = []
    for i in range(11):
        soundfile.write(tmp_path / f"{i}.wav", 0.1 * rng.standard_normal(rng.integers(1000, 5000)), 16000)
        found.append(Trial(str(i), label=i % 2, path=str(tmp_path / f"{i}.wav")))
    return found


def batches(trials, num_workers, epochs=(1, 2), seed=0):
    dataset = TrialDataset(trials, length=2000, place="random", augment=partial(apply_rawboost, algo=5), seed=seed)
    loader = make_loader(dataset, 4, shuffle=True, seed=seed, num_workers=num_workers)
    found = []
    for epoch in epochs:
        loader.batch_sampler.epoch = epoch
        found += [(x.numpy(), label.tolist(), index.tolist()) for x, label, index in loader]
    return found


def test_batches_do_not_depend_on_the_workers(trials):
    expected = batches(trials, 0)
    assert len(expected) == 6
    for num_workers in (1, 4):
        for (x, label, index), (x0, label0, index0) in zip(batches(trials, num_workers), expected, strict=True):
            np.testing.assert_array_equal(x, x0)
            assert (label, index) == (label0, index0)


def test_every_epoch_visits_every_trial_once_in_another_order_with_other_noise(trials):
    first, second = batches(trials, 0, [1]), batches(trials, 0, [2])
    orders = [[index for _, _, indices in epoch for index in indices] for epoch in (first, second)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(11)) and orders[0] != orders[1]
    waves = [{i: x for xs, _, indices in epoch for i, x in zip(indices, xs)} for epoch in (first, second)]
    assert all(not np.array_equal(waves[0][i], waves[1][i]) for i in range(11))
    again = batches(trials, 0, [2])  # epoch 2 is the same whether or not epoch 1 came before it
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(second, again))
    assert not np.array_equal(batches(trials, 0, [1], seed=1)[0][0], first[0][0])


AUGMENTED = {name: AUGMENTATIONS[name] for name in ("FIR-NB", "FIR-WB")}  # of the others the options are missing
AUGMENTED |= {f"RawBoost {algo}": partial(apply_rawboost, algo=algo) for algo in ALGORITHMS}


@pytest.mark.parametrize("name", AUGMENTED)
def test_an_item_is_augmented_then_cropped_by_draws_of_its_seed_epoch_and_index(trials, name):
    """The order of the draws is part of what a run that goes on depends on."""
    dataset = TrialDataset(trials, length=2000, place="random", augment=AUGMENTED[name], seed=3)
    for epoch, index in [(1, 0), (2, 0), (2, 5)]:
        rng = np.random.default_rng([3, epoch, index])
        expected = random_samples(AUGMENTED[name](load_audio(trials[index].path), rng=rng), 2000, rng)
        x, label, found = dataset[epoch, index]
        np.testing.assert_array_equal(x, np.float32(expected))
        assert (label, found) == (index % 2, index)


def test_drop_last_leaves_only_full_batches(trials):
    loader = make_loader(TrialDataset(trials, length=500), 4, drop_last=True)
    assert [len(x) for x, _, _ in loader] == [4, 4] and len(loader) == 2


def rewritten(path, change):
    path.write_bytes(change(path.read_bytes()))
    return path


def test_wide_fast_and_lossy_files_are_read(tmp_path):
    x = np.stack([sine(96000, 96000, 440 + 100 * i) for i in range(8)], axis=1)
    soundfile.write(tmp_path / "x.wav", x, 96000, subtype="PCM_24")
    expected, _ = librosa.load(tmp_path / "x.wav", sr=16000, mono=True)
    np.testing.assert_allclose(load_audio(tmp_path / "x.wav"), expected, atol=1e-6)
    for ending in ("ogg", "mp3"):
        soundfile.write(tmp_path / f"x.{ending}", sine(32000, 16000), 16000)
        found = load_audio(tmp_path / f"x.{ending}")
        assert len(found) == pytest.approx(32000, abs=2000)
        spectrum = np.abs(np.fft.rfft(found[8000:24000]))
        assert np.argmax(spectrum) == 440


def test_a_long_file_is_read_in_blocks_as_in_one(tmp_path, monkeypatch):
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (30000, 3)).astype(np.float32)
    for rate in (16000, 22050):
        soundfile.write(tmp_path / "x.wav", x, rate, subtype="FLOAT")
        whole = load_audio(tmp_path / "x.wav")
        with monkeypatch.context() as patch:
            patch.setattr(audio, "_BLOCK", 1000)
            np.testing.assert_array_equal(load_audio(tmp_path / "x.wav"), whole)
            patch.setattr(audio, "LONGEST", 1)
            with pytest.raises(UserError, match="x.wav: "):
                load_audio(tmp_path / "x.wav")


def test_a_sample_is_enough_and_silence_is_warned_of_once(tmp_path, capsys):
    soundfile.write(tmp_path / "one.wav", [0.5], 16000, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(tmp_path / "one.wav"), np.float32([0.5]))
    soundfile.write(tmp_path / "zero.wav", np.zeros(500), 16000)
    dataset = TrialDataset([Trial("zero", label=0, path=f"{tmp_path}/zero.wav")])
    for epoch in range(2):
        assert not dataset[epoch, 0][0].any()
    assert capsys.readouterr().err.count(f"warning: {tmp_path}/zero.wav: all samples are zero") == 1


def bad_files(folder):
    """{file: words of the reason}: audio that cannot be used, of every kind."""
    folder.mkdir(exist_ok=True)
    x = sine(16000, 16000)
    for name in ("half.wav", "half.flac", "header.wav", "half.ogg", "rate.wav", "x.wav"):
        soundfile.write(folder / name, x, 16000)
    for name in ("half.wav", "half.flac"):
        rewritten(folder / name, lambda data: data[: len(data) // 2])
    rewritten(folder / "half.ogg", lambda data: data[:200])
    rewritten(folder / "header.wav", lambda data: data[:44])
    rewritten(folder / "rate.wav", lambda data: data[:24] + (1).to_bytes(4, "little") + data[28:])
    for value in (np.nan, np.inf):
        soundfile.write(folder / f"{value}.wav", np.where(np.arange(16000) == 9000, value, x), 16000, subtype="FLOAT")
    soundfile.write(folder / "empty.wav", np.zeros(0), 16000)
    (folder / "nothing.flac").touch()
    (folder / "text.wav").write_text("no audio")
    (folder / "noise.flac").write_bytes(b"fLaC" + np.random.default_rng(0).bytes(5000))
    (folder / "folder.wav").mkdir()
    os.mkfifo(folder / "fifo.wav")
    (folder / "loop.wav").symlink_to("loop.wav")
    (folder / "text.m4a").write_text("no audio")
    return {
        "half.wav": "truncated",
        "half.flac": "truncated",
        "header.wav": "",
        "half.ogg": "cannot be read",
        "rate.wav": "sample rate",
        "nan.wav": "NaN or infinite",
        "inf.wav": "NaN or infinite",
        "empty.wav": "without samples",
        "nothing.flac": "cannot be read",
        "text.wav": "cannot be read",
        "noise.flac": "cannot be read",
        "folder.wav": "not a regular file",
        "fifo.wav": "not a regular file",
        "loop.wav": "symbolic links",
        "gone.wav": "No such file",
        "text.m4a": "cannot be read",
    }


def test_audio_that_cannot_be_used_is_named_with_the_reason(tmp_path):
    for name, words in bad_files(tmp_path / "bad").items():
        with pytest.raises(UserError) as raised:
            load_audio(tmp_path / "bad" / name)
        message = str(raised.value)
        assert message.startswith(f"{tmp_path}/bad/{name}: ") and words in message and "\n" not in message, message


@pytest.mark.skipif(os.getuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_is_named(tmp_path):
    soundfile.write(tmp_path / "x.wav", sine(100, 16000), 16000)
    (tmp_path / "x.wav").chmod(0)
    with pytest.raises(UserError, match="x.wav: .*Permission denied"):
        load_audio(tmp_path / "x.wav")


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_stops_at_a_bad_file_or_puts_the_next_in_its_place(trials, tmp_path, num_workers, capfd):
    with open(trials[3].path, "wb"), open(trials[4].path, "wb"):
        pass
    loader = make_loader(TrialDataset(trials, length=500), 4, num_workers=num_workers)
    with pytest.raises(UserError, match=rf"^{trials[3].path}: [^\n]*$"):
        list(loader)

    def indices(allowed):
        bad_audio = BadAudio(allowed)
        loader = make_loader(TrialDataset(trials, 500, bad_audio=bad_audio), 11, num_workers=num_workers)
        return [index.tolist() for _ in range(2) for *_, index in loader]

    assert indices(2) == [[0, 1, 2, 5, 5, 5, 6, 7, 8, 9, 10]] * 2
    log = capfd.readouterr().err
    for i in (3, 4):
        assert log.count(f"warning: skipped: {trials[i].path}: ") == 1
    with pytest.raises(UserError, match="4.wav.*--skip_bad_audio allows 1"):
        indices(1)
    found = check_audio(trials, num_workers)
    assert list(found) == [trials[3].path, trials[4].path] and all("cannot be read" in why for why in found.values())


@pytest.mark.slow
def test_workers_end_with_the_main_process_and_at_no_signal_but_its_own(trials):
    program = f"""
import multiprocessing, subprocess
from data_utils import TrialDataset, make_loader
from corpora import Trial
trials = [Trial(path, label=0, path=path) for path in {[str(trial.path) for trial in trials]}]
batches = iter(make_loader(TrialDataset(trials, 500), 1, num_workers=2))
next(batches)
workers = multiprocessing.active_children()
subprocess.run(["kill", "-TERM", *[str(worker.pid) for worker in workers]], check=True)
print(len(workers), 1 + len(list(batches)))
cycle = [batches]  # which is found when nothing else runs any more
cycle.append(cycle)
"""
    root = Path(data_utils.__file__).parent
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"2 {len(trials)}\n", "")


def test_of_a_long_utterance_a_part_is_augmented_and_cropped(tmp_path, monkeypatch):
    monkeypatch.setattr(data_utils, "LONG", 1)
    soundfile.write(tmp_path / "x.wav", np.arange(40000) / 65536, 16000, subtype="FLOAT")
    trial = Trial("x", label=1, path=str(tmp_path / "x.wav"))
    seen = []
    for place in ("first", "random"):
        dataset = TrialDataset([trial], length=4000, place=place, augment=lambda x, rng: seen.append(x) or x)
        crops = [dataset[epoch, 0][0] * 65536 for epoch in range(20)]
        starts = {int(crop[0]) for crop in crops}
        assert all(len(x) == 16000 for x in seen) and all(len(crop) == 4000 for crop in crops)
        assert starts == {0} if place == "first" else max(starts) > 16000
