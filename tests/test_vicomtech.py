"""The back-end of the rows FIR-NB and FIR-WB: vectors computed apart from this project's code, and what it must do."""

import numpy as np
import pytest
import torch
from conftest import read_reference
from torch import nn

from augmentation import fir
from back_ends import build_back_end
from back_ends.common import weighted_layer_sum
from back_ends.vicomtech import Vicomtech, temporal_normalisation
from model import ModelConfig, build_detector, count_parameters
from training.losses import OneClassSoftmax

VECTORS = read_reference("newer_systems.json")
COSINE = {"n_output_logits": 1, "output": "cosine"}


def test_layers_are_normalised_over_time_and_then_weighted():
    vector = VECTORS["fir_temporal_normalisation"]
    states = [torch.tensor(state, dtype=torch.float64)[None] for state in vector["hidden_states"]]
    back_end = Vicomtech(2, 2, size=3).double().eval()
    back_end.weights.data = torch.tensor(vector["layer_logits"], dtype=torch.float64)
    seen = []
    back_end.feed_forward.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    back_end(states)
    torch.testing.assert_close(seen[0][0], torch.tensor(vector["output"]).double(), atol=3e-5, rtol=0)
    weights = torch.tensor(vector["layer_weights"])
    torch.testing.assert_close(torch.softmax(back_end.weights, 0).float(), weights, atol=1e-6, rtol=0)


def test_the_parts_are_as_many_as_were_counted():
    by_hand = 25 + (1024 + 1) * 128 + (128 + 1) * 128 + (128 + 1) * 128 + 128 + 1 + (256 + 1) * 128 + 128
    with torch.device("meta"):
        back_end = build_back_end(ModelConfig("wav2vec2_Vicomtech", **COSINE), 1024)
    assert count_parameters(back_end) == by_hand == 197_402


def test_offset_and_level_of_a_layer_change_nothing():
    torch.manual_seed(0)
    back_end = Vicomtech(6, 3).double().eval()
    states = list(torch.randn(3, 2, 40, 6, dtype=torch.float64))
    expected = back_end(states)
    moved = [states[0] + torch.randn(6), 50 * states[1], states[2]]
    torch.testing.assert_close(back_end(moved), expected, rtol=0, atol=1e-4)
    assert not torch.allclose(back_end([-states[0], *states[1:]]), expected, atol=1e-3)
    order = torch.randperm(40)
    torch.testing.assert_close(back_end([state[:, order] for state in states]), expected)


def test_frames_that_do_not_vary_count_as_zeros():
    torch.manual_seed(0)
    constant = torch.full((2, 30, 4), 0.75, requires_grad=True)
    varied = torch.randn(2, 30, 4, requires_grad=True)
    normalised = temporal_normalisation(constant)
    assert not normalised.any() and not temporal_normalisation(varied[:, :1]).any()
    weighted_layer_sum([normalised, temporal_normalisation(varied)], torch.zeros(2)).square().sum().backward()
    assert torch.isfinite(constant.grad).all() and torch.isfinite(varied.grad).all()


def test_a_score_is_a_cosine_that_the_one_class_softmax_trains():
    torch.manual_seed(0)
    detector = build_detector(ModelConfig("wav2vec2_Vicomtech", ssl="tiny", **COSINE))
    with torch.inference_mode():
        for parameter in detector.back_end.parameters():
            nn.init.normal_(parameter, std=3)
        assert detector.eval().score(torch.randn(6, 5000)).abs().max() <= 1 + 1e-6
    vector = VECTORS["oc_softmax"]
    cosines, labels = torch.tensor(vector["cosines"])[:, None], torch.tensor(vector["labels"])
    losses = [OneClassSoftmax()(cosines[i : i + 1], labels[i : i + 1]).item() for i in range(4)]
    assert losses == pytest.approx(vector["loss_per_trial"], abs=1e-5)
    assert OneClassSoftmax()(cosines, labels).item() == pytest.approx(vector["loss_mean"], abs=1e-5)


def test_the_filter_is_the_vectors(monkeypatch):
    vector = VECTORS["fir_taps_example"]
    monkeypatch.setitem(fir.CUTOFFS, "FIR-NB", (vector["cutoff_hz"], vector["cutoff_hz"]))
    half = vector["half_length"]
    monkeypatch.setattr(fir, "HALF_LENGTHS", (half, half))
    impulse = np.zeros(16_000)
    impulse[8000] = 1
    taps = fir.apply_fir(impulse, "FIR-NB", np.random.default_rng(0))
    np.testing.assert_allclose(taps[8000 - half : 8001 + half], vector["taps"], atol=1e-6)
    gains = np.abs(np.fft.rfft(taps))  # a bin per Hz
    for hz, gain in vector["gain_at_hz"].items():
        assert gains[int(hz)] == pytest.approx(gain, abs=1e-5)
