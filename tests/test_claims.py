"""What a file or a flag claims is checked: each kind of wrong claim ends in one line that names what it is."""

import argparse
import contextlib
import datetime
import io
import json
import os
import pathlib
import pickle
import re
import zipfile

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
from conftest import read_reference, reference_weights

import checkpoint
import checkpoints
import corpora
import easy_inference_demo
import EER_minDCF
import eval as eval_command
import train
from checkpoints import safe_load
from common.console import Number, UserError, shown
from front_ends.wav2vec2 import Wav2Vec2
from inference.judging import Judge
from model import ModelConfig, build_detector
from RawBoost import RawBoostParams
from reports import calibration, metrics

CONFIG = ModelConfig("wav2vec2_Nes2Net_X", ssl="tiny", Nes_ratio=(2, 2))


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return build_detector(CONFIG).state_dict()


def refused(path, *words, load=checkpoints.load_detector):
    """The one line that load(path) ends with, which names the file and holds the words."""
    with pytest.raises(UserError) as raised:
        load(path)
    message = str(raised.value)
    assert len(message.splitlines()) == 1 and message.isprintable() and len(message) < 1000, message
    for word in (str(path), *words):
        assert word in message, message
    return message


# ------------------------------------------------------------------------------------------------------ what a file is


def zipped(*names):
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                archive.writestr(name, b"x" * 100)
        return file.getvalue()


def as_audio(**options):
    with io.BytesIO() as file:
        soundfile.write(file, np.zeros(2000), 16000, **options)
        return file.getvalue()


def saved(save, *arguments):
    with io.BytesIO() as file:
        save(file, *arguments)
        return file.getvalue()


KINDS = {
    "page": (b"<!DOCTYPE html><html><title>Virus scan\nwarning</title></html>", "a web page (Virus scan warning)"),
    "page, with a byte order mark": (b"\xef\xbb\xbf \n<HTML lang=en>\xc3\xa9", "a web page"),
    "page in UTF-16": ("<!doctype html>".encode("utf-16"), "a web page"),
    "page behind a comment": (b"<!-- x --><html>" + b"\xc3\xa9" * 5000, "a web page"),
    "error of a store": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML file"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 13\n", "a Git LFS pointer"),
    "annex": (b"/annex/objects/MD5E-s1--0.pth\n", "a git-annex pointer"),
    "json": (b'{"error": "not found"}', "a JSON file"),
    "text": (b"404: Not Found\x0a", "404: Not Found"),
    "empty": (b"", "an empty file"),
    "zeros": (bytes(5000), "only zero bytes"),
    "random": (bytes([0x91, 0x05, 0xFE]) * 900, "another kind"),
    "zip with a checkpoint": (zipped("__MACOSX/._model.pth", "x/model.pth"), "x/model.pth; unpack it"),
    "zip": (zipped("a.txt", "b.txt"), "a zip archive of 2 other files, first a.txt"),
    "TorchScript": (zipped("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"), "TorchScript"),
    "cut": (saved(lambda f: torch.save({"model": {"a": torch.zeros(99)}}, f))[:300], "incomplete download"),
    "npz": (saved(np.savez, np.zeros(3)), "numpy arrays"),
    "npy": (saved(np.save, np.zeros(3)), "a numpy array"),
    "gzip": (b"\x1f\x8b\x08" + bytes(99), "a gzip file"),
    "tar": (bytes(257) + b"ustar\x0000" + bytes(999), "a tar archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(99), "a 7z archive"),
    "wav": (as_audio(format="WAV"), "audio (WAV)"),
    "flac": (as_audio(format="FLAC"), "audio (FLAC)"),
    "mp3": (as_audio(format="MP3"), "audio (MP3"),
    "mp3 with a tag": (b"ID3\x04" + bytes(99), "audio (MP3)"),
    "mp4": (b"\0\0\0\x20ftypM4A " + bytes(99), "audio or video (MP4)"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(99), "a picture"),
    "document": (b"%PDF-1.7\n%\xe2\xe3", "a PDF"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
    "pickle": (pickle.dumps({"a": 1}), "pickle"),
    "safetensors, cut": (safetensors.torch.save({"a": torch.zeros(999)})[:50], "damaged"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_no_checkpoint_is_called_what_it_is(tmp_path, kind):
    content, words = KINDS[kind]
    for name in ("a.pth", "a.safetensors"):  # the content tells, not the name
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, words)


def test_a_folder_is_called_what_it_is(tmp_path):
    for inside, words in {"data.pkl": "unpacked", "config.json": "--ssl_path", "checkpoints": "run"}.items():
        (tmp_path / inside / inside).mkdir(parents=True)
        refused(tmp_path / inside, words)


def test_the_content_tells_the_format_not_the_name(tmp_path, weights):
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "a.pth")
    torch.save({"w": torch.ones(2)}, tmp_path / "a.safetensors")
    torch.save({"w": torch.ones(2)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for path in tmp_path.iterdir():
        assert torch.equal(safe_load.load(path)["w"], torch.ones(2))


def test_a_pickle_that_would_run_code_names_what_it_would_call(tmp_path):
    torch.save({"optimizer": io.BytesIO}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "could run code", "_io.BytesIO")


# ---------------------------------------------------------------------------------------- plain data beside the weights

PLAIN = {
    "eer": np.float64(0.25),
    "loss": np.float32(0.5),
    "epoch": np.int64(3),
    "stopped": np.bool_(True),
    "name": np.str_("tiny"),
    "dtype": np.dtype(">f4"),
    "kind": np.float32,
    "array": np.arange(6.0).reshape(2, 3),
    "columns first": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big end first": np.arange(3, dtype=">i2"),
    "none": np.zeros(0),
    "number": np.array(7),
    "words": np.array(["a", "bc"]),
    "objects": np.array([{"a": 1}, None], dtype=object),
    "state": np.random.RandomState(0).get_state(),
    "when": datetime.datetime(2024, 5, 17, 1, 2),
    "where": pathlib.PosixPath("/data/train"),
}


def test_numpys_numbers_dtypes_and_arrays_are_plain_data(tmp_path, weights):
    torch.save(PLAIN, tmp_path / "a.pth")
    # Of numpy before 2, whose module had another name.
    data = zipped_anew(tmp_path / "a.pth", lambda data: data.replace(b"numpy._core.", b"numpy.core."))
    (tmp_path / "b.pth").write_bytes(data)
    # Of Python 3.13, or of another one.
    data = zipped_anew(tmp_path / "a.pth", lambda data: re.sub(rb"cpathlib(\._local)?\n", b"cpathlib._local\n", data))
    (tmp_path / "3.13.pth").write_bytes(data)
    torch.save(safe_load.load(tmp_path / "a.pth"), tmp_path / "again.pth")
    for name in ("a.pth", "b.pth", "3.13.pth", "again.pth"):
        found = safe_load.load(tmp_path / name)
        for key in ("eer", "loss", "epoch", "stopped", "name"):
            assert found[key] == PLAIN[key].item() and type(found[key]) is type(PLAIN[key].item())
        for key in ("array", "columns first", "big end first", "none", "number", "words", "objects"):
            assert found[key].dtype == PLAIN[key].dtype.newbyteorder("=") and np.array_equal(found[key], PLAIN[key])
        assert str(found["dtype"]) == ">f4" and found["kind"] is np.float32
        assert np.array_equal(found["state"][1], PLAIN["state"][1])
        assert found["when"] == PLAIN["when"] and str(found["where"]) == "/data/train"
    checkpoints.save_checkpoint(tmp_path / "c.pth", CONFIG, weights, **PLAIN)
    assert checkpoints.load_detector(tmp_path / "c.pth").config == CONFIG
    checkpoint.main(["convert", str(tmp_path / "c.pth"), str(tmp_path / "d.pth")])
    assert checkpoints.read_checkpoint(tmp_path / "d.pth")["eer"] == 0.25
    torch.save(
        {"epoch": 3, "eer": np.float64(0.3), "model_state_dict": {"a.weight": torch.zeros(2, 2)}}, tmp_path / "e"
    )
    refused(tmp_path / "e", "expected weights under")


def zipped_anew(path, change):
    with io.BytesIO() as file:
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(file, "w") as target:
            for name in source.namelist():
                data = source.read(name)
                target.writestr(name, change(data) if name.endswith("data.pkl") else data)
        return file.getvalue()


@pytest.mark.parametrize(
    "change", [(b"f8", b"V9"), (b"f8", b"O8"), (b"f8", b"f4"), (b"K\x02K\x03\x86", b"K\x03K\x03\x86")]
)
def test_an_array_that_claims_another_size_or_kind_is_refused(tmp_path, change):
    torch.save({"array": np.arange(6.0).reshape(2, 3)}, tmp_path / "a.pth")
    data = zipped_anew(tmp_path / "a.pth", lambda data: data.replace(*change))
    (tmp_path / "b.pth").write_bytes(data)
    refused(tmp_path / "b.pth", "damaged")


def test_one_list_a_billion_times_is_looked_at_once(tmp_path):
    content = ["x"]
    for _ in range(40):
        content = [content, content]
    torch.save({"format": checkpoints.FORMAT, "config": {}, "model": content, "valid": content}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model._orig_mod."])
def test_the_names_that_wrappers_give_are_stripped(tmp_path, weights, prefix):
    published = {
        "front_end.model.": "ssl_model.model.",
        "aggregation.": "ssl_model.",
        "back_end.": "Nested_Res2Net_TDNN.",
    }
    state = {
        next(new + k.removeprefix(old) for old, new in published.items() if k.startswith(old)): t
        for k, t in weights.items()
    }
    state = {k.replace("layers.1.", "layers.1._orig_mod."): tensor for k, tensor in state.items()}
    torch.save({prefix + k: tensor for k, tensor in state.items()}, tmp_path / "a.pth")
    found = checkpoints.load_detector(tmp_path / "a.pth", model_name="wav2vec2_Nes2Net_X", dilation=2).state_dict()
    assert all(torch.equal(found[k], tensor) for k, tensor in weights.items())
    state[next(iter(state)).replace(".", "._orig_mod.", 1)] = torch.zeros(1)
    torch.save(state, tmp_path / "b.pth")
    refused(tmp_path / "b.pth", "every weight once")


def test_what_a_file_says_cannot_act_on_the_terminal():
    found = shown("a\x1b[2J\u202eb\u2028c\x85d\u200be\x07\udc85")
    assert found.isprintable() and "\\x1b[2J" in found and "\\u202e" in found and len(found.splitlines()) == 1


# ------------------------------------------------------------------------------------------- the settings of an encoder

# What a stranger's JSON may hold in the place of a setting.
WRONG = [None, -1, 0, 10**9, 2.5, float("nan"), float("inf"), "", "24", "\x1b[2J", [], [10**9], {}, True, 1e308]
REFERENCE = read_reference("hugging_face.json")["cases"]
# Settings that shape no encoder of ours, or may lack.
FREE = {"transformers_version", "architectures", "vocab_size", "pad_token_id", "bos_token_id", "eos_token_id"}


def load_encoder(path, front_end="wav2vec2"):
    """All that train.py does with --ssl_path."""
    config = checkpoints.resolve_encoder({"model_name": f"{front_end}_Nes2Net", "Nes_ratio": (2, 2)}, path)
    return checkpoints.new_detector(config, path)


def folder_of(place, name, config=None):
    place.mkdir(exist_ok=True)
    case = REFERENCE[name]
    safetensors.torch.save_file(reference_weights(case["state_dict"]), place / "model.safetensors")
    (place / "config.json").write_text(json.dumps(case["config"] if config is None else config))
    return place, case["front_end"]


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCE)
def test_every_setting_of_a_hugging_face_folder_is_checked(tmp_path, name):
    folder, front_end = folder_of(tmp_path / "a", name)
    load_encoder(folder, front_end)
    whole, n_refused = REFERENCE[name]["config"], 0
    settings = [{**whole, key: value} for key in whole for value in WRONG]
    settings += [{k: v for k, v in whole.items() if k != key} for key in whole]
    settings += [
        {**whole, key: values}
        for key in ("conv_dim", "conv_kernel", "conv_stride")
        for values in (
            whole[key][1:],
            [*whole[key], 1],
            ["a"] * 7,
            [None] * 7,
            [2.0] * 7,
            [10**9] * 7,
            [[1]] * 7,
            [-1] * 7,
            [0] * 7,
        )
    ]
    for changed in settings:
        (folder / "config.json").write_text(json.dumps(changed))
        try:
            load_encoder(folder, front_end)
        except UserError as error:
            n_refused += 1
            assert len(str(error)) < 1000 and str(error).isprintable()
    assert len(settings) / 2 < n_refused < len(settings)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "expected JSON"),
        ("[]", "an object"),
        ("null", "an object"),
        ("7", "an object"),
        ('"text"', "an object"),
        ("[" * 100_000, "expected JSON"),
        ('{"a":' * 100_000, "expected JSON"),
        ('{"hidden_size": ' + "9" * 10_000 + "}", "expected JSON"),
        ('{"model_type": "wav2vec2", "model_type": "wavlm"}', "duplicate"),
        (" " * (2 << 20), "at most 1 MB"),
        ("<html>", "expected JSON"),
        ("\udcff", "expected JSON"),
    ],
)
def test_a_config_that_is_no_object_of_settings_is_named(tmp_path, text, words):
    folder, _ = folder_of(tmp_path / "a", next(iter(REFERENCE)))
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    refused(folder / "config.json", words, load=lambda path: load_encoder(path.parent))


def test_show_says_what_is_wrong_with_an_encoder_of_either_family(tmp_path, fails):
    for name in ("wav2vec2_group", "wavlm_group"):
        config = {**REFERENCE[name]["config"], "hidden_act": "gelu_new"}
        folder, front_end = folder_of(tmp_path / name, name, config)
        fails(checkpoint.main, ["show", str(folder)], front_end, "hidden_act gelu_new")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    fails(checkpoint.main, ["show", str(folder)], "model_type bert")


def test_a_billion_layers_are_refused_before_any_is_built(tmp_path):
    name = next(iter(REFERENCE))
    for setting, value in {"num_hidden_layers": 10**9, "hidden_size": 96_000, "intermediate_size": 900_000}.items():
        folder, front_end = folder_of(tmp_path / "a", name, {**REFERENCE[name]["config"], setting: value})
        refused(
            folder,
            setting if value == 10**9 else "parameters",
            load=lambda path, kind=front_end: load_encoder(path, kind),
        )


def test_weights_in_several_files_are_read_as_one(tmp_path):
    folder, front_end = folder_of(tmp_path / "a", next(iter(REFERENCE)))
    whole = load_encoder(folder, front_end).front_end.state_dict()
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(weights)}
    for part in set(places.values()):
        safetensors.torch.save_file({n: t for n, t in weights.items() if places[n] == part}, folder / part)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    found = load_encoder(folder, front_end).front_end.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
    for strange in ({"a": "../secret"}, {"a": 7}, {"a": "/etc/passwd"}, ["a"], None):
        index.write_text(json.dumps({"weight_map": strange}))
        refused(index, "weight_map", load=lambda path: load_encoder(path.parent, front_end))


@pytest.mark.slow
def test_every_setting_of_a_fairseq_file_is_checked(tmp_path):
    fields = {**Wav2Vec2.presets["tiny"].fields, **Wav2Vec2.in_training, "encoder_ffn_embed_dim": 96}
    weights = Wav2Vec2(fields).model.state_dict()
    settings = {k: v for k, v in fields.items() if k not in ("normalize", "num_buckets", "max_distance")}
    settings |= {"layer_type": "transformer", "pos_enc_type": "abs", "relative_position_embedding": False}
    path, n_refused = tmp_path / "a.pt", 0
    torch.save({"cfg": {"model": settings}, "model": weights}, path)
    load_encoder(path)
    wrong = [*WRONG, torch.zeros(3), np.zeros(3), {"a": torch.zeros(2)}]
    for i, key in enumerate(settings):
        for value in wrong[i % 2 :: 2]:
            torch.save({"cfg": {"model": {**settings, key: value}}, "model": weights}, path)
            with contextlib.suppress(UserError):
                load_encoder(path)
                n_refused -= 1
            n_refused += 1
    assert n_refused > len(settings) * len(wrong) / 4
    for value in (*wrong, {"a": 1}):
        for content in ({"cfg": value, "model": weights}, {"cfg": {"model": settings}, "model": value}, value):
            torch.save(content, path)
            refused(path, load=load_encoder)


# ----------------------------------------------------------------------------------------- a checkpoint of this project


@pytest.mark.parametrize(
    "facts, words",
    [
        ({"config": None}, "`config`"),
        ({"model": None}, "`model`"),
        ({"model": {}}, "weights"),
        ({"model": {7: torch.zeros(1)}}, "named tensors"),
        ({"config": {}}, "model_name"),
        ({"config": {"model_name": CONFIG.model_name, "\x1b[2J": 1}}, "\\x1b[2J"),
        *(
            ({"config": {**CONFIG.to_dict(), "dilation": value}}, "--dilation")
            for value in (0, -1, 10**9, 2.0, "2", True)
        ),
        *(({"config": {**CONFIG.to_dict(), "Nes_ratio": value}}, "--Nes_ratio") for value in (8, "88", [8], [8, None])),
        *(({"config": {**CONFIG.to_dict(), name: []}}, f"--{name}") for name in ("ssl", "agg", "output", "SE_ratio")),
        *(({"epoch": value}, "epoch") for value in (-1, 2.5, "3", 10**30, True, float("nan"))),
        *(({"averaged": value}, "averaged") for value in ("a", [1], [None], {"a": 1})),
        ({"trained_on": 7}, "trained_on"),
        ({"valid": [0.1]}, "valid"),
        *(({"valid": {"eer": value}}, "eer") for value in (-0.1, 1.5, float("nan"), "0.1", True)),
        *(({"valid": {"threshold": value}}, "threshold") for value in (float("nan"), float("inf"), "0", None)),
        *(({"valid": {"calibration_n_spoof": value}}, "calibration_n_spoof") for value in (-1, 0, 2.5, float("nan"))),
        *(({"valid": {"calibration_slope": value}}, "calibration_slope") for value in (float("inf"), "1")),
        ({"valid": {"loss": [1]}}, "loss"),
        ({"seen": [1]}, "seen"),
        *(({"seen": {"level_low": value}}, "level_low") for value in (float("nan"), "1", [1])),
    ],
)
def test_what_a_checkpoint_says_of_itself_is_checked(tmp_path, weights, facts, words):
    content = {"format": checkpoints.FORMAT, "config": CONFIG.to_dict(), "model": weights, **facts}
    torch.save({name: value for name, value in content.items() if value is not None}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", words)


def test_what_a_checkpoint_says_of_itself_is_printed_escaped(tmp_path, weights, output):
    facts = {
        "trained_on": "x\x1b[2J\ny\u202e",
        "valid": {"eer\x07": 0.1},
        "averaged": ["a\x9b1m"],
        "training": {"\x1b": "\x1b"},
    }
    checkpoints.save_checkpoint(tmp_path / "a.pth", CONFIG, weights, **facts)
    text = output(checkpoint.main, ["show", str(tmp_path / "a.pth")])
    assert all(line.isprintable() for line in text.splitlines()) and "\\x1b[2J" in text
    valid = {"eer": 0.1, "threshold": 0.0}
    checkpoints.save_checkpoint(tmp_path / "b.pth", CONFIG, weights, trained_on=facts["trained_on"], valid=valid)
    assert Judge(tmp_path / "b.pth", torch.device("cpu")).about_threshold().isprintable()


# --------------------------------------------------------------------------------------------------------- the weights


@pytest.mark.parametrize("kind", ["complex64", "int64", "bool", "uint8", "float8_e4m3fn"])
def test_weights_of_another_kind_are_named(tmp_path, weights, kind):
    name = "back_end.fc.weight"
    changed = {**weights, name: weights[name].to(getattr(torch, kind))}
    checkpoints.save_checkpoint(tmp_path / "a.pth", CONFIG, changed)
    refused(tmp_path / "a.pth", name, kind, "torch.float32")
    for make in (checkpoints.average_checkpoints, lambda paths: checkpoints.load_average(paths)):
        refused(tmp_path / "a.pth", name, kind, load=lambda path, make=make: make([path]))
    buffer = "back_end.bn.num_batches_tracked"
    checkpoints.save_checkpoint(tmp_path / "b.pth", CONFIG, {**weights, buffer: torch.tensor(1.5)})
    refused(tmp_path / "b.pth", buffer, "torch.int64")


def test_weights_in_half_precision_load(tmp_path, weights):
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        halves = {k: tensor.to(kind) if tensor.is_floating_point() else tensor for k, tensor in weights.items()}
        checkpoints.save_checkpoint(tmp_path / "a.pth", CONFIG, halves)
        assert checkpoints.load_detector(tmp_path / "a.pth").back_end.fc.weight.dtype == torch.float32


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_an_average_of_weights_that_are_not_finite_is_refused(tmp_path, weights, value):
    checkpoints.save_checkpoint(tmp_path / "epoch_1.pth", CONFIG, weights, epoch=1)
    name = "back_end.fc.bias"
    checkpoints.save_checkpoint(tmp_path / "epoch_2.pth", CONFIG, {**weights, name: torch.full((2,), value)}, epoch=2)
    command = [str(tmp_path / "out.pth"), str(tmp_path / "epoch_1.pth"), str(tmp_path / "epoch_2.pth")]
    refused(tmp_path / "epoch_2.pth", name, "NaN", load=lambda _: checkpoint.main(["average", *command]))
    refused(tmp_path / "epoch_2.pth", name, load=lambda path: checkpoint.main(["convert", str(path), command[0]]))
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_one_file_under_two_names_is_not_averaged(tmp_path, weights, link):
    checkpoints.save_checkpoint(tmp_path / "epoch_1.pth", CONFIG, weights, epoch=1)
    link(tmp_path / "epoch_1.pth", tmp_path / "epoch_2.pth")
    refused(
        tmp_path / "epoch_2.pth",
        "epoch_1.pth again",
        load=lambda path: checkpoints.average_checkpoints([tmp_path / "epoch_1.pth", path]),
    )


def header(entries, size=64):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


ENTRY = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "content, words",
    [
        (header(b'{"a":' + json.dumps(ENTRY).encode() + b" " * 80_000_000 + b"}", 16), "a header of at most"),
        (header({"a": ENTRY, "b": {**ENTRY, "data_offsets": [8, 24]}}, 24), "damaged"),
        (header({"a": {**ENTRY, "shape": [-4]}}, 16), "damaged"),
        (header({"a": {**ENTRY, "shape": [2**40, 2**40]}}, 16), "damaged"),
        (header({"a": {**ENTRY, "dtype": "Q7"}}, 16), "damaged"),
        (header(b"{" * 10_000, 16), "damaged"),
        (header(b"{}", 0)[:9], "damaged"),
    ],
)
def test_a_safetensors_header_that_claims_too_much_is_refused(tmp_path, content, words):
    (tmp_path / "a.safetensors").write_bytes(content)
    refused(tmp_path / "a.safetensors", words)


# ------------------------------------------------------------------------------------------------------------- numbers

STRANGE = ["1_000", "\uff11\uff12", "nan", "inf", "-inf", "1e999", "0x10", "--5", "1,5", " ", ""]


@pytest.mark.parametrize("text", STRANGE)
def test_a_number_is_finite_and_in_plain_digits(text):
    for number in (Number(), Number(int)):
        with pytest.raises(argparse.ArgumentTypeError, match="expected"):
            number(text)


@pytest.mark.parametrize(
    "main, flag, values",
    [
        *((train.main, flag, "-1 0 nan inf 1_0") for flag in ("--gamma", "--epochs", "--batch_size")),
        *((train.main, flag, "-1 nan inf") for flag in ("--lr", "--weight_decay", "--min_lr", "--save_every_minutes")),
        (train.main, "--class_weights", "0,0 -1,1 nan,1"),
        (train.main, "--seed", "-1 4294967296 1.5"),
        *((train.main, flag, "-1 1_0") for flag in ("--num_workers", "--gpu_id", "--skip_bad_audio", "--average_best")),
        (train.main, "--minF", "nan inf"),
        *((eval_command.main, flag, "0 -1 1_0") for flag in ("--batch_samples", "--batch_size", "--average_best")),
        *((eval_command.main, flag, "-1 1_0") for flag in ("--num_workers", "--gpu_id")),
        *((easy_inference_demo.main, flag, "nan inf 1_0") for flag in ("--threshold", "--window", "--hop")),
        (easy_inference_demo.main, "--port", "-1 70000"),
        (EER_minDCF.main, "--miss_rates", "-1 101 nan"),
        (EER_minDCF.main, "--replicates", "-1 1000000000000 1e3"),
        (EER_minDCF.main, "--asv_rates", "2,-1,nan 0.1,0.1,nan 0.1,0.1,1.1 0_1,0,0 0.1"),
    ],
)
def test_flags_take_only_numbers_that_make_sense(capsys, main, flag, values):
    needed = {
        train.main: ["--base_dir", "x", "--model_name", CONFIG.model_name],
        EER_minDCF.main: ["--path", "x", "--labels_file", "x"],
    }
    needed |= {eval_command.main: ["--base_dir", "x"], easy_inference_demo.main: ["--model_path", "x"]}
    for value in values.split():
        with pytest.raises(SystemExit) as ended:
            main([*needed[main], flag, *value.split(",")])
        message = capsys.readouterr().err.splitlines()[-2]
        assert ended.value.code == 2 and flag in message and "expected" in message, message


@pytest.mark.parametrize("score", ["1_000", "\uff11", "0x10", "--5", "1,5", "one"])
def test_a_score_in_other_digits_is_named(tmp_path, score):
    path = tmp_path / "scores.txt"
    path.write_text(f"LA_E_1 0.5\nLA_E_2 {score}\nLA_E_3 1\n")
    refused(path, f"{path}:2: ", "expected a number", load=corpora.read_score_columns)
    path.write_text(f"A07 spoof 0.5\nA07 target {score}\n")
    refused(path, f"{path}:2: ", "expected a finite number", load=corpora.read_asv_trials)
    path.write_text(f'asv_score,cm_score,sasv_label\n1,2,1\n1,"{score}",0\n')
    refused(path, f"{path}:3: ", "cm_score", load=corpora.read_sasv)


@pytest.mark.parametrize("score", ["nan", "inf", "1e999"])
def test_a_score_that_is_not_finite_is_named(tmp_path, score):
    path = tmp_path / "scores.txt"
    path.write_text(f"LA_E_1 0.5\nLA_E_2 {score}\n")
    refused(path, f"{path}:2: ", "finite", load=corpora.read_scores)
    path.write_text(f"A07 spoof 0.5\nA07 target {score}\n")
    refused(path, f"{path}:2: ", "finite", load=corpora.read_asv_trials)
    path.write_text(f"asv_score,cm_score,sasv_label\n1,2,1\n{score},1,0\n")
    refused(path, f"{path}:3: ", "asv_score", load=corpora.read_sasv)


def test_metrics_refuse_what_is_no_number_or_empty():
    good, nan, nothing = [0.0, 1.0], [0.0, float("nan")], []
    functions = [metrics.compute_eer, metrics.compute_min_dcf, metrics.compute_act_dcf, metrics.compute_cllr]
    functions += [metrics.compute_min_cllr, metrics.compute_auc, calibration.train_calibration]
    for function in functions:
        for bad in (nan, nothing):
            for classes in ((good, bad), (bad, good)):
                with pytest.raises(UserError):
                    function(*classes)
    with pytest.raises(UserError, match="variance"):
        calibration.train_calibration([1e308, -1e308], [0.0, 1.0])
    with pytest.raises(UserError, match="spoof"):
        metrics.asv_error_rates(good, good, nan)
    for rates in ((2, 0.1, 0.1), (0.1, -1, 0.1), (0.1, float("nan"), 0.1)):
        with pytest.raises(UserError, match="from 0 to 1"):
            metrics.tdcf_weights(metrics.AsvRates(*rates))
    for values in ({"minF": float("nan")}, {"nBands": 10**9}, {"g_sd": float("inf")}, {"maxCoeff": 10**9}):
        with pytest.raises(ValueError, match=next(iter(values))):
            RawBoostParams(**values)
