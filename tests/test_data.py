import librosa
import numpy as np
import pytest
import soundfile

from console import UserError
from data_utils import TrialDataset, first_samples, load_audio, make_loader, random_samples, repeat_pad
from protocols import Trial


def sine(n, rate, frequency=440):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(n) / rate)


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


def test_audio_that_cannot_be_read_is_named(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    (tmp_path / "text.wav").write_text("no audio")
    for name, words in [("empty.wav", "without a single sample"), ("text.wav", "cannot be read"), ("gone.wav", "gone")]:
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


@pytest.fixture
def trials(tmp_path):
    rng = np.random.default_rng(0)
    found = []
    for i in range(11):
        soundfile.write(tmp_path / f"{i}.wav", 0.1 * rng.standard_normal(rng.integers(1000, 5000)), 16000)
        found.append(Trial(str(i), label=i % 2, path=str(tmp_path / f"{i}.wav")))
    return found


def batches(trials, num_workers, epochs=(1, 2), seed=0):
    dataset = TrialDataset(trials, length=2000, place="random", algo=5, seed=seed)
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


def test_drop_last_leaves_only_full_batches(trials):
    loader = make_loader(TrialDataset(trials, length=500), 4, drop_last=True)
    assert [len(x) for x, _, _ in loader] == [4, 4] and len(loader) == 2
