"""Systems built after their papers: vectors computed apart from this project's code, and what each must do."""

import os
import signal

import numpy as np
import pytest
import torch
from conftest import read_reference, with_back_end
from torch import nn
from torch.nn import functional as F

import checkpoints
import train
from back_ends.aasist import AASIST
from back_ends.aasist2 import AASIST2, Res2NetBlock
from back_ends.asp_mlp import LayerASP_MLP
from back_ends.common import AttentivePooling
from back_ends.mfa import MFA
from back_ends.prompt_tuning import PT_AASIST, haar
from corpora import Trial
from data_utils import EpochSampler, TrialDataset, make_loader
from model import ModelConfig, build_detector, count_parameters
from training import memory
from training.config import TrainingConfig
from training.losses import LOSSES, DurationMarginSoftmax
from training.trainer import Training

VECTORS = read_reference("newer_systems.json")


def fill(pooling, values):
    """Set an AttentivePooling to the W, b, v and c of a vector."""
    first, _, last = pooling.attention
    for name, parameter in zip("Wbvc", (first.weight, first.bias, last.weight, last.bias)):
        parameter.data = torch.tensor(values[name], dtype=torch.float64).reshape(parameter.shape)


def test_mfa_pools_frames_then_layers():
    vector = VECTORS["mfa"]
    states = [torch.tensor(state, dtype=torch.float64)[None] for state in vector["hidden_states"]]
    mfa = MFA(3, 3, attention_size=3).double().eval()
    for i, pooling in enumerate(mfa.over_time):
        fill(pooling, {name: values[i] for name, values in vector["time_asp"].items()})
        weights = torch.softmax(pooling.attention(states[i]), dim=1).flatten()
        torch.testing.assert_close(weights, torch.tensor(vector["time_attention"][i]).double(), atol=1e-6, rtol=0)
        pooled = pooling(states[i])[0]
        torch.testing.assert_close(pooled, torch.tensor(vector["time_pooled"][i]).double(), atol=1e-6, rtol=0)
    fill(mfa.over_layers, vector["layer_asp"])
    for name in ("weight", "bias"):
        getattr(mfa.projection, name).data = torch.tensor(vector["projection"][name], dtype=torch.float64)
    seen = []
    mfa.embedding[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mfa([*states, torch.full_like(states[0], torch.nan)])
    torch.testing.assert_close(seen[0][0], torch.tensor(vector["layer_pooled"]).double(), atol=2e-6, rtol=0)


@pytest.mark.parametrize("width", [128, 1024])
def test_mfa_has_the_parameters_that_were_counted(width):
    counts = VECTORS["mfa_parameter_counts"][f"attention {width}"]
    with torch.device("meta"):
        mfa = MFA(1024, 25, attention_size=width)
    assert count_parameters(mfa) == counts["total_24_layers"]
    assert count_parameters(mfa.over_layers) == counts["one_asp"]


def test_attention_of_zeros_is_the_plain_mean_and_deviation():
    pooling = AttentivePooling(5, 4).double()
    for parameter in pooling.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 9, 5, dtype=torch.float64)
    expected = torch.cat([x.mean(dim=1), x.std(dim=1, correction=0)], dim=1)
    torch.testing.assert_close(pooling(x), expected)
    mean, deviation = pooling(x[:, :1]).chunk(2, dim=1)  # one frame
    assert torch.equal(mean, x[:, 0]) and torch.all(deviation == 1e-5)


def test_mfa_heeds_the_order_of_layers_and_not_that_of_frames():
    torch.manual_seed(0)
    mfa = MFA(6, 5).double().eval()
    states = list(torch.randn(5, 2, 7, 6, dtype=torch.float64))
    logits = mfa(states)
    order = torch.randperm(7)
    torch.testing.assert_close(mfa([state[:, order] for state in states]), logits)
    assert not torch.allclose(mfa([states[1], states[0], *states[2:]]), logits)


def test_equal_layers_get_equal_weights():
    torch.manual_seed(0)
    mfa = MFA(6, 5).double().eval()
    for pooling in mfa.over_time:
        pooling.load_state_dict(mfa.over_time[0].state_dict())
    state = torch.randn(2, 7, 6, dtype=torch.float64)
    seen = []
    mfa.over_layers.register_forward_hook(lambda module, inputs, output: seen.extend([*inputs, output]))
    mfa([state] * 5)
    layers, pooled = seen
    weights = torch.softmax(mfa.over_layers.attention(layers), dim=1)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 4))
    assert torch.all(pooled[:, 6:] == 1e-5)


def test_mfa_trains_neither_the_last_layer_nor_its_norm():
    torch.manual_seed(0)
    detector = build_detector(ModelConfig("WavLM_MFA", ssl="tiny"))
    detector.set_trained(front_end=True)
    detector(torch.randn(2, 5000)).sum().backward()
    encoder = detector.front_end.model.encoder
    idle = [*encoder.layers[-1].parameters(), *encoder.layer_norm.parameters()]
    assert all(not p.requires_grad and p.grad is None for p in idle)
    assert all(p.grad is not None for p in encoder.layers[0].parameters())
    before = detector.eval().score(x := torch.randn(2, 5000))
    for parameter in idle:
        nn.init.constant_(parameter, 7.0)
    assert torch.equal(detector.score(x), before)


def test_aasist2_replaces_the_blocks_of_aasist_alone():
    counts = VECTORS["aasist2_counts_own_block"]
    with torch.device("meta"):
        aasist, aasist2 = AASIST(1024), AASIST2(1024)
    assert count_parameters(aasist.encoder) == counts["residual_blocks_of_AASIST"]
    assert count_parameters(aasist2.encoder) == counts["res2net_blocks"]
    assert count_parameters(aasist2) == counts["whole_back_end"]
    rest = [{name for name in net.state_dict() if not name.startswith("encoder.")} for net in (aasist, aasist2)]
    assert rest[0] == rest[1]


@pytest.mark.parametrize("channels", [(1, 32), (32, 32), (32, 64)])
def test_a_res2net_block_is_its_definition(channels):
    torch.manual_seed(0)
    block = Res2NetBlock(*channels).eval()
    for frames in (16, 99):  # of 1 and 6 s, a third
        x = torch.randn(2, channels[0], 7, frames)
        first = F.selu(block.bn1(block.conv1(x)))
        x1, x2, x3, x4 = first.split(channels[1] // 4, dim=1)
        y2 = block.convs[0](x2)
        y3 = block.convs[1](x3 + y2)
        y4 = block.convs[2](x4 + y3)
        y = block.bn3(block.conv3(torch.cat([x1, y2, y3, y4], dim=1)))
        squeezed = block.gate[2](F.selu(block.gate[0](y.mean(dim=3).mean(dim=2))))
        around = x if channels[0] == channels[1] else block.shortcut(x)
        expected = F.selu(y * torch.sigmoid(squeezed)[..., None, None] + around)
        torch.testing.assert_close(block(x), expected)


def test_a_res2net_block_without_splits_and_one_whose_splits_give_nothing():
    torch.manual_seed(0)
    block = Res2NetBlock(8, 8, scale=1).eval()
    assert len(block.convs) == 0
    x = torch.randn(1, 8, 3, 5)
    y = block.bn3(block.conv3(F.selu(block.bn1(block.conv1(x)))))
    torch.testing.assert_close(block(x), F.selu(y * block.gate(y.mean(dim=(2, 3)))[..., None, None] + x))
    block = Res2NetBlock(8, 8).eval()
    for parameter in block.convs.parameters():
        nn.init.zeros_(parameter)
    seen = []
    block.conv3.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    block(x)
    assert torch.equal(seen[0][:, :2], F.selu(block.bn1(block.conv1(x)))[:, :2]) and not seen[0][:, 2:].any()


@pytest.mark.parametrize("frames", VECTORS["aasist2_chunk_frames"]["frames"])
def test_aasist2_takes_chunks_of_every_length(frames):
    assert torch.isfinite(AASIST2(16).eval()(torch.randn(2, frames, 16))).all()


def test_the_margin_by_duration_is_the_vectors():
    vector = VECTORS["aasist2_am_softmax"]
    loss, plain = DurationMarginSoftmax(), type("Plain", (DurationMarginSoftmax,), {"PER_SECOND": 0, "OFFSET": 0})()
    cosines, labels = torch.tensor(vector["cosines"], requires_grad=True), torch.tensor(vector["labels"])
    losses = []
    for i, (seconds, margin) in enumerate(zip(vector["seconds"], vector["margins"])):
        loss.of_batch(seconds)
        assert loss.margin.item() == pytest.approx(margin)
        losses.append(loss(cosines[i : i + 1], labels[i : i + 1]))
    torch.testing.assert_close(torch.stack(losses), torch.tensor(vector["loss_per_trial"]), atol=1e-6, rtol=1e-5)
    (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), cosines)
    own = gradient.gather(1, labels[:, None])[:, 0]
    expected = torch.tensor(vector["gradient_of_mean_wrt_cosine_of_own_class"])
    torch.testing.assert_close(own, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        gradient.sum(dim=1), torch.zeros(4), atol=1e-6, rtol=0
    )  # the other class has its opposite
    plain.of_batch(3.0)
    assert plain(cosines, labels).item() == pytest.approx(vector["loss_A0_B0"], abs=1e-6)
    torch.testing.assert_close(plain(cosines, labels), F.cross_entropy(15 * cosines, labels))
    for samples, margin in zip(*(VECTORS["aasist2_chunk_frames"][name] for name in ("samples", "margins"))):
        loss.of_batch(samples / 16000)
        assert loss.margin.item() == pytest.approx(margin)


def test_a_constant_margin_is_that_of_am_softmax():
    values = {"PER_SECOND": 0, "OFFSET": 0.9, "SCALE": 20.0}
    loss, labels = type("Constant", (DurationMarginSoftmax,), values)(), torch.arange(6) % 2
    outputs = torch.rand(6, 2) * 2 - 1
    for seconds in (1.0, 6.0):
        loss.of_batch(seconds)
        assert torch.equal(loss(outputs, labels), LOSSES["AM_softmax"]()(outputs, labels))


def lengths_of(sampler, epoch, start=0):
    sampler.epoch, sampler.start = epoch, start
    return [{length for *_, length in batch} for batch in sampler]


def test_every_batch_has_a_length_of_its_own():
    sampler = EpochSampler(4000, 4, shuffle=True, seed=3, lengths=(10, 20))
    first, second = lengths_of(sampler, 1), lengths_of(sampler, 2)
    assert all(len(lengths) == 1 for lengths in first) and set.union(*first) == set(range(10, 21)) and first != second
    assert lengths_of(sampler, 1, start=700) == first[700:]  # a run that goes on
    shares = [EpochSampler(4000, 4, True, seed=3, rank=rank, world=2, lengths=(10, 20)) for rank in (0, 1)]
    assert [lengths_of(share, 1) for share in shares] == [first, first]
    assert lengths_of(EpochSampler(4000, 4, True, seed=4, lengths=(10, 20)), 1) != first


@pytest.fixture
def trials(tmp_path):
    import soundfile

    rng = np.random.default_rng(0)
    for i in range(11):
        soundfile.write(tmp_path / f"{i}.wav", 0.1 * rng.standard_normal(rng.integers(500, 5000)), 16000)
    return [Trial(str(i), label=i % 2, path=str(tmp_path / f"{i}.wav")) for i in range(11)]


def test_batches_of_dynamic_length_do_not_depend_on_the_workers(trials):
    def batches(num_workers, **lengths):
        dataset = TrialDataset(trials, 2000, "random_if_longer", seed=5)
        loader = make_loader(dataset, 2, shuffle=True, seed=5, num_workers=num_workers, **lengths)
        loader.batch_sampler.epoch = 2
        return [x.numpy() for x, _, _ in loader]

    alone, several = (batches(n, lengths=(700, 3000)) for n in (0, 4))
    assert all(np.array_equal(x, y) for x, y in zip(alone, several, strict=True))
    assert len({x.shape[1] for x in alone}) > 3 and all(700 <= x.shape[1] <= 3000 for x in alone)
    assert all(np.array_equal(x, y) for x, y in zip(batches(0), batches(0, lengths=(2000, 2000)), strict=True))


def test_a_run_with_dynamic_lengths_and_growing_margin_goes_on_as_if_never_stopped(tmp_path, train_flags, monkeypatch):
    flags = [
        *with_back_end(train_flags, "GF"),
        "--n_output_logits",
        "2",
        "--loss",
        "duration_AM_softmax",
        "--algo",
        "0",
    ]
    flags += ["--schedule", "constant", "--dynamic_crop", "3000", "9000", "--crop_place", "random_if_longer"]
    flags += ["--epochs", "2", "--log_dir", str(tmp_path), "--validation", "loss"]
    gradients, seen, stop = Training.gradients, [], None

    def spied(self, x, labels):
        seen.append((self.state["epoch"], self.state["batch"], x.shape[1], self.criterion.margin.item()))
        if (self.state["epoch"], self.state["batch"]) == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return gradients(self, x, labels)

    monkeypatch.setattr(Training, "gradients", spied)
    monkeypatch.setattr(DurationMarginSoftmax, "FINE_TUNING", 0.5)
    train.main([*flags, "--foldername", "whole"])
    whole, stop = seen.copy(), (2, 1)
    seen.clear()
    with pytest.raises(SystemExit):
        train.main([*flags, "--foldername", "parts"])
    stop = None
    train.main([*flags, "--foldername", "parts", "--resume", "auto"])
    assert seen == whole and len({samples for _, _, samples, _ in whole}) > 4
    for epoch, _, samples, margin in whole:
        assert 3000 <= samples <= 9000
        assert margin == pytest.approx(0.2 if epoch < 2 else 0.06 * samples / 16000 + 0.14)
    runs = [next((tmp_path / name).iterdir()) / "checkpoints" / "epoch_2.pth" for name in ("whole", "parts")]
    one, other = (checkpoints.read_checkpoint(path)["model"] for path in runs)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_does_not_go_with_dynamic_lengths_is_refused(tmp_path, train_flags, fails):
    flags = [*train_flags, "--log_dir", str(tmp_path)]
    fails(train.main, [*flags, "--dynamic_crop", "9000", "8000"], "--dynamic_crop", "9000", "8000")
    fails(train.main, [*flags, "--dynamic_crop", "399", "8000"], "--dynamic_crop", "400 samples")
    fails(train.main, [*flags, "--dynamic_crop", "4000", "8000", "--compile"], "--dynamic_crop and --compile")


def test_memory_is_that_of_the_longest_crop():
    detector = build_detector(ModelConfig("wav2vec2_GF", ssl="tiny"))
    longest, dynamic = ({"crop": 96000}, {"crop": 64600, "dynamic_crop": (16000, 96000)})
    needed = [memory.step_bytes(TrainingConfig(precision="fp32", **flags), detector) for flags in (longest, dynamic)]
    assert needed[0] == needed[1]


def test_more_epochs_would_move_the_fine_tuning():
    config = {"schedule": "constant", "loss": "duration_AM_softmax"}
    TrainingConfig(**config, epochs=8).check_same_run({**config, "epochs": 8}, "run")
    with pytest.raises(train.UserError, match="--epochs"):
        TrainingConfig(**config, epochs=9).check_same_run({**config, "epochs": 8}, "run")


def test_the_haar_transform_is_the_vectors():
    vector = VECTORS["wpt_haar"]
    tokens = torch.tensor(vector["tokens"])
    torch.testing.assert_close(haar(tokens), torch.tensor(vector["output_tokens"]))
    tokens = torch.randn(4, 1024, dtype=torch.float64)
    torch.testing.assert_close(haar(tokens).norm(), tokens.norm())
    constant = haar(torch.full((4, 8), 3.0))
    assert torch.equal(constant[0], torch.full((8,), 6.0)) and not constant[1:].any()


def test_prompts_have_the_parameters_that_were_counted():
    counts = VECTORS["wpt_counts"]
    with torch.device("meta"):
        plain, wavelet = PT_AASIST(1024), PT_AASIST(1024, tokens=6, wavelet_tokens=4)
    assert count_parameters(plain) == count_parameters(wavelet) == counts["with_AASIST"]
    prompts = wavelet.wav2vec2_with_prompt
    assert prompts.prompt_embedding.numel() == counts["prompts_24x6x1024"]
    assert prompts.fprompt_embedding.numel() == counts["wavelet_prompts_24x4x1024"]


def prompted(name="wav2vec2_PT_AASIST", **options):
    torch.manual_seed(0)
    ssl = "whisper_tiny" if "Whisper" in name else "tiny"
    return build_detector(ModelConfig(name, ssl=ssl, back_end_options=options or None)).eval()


def states_of(detector, x):
    with torch.no_grad():
        return detector.front_end(x, normalized=True, raw_last=True, prompts=detector.back_end.prompts)


@pytest.mark.parametrize("name", ["wav2vec2_PT_AASIST", "WavLM_PT_AASIST", "Whisper_PT_AASIST"])
def test_every_layer_hears_tokens_of_its_own_before_the_frames(name):
    detector, x = prompted(name, tokens=6, wavelet_tokens=4), torch.randn(2, 5000)
    prompts = detector.back_end.wav2vec2_with_prompt
    plain, states = detector.front_end(x, normalized=True, raw_last=True), states_of(detector, x)
    for layer, state in enumerate(states[:-1]):
        own = torch.cat([haar(prompts.fprompt_embedding[layer]), prompts.prompt_embedding[layer]])
        assert torch.equal(state[:, :10], own.expand(2, -1, -1))
    assert states[-1].shape[1] == plain[-1].shape[1] + 10 and torch.equal(states[0][:, 10:], plain[0])
    # As the definition has it, layer by layer.
    layers = detector.front_end.layers()
    bias = {}
    if "WavLM" in name:
        bias = {"self_attn_padding_mask": layers[0].self_attn.position_bias(states[0].shape[1])}
    for layer, module in enumerate(layers):
        out = module(states[layer], **bias)
        out = out[0] if isinstance(out, tuple) else out
        torch.testing.assert_close(states[layer + 1][:, 10:], out[:, 10:])
    torch.testing.assert_close(states[-1], out)  # the last layer's are among the features, before any norm
    scores = detector.score(x)
    prompts.prompt_embedding.data[-1] *= 2
    assert not torch.equal(detector.score(x), scores)


def test_without_attention_frames_do_not_hear_the_tokens():
    detector, x = prompted(), torch.randn(2, 5000)
    for layer in detector.front_end.layers():
        for parameter in layer.self_attn.out_proj.parameters():
            nn.init.zeros_(parameter)
    plain = detector.front_end(x, normalized=True, raw_last=True)
    torch.testing.assert_close(states_of(detector, x)[-1][:, 10:], plain[-1])


def test_a_frozen_encoder_is_prompted_and_stays_as_it_was(tmp_path, train_flags, monkeypatch):
    flags = [*with_back_end(train_flags, "PT_AASIST"), "--n_output_logits", "2", "--algo", "0", "--epochs", "1"]
    flags += ["--SSL_freeze_epoch", "1", "--grad_checkpoint", "--log_dir", str(tmp_path), "--crop", "4000"]
    starts, freeze = [], Training.freeze

    def spied(self, frozen):
        starts.append({name: value.clone() for name, value in self.detector.state_dict().items()})
        freeze(self, frozen)
        trained = {name for name, parameter in self.detector.named_parameters() if parameter.requires_grad}
        assert trained and all(name.startswith("back_end.") for name in trained)

    monkeypatch.setattr(Training, "freeze", spied)
    train.main([*flags, "--foldername", "run"])
    (run,) = (tmp_path / "run").iterdir()
    model = checkpoints.read_checkpoint(run / "checkpoints" / "epoch_1.pth")["model"]
    moved = {name for name, value in model.items() if not torch.equal(value, starts[0][name])}
    assert "back_end.wav2vec2_with_prompt.prompt_embedding" in moved
    assert not any(name.startswith("front_end.") for name in moved)


def test_a_spectrogram_has_no_layers_to_prompt(fails):
    fails(lambda argv: build_detector(ModelConfig("LogMel_PT_AASIST")), [], "LogMel_PT_AASIST", "1 layers")


@pytest.mark.slow
def test_prompts_cost_the_memory_of_activations_without_the_encoders_gradients():
    """Against the same, trained and frozen without prompts."""
    frozen = {"SSL_freeze_epoch": 9, "epochs": 9, "precision": "fp32", "crop": 64600, "batch_size": 64}
    needed = {}
    for name in ("AASIST", "PT_AASIST"):
        detector = build_detector(ModelConfig(f"wav2vec2_{name}", ssl="tiny"))
        for kind, flags in (("frozen", frozen), ("trained", {**frozen, "SSL_freeze_epoch": 0})):
            needed[name, kind] = memory.step_bytes(TrainingConfig(**flags), detector)
    assert needed["AASIST", "frozen"] < needed["PT_AASIST", "frozen"] < needed["PT_AASIST", "trained"]


def test_every_layer_is_pooled_by_the_same_attention_then_weighted():
    """Against numpy's weighted moments."""
    torch.manual_seed(0)
    back_end = LayerASP_MLP(6, 3).double()
    nn.init.normal_(back_end.weights)
    states = list(torch.randn(3, 2, 9, 6, dtype=torch.float64))
    (attention,) = back_end.pool.attention
    layers, expected = np.exp(back_end.weights.detach().numpy()), np.zeros((2, 12))
    for weight, state in zip(layers / layers.sum(), states):
        for b, x in enumerate(state.numpy()):
            frames = np.exp(x @ attention.weight.detach().numpy()[0])
            mean = np.average(x, axis=0, weights=frames)
            deviation = np.average((x - mean) ** 2, axis=0, weights=frames) ** 0.5
            expected[b] += weight * np.concatenate([mean, deviation])
    torch.testing.assert_close(back_end(states), back_end.mlp(torch.tensor(expected)))
