"""What a file or a flag claims is checked: each kind of wrong claim ends in one line that names what it is."""

import datetime
import io
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch

import checkpoint
import safe_load
from console import UserError, shown
from model import ModelConfig, build_detector

CONFIG = ModelConfig("wav2vec2_Nes2Net_X", ssl="tiny", Nes_ratio=(2, 2))


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return build_detector(CONFIG).state_dict()


def refused(path, *words, load=checkpoint.load_detector):
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
    "zeros": (bytes(5000), "not completed"),
    "random": (bytes([0x91, 0x05, 0xFE]) * 900, "another kind"),
    "zip with a checkpoint": (zipped("__MACOSX/._model.pth", "x/model.pth"), "holds x/model.pth; unpack it"),
    "zip": (zipped("a.txt", "b.txt"), "a zip archive of 2 other files, first a.txt"),
    "TorchScript": (zipped("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"), "TorchScript"),
    "cut": (saved(lambda f: torch.save({"model": {"a": torch.zeros(99)}}, f))[:300], "ended early"),
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
    torch.save(safe_load.load(tmp_path / "a.pth"), tmp_path / "again.pth")
    for name in ("a.pth", "b.pth", "again.pth"):
        found = safe_load.load(tmp_path / name)
        for key in ("eer", "loss", "epoch", "stopped", "name"):
            assert found[key] == PLAIN[key].item() and type(found[key]) is type(PLAIN[key].item())
        for key in ("array", "columns first", "big end first", "none", "number", "words", "objects"):
            assert found[key].dtype == PLAIN[key].dtype.newbyteorder("=") and np.array_equal(found[key], PLAIN[key])
        assert str(found["dtype"]) == ">f4" and found["kind"] is np.float32
        assert np.array_equal(found["state"][1], PLAIN["state"][1])
        assert found["when"] == PLAIN["when"] and str(found["where"]) == "/data/train"
    checkpoint.save_checkpoint(tmp_path / "c.pth", CONFIG, weights, **PLAIN)
    assert checkpoint.load_detector(tmp_path / "c.pth").config == CONFIG
    checkpoint.main(["convert", str(tmp_path / "c.pth"), str(tmp_path / "d.pth")])
    assert checkpoint.read_checkpoint(tmp_path / "d.pth")["eer"] == 0.25
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
    torch.save({"format": checkpoint.FORMAT, "config": {}, "model": content, "valid": content}, tmp_path / "a.pth")
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
    found = checkpoint.load_detector(tmp_path / "a.pth", model_name="wav2vec2_Nes2Net_X", dilation=2).state_dict()
    assert all(torch.equal(found[k], tensor) for k, tensor in weights.items())
    state[next(iter(state)).replace(".", "._orig_mod.", 1)] = torch.zeros(1)
    torch.save(state, tmp_path / "b.pth")
    refused(tmp_path / "b.pth", "every weight once")


def test_what_a_file_says_cannot_act_on_the_terminal():
    found = shown("a\x1b[2J\u202eb\u2028c\x85d\u200be\x07\udc85")
    assert found.isprintable() and "\\x1b[2J" in found and "\\u202e" in found and len(found.splitlines()) == 1
