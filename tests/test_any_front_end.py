"""What every front-end promises, with several back-ends: trained, saved, loaded, averaged, scored, judged."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY_FLAGS, read_reference, whisper_folder
from torch.nn import functional as F

import checkpoint
import checkpoints
import corpora
import eval as scoring_command
import train
from back_ends import BACK_ENDS as ALL_BACK_ENDS
from common.audio import load_audio
from common.console import UserError
from data_utils import TrialDataset, make_loader, plan_batches, repeat_pad
from front_ends import FRONT_ENDS
from front_ends.wav2vec2 import Wav2Vec2
from inference import scoring
from inference.judging import Judge
from inference.precision import prepare
from model import ModelConfig, build_detector
from training.config import TrainingConfig
from training.losses import LOSSES

LAYER_NORMS = {**Wav2Vec2.presets["tiny"].fields, "extractor_mode": "layer_norm"}
WHISPER = {name: read_reference("whisper.json")["config"][name] for name in FRONT_ENDS["Whisper"].allowed}
# Of each front-end one that sees whole frames and one that sees all samples, if it can do both.
ENCODERS = {
    "wav2vec2": ("wav2vec2", {"ssl": "tiny"}),
    "wav2vec2, layer norms": ("wav2vec2", {"ssl": "from_file", "ssl_config": LAYER_NORMS}),
    "WavLM": ("WavLM", {"ssl": "tiny"}),
    "Whisper": ("Whisper", {"ssl": "from_file", "ssl_config": WHISPER}),
    "LogMel": ("LogMel", {}),
}
BACK_ENDS = {"Nes2Net_X": {"Nes_ratio": (2, 2)}, "AASIST": {}, "MHFA": {}}
LENGTHS = [90, 399, 400, 401, 559, 4000, 4100, 4159, 4160, 4319, 9000, 9000, 9001]


def config_of(encoder, back_end):
    front_end, options = ENCODERS[encoder]
    return ModelConfig(f"{front_end}_{back_end}", **options, **BACK_ENDS[back_end], n_output_logits=2)


def detector_of(encoder, back_end):
    torch.manual_seed(0)
    return build_detector(config_of(encoder, back_end))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    rng, folder, paths = np.random.default_rng(0), tmp_path_factory.mktemp("files"), []
    for i, n in enumerate(LENGTHS):
        paths.append(str(folder / f"{i:02}.wav"))
        x = 0.2 + 0.1 * rng.standard_normal(n) * np.linspace(0.1, 2, n)  # its mean and level change along it
        soundfile.write(paths[-1], x, 16000, subtype="FLOAT")
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_trained_saved_averaged_scored_and_judged(encoder, back_end, tmp_path, files):
    detector = detector_of(encoder, back_end)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    paths = [tmp_path / f"epoch_{epoch}.pth" for epoch in (1, 2)]
    for epoch, path in enumerate(paths, start=1):
        loss = F.cross_entropy(detector(0.1 * torch.randn(4, 9000, generator=generator)), torch.tensor([0, 1, 1, 0]))
        loss.backward()
        optimizer.step()
        checkpoints.save_checkpoint(path, detector.config, detector.state_dict(), epoch=epoch)
    for parameter in detector.front_end.parameters():
        assert parameter.grad is not None or parameter is detector.front_end.model.mask_emb  # of the pre-training

    detector = checkpoints.load_average(paths)
    loaded = [checkpoints.load_detector(path).state_dict() for path in paths]
    for name, tensor in detector.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, ((loaded[0][name].double() + loaded[1][name].double()) / 2).float())

    front_end = detector.front_end
    batches = plan_batches(front_end, files)
    assert len(batches) < len(files)
    scores, failures, _ = scoring.score_files(detector, files)
    assert not failures
    with torch.inference_mode():
        waveforms = [torch.from_numpy(repeat_pad(load_audio(file), front_end.least_samples))[None] for file in files]
        expected = [detector.score(x).item() for x in waveforms]
        for x in waveforms:
            states = front_end(x)
            assert len(states) == front_end.n_hidden_states
            assert all(s.shape == (1, front_end.n_frames(x.shape[1]), front_end.channels) for s in states)
    assert np.std(expected) > 1e-4  # or the comparison says nothing
    np.testing.assert_allclose([scores[i] for i in range(len(files))], expected, atol=1e-5, rtol=0)

    judge = Judge(str(paths[1]), torch.device("cpu"))
    one = checkpoints.load_detector(paths[1])
    for judged, x in zip(judge.judge({file: file for file in files}), waveforms):
        with torch.inference_mode():
            assert judged.error is None and abs(judged.score - one.score(x).item()) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_scores_of_a_detector_made_ready_are_near(encoder, precision, files):
    detector = detector_of(encoder, "Nes2Net_X").eval()
    expected, *_ = scoring.score_files(detector, files)
    prepare(detector, precision)
    scores, failures, _ = scoring.score_files(detector, files, precision=precision)
    assert not failures
    np.testing.assert_allclose([*scores.values()], [expected[i] for i in scores], atol=0.05, rtol=0.05)


def gradients(encoder, grad_checkpoint):
    detector = detector_of(encoder, "Nes2Net_X").train()
    config = TrainingConfig(
        corpus="CtrSVDD", lr=0, precision="fp32", schedule="constant", grad_checkpoint=grad_checkpoint
    )
    loader = make_loader(TrialDataset([None] * 4), 4, shuffle=True)
    loss = LOSSES["weighted_CCE"]([0.1, 0.9])
    training = train.Training(config, detector, loss, torch.device("cpu"), Path("."), loader, {}, None)
    training.freeze(False)
    calls = []
    for layer in detector.front_end.layers():
        layer.fc1.register_forward_hook(lambda *_: calls.append(1))
    x = 0.1 * torch.randn(4, 9000, generator=torch.Generator().manual_seed(2))
    training.step(x, torch.tensor([0, 1, 1, 0]))
    return {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}, len(calls)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_recomputing_layers_changes_no_gradient(encoder):
    (plain, n), (recomputed, n_recomputed) = gradients(encoder, False), gradients(encoder, True)
    assert n_recomputed == 2 * n and (n > 0) == (encoder != "LogMel")
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(grad, recomputed[name]) for name, grad in plain.items())


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_layers_are_those_between_the_hidden_states(encoder):
    front_end = detector_of(encoder, "Nes2Net_X").eval().front_end
    outputs = []
    for layer in front_end.layers():
        layer.register_forward_hook(lambda _, args, output: outputs.append(output))
    assert len(front_end.layers()) == front_end.n_hidden_states - 1
    with torch.no_grad():
        states = front_end(0.1 * torch.randn(1, 9000))
    outputs = [output[0] if isinstance(output, tuple) else output for output in outputs]
    for output, state in zip(outputs[:-1], states[1:-1], strict=True):
        assert torch.equal(output, state)


@pytest.mark.parametrize("model_name", ["Whisper_MHFA", "LogMel_Nes2Net_X"])
def test_the_commands_train_resume_and_score_it(model_name, tmp_path, corpus, train_flags, output):
    options = ["--ssl_path", str(whisper_folder(tmp_path / "whisper"))] if model_name == "Whisper_MHFA" else []
    at = train_flags.index("--model_name")
    flags = [*train_flags[:at], *train_flags[at + len(TINY_FLAGS) :], "--model_name", model_name, *options]
    flags += ["--log_dir", str(tmp_path / "logs"), "--foldername", "run", "--epochs", "2"]
    assert f"model: {model_name}, encoder " in output(train.main, flags)
    assert "finished" in output(train.main, [*flags, "--resume", "auto"])
    (path,) = (tmp_path / "logs" / "run").glob("*/checkpoints/epoch_2.pth")
    scores, audio = str(tmp_path / "scores.txt"), str(corpus / "ASVspoof2019_LA_eval" / "flac")
    protocol = str(corpus / "ASVspoof2019_LA_cm_protocols" / "ASVspoof2019.LA.cm.eval.trl.txt")
    flags = ["--protocol", protocol, "--audio_dir", audio, "--num_workers", "1", "--model_path", str(path)]
    output(scoring_command.main, [*flags, "--eval_output", scores])
    found = corpora.read_scores(scores)
    assert len(found) > 10 and np.std([*found.values()]) > 0
    assert f"{model_name}" in output(checkpoint.main, ["show", str(path)])


def test_every_back_end_takes_a_spectrogram_or_says_why_not():
    for name, back_end in ALL_BACK_ENDS.items():
        if back_end.least_layers:
            with pytest.raises(UserError, match=f"LogMel_{name}.*{back_end.least_layers} layers.* 0"):
                build_detector(ModelConfig(f"LogMel_{name}"))
        else:
            assert build_detector(ModelConfig(f"LogMel_{name}")).eval()(torch.randn(1, 400)).shape == (1, 2)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_presets_are_shapes_of_their_class_and_what_is_not_is_named(name):
    front_end = FRONT_ENDS[name]
    assert front_end.published["ssl"] in front_end.presets
    for preset in front_end.presets.values():
        front_end.check_fields(preset.fields)
    with pytest.raises(ValueError, match="setting stride"):
        front_end.check_fields({**front_end.presets[front_end.published["ssl"]].fields, "stride": 320})
