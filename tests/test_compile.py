import dataclasses
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from back_ends import BACK_ENDS
from front_ends import FRONT_ENDS, lora
from model import ModelConfig, build_detector
from training import trainer
from training.config import TrainingConfig
from training.losses import LOSSES, losses_for

pytestmark = pytest.mark.slow


def started(detector, **flags):
    flags = {"optimizer": "Adam", "lr": 1e-3, "weight_decay": 0.0, "schedule": "constant", "precision": "fp32"} | flags
    criterion = LOSSES[losses_for(detector.config.n_output_logits)[0]]()
    training = trainer.Training(
        TrainingConfig(**flags), detector, criterion, torch.device("cpu"), Path("."), [None], {}, None
    )
    training.freeze(False)
    detector.train()
    return training


def twins(model_name):
    """Two detectors of equal weights."""
    first, second = (build_detector(ModelConfig(model_name, ssl="tiny")) for _ in range(2))
    second.load_state_dict(first.state_dict())
    return first, second


@pytest.fixture
def counter(monkeypatch):
    """Counts the graphs that torch.compile makes, and runs each as it is."""
    torch._dynamo.reset()
    counter, compile = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: compile(function, backend=counter, **options))
    yield counter
    torch._dynamo.reset()


@pytest.mark.parametrize("model_name", ["wav2vec2_Nes2Net_X", "WavLM_MHFA"])
def test_equal_layers_share_a_translation_and_an_odd_batch_leaves_the_others_as_they_are(model_name, counter):
    torch.manual_seed(0)
    plain, other = twins(model_name)
    assert len(plain.front_end.layers()) == 2
    trainings = [started(plain), started(other, compile=True)]
    graphs = []
    for size in (6, 6, 4, 6, 6, 4):
        x, labels = 0.1 * torch.randn(size, 8000), torch.arange(size) % 2
        expected, found = (training.step(x, labels)[0] for training in trainings)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        graphs.append(counter.frame_count)
    assert graphs == [3, 3, 6, 6, 6, 6]  # the convolutions, a layer, the back-end, for each of two sizes

    detector = trainings[1].detector.eval()
    with torch.no_grad():
        for n in (4000, 5000, 6000):  # whole utterances have many lengths
            detector(torch.randn(1, n))
    assert counter.frame_count == 6


def test_parts_of_a_batch_are_translated_for_their_sizes_alone(counter):
    training = started(build_detector(ModelConfig("wav2vec2_GF", ssl="tiny")), compile=True, grad_accum=2)
    for size in (6, 5, 6, 5):  # parts of 3 and 3, of 3 and 2
        training.step(0.1 * torch.randn(size, 8000), torch.arange(size) % 2)
    assert counter.frame_count == 6


def test_recomputed_layers_are_translated_too(counter):
    torch.manual_seed(0)
    plain, other = twins("wav2vec2_GF")
    trainings = [started(plain), started(other, compile=True, grad_checkpoint=True)]
    x, labels = 0.1 * torch.randn(4, 8000), torch.arange(4) % 2
    expected, found = (training.step(x, labels)[0] for training in trainings)
    torch.testing.assert_close(found, expected)
    for name, parameter in trainings[0].detector.named_parameters():
        torch.testing.assert_close(trainings[1].detector.get_parameter(name), parameter, rtol=1e-3, atol=1e-5)
    assert counter.frame_count == 3


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_it_is_said_what_is_not_compiled(back_end):
    training = started(build_detector(ModelConfig(f"wav2vec2_{back_end}", ssl="tiny")))
    has_lstm = any(isinstance(module, torch.nn.LSTM) for module in training.detector.modules())
    words = training.compiled()
    assert ("LSTM" in words.split("; ")[0]) == has_lstm
    assert ("and the back-end" in words) == (back_end not in ("Mamba", "Fake_Mamba"))
    assert words.endswith("no CUDA graph: on a CPU there is none")


def test_what_cannot_be_recorded(monkeypatch):
    training = started(build_detector(ModelConfig("wav2vec2_GF", ssl="tiny")))
    training.device = torch.device("cuda")
    assert training.why_not_recorded() == ""
    training.detector.front_end.set_training({"encoder_layerdrop": 0.1})
    assert "encoder_layerdrop" in training.why_not_recorded()
    training.frozen = True  # nothing is left out then
    assert training.why_not_recorded() == ""
    monkeypatch.setattr(trainer.distributed, "world_size", lambda: 2)
    assert "several processes" in training.why_not_recorded()
    monkeypatch.undo()
    training.config = dataclasses.replace(training.config, grad_checkpoint=True)
    assert "--grad_checkpoint" in training.why_not_recorded()


@pytest.mark.parametrize("n_layers", [2, 5])
def test_layers_with_adapters_share_two_translations(n_layers, counter):
    """The input of the first layer asks for no gradient, those of the others do."""
    detectors = []
    for _ in range(2):
        torch.manual_seed(0)
        fields = {**FRONT_ENDS["WavLM"].presets["tiny"].fields, "normalize": False, "encoder_layers": n_layers}
        detector = build_detector(ModelConfig("WavLM_Nes2Net_X", ssl="from_file", ssl_config=fields))
        lora.add_adapters(detector.front_end, 2, 2.0, "all-linear")
        detectors.append(detector)
    flags = {"sam": 0.05, "ema": 0.9, "clip_grad_norm": 1.0, "layer_decay": 0.5}
    plain, compiled = started(detectors[0], **flags), started(detectors[1], compile=True, **flags)
    for _ in range(2):
        x, labels = 0.1 * torch.randn(6, 8000), torch.arange(6) % 2
        torch.testing.assert_close(compiled.step(x, labels)[0], plain.step(x, labels)[0], rtol=1e-3, atol=1e-4)
        assert counter.frame_count == 4
