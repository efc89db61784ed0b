"""What a user without pre-trained weights, or without a GPU, is told."""

import time

import pytest
import torch
from conftest import TINY

import checkpoints
from common.console import UserError
from model import ModelConfig, build_detector
from training import on_cpu
from training.config import TrainingConfig

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "model_name, words",
    [
        (
            "wav2vec2_AASIST",
            ["--ssl xlsr_300m: ", "xlsr2_300m.pt in this folder (3.8 GB, https://", "facebook/wav2vec2-"],
        ),
        (
            "WavLM_AASIST",
            ["WavLM-Large.pt in this folder (1.3 GB, ", "--ssl wavlm_large --ssl_path microsoft/wavlm-large"],
        ),
        ("Whisper_AASIST", ["--ssl_path openai/whisper-medium downloads"]),
    ],
)
def test_missing_weights_are_named_with_size_place_and_a_way_without(tmp_path, monkeypatch, model_name, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        checkpoints.pretrained_path(ModelConfig(model_name), None)
    message = str(raised.value)
    assert (
        all(word in message for word in [*words, "--recipe small needs no weights and no GPU"]) and "\n" not in message
    )


class Slow(torch.nn.Module):
    """A detector whose pass takes 20 ms a trial second; it tells whether it was called in the state of scoring."""

    def __init__(self):
        super().__init__()
        self.front_end = torch.nn.Dropout(0.5)
        self.front_end.least_samples = 400
        self.seen = []

    def forward(self, x):
        self.seen.append((tuple(x.shape), self.training))
        self.front_end(x)
        time.sleep(0.02 * x.shape[1] / 16000)


def test_the_time_of_a_step_is_that_of_a_timed_pass_and_the_rest_stays_as_it_was(monkeypatch):
    detector = Slow()
    detector.train()
    state = torch.get_rng_state()
    seconds = on_cpu.seconds_per_trial(detector, 64000)
    assert 4 * 0.02 <= seconds and set(detector.seen) == {((1, 16000), False)}
    assert detector.training and torch.equal(torch.get_rng_state(), state)


def test_a_large_encoder_on_a_cpu_is_warned_of_in_two_lines(monkeypatch):
    config = TrainingConfig(corpus="ASVspoof2019_LA", batch_size=12, epochs=100, precision="fp32")
    monkeypatch.setattr(on_cpu, "seconds_per_trial", lambda detector, n_samples: 0.5 * n_samples / config.crop)
    monkeypatch.setattr(on_cpu.memory, "step_bytes", lambda *args: 9 * 2**30)
    monkeypatch.setattr(on_cpu, "count_parameters", lambda detector: 317_400_000)
    first, second = on_cpu.warnings(config, None, CPU, 2000)
    assert first.startswith("317 million parameters on a CPU: about 18 s per step, 10 hours per epoch, 42 days in all")
    assert ", 9 GiB of memory" in first
    assert "--recipe small" in second and "--SSL_freeze_epoch 100" in second
    frozen = TrainingConfig(corpus="ASVspoof2019_LA", batch_size=12, epochs=100, precision="fp32", SSL_freeze_epoch=100)
    first, second = on_cpu.warnings(frozen, None, CPU, 2000)
    assert "about 6 s per step" in first and "freeze" not in second
    assert on_cpu.warnings(config, None, torch.device("cuda"), 2000) == []
    monkeypatch.undo()
    assert on_cpu.warnings(config, build_detector(TINY), CPU, 2000) == []  # small: at once, without a pass
