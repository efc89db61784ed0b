"""Files that other programs wrote: published detectors, pre-trained encoders of fairseq, Microsoft, Hugging Face."""

import argparse
import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
from conftest import read_reference, reference_weights
from test_front_ends import SMALL, random_weights, torchaudios_wavlm

import checkpoint
import checkpoints
import corpora
import eval as scoring
from common.console import UserError
from data_utils import load_audio
from front_ends import FRONT_ENDS
from front_ends.pretrained import WAVLM_BIAS, convolutions
from front_ends.wav2vec2 import Wav2Vec2, WavLM
from model import ModelConfig, build_detector, count_parameters, use_utterance_batch_norm
from training.recipes import RECIPES

HEADS = {"quantizer.vars": torch.zeros(1, 4), "project_q.weight": torch.zeros(2, 2), "final_proj.bias": torch.zeros(2)}
MODEL_FLAGS = {"model_name", "ssl", "agg", "dilation", "n_output_logits"}
PUBLISHED = [
    "wav2vec2_Nes2Net_X",
    "wav2vec2_AASIST",
    "WavLM_Nes2Net",
    "WavLM_Nes2Net_X",
    "WavLM_Nes2Net_X_SeLU",
]


def small_detector(model_name, **options):
    torch.manual_seed(1)
    return build_detector(ModelConfig(model_name, ssl="tiny", **options)).eval()


def published_layout(detector):
    """The weights of a detector under the names that the published programs gave them."""
    renamed = {}
    for name, tensor in detector.state_dict().items():
        part, rest = name.split(".", 1)
        if part == "front_end":
            name = ("ssl_model.model.model." if detector.config.front_end == "WavLM" else "ssl_model.model.") + rest[6:]
        elif part == "aggregation":
            name = "ssl_model." + rest
        elif "Nes2Net" in detector.config.back_end:
            name = "Nested_Res2Net_TDNN." + rest
        else:
            name = rest
        renamed[name] = tensor
    return renamed


def same_scores(found, expected):
    x = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return torch.equal(found.score(x), expected.score(x))


@pytest.mark.parametrize("model_name", PUBLISHED)
@pytest.mark.parametrize("agg", ["last", "SEA", "AttM", "WeightedSum"])
def test_a_published_detector_is_recognised_and_loads(tmp_path, model_name, agg):
    options = {} if model_name.endswith("AASIST") else {"SE_ratio": (2,), "pool_func": "ASTP", "Nes_ratio": (4, 2)}
    detector = small_detector(model_name, agg=agg, n_output_logits=2, **options)
    torch.save(published_layout(detector), tmp_path / "epoch_7.pth")
    found = checkpoints.load_detector(tmp_path / "epoch_7.pth", model_name=model_name)
    assert found.config == detector.config
    assert not found.training
    assert same_scores(found, detector)


@pytest.mark.slow
def test_wrappings_endings_and_pretraining_heads_do_not_matter(tmp_path):
    detector = small_detector("wav2vec2_Nes2Net")
    plain = published_layout(detector)
    with_heads = plain | {f"ssl_model.model.{name}": tensor for name, tensor in HEADS.items()}
    parallel = {f"module.{name}": tensor for name, tensor in plain.items()}
    files = {
        "a.pth": {"model_state_dict": plain, "epoch": 3, "optimizer_state_dict": {"state": {}, "param_groups": []}},
        "b.pt": {"state_dict": {f"model.{name}": tensor for name, tensor in plain.items()}},
        "c.pt": parallel,
        "d.pt": with_heads,
    }
    for name, content in files.items():
        torch.save(content, tmp_path / name)
    torch.save(plain, tmp_path / "e.pt", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(plain, tmp_path / "f.safetensors")
    torch.save(
        {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in plain.items()},
        tmp_path / "g.pt",
    )
    for name in [*files, "e.pt", "f.safetensors"]:
        assert same_scores(checkpoints.load_detector(tmp_path / name), detector), name
    half = checkpoints.load_detector(tmp_path / "g.pt")
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert not same_scores(half, detector)  # but for what half precision lost


@pytest.mark.slow
def test_models_that_no_weight_tells_apart_need_their_name(tmp_path):
    detector = small_detector("WavLM_Nes2Net_X_SeLU")
    torch.save(published_layout(detector), tmp_path / "a.pt")
    with pytest.raises(UserError, match="WavLM_Nes2Net_X and WavLM_Nes2Net_X_SeLU.*--model_name"):
        checkpoints.load_detector(tmp_path / "a.pt")
    assert checkpoints.show(tmp_path / "a.pt")["model_name"] == "WavLM_Nes2Net_X or WavLM_Nes2Net_X_SeLU"


@pytest.mark.slow
@pytest.mark.parametrize(
    "flag, value",
    [("pool_func", "ASTP"), ("Nes_ratio", [4, 2]), ("agg", "last"), ("n_output_logits", 2), ("ssl", "tiny")],
)
def test_flags_are_compared_with_the_weights(tmp_path, flag, value):
    detector = small_detector("WavLM_Nes2Net_X")
    torch.save(published_layout(detector), tmp_path / "a.pt")
    given = {"model_name": "WavLM_Nes2Net_X", flag: value}
    if flag == "ssl":
        assert same_scores(checkpoints.load_detector(tmp_path / "a.pt", **given), detector)
        return
    with pytest.raises(UserError, match=f"--{flag}"):
        checkpoints.load_detector(tmp_path / "a.pt", **given)


@pytest.mark.slow
def test_what_does_not_fit_is_refused_and_named(tmp_path):
    plain = published_layout(small_detector("wav2vec2_Nes2Net_X"))
    path = tmp_path / "a.pt"

    def refused(weights, *words, model_name="wav2vec2_Nes2Net_X"):
        torch.save(weights, path)
        with pytest.raises(UserError) as raised:
            checkpoints.load_detector(path, **({"model_name": model_name} if model_name else {}))
        text = "\n".join([str(raised.value), *raised.value.details])
        for word in words:
            assert word in text, text

    def without(name):
        return {key: tensor for key, tensor in plain.items() if key != name}

    refused(without("Nested_Res2Net_TDNN.bn.weight"), "missing back_end.bn.weight")
    refused(without("ssl_model.model.encoder.layers.1.fc1.bias"), "missing front_end.model.encoder.layers.1.fc1.bias")
    refused(plain | {"Nested_Res2Net_TDNN.more": torch.zeros(1)}, "left over back_end.more")
    refused(plain | {"decoder.weight": torch.zeros(1)}, "left over decoder.weight")
    refused(plain | {"ssl_model.gate": torch.zeros(1)}, "left over aggregation.gate")
    refused(
        plain | {"Nested_Res2Net_TDNN.bn.weight": torch.zeros(3)}, "back_end.bn.weight has shape (3,), expected (64,)"
    )
    refused(plain, "wav2vec2 encoder", model_name="WavLM_Nes2Net_X")
    refused(plain, "left over back_end.Build_in_Res2Nets.0.weighted_sum.0", model_name="wav2vec2_Nes2Net")
    some = {name: t for name, t in plain.items() if "layers.1." not in name}
    refused(some, "found no feature_extractor.conv_layers.1.0.weight")
    for name, tensor in {"encoder.layer_norm.weight": torch.ones(2, 32), "encoder.pos_conv.0.weight_v": None}.items():
        weights = without(f"ssl_model.model.{name}") | ({} if tensor is None else {f"ssl_model.model.{name}": tensor})
        refused(weights, f"expected a wav2vec2 encoder under ssl_model.model., found no {name}")
    refused(without("Nested_Res2Net_TDNN.bn.weight"), "fit no back-end", model_name=None)
    refused({"weight": torch.zeros(2)}, "ssl_model.model.", "found weight")
    refused({"weight": "text"}, "expected named tensors", "found a str as weight")
    refused(small_detector("wav2vec2_Nes2Net").front_end.model.state_dict(), "--ssl_path")


@pytest.mark.slow
@pytest.mark.parametrize("model_name", ["WavLM_Nes2Net_X_SeLU", "wav2vec2_Nes2Net_X"])
def test_a_published_detector_of_real_size_loads_key_for_key(tmp_path, model_name):
    empty = build_detector(ModelConfig(model_name), empty="all")
    names = published_layout(empty)
    if model_name == "WavLM_Nes2Net_X_SeLU":
        assert len(names) == 1050  # as the released file holds
        assert count_parameters(empty.front_end) == 315_453_120
    one_each = torch.rand(4096 * 4096)  # the file stays small: every weight is a view of one storage
    weights = {
        name: torch.tensor(0) if tensor.dim() == 0 else one_each[: tensor.numel()].view(tensor.shape)
        for name, tensor in names.items()
    }
    torch.save(weights, tmp_path / "a.pt")
    found = checkpoints.load_detector(tmp_path / "a.pt", model_name=model_name)
    assert found.config == ModelConfig(model_name)
    assert torch.equal(found.front_end.model.encoder.layers[5].fc1.weight, one_each[: 4096 * 1024].view(4096, 1024))
    shown = checkpoints.show(tmp_path / "a.pt")
    assert shown["parameters, back_end"] == ("511,014" if model_name.startswith("WavLM") else "512,039")


@pytest.mark.slow
@pytest.mark.parametrize("layers, width, heads", [(3, 64, 16), (5, 96, 16), (1, 768, 12)])
@pytest.mark.parametrize("front_end", ["wav2vec2", "WavLM"])
@pytest.mark.parametrize("is_base", [False, True])
def test_an_encoder_of_any_width_and_depth_is_read_off_its_weights(
    tmp_path, output, front_end, layers, width, heads, is_base
):
    tiny = {name: value for name, value in Wav2Vec2.presets["tiny"].fields.items() if name not in WAVLM_BIAS}
    fields = tiny | {
        "normalize": front_end == "WavLM",
        # As published: the base models have a group norm and the layers' norms last.
        "extractor_mode": "default" if is_base else "layer_norm",
        "layer_norm_first": not is_base,
        "conv_bias": front_end == "wav2vec2" and not is_base,
        "encoder_layers": layers,
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": 3 * width,
        "encoder_attention_heads": heads if front_end == "wav2vec2" else 8,  # which WavLM's weights tell
        "conv_pos": 20,
        "conv_pos_groups": 8,
    }
    fields |= {"num_buckets": 24, "max_distance": 800} if front_end == "WavLM" else {}
    config = ModelConfig(
        f"{front_end}_Nes2Net_X", ssl="from_file", ssl_config=fields, agg="last", Nes_ratio=(2, 4), n_output_logits=2
    )
    torch.manual_seed(1)
    detector = build_detector(config).eval()
    torch.save(published_layout(detector), tmp_path / "a.pt")
    flags = {"model_name": f"{front_end}_Nes2Net_X"}
    found = checkpoints.load_detector(tmp_path / "a.pt", **flags)
    shape = FRONT_ENDS[front_end].complete
    assert (found.config.ssl, shape(found.config.ssl_config)) == ("from_file", shape(fields))
    assert same_scores(found, detector)

    argv = ["convert", str(tmp_path / "a.pt"), str(tmp_path / "b.pth"), "--model_name", flags["model_name"]]
    output(checkpoint.main, argv)
    assert same_scores(checkpoints.load_detector(tmp_path / "b.pth"), detector)
    assert same_scores(checkpoints.load_average([tmp_path / "a.pt"], **flags), detector)


@pytest.mark.slow
@pytest.mark.parametrize("model_name", ["WavLM_Nes2Net_X", "WavLM_Nes2Net", "WavLM_AASIST"])
@pytest.mark.parametrize(
    "prefix, normalizes", [("ssl_model.model.model.", True), ("ssl_model.model.", False), ("ssl_model.", False)]
)
def test_wavlm_hears_the_waveform_as_its_layout_did(tmp_path, model_name, prefix, normalizes):
    """The first layout is that of the singing detectors, the second of those for ASVspoof 5: the last hidden state, two
    outputs, dilation 1. The third is AttM_LSTM's.
    """
    detector = small_detector(model_name, agg="last", n_output_logits=2)
    weights = {name.replace("ssl_model.model.model.", prefix): t for name, t in published_layout(detector).items()}
    torch.save(weights, tmp_path / "a.pt")
    found = checkpoints.load_detector(tmp_path / "a.pt", model_name=model_name)
    assert found.front_end.normalize is normalizes
    assert (found.config.agg, found.config.n_output_logits) == ("last", 2)
    assert found.config.dilation == (None if model_name == "WavLM_AASIST" else 1)
    x = 0.01 * torch.randn(2, 4000) + 0.1
    heard = torch.nn.functional.layer_norm(x, x.shape[1:]) if normalizes else x
    with torch.inference_mode():
        states = detector.front_end(heard, normalized=True)[-1]  # the encoder alone, then what is behind it
        scores = detector.back_end(states)[:, 1]
        assert torch.equal(found.score(x), scores)
        assert not torch.allclose(found.score(4 * x), scores) or normalizes


@pytest.mark.slow
@pytest.mark.parametrize("prefix, normalizes", [("ssl_model.model.model.", True), ("ssl_model.model.", False)])
def test_released_detectors_of_wavlm_are_scored_as_torchaudio_hears_the_waveform(tmp_path, prefix, normalizes, output):
    """The command on a quiet recording with an offset: torchaudio's encoder, then the back-end."""
    fields = {**SMALL["xlsr-like"], "encoder_embed_dim": 64, "encoder_attention_heads": 16, "normalize": False}
    fields |= {"num_buckets": 320, "max_distance": 800}
    config = ModelConfig("WavLM_Nes2Net_X", ssl="from_file", ssl_config=fields, agg="last", n_output_logits=2)
    detector = build_detector(config)
    random_weights(detector.front_end)
    weights = {name.replace("ssl_model.model.model.", prefix): t for name, t in published_layout(detector).items()}
    torch.save(weights, tmp_path / "a.pth")
    (tmp_path / "audio").mkdir()
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "audio" / "a.wav", 0.003 * rng.standard_normal(9000) + 0.02, 16000)
    flags = ["--base_dir", str(tmp_path / "audio"), "--model_name", "WavLM_Nes2Net_X", "--num_workers", "0"]
    output(scoring.main, [*flags, "--model_path", str(tmp_path / "a.pth"), "--eval_output", str(tmp_path / "s.txt")])

    x = torch.from_numpy(load_audio(tmp_path / "audio" / "a.wav"))[None]
    normalized = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
    oracle, back_end = torchaudios_wavlm(detector.front_end), detector.back_end.eval()
    with torch.inference_mode():
        heard, otherwise = (back_end(oracle(waveform)[0])[0, 1].item() for waveform in (x, normalized))
    heard, otherwise = (otherwise, heard) if normalizes else (heard, otherwise)
    assert corpora.read_scores(tmp_path / "s.txt")["a"] == pytest.approx(heard, abs=1e-5)
    assert abs(heard - otherwise) > 1e-3


@pytest.mark.slow
def test_a_detector_for_asvspoof_5_of_real_size_is_what_its_recipe_trains(tmp_path):
    for name in ("Nes2Net_X_ASVspoof5", "AASIST_ASVspoof5"):
        recipe = RECIPES[name]
        config = ModelConfig(**{flag: recipe[flag] for flag in MODEL_FLAGS & recipe.keys()})
        names = published_layout(build_detector(config, empty="all"))
        names = {name.replace("ssl_model.model.model.", "ssl_model.model."): tensor for name, tensor in names.items()}
        one_each = torch.rand(4096 * 4096)
        weights = {
            name: torch.tensor(0) if tensor.dim() == 0 else one_each[: tensor.numel()].view(tensor.shape)
            for name, tensor in names.items()
        }
        torch.save(weights, tmp_path / "a.pt")
        found = checkpoints.load_detector(tmp_path / "a.pt", model_name=recipe["model_name"])
        assert found.config == config and found.config.ssl == "wavlm_large_raw" and not found.front_end.normalize


@pytest.mark.slow
def test_averages_may_be_of_published_files(tmp_path):
    detectors = [small_detector("wav2vec2_Nes2Net_X"), small_detector("wav2vec2_Nes2Net_X")]
    with torch.no_grad():
        detectors[1].back_end.fc.bias += 2
    for epoch, detector in enumerate(detectors):
        torch.save(published_layout(detector), tmp_path / f"epoch_{epoch}.pth")
    paths = checkpoints.checkpoints_of_epochs(tmp_path, [1, 0])
    found = checkpoints.load_average(paths, model_name="wav2vec2_Nes2Net_X")
    assert torch.allclose(found.back_end.fc.bias, detectors[0].back_end.fc.bias + 1)


@pytest.mark.slow
def test_convert_average_and_show_as_commands(tmp_path, output, fails):
    detector = small_detector("wav2vec2_Nes2Net_X", dilation=1)
    for epoch in (4, 9):
        torch.save(published_layout(detector), tmp_path / f"epoch_{epoch}.pth")
    paths = [str(tmp_path / f"epoch_{epoch}.pth") for epoch in (4, 9)]
    flags = ["--model_name", "wav2vec2_Nes2Net_X", "--dilation", "1"]
    output(checkpoint.main, ["convert", paths[0], str(tmp_path / "ours.pth"), *flags])
    assert same_scores(checkpoints.load_detector(tmp_path / "ours.pth"), detector)
    shown = output(checkpoint.main, ["show", str(tmp_path / "ours.pth")])
    for line in ("detector of this project", "model_name: ", "wav2vec2_Nes2Net_X", "dilation: ", "epoch: "):
        assert line in shown
    assert ", as published" in output(checkpoint.main, ["show", paths[0]])
    output(checkpoint.main, ["average", str(tmp_path / "mean.pth"), *paths, *flags])
    assert same_scores(checkpoints.load_detector(tmp_path / "mean.pth"), detector)
    assert "epoch_4.pth, epoch_9.pth" in output(checkpoint.main, ["show", str(tmp_path / "mean.pth")])
    output(checkpoint.main, ["average", str(tmp_path / "theirs.pth"), *paths, *flags, "--average_as_published"])
    assert "as published: (2 c2 + c3" in output(checkpoint.main, ["show", str(tmp_path / "theirs.pth")])
    before = sorted(tmp_path.iterdir())
    fails(checkpoint.main, ["average", paths[0], *paths, *flags], paths[0])
    fails(checkpoint.main, ["convert", paths[0], str(tmp_path / "x.bin"), *flags], "x.bin", ".pt or .pth")
    fails(checkpoint.main, ["show", str(tmp_path / "absent.pth")], "absent.pth")
    assert sorted(tmp_path.iterdir()) == before


def test_weights_are_mapped_not_copied(tmp_path):
    detector = small_detector("wav2vec2_Nes2Net_X")
    checkpoints.save_checkpoint(tmp_path / "a.pth", detector.config, detector.state_dict())
    found = checkpoints.load_detector(tmp_path / "a.pth")
    read = checkpoints.read_detector(tmp_path / "a.pth")["model"]
    assert not any(tensor.is_meta for tensor in found.state_dict().values())
    assert all(parameter.requires_grad for parameter in found.parameters())
    with torch.no_grad():
        found.back_end.fc.bias += 1  # a private copy: the file stays as it is
    assert torch.equal(
        checkpoints.read_detector(tmp_path / "a.pth")["model"]["back_end.fc.bias"], read["back_end.fc.bias"]
    )


def test_utterance_batch_norm_is_training_mode_without_dropout_for_one_utterance():
    detector = small_detector("wav2vec2_Nes2Net_X")
    x = torch.randn(1, 8000)
    with torch.no_grad():
        plain = detector.score(x)
        statistics = {name: buffer.clone() for name, buffer in detector.named_buffers() if "running" in name}
        use_utterance_batch_norm(detector)
        found = [detector.score(x), detector.score(torch.randn(1, 8000)), detector.score(x)]
        for name, buffer in detector.named_buffers():
            assert "running" not in name or torch.equal(buffer, statistics[name])
        published = small_detector("wav2vec2_Nes2Net_X").train()  # its encoder has no dropout
        expected = published.score(x)
    assert torch.equal(found[0], found[2]) and torch.equal(found[0], expected)
    assert not torch.allclose(found[0], plain)


# Pre-trained encoders


def fairseq_settings(fields, **more):
    return {**fields, "quantize_targets": True, "mask_prob": 0.65, **more}


def own_shape():
    fields = dict(
        Wav2Vec2.presets["tiny"].fields,
        encoder_layers=3,
        encoder_embed_dim=32,
        dropout_input=0.2,
        layer_norm_first=False,
    )
    return fields | {"normalize": False}


def encoder_weights(model_name, fields):
    config = ModelConfig(model_name, ssl="from_file", ssl_config=fields, Nes_ratio=(2, 2), agg="last")
    return build_detector(config).front_end.model.state_dict()


FAIRSEQ_LAYOUTS = {
    "cfg": lambda settings: {"args": None, "cfg": {"model": settings, "task": {"normalize": True}}},
    "args": lambda settings: {"args": argparse.Namespace(**settings), "cfg": None},
    "namespace in cfg": lambda settings: {"args": None, "cfg": {"model": argparse.Namespace(**settings)}},
}


@pytest.mark.parametrize("layout", FAIRSEQ_LAYOUTS)
def test_a_fairseq_encoder_says_its_own_shape(tmp_path, layout):
    fields = {name: value for name, value in own_shape().items() if name not in ("num_buckets", "max_distance")}
    weights = encoder_weights("wav2vec2_Nes2Net_X", fields)
    settings = fairseq_settings({name: value for name, value in fields.items() if name != "normalize"})
    torch.save({**FAIRSEQ_LAYOUTS[layout](settings), "model": weights | HEADS}, tmp_path / "ssl.pt")
    config = checkpoints.resolve_encoder({"model_name": "wav2vec2_Nes2Net_X", "Nes_ratio": (2, 2)}, tmp_path / "ssl.pt")
    assert (config.ssl, config.ssl_config) == ("from_file", Wav2Vec2.shape_of(fields))
    detector = checkpoints.new_detector(config, tmp_path / "ssl.pt")
    said = {"dropout": 0.1, "attention_dropout": 0.1, "dropout_input": 0.2, "feature_grad_mult": 1.0}
    assert detector.front_end.training_settings() == said | {"activation_dropout": 0.0, "encoder_layerdrop": 0.0}
    for name, tensor in detector.front_end.model.state_dict().items():
        assert torch.equal(tensor, weights[name])
    # The detector's own checkpoint is enough to build it again.
    checkpoints.save_checkpoint(tmp_path / "a.pth", config, detector.state_dict())
    assert same_scores(checkpoints.load_detector(tmp_path / "a.pth"), detector.eval())


@pytest.mark.parametrize(
    "preset, model_name", [("xlsr_300m", "wav2vec2_Nes2Net_X"), ("wavlm_large", "WavLM_Nes2Net_X")]
)
def test_the_published_encoders_are_recognised(tmp_path, preset, model_name):
    fields = (WavLM if preset == "wavlm_large" else Wav2Vec2).presets[preset].fields
    written = {
        **fields,
        "conv_feature_layers": "[(512,10,5)] + [(512,3,2)]*4 + [(512,2,2)] + [(512,2,2)]",
        "conv_pos": 128,
    }
    if preset == "wavlm_large":
        content = {"cfg": {**written, "relative_position_embedding": True, "gru_rel_pos": True, "mask_prob": 0.8}}
    else:
        written.pop("normalize")
        content = {"args": None, "cfg": {"model": fairseq_settings(written), "task": {"normalize": True}}}
    torch.save({**content, "model": {"mask_emb": torch.zeros(1024)}}, tmp_path / "ssl.pt")
    assert checkpoints.resolve_encoder({"model_name": model_name}, tmp_path / "ssl.pt") == ModelConfig(model_name)
    other = {"xlsr_300m": "WavLM_Nes2Net_X", "wavlm_large": "wav2vec2_Nes2Net_X"}[preset]
    with pytest.raises(UserError, match="expected a pre-trained"):
        checkpoints.resolve_encoder({"model_name": other}, tmp_path / "ssl.pt")
    with pytest.raises(UserError, match="mask_emb|feature_extractor"):
        checkpoints.new_detector(ModelConfig(model_name), tmp_path / "ssl.pt")


def test_a_hubert_file_with_its_dictionaries_loads(tmp_path):
    fields = {name: value for name, value in own_shape().items() if name not in ("num_buckets", "max_distance")}
    weights = encoder_weights("wav2vec2_Nes2Net_X", fields)
    import fairseq.data.dictionary

    content = {
        "cfg": {"model": {name: value for name, value in fields.items() if name != "normalize"}},
        "task_state": {"dictionaries": [fairseq.data.dictionary.Dictionary()]},
        "model": weights | {"label_embs_concat": torch.zeros(3, 2), "final_proj.weight": torch.zeros(2, 2)},
    }
    torch.save(content, tmp_path / "hubert.pt")
    found, state_dict = checkpoints.read_pretrained(tmp_path / "hubert.pt", "wav2vec2")
    assert (found, state_dict.keys()) == (fields, weights.keys())
    assert checkpoints.show(tmp_path / "hubert.pt")["kind"].startswith("pre-trained wav2vec2 encoder")


@pytest.mark.parametrize("name", read_reference("hugging_face.json")["cases"])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_hugging_face_folder_gives_the_hidden_states_of_transformers(tmp_path, name, file):
    reference = read_reference("hugging_face.json")
    case = reference["cases"][name]
    (tmp_path / "config.json").write_text(json.dumps(case["config"]))
    weights = reference_weights(case["state_dict"])
    if file == "pytorch_model.bin":  # older releases name the positional convolution's weights so
        names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        weights = {
            next((key.replace(new, old) for new, old in names.items() if key.endswith(new)), key): tensor
            for key, tensor in weights.items()
        }
        torch.save(weights, tmp_path / file)
    else:
        safetensors.torch.save_file(weights, tmp_path / file)
    config = checkpoints.resolve_encoder({"model_name": f"{case['front_end']}_Nes2Net", "Nes_ratio": (2, 2)}, tmp_path)
    encoder = checkpoints.new_detector(config, tmp_path).front_end.eval()
    assert config.ssl_config["normalize"] == (name == "wavlm_stable")
    x = 0.3 * np.random.default_rng(reference["seed"]).standard_normal(reference["shape"])
    with torch.no_grad():
        states = encoder(torch.tensor(x, dtype=torch.float32), normalized=True)
    assert states[-1].shape[1] == case["n_frames"]
    found = [state[:, :3, :5] for state in (*states[:-1], states[-1])]
    expected = [*case["hidden_states_corner"][: len(found) - 1], case["last_corner"]]
    for state, corner in zip(found, expected, strict=True):
        torch.testing.assert_close(state, torch.tensor(corner), rtol=1e-4, atol=1e-4)


def test_a_hugging_face_folder_that_is_incomplete_is_named(tmp_path):
    with pytest.raises(UserError, match="config.json"):
        checkpoints.read_pretrained(tmp_path, "wav2vec2")
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(UserError, match="model_type whisper"):
        checkpoints.read_pretrained(tmp_path, "wav2vec2")
    shutil.rmtree(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        checkpoints.read_pretrained(tmp_path, "wav2vec2")


def test_the_convolutions_of_a_file_are_numbers_and_never_code(tmp_path):
    assert convolutions("[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] * 2")[-1] == (512, 2, 2)
    marker = tmp_path / "ran"
    for text in (
        f"[(open({str(marker)!r}, 'w'), 1, 1)]",
        "[(1, 1, 1)] * 10 ** 9",
        "[(512, 10, 5)] * (2 * 10)",
        "[(512, 10)]",
        "[(512, 10, 5)]",
        "(" * 1000,
        "[[1] * 99] * 99",
        "7",
    ):
        with pytest.raises(ValueError, match="conv_feature_layers|stride"):
            convolutions(text)
        torch.save({"cfg": {"model": own_shape() | {"conv_feature_layers": text}}, "model": {}}, tmp_path / "ssl.pt")
        with pytest.raises(UserError, match="wav2vec2"):
            checkpoints.resolve_encoder({"model_name": "wav2vec2_Nes2Net_X"}, tmp_path / "ssl.pt")
    assert not marker.exists()
