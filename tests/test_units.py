"""Detectors that score the units of an utterance: labels, logits, losses, training."""

import dataclasses

import numpy as np
import pytest
import soundfile
import torch

import data_utils
from back_ends import BACK_ENDS
from back_ends.base import BackEnd
from common.console import UserError
from corpora import BONAFIDE, SPOOF, Trial
from data_utils import TrialDataset, UnitLabels
from inference.units import score_units
from inference.windows import windows_of
from model import ModelConfig, build_detector
from training.losses import LOSSES, UnitLoss, WeightedCrossEntropy

TINY = {
    "wav2vec2_Nes2Net_X": {"ssl": "tiny", "Nes_ratio": (4, 4)},
    "wav2vec2_MHFA": {"ssl": "tiny"},
    "LogMel_Nes2Net": {},
    "LogMel_Linear": {},
}


def detector_of(name, **fields):
    torch.manual_seed(1)
    return build_detector(ModelConfig(name, **TINY[name], **fields)).eval()


def same_weights(detector, **fields):
    other = build_detector(dataclasses.replace(detector.config, **fields)).eval()
    other.load_state_dict(detector.state_dict())
    return other


@pytest.mark.parametrize("name", TINY)
def test_units_are_the_means_of_their_frames(name):
    detector = detector_of(name, unit=0.16)
    n = 66000  # 4.125 s: 25 units and most of one
    x = torch.randn(2, n)
    with torch.inference_mode():
        logits = detector(x)
        every = same_weights(detector, unit=detector.front_end.stride / 16000)(x)[:, 1:]
    step = detector.frames_per_unit
    assert logits.shape == (2, 27, 2) and step * detector.front_end.stride == 2560
    for unit in range(26):
        torch.testing.assert_close(logits[:, 1 + unit], every[:, unit * step : (unit + 1) * step].mean(dim=1))
    assert every.shape[1] == detector.front_end.n_frames(n)


@pytest.mark.parametrize("name", TINY)
def test_an_utterance_is_scored_by_the_pooling_or_by_its_worst_units(name):
    detector = detector_of(name, unit=0.02)
    x = torch.randn(3, 40000)
    with torch.inference_mode():
        plain = same_weights(detector, unit=None).score(x)
        torch.testing.assert_close(detector.score(x), plain, atol=1e-5, rtol=1e-5)
        worst = same_weights(detector, utterance="worst")
        logits = worst(x)
        for own in logits:
            margins = (own[1:, 1] - own[1:, 0]).numpy()
            n = int(np.ceil(len(margins) / 10))
            expected = own[1:][np.argsort(margins)[:n]].mean(dim=0)
            torch.testing.assert_close(own[0], expected)


def test_the_mean_of_nes2nets_frames_is_what_it_decides_an_utterance_by():
    detector = detector_of("LogMel_Nes2Net", unit=0.01)
    with torch.inference_mode():
        logits = detector(torch.randn(2, 30000))
    torch.testing.assert_close(logits[:, 0], logits[:, 1:].mean(dim=1), atol=1e-5, rtol=1e-5)


def test_who_scores_no_frames_says_why():
    with pytest.raises(UserError, match="--labels: .*AASIST"):
        build_detector(ModelConfig("wav2vec2_AASIST", ssl="tiny", unit=0.16))
    with pytest.raises(UserError, match="--labels: .*Nes2Net .*ASTP"):
        build_detector(ModelConfig("LogMel_Nes2Net", pool_func="ASTP", unit=0.16))
    with pytest.raises(UserError, match=r"--label_step: .*wav2vec2.* 0\.02 s.* 0\.03"):
        detector_of("wav2vec2_MHFA", unit=0.03)


def brute_labels(spans, start, n, samples, n_units):
    """Of n samples from `start` on of a recording of `samples`, repeated: a label for each 2,560."""
    spoofed = [
        any(a * 16000 <= (start + i) % samples < b * 16000 for a, b, label in spans if label == SPOOF) for i in range(n)
    ]
    units = [SPOOF if any(spoofed[u * 2560 : (u + 1) * 2560]) else BONAFIDE for u in range(n_units)]
    return [SPOOF if any(spoofed) else BONAFIDE, *units]


@pytest.mark.parametrize(
    "place, length", [("first", 9000), ("first", 30000), ("random", 8000), ("random", 40000), ("x", None)]
)
def test_labels_follow_the_crop(monkeypatch, place, length):
    spans = ((0.0, 0.3, BONAFIDE), (0.3, 0.3000625, SPOOF), (0.3000625, 0.9, BONAFIDE), (0.9, 1.0, SPOOF))
    samples = 20000
    x = np.arange(samples, dtype=np.float32)  # a sample says where it is from
    monkeypatch.setattr(data_utils, "load_audio", lambda path: x)
    front_end = detector_of("LogMel_Nes2Net", unit=0.16).front_end
    trials = [
        Trial("partial", SPOOF, path="p", spans=spans),
        Trial("spoof", SPOOF, path="s"),
        Trial("real", BONAFIDE, path="r"),
    ]
    dataset = TrialDataset(trials, length, place, seed=3, units=UnitLabels(front_end, 0.16), front_end=front_end)
    for epoch in range(3):
        crop, labels, _ = dataset[epoch, 0]
        n_units = int(front_end.n_frames(length or samples) / 16 + 0.5)
        assert labels.tolist() == brute_labels(spans, int(crop[0]), length or samples, samples, n_units)
        assert set(dataset[epoch, 1][1]) == {SPOOF} and set(dataset[epoch, 2][1]) == {BONAFIDE}


@pytest.mark.parametrize("name", ["weighted_CCE", "AM_softmax"])
def test_the_loss_of_units_is_that_of_each_and_none_of_padding(name):
    torch.manual_seed(0)
    outputs, labels = torch.randn(4, 6, 2), torch.randint(0, 2, (4, 6))
    plain = LOSSES[name]()
    frames, both = UnitLoss(plain, "frames"), UnitLoss(plain, "both")
    expected = plain(outputs[:, 1:].reshape(-1, 2), labels[:, 1:].reshape(-1))
    torch.testing.assert_close(frames(outputs, labels), expected)
    torch.testing.assert_close(both(outputs, labels), expected + plain(outputs[:, 0], labels[:, 0]))
    with torch.no_grad():
        padded = (
            torch.nn.functional.pad(outputs, (0, 0, 0, 3), value=9.0),
            torch.nn.functional.pad(labels, (0, 3), value=-1),
        )
        torch.testing.assert_close(both(*padded), both(outputs, labels))
    halves = sum(both.total(o, t) / both.weight(labels) for o, t in zip(outputs.chunk(2), labels.chunk(2)))
    torch.testing.assert_close(halves.sum(), both(outputs, labels))


def test_only_what_the_labels_say_is_trained():
    for labels, utterance_learns in (("frames", False), ("both", True)):
        outputs = torch.randn(2, 4, 2, requires_grad=True)
        UnitLoss(WeightedCrossEntropy(), labels)(outputs, torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])).backward()
        assert bool(outputs.grad[:, 0].any()) == utterance_learns and outputs.grad[:, 1:].all()


def test_windows_follow_each_other_with_their_context():
    rng = np.random.default_rng(0)
    for seconds in (0.5, 29.9, 30.0, 30.01, 50.0, 55.2, 131.7):
        x = np.arange(int(seconds * 16000), dtype=np.float32)
        edges = np.sort(rng.integers(0, len(x), 7))
        windows = list(windows_of(np.split(x, edges), 2560))
        own = [window[lead : lead + n] for window, lead, n in windows]
        np.testing.assert_array_equal(np.concatenate(own), x)
        assert all(n % 2560 == 0 for _, _, n in windows[:-1])
        for i, (window, lead, n) in enumerate(windows):
            assert len(window) <= 30 * 16000 and (lead >= 5 * 16000 or i == 0)
            assert len(window) - lead - n >= 5 * 16000 or i == len(windows) - 1
        assert len(windows) == 1 or seconds > 30


class Local(BackEnd):
    """Hears 25 frames on either side, so that windows with their context give the scores of the whole."""

    def __init__(self, in_channels, n_output_logits=2):
        super().__init__()
        self.conv = torch.nn.Conv1d(in_channels, n_output_logits, 51, padding=25)

    def forward_with_frames(self, x):
        frames = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return frames.mean(dim=1), frames


@pytest.mark.parametrize("utterance", ["pooled", "worst"])
def test_a_long_recording_scores_in_windows_as_in_one_piece(tmp_path, monkeypatch, utterance):
    monkeypatch.setitem(BACK_ENDS, "Local", Local)
    detector = build_detector(ModelConfig("LogMel_Local", unit=0.16, utterance=utterance)).eval()
    x = np.random.default_rng(0).normal(0, 0.1, 16000 * 73 + 77).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", x, 16000, "FLOAT")
    score, units, n, silent = score_units(detector, tmp_path / "x.wav")
    with torch.inference_mode():
        whole = detector(torch.from_numpy(x).unsqueeze(0))
    assert n == len(x) and not silent
    np.testing.assert_allclose(units, detector.unit_scores_of(whole)[0].numpy(), atol=1e-5)
    assert score == pytest.approx(detector.scores_of(whole).item(), abs=0.01 if utterance == "pooled" else 1e-5)
