"""Detectors as ONNX files: onnxruntime's scores are torch's at any length, or nothing is written without a word."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import checkpoint
import checkpoints
from back_ends import aasist, common, mamba, moe, sls
from checkpoints import exporting
from front_ends.attention import RelativeAttention
from model import ModelConfig, build_detector

FIGURES = {"eer": 0.1, "threshold": 0.02, "key": "DEV"}


def saved(path, config, **facts):
    torch.manual_seed(0)
    detector = build_detector(config).eval()
    checkpoints.save_checkpoint(path, config, detector.state_dict(), **facts)
    return detector


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def waveform(n):
    return 0.1 * np.random.default_rng(n).standard_normal((1, n)).astype(np.float32)


def metadata(onnx):
    return {name: json.loads(value) for name, value in onnx.get_modelmeta().custom_metadata_map.items()}


@pytest.fixture
def exported_as_traced(monkeypatch):
    """Within the test, networks take the ways of an exported graph."""
    return lambda: monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)


def test_exported_detector_scores_as_torch_does_and_keeps_the_facts_of_the_checkpoint(tmp_path, output):
    config = ModelConfig(model_name="WavLM_Nes2Net_X", ssl="tiny", Nes_ratio=(2, 2), n_output_logits=2, unit=0.16)
    detector = saved(tmp_path / "d.pth", config, valid=FIGURES, trained_on="CORPUS", crop=20_000)
    text = output(checkpoint.main, ["export", str(tmp_path / "d.pth"), str(tmp_path / "d.onnx")])
    assert "audio of any length" in text
    onnx = session(tmp_path / "d.onnx")
    for n in (400, 7_777, 20_000, 90_001):
        with torch.no_grad():
            logits = detector(torch.from_numpy(waveform(n)))
        score, units = onnx.run(["score", "unit_scores"], {"waveforms": waveform(n)})
        np.testing.assert_allclose(score, detector.scores_of(logits), rtol=0, atol=1e-5)
        np.testing.assert_allclose(units, detector.unit_scores_of(logits), rtol=0, atol=1e-5)
    facts = metadata(onnx)
    assert facts["config"] == json.loads(json.dumps(config.to_dict()))
    assert facts["valid"] == FIGURES and facts["trained_on"] == "CORPUS" and facts["crop"] == 20_000
    assert (facts["sample_rate"], facts["least_samples"], facts["samples"]) == (16_000, 400, None)


@pytest.fixture
def length_is_baked(monkeypatch):
    """An exported score holds the length that was traced, as one did where a fraction of it was made an integer."""
    forward = exporting._Scorer.forward

    def baked(self, waveforms):
        return (forward(self, waveforms)[0] + int(waveforms.shape[1] * 0.5),)

    monkeypatch.setattr(exporting._Scorer, "forward", baked)


def test_what_is_right_at_one_length_alone_takes_that_length_alone(tmp_path, output, length_is_baked):
    saved(tmp_path / "d.pth", ModelConfig(model_name="LogMel_Linear"), crop=8_000)
    text = output(checkpoint.main, ["export", str(tmp_path / "d.pth"), str(tmp_path / "d.onnx")])
    assert "audio of 8000 samples alone, because else at 100003 samples its score differs" in text
    onnx = session(tmp_path / "d.onnx")
    assert metadata(onnx)["samples"] == 8_000
    assert np.isfinite(onnx.run(None, {"waveforms": waveform(8_000)})[0])
    with pytest.raises(Exception, match="invalid dimensions"):
        onnx.run(None, {"waveforms": waveform(8_160)})


def test_what_differs_is_not_written(tmp_path, fails, monkeypatch):
    saved(tmp_path / "d.pth", ModelConfig(model_name="LogMel_Linear"))
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    words = ("d.onnx: not written", "at 64600 samples", "differs")
    fails(checkpoint.main, ["export", str(tmp_path / "d.pth"), str(tmp_path / "d.onnx")], *words)
    fails(checkpoint.main, ["export", str(tmp_path / "d.pth"), str(tmp_path / "d.pt")], "ends in .onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["d.pth"]


# What an exported graph computes in another way is the same, to the bit or to rounding.


@pytest.mark.parametrize("n_frames", [1, 2, 39, 40, 41, 200])
def test_wavlms_bias_has_the_same_values_in_a_graph(n_frames, exported_as_traced):
    attention = RelativeAttention(16, 4, 0.0, (32, 40))
    expected = attention.position_bias(n_frames)
    exported_as_traced()
    assert torch.equal(attention.position_bias(n_frames), expected)


@pytest.mark.parametrize("n_frames", [1, 2, 3, 8, 9, 20, 30])
def test_repeated_frames_are_the_same_in_a_graph(n_frames, exported_as_traced):
    x = torch.randn(2, n_frames, 3)
    expected = common.repeat_frames(x, 9)
    exported_as_traced()
    assert torch.equal(common.repeat_frames(x, 9), expected)


@pytest.mark.parametrize("ratio", [0.5, 0.3, 1.0])
def test_aasist_keeps_as_many_nodes_in_a_graph(ratio, exported_as_traced):
    pool = aasist.GraphPool(4, ratio)
    expected = [pool._n_kept(n) for n in (1, 2, 3, 9, 10, 99, 100, 1500)]
    exported_as_traced()
    assert [pool._n_kept(n) for n in (1, 2, 3, 9, 10, 99, 100, 1500)] == expected


def test_aasist_refuses_a_ratio_that_a_graph_would_round_otherwise(exported_as_traced):
    exported_as_traced()
    for ratio in (1 / 3, 0.29):  # int(100 * 0.29) is 28
        with pytest.raises(ValueError, match="pool_ratio"):
            aasist.GraphPool(4, ratio)._n_kept(10)


@pytest.mark.parametrize("n_frames", [1, 8, 9, 11, 12, 18, 19, 50])
def test_sls_windows_are_the_same_in_a_graph(n_frames, exported_as_traced):
    torch.manual_seed(0)
    network = sls.SLS(12, 3, window=9).eval()
    states = [torch.randn(2, n_frames, 12) for _ in range(3)]
    expected = network(states)
    exported_as_traced()
    assert torch.equal(network(states), expected)


def test_experts_and_scan_are_the_same_in_a_graph(exported_as_traced):
    torch.manual_seed(0)
    fusion = moe.ExpertFusion(2, 6, 4, 2, 5).eval()
    fusion.w_gate.data.normal_()
    states = [torch.randn(2, 30, 6) for _ in range(3)]
    x, delta = torch.randn(2, 2, 30, 4).unbind(0)
    scanned = x, delta.abs(), -torch.rand(4, 3), torch.randn(2, 30, 3), torch.randn(2, 30, 3), torch.randn(4)
    expected = fusion(states), mamba.selective_scan(*scanned)
    exported_as_traced()
    torch.testing.assert_close(fusion(states), expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mamba.selective_scan(*scanned), expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_lstms_run_over_any_length_in_onnx(bidirectional):
    class Outputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(5, 3, batch_first=True, bidirectional=bidirectional)

        def forward(self, x):
            return common.lstm_outputs(self.lstm, x)

    module = Outputs().eval()
    shapes = {"x": {1: torch.export.Dim.DYNAMIC(min=1)}}
    with exporting._quiet():
        program = torch.onnx.export(module, (torch.randn(1, 7, 5),), dynamo=True, dynamic_shapes=shapes, verbose=False)
    onnx = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for n in (1, 2, 7, 40):
        x = torch.randn(1, n, 5)
        (found,) = onnx.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(found, module(x).detach(), rtol=0, atol=1e-6)
