"""Validation by EER: whole utterances in exact batches have the figures of one at a time."""

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from test_any_front_end import ENCODERS, detector_of

import data_utils
import train
from common.audio import load_audio
from common.console import UserError
from corpora import Trial
from reports import metrics
from training.config import TrainingConfig
from training.losses import LOSSES

CPU = torch.device("cpu")
LENGTHS = [90, 399, 4000, 4000, 4000, 4001, 4019, 4100, 4159, 4160, 4319, 9000, 9000, 9001, 9002, 12000]


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    rng, folder, trials = np.random.default_rng(0), tmp_path_factory.mktemp("dev"), []
    for i, n in enumerate(LENGTHS):
        path = folder / f"{i:02}.wav"
        x = 0.2 + 0.1 * rng.standard_normal(n) * np.linspace(0.1, 2, n)  # its mean and level change along it
        soundfile.write(path, x, 16000, subtype="FLOAT")
        trials.append(Trial(path.stem, i % 3 % 2, path=str(path)))
    return trials


def validated(detector, trials, **options):
    """Figures of a validation, and how many batches were planned."""
    config = TrainingConfig(corpus="CtrSVDD", lr=1e-4, batch_size=4, crop=16000, precision="fp32", num_workers=0)
    loader = train.whole_utterances(trials, detector.front_end, config, CPU, options)
    signals = SimpleNamespace(received=0)
    criterion = LOSSES["weighted_CCE"]((0.1, 0.9))
    training = train.Training(
        config, detector, criterion, CPU, train.run_folder.Path("."), [None], {"": loader}, signals
    )
    return training.validate(1), len(loader)


def one_at_a_time(detector, trials):
    detector.eval()
    least = detector.front_end.least_samples
    with torch.no_grad():
        waveforms = [torch.from_numpy(data_utils.repeat_pad(load_audio(trial.path), least)) for trial in trials]
        logits = torch.cat([detector(x[None]) for x in waveforms])
    labels = torch.tensor([trial.label for trial in trials])
    losses = torch.nn.functional.cross_entropy(logits, labels, weight=torch.tensor([0.1, 0.9]))
    scores = detector.scores_of(logits).numpy()
    eer, _ = metrics.compute_eer(scores[labels == 1], scores[labels == 0])
    return {"loss": losses.item(), "eer": eer}


def check(figures, expected):
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_batches_have_the_figures_of_one_at_a_time(encoder, trials):
    detector = detector_of(encoder, "Nes2Net_X")
    figures, n_batches = validated(detector, trials)
    check(figures, one_at_a_time(detector, trials))
    by_frames = encoder in ("wav2vec2, layer norms", "LogMel")
    n_lengths = {detector.front_end.n_frames(max(n, 400)) for n in LENGTHS} if by_frames else set(LENGTHS)
    assert n_batches <= len(n_lengths) + 1 < len(trials)


def test_headers_that_lie_change_nothing(trials, monkeypatch):
    monkeypatch.setattr(data_utils, "expected_samples", lambda path: 4000)
    detector = detector_of("wav2vec2, layer norms", "Nes2Net_X")
    figures, n_batches = validated(detector, trials)
    assert n_batches == 1
    check(figures, one_at_a_time(detector, trials))


def test_bad_audio_is_skipped_or_ends_the_validation(trials, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF" + bytes(100))
    listed = [*trials[:4], Trial("bad", 1, path=str(bad)), *trials[4:]]
    detector = detector_of("LogMel", "Nes2Net_X")
    figures, _ = validated(detector, listed, bad_audio=data_utils.BadAudio(1))
    check(figures, one_at_a_time(detector, trials))
    with pytest.raises(UserError, match="bad.wav"):
        validated(detector, listed)


def test_processes_share_the_batches():
    batches = [[3, 4], [0], [1, 2], [5]]
    shares = [list(data_utils.PlannedSampler(batches, rank, 2)) for rank in (0, 1)]
    assert shares == [[[(0, 3), (0, 4)], [(0, 1), (0, 2)]], [[(0, 0)], [(0, 5)]]]
