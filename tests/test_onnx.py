"""Detectors as ONNX files: onnxruntime's scores are torch's at any length, or nothing is written without a word."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
import torch
from torch import nn

import checkpoint
import checkpoints
import easy_inference_demo
from back_ends import aasist, common, mamba, moe, sls
from checkpoints import exporting
from common.audio import load_audio
from common.lengths import first_samples
from front_ends.attention import RelativeAttention
from inference.judging import Judge
from inference.onnx_judge import OnnxJudge
from model import ModelConfig, build_detector

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
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


def metadata(graph):
    return {name: json.loads(value) for name, value in graph.get_modelmeta().custom_metadata_map.items()}


@pytest.fixture
def exported_as_traced(monkeypatch):
    """Within the test, networks take the ways of an exported graph."""
    return lambda: monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(detector, its checkpoint, its ONNX file, what was said)."""
    folder = tmp_path_factory.mktemp("exported")
    config = ModelConfig(model_name="WavLM_Nes2Net_X", ssl="tiny", Nes_ratio=(2, 2), n_output_logits=2, unit=0.16)
    facts = dict(valid=FIGURES, trained_on="CORPUS", crop=20_000)
    detector = saved(folder / "d.pth", config, **facts)
    return detector, folder / "d.pth", folder / "d.onnx", checkpoints.export(folder / "d.pth", folder / "d.onnx")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Audio files: 2 s, 40 s, less than a frame, silence."""
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    for name, n in {"2s.wav": 32_000, "40s.wav": 640_000, "short.wav": 150}.items():
        soundfile.write(folder / name, 0.1 * rng.standard_normal(n) * np.linspace(0.1, 1, n), 16_000)
    soundfile.write(folder / "silence.wav", np.zeros(16_000), 16_000)
    return {path.name: str(path) for path in sorted(folder.iterdir())}


def test_exported_detector_scores_as_torch_does_and_keeps_the_facts_of_the_checkpoint(exported):
    detector, _, path, text = exported
    assert "takes audio of any length" in text
    graph = session(path)
    for n in (400, 7_777, 20_000, 90_001):
        with torch.no_grad():
            logits = detector(torch.from_numpy(waveform(n)))
        score, units = graph.run(["score", "unit_scores"], {"waveforms": waveform(n)})
        np.testing.assert_allclose(score, detector.scores_of(logits), rtol=0, atol=1e-5)
        np.testing.assert_allclose(units, detector.unit_scores_of(logits), rtol=0, atol=1e-5)
    facts = metadata(graph)
    assert facts["config"] == json.loads(json.dumps(detector.config.to_dict()))
    assert facts["valid"] == FIGURES and facts["trained_on"] == "CORPUS" and facts["crop"] == 20_000
    assert (facts["sample_rate"], facts["least_samples"], facts["samples"]) == (16_000, 400, None)


def same_verdicts(judge, onnx_judge, files, timeline):
    for a, b in zip(judge.judge(files, timeline), onnx_judge.judge(files, timeline), strict=True):
        assert a.score is None if b.score is None else abs(a.score - b.score) < 1e-5, a.file
        assert a.error == b.error and [w[:2] for w in a.windows] == [w[:2] for w in b.windows]
        scores = [[np.nan if w[2] is None else w[2] for w in judged.windows] for judged in (a, b)]
        np.testing.assert_allclose(*scores, rtol=0, atol=1e-5)
        text, other = (
            re.sub(r"-?\d+\.\d{3,}", "#", f"{reader.in_words(j)}: {reader.reason(j)}; {reader.about_errors()}")
            for reader, j in ((judge, a), (onnx_judge, b))
        )
        assert text == other


@pytest.mark.parametrize("test_mode", ["full", "4s"])
def test_an_onnx_file_judges_as_its_checkpoint_does(test_mode, exported, files):
    _, path, onnx_path, _ = exported
    judges = Judge(path, torch.device("cpu"), test_mode=test_mode), OnnxJudge(onnx_path, test_mode=test_mode)
    for timeline in (False, True):
        same_verdicts(*judges, files, timeline)


def test_the_worst_units_of_a_long_file_decide_in_onnx_too(tmp_path, files):
    config = ModelConfig(model_name="LogMel_Linear", unit=0.16, utterance="worst")
    saved(tmp_path / "d.pth", config, valid=FIGURES)
    checkpoints.export(tmp_path / "d.pth", tmp_path / "d.onnx")
    same_verdicts(Judge(tmp_path / "d.pth", torch.device("cpu")), OnnxJudge(tmp_path / "d.onnx"), files, True)


def demo_without(packages, *argv):
    """Run the demo in a process of its own in which importing any of the packages fails."""
    code = f"""if True:
        import runpy, sys
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {packages}:
                    raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        sys.meta_path.insert(0, Absent())
        sys.path.insert(0, {str(ROOT)!r})
        sys.argv = ["easy_inference_demo.py", *{[str(a) for a in argv]}]
        runpy.run_path({str(ROOT / "easy_inference_demo.py")!r}, run_name="__main__")"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.hears  # as the other process does
def test_the_demo_judges_by_an_onnx_file_with_the_packages_of_its_own_requirements_alone(exported, files, tmp_path):
    def names(file):
        lines = (ROOT / file).read_text().split("\n")
        return {re.split("[<>=]", line)[0] for line in lines if line and not line.startswith(("#", "-r"))}

    of_its_own = names("requirements-onnx.txt")
    assert of_its_own <= names("requirements.txt") | names("requirements-web.txt")
    others = sorted(names("requirements.txt") - of_its_own - {"fairseq-fixed"} | {"fairseq", "sklearn"})
    assert {"torch", "librosa", "onnx"} < set(others)
    _, path, onnx_path, _ = exported
    flags = [*files.values(), "--timeline", "--json"]
    done = demo_without(others, "--model_path", onnx_path, *flags, tmp_path / "onnx.json")
    assert (done.returncode, done.stderr) == (0, "")
    easy_inference_demo.main(["--model_path", str(path), *map(str, flags), str(tmp_path / "pth.json")])
    found, expected = (json.loads((tmp_path / name).read_text()) for name in ("onnx.json", "pth.json"))
    assert found["threshold"] == expected["threshold"]
    assert found["detector"] == {**expected["detector"], "checkpoint": str(onnx_path)}
    for a, b in zip(found["files"], expected["files"], strict=True):
        assert a.keys() == b.keys() and a["verdict"] == b["verdict"] and a["notes"] == b["notes"]
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)

    done = demo_without(others, "--model_path", path, files["2s.wav"])
    assert done.returncode == 2 and "needs torch" in done.stderr


def test_files_that_no_export_wrote_and_flags_that_an_onnx_file_has_are_refused(exported, files, tmp_path, fails):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    model = onnx.load(exported[2])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    for name, words in {"bad": "cannot be read", "other": "checkpoint.py export", "none": "found no file"}.items():
        flags = ["--model_path", str(tmp_path / f"{name}.onnx"), files["2s.wav"]]
        fails(easy_inference_demo.main, flags, f"{name}.onnx", words)
    flags = ["--model_path", str(exported[2]), files["2s.wav"]]
    fails(easy_inference_demo.main, [*flags, "--precision", "bf16"], "--precision")
    fails(easy_inference_demo.main, [*flags, "--dilation", "1"], "--dilation")


@pytest.fixture
def length_is_baked(monkeypatch):
    """An exported score holds the length that was traced, as one did where a fraction of it was made an integer."""
    forward = exporting._Scorer.forward

    def baked(self, waveforms):
        return (forward(self, waveforms)[0] + int(waveforms.shape[1] * 0.5),)

    monkeypatch.setattr(exporting._Scorer, "forward", baked)


def test_what_is_right_at_one_length_alone_takes_that_length_alone(tmp_path, files, output, length_is_baked):
    saved(tmp_path / "d.pth", ModelConfig(model_name="LogMel_Linear"), crop=8_000)
    text = output(checkpoint.main, ["export", str(tmp_path / "d.pth"), str(tmp_path / "d.onnx")])
    assert "audio of 8000 samples, because otherwise at 100003 samples" in text
    graph = session(tmp_path / "d.onnx")
    assert metadata(graph)["samples"] == 8_000
    assert np.isfinite(graph.run(None, {"waveforms": waveform(8_000)})[0])
    with pytest.raises(Exception, match="invalid dimensions"):
        graph.run(None, {"waveforms": waveform(8_160)})
    judge = OnnxJudge(tmp_path / "d.onnx")
    (long,), (short,) = (judge.judge({name: files[name]}) for name in ("2s.wav", "short.wav"))
    x = first_samples(load_audio(files["2s.wav"]), 8_000)
    assert long.score == pytest.approx(graph.run(None, {"waveforms": x[None]})[0].item(), abs=1e-6)
    assert any("first 0.5 s" in note for note in judge.notes(long))
    assert np.isfinite(short.score) and not any("first" in note for note in judge.notes(short))


def test_what_differs_is_not_written(tmp_path, fails, monkeypatch):
    saved(tmp_path / "d.pth", ModelConfig(model_name="LogMel_Linear"))
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    words = ("d.onnx: not written", "at 64600 samples", "differs")
    fails(checkpoint.main, ["export", str(tmp_path / "d.pth"), str(tmp_path / "d.onnx")], *words)
    fails(checkpoint.main, ["export", str(tmp_path / "d.pth"), str(tmp_path / "d.pt")], ".onnx")
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
    graph = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for n in (1, 2, 7, 40):
        x = torch.randn(1, n, 5)
        (found,) = graph.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(found, module(x).detach(), rtol=0, atol=1e-6)
