import numpy as np
import pytest
import soundfile
import torch

import scoring
from data_utils import load_audio, repeat_pad
from front_ends import PRESETS, n_frames
from model import ModelConfig, build_detector

LENGTHS = [1, 150, 399, 400, 719, 720, 4000, 4000, 4100, 4239, 4240, 9000, 9001, 9050, 16000, 3999, 12345, 4100]
LARGE = {"extractor_mode": "layer_norm", "conv_bias": True}  # as the large encoders, frame by frame


def make_detector(monkeypatch, normalize, overrides):
    monkeypatch.setitem(PRESETS, "tiny", (normalize, None, {**PRESETS["tiny"][2], **overrides}))
    torch.manual_seed(1)
    return build_detector(ModelConfig("wav2vec2_Nes2Net_X", ssl="tiny", Nes_ratio=(2, 2))).eval()


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for i, n in enumerate(LENGTHS):
        paths.append(tmp_path / f"{i:02}.wav")
        x = 0.2 + 0.1 * rng.standard_normal(n) * np.linspace(0.1, 2, n)  # its mean and level change along it
        soundfile.write(paths[-1], x, 16000, subtype="FLOAT")
    return paths


def one_at_a_time(detector, paths):
    with torch.inference_mode():
        return [detector.score(torch.from_numpy(repeat_pad(load_audio(path), 400))[None]).item() for path in paths]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("overrides, same", [(LARGE, n_frames), ({}, lambda n: n)])
def test_batches_are_exact(monkeypatch, files, normalize, overrides, same):
    detector = make_detector(monkeypatch, normalize, overrides)
    batches = scoring.plan_batches(detector.front_end, files, batch_samples=13000)
    assert sorted(index for batch in batches for index in batch) == list(range(len(files)))
    heard = [len(repeat_pad(np.zeros(n), 400)) for n in LENGTHS]
    for batch in batches:
        assert len({same(heard[index]) for index in batch}) == 1
        assert len(batch) == 1 or sum(heard[index] for index in batch) <= 13000 + 320 * len(batch)
    longest = [max(heard[index] for index in batch) for batch in batches]
    assert n_frames(longest[0]) == max(map(n_frames, heard)) and len(batches) < len(files)

    scores, failures, silent = scoring.score_files(detector, files, batch_samples=13000)
    assert not failures and not silent
    expected = one_at_a_time(detector, files)
    assert np.std(expected) > 1e-3  # or the comparison says nothing
    np.testing.assert_allclose([scores[i] for i in range(len(files))], expected, atol=1e-5, rtol=0)
    assert detector.front_end.normalize is normalize


def test_headers_that_lie_change_no_score(monkeypatch, files):
    detector = make_detector(monkeypatch, True, LARGE)
    monkeypatch.setattr(scoring, "expected_samples", lambda path: 5000)
    assert [len(batch) for batch in scoring.plan_batches(detector.front_end, files, batch_samples=10**6)] == [18]
    scores, _, _ = scoring.score_files(detector, files, batch_samples=10**6, num_workers=2)
    np.testing.assert_allclose([scores[i] for i in range(18)], one_at_a_time(detector, files), atol=1e-5, rtol=0)


def test_files_without_a_score_and_files_of_zeros(monkeypatch, files, tmp_path):
    detector = make_detector(monkeypatch, True, LARGE)
    soundfile.write(files[3], np.zeros(4000), 16000)
    files[5].write_bytes(b"RIFF")
    files[7] = tmp_path / "absent.wav"
    scores, failures, silent = scoring.score_files(detector, files)
    assert silent == [3] and np.isfinite(scores[3])
    assert sorted(failures) == [5, 7] and "absent.wav" in failures[7] and "05.wav" in failures[5]
    assert sorted([*scores, *failures]) == list(range(len(files)))
    with torch.no_grad():
        detector.back_end.fc.bias.fill_(float("nan"))
    scores, failures, _ = scoring.score_files(detector, files[:2])
    assert not scores and "score is nan" in failures[0]


def test_what_does_not_fit_in_memory_is_halved_then_listed(monkeypatch, files):
    detector = make_detector(monkeypatch, True, LARGE)
    plain = detector.score

    def small_memory(waveforms):
        if waveforms.numel() > 9200:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate ...")
        return plain(waveforms)

    expected = one_at_a_time(detector, files)
    monkeypatch.setattr(detector, "score", small_memory)
    scores, failures, _ = scoring.score_files(detector, files)
    assert sorted(failures) == [14, 16] and "more memory needed than cpu has, for 1 s" in failures[14]
    assert all(scores[i] == pytest.approx(expected[i], abs=1e-5) for i in scores)
