"""Damaged and hostile files: each ends in success or in one line and status 2, soon, and in little memory."""

import contextlib
import io
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import encode

import checkpoints
import corpora
import EER_minDCF
from common import console
from data_utils import load_audio
from model import ModelConfig, build_detector

ROOT = Path(__file__).parent.parent
CONFIG = ModelConfig("wav2vec2_Nes2Net_X", ssl="tiny", Nes_ratio=(2, 2))


def mutated(data, rng):
    """A copy of bytes with a few random changes: bits, bytes, numbers, parts cut, doubled, moved or overwritten."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = rng.randrange(min(len(data), rng.choice([64, 512, len(data)])) or 1)  # headers are what readers trust
        length = rng.choice([1, 2, 4, 8, 100])
        change = rng.randrange(7)
        if change == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif change == 1:
            data[at : at + length] = rng.randbytes(length)
        elif change == 2:
            data[at : at + 4] = rng.choice([b"\0" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\1\0\0\0"])
        elif change == 3:
            del data[at : at + length]
        elif change == 4:
            data[at:at] = data[at : at + length]
        elif change == 5:
            del data[at + rng.randrange(1 + len(data)) :]
        else:
            other = rng.randrange(len(data) or 1)
            data[at : at + length] = data[other : other + length]
    return bytes(data)


def ends_well(action, *allowed):
    """Call it as a command; whether it succeeded. A mistake must be one line and status 2, and soon:
    five seconds of processor time, however busy the machine is."""

    def late(*_):
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, 5)
    try:
        with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
            console.run(action)
    except SystemExit as ended:
        signal.setitimer(signal.ITIMER_PROF, 0)
        lines = [line for line in err.getvalue().splitlines() if "warning: " not in line]
        assert ended.code in (None, 0, 2), lines
        assert ended.code != 2 or ("error: " in lines[-1] and len(lines[-1]) < 2000), lines
        return ended.code != 2
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def test_mutated_audio(tmp_path):
    rng = random.Random(1)
    x = 0.1 * np.random.default_rng(0).standard_normal((2000, 2))
    originals = {}
    for name, options in {
        "a.wav": {},
        "b.wav": {"subtype": "FLOAT"},
        "c.flac": {},
        "d.ogg": {},
        "e.mp3": {},
        "f.wav": {"subtype": "MS_ADPCM"},
    }.items():
        soundfile.write(tmp_path / name, x, 16000 if name != "c.flac" else 44100, **options)
        originals[name] = (tmp_path / name).read_bytes()
    for name, (codec, container) in {
        "g.m4a": ("aac", "ipod"),
        "h.webm": ("libopus", "webm"),
        "i.wma": ("wmav2", "asf"),
        "j.aac": ("aac", "adts"),
    }.items():
        originals[name] = encode(tmp_path / name, x[:, 0], codec, container).read_bytes()
    n_read = 0
    for i in range(500):
        name = rng.choice(list(originals))
        path = tmp_path / f"{i}{name}"
        path.write_bytes(mutated(originals[name], rng))

        def read(path=path):
            found = load_audio(path)
            assert found.dtype == np.float32 and len(found) and np.isfinite(found).all()

        n_read += ends_well(read)
        path.unlink()
    assert 50 < n_read < 450  # the mutations are neither fatal nor harmless


def test_mutated_protocols_and_scores(tmp_path):
    rng = random.Random(2)
    ids = [f"LA_E_{i:07}" for i in range(40)]
    keys = ["spoof" if i % 3 else "bonafide" for i in range(40)]
    texts = {
        "2019.txt": "".join(f"LA_00 {u} - {'A07' if k == 'spoof' else '-'} {k}\n" for u, k in zip(ids, keys)),
        "ctrsvdd.txt": "".join(
            f"m4singer CtrSVDD_0001 {u} - {'A09' if k == 'spoof' else '-'} {'deepfake' if k == 'spoof' else k}\n"
            for u, k in zip(ids, keys)
        ),
        "meta.csv": "file,speaker,label\n" + "".join(f"{u}.wav,Someone,{k}\n" for u, k in zip(ids, keys)),
        "list.txt": "".join(f"{u}\n" for u in ids),
        "scores.txt": "".join(f"{u} {rng.gauss(k == 'bonafide', 1):.6g}\n" for u, k in zip(ids, keys)),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "audio").mkdir()
    for utt_id in ids:
        (tmp_path / "audio" / f"{utt_id}.wav").touch()
    n_read = 0
    for i in range(300):
        name = rng.choice(list(texts))
        path = tmp_path / f"mutated{i}{Path(name).suffix}"
        path.write_bytes(mutated(texts[name].encode(), rng))
        key, scores = (tmp_path / "2019.txt", path) if name == "scores.txt" else (path, tmp_path / "scores.txt")

        def action(path=path, name=name, key=key, scores=scores):
            if name in ("scores.txt", "2019.txt"):
                return EER_minDCF.main(["--labels_file", str(key), "--path", str(scores)])
            for trial in corpora.locate_audio(corpora.read_protocol(path), tmp_path / "audio"):
                assert Path(trial.path).resolve().parent == tmp_path / "audio"

        before = sorted(tmp_path.iterdir())
        n_read += ends_well(action)
        assert sorted(tmp_path.iterdir()) == before
        path.unlink()
    assert 10 < n_read < 290


def whole_checkpoint(path):
    torch.manual_seed(0)
    detector = build_detector(CONFIG)
    checkpoints.save_checkpoint(path, CONFIG, detector.state_dict(), epoch=3, valid={"eer": 0.1, "selected_by": "eer"})
    return path


def rewritten(path, out, change, compression=zipfile.ZIP_STORED):
    """Write an archive anew, its checksums right, with data.pkl as `change` makes it."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w", compression) as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, change(data) if name.endswith("data.pkl") else data)
    return out


@pytest.mark.slow
def test_mutated_checkpoints(tmp_path):
    rng = random.Random(3)
    whole = whole_checkpoint(tmp_path / "whole.pth")
    data = whole.read_bytes()
    n_loaded = 0
    for i in range(120):
        path = tmp_path / f"epoch_{i}.pth"
        if i % 3 == 0:
            path.write_bytes(mutated(data, rng))
        elif i % 3 == 1:  # what the archive's checksums do not find
            rewritten(whole, path, lambda pickled: mutated(pickled, rng))
        else:
            content = torch.load(whole, weights_only=True)
            spoil(content, rng)
            torch.save(content, path)
        n_loaded += ends_well(lambda path=path: checkpoints.load_detector(path) and None)
        path.unlink()
    assert n_loaded < 60
    assert ends_well(lambda: checkpoints.load_detector(whole) and None)


def spoil(content, rng):
    """Put a wrong value somewhere into the content of a checkpoint."""
    wrong = [None, -1, 0, 10**9, 2.5, float("nan"), "", "x", [], {}, [10**9], (), torch.zeros(3), torch.zeros(()), True]
    place = content
    while True:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.3:
            place[key] = rng.choice(wrong)
            return
        place = place[key]


def reduced(function, *arguments):
    """Bytes of a pickle that calls a function: (module, name), with plain arguments."""
    module, name = function
    inside = pickle.dumps(arguments, protocol=2)[2:-1]
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + inside + b"R."


def hostile_files(folder):
    """Checkpoints that would run code, fill the memory, or take for ever."""
    whole = whole_checkpoint(folder / "whole.pth")
    bombs = {
        "run.pth": reduced(("os", "mkdir"), str(folder / "ran")),
        "eval.pth": reduced(("builtins", "eval"), f"__import__('os').mkdir({str(folder / 'ran')!r})"),
        "bytes.pth": reduced(("builtins", "bytearray"), 1 << 40),
        "tensor.pth": reduced(("torch", "FloatTensor"), 1 << 36),
        "list.pth": b"\x80\x02" + b"(" + b"]" * 3_000_000 + b"l.",
        "deep.pth": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
        "many.pth": b"\x80\x02]" + b"(" + b"N" * (17 << 20) + b"e.",
    }
    for name, data in bombs.items():
        rewritten(whole, folder / name, lambda _, data=data: data)
    rewritten(whole, folder / "zip.pth", lambda data: data + bytes(1 << 28), zipfile.ZIP_DEFLATED)
    content = torch.load(whole, weights_only=True)
    value = next(iter(content["model"]))
    shapes = {"wide.pth": (1 << 40,), "long.pth": (1 << 20, 1 << 20), "negative.pth": (0,)}
    for name, shape in shapes.items():
        torch.save({**content, "model": {**content["model"], value: torch.zeros(1).expand(shape)}}, folder / name)
    shared = torch.zeros(1 << 18)
    torch.save({**content, "model": {str(i): shared.view(-1) for i in range(5000)}}, folder / "shared.pth")
    sparse = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (1 << 40,))
    torch.save({**content, "model": {value: sparse}}, folder / "sparse.pth")
    encoder = {"encoder_layers": 10**9, "encoder_embed_dim": 64, "normalize": True}
    for name, fields in {
        "layers.pth": {"ssl": "from_file", "ssl_config": encoder},
        "width.pth": {"ssl": "from_file", "ssl_config": {**encoder, "encoder_layers": 2, "encoder_embed_dim": 10**8}},
        "heads.pth": {"ssl": "from_file", "ssl_config": {**encoder, "encoder_layers": 2, "encoder_embed_dim": 63}},
        "code.pth": {
            "ssl": "from_file",
            "ssl_config": {
                **encoder,
                "encoder_layers": 1,
                "conv_feature_layers": f"__import__('os').mkdir({str(folder / 'ran')!r})",
            },
        },
        "dilation.pth": {"dilation": 10**9},
        "ratio.pth": {"Nes_ratio": [10**6, 10**6]},
        "unknown.pth": {"colour": "red"},
    }.items():
        torch.save({**content, "config": {**content["config"], **fields}}, folder / name)
    (folder / "cut.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    (folder / "lie.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    header = header[:-1] + b" " * 80_000_000 + b"}"
    (folder / "long.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    laughs = [value]
    for _ in range(40):
        laughs = [laughs, laughs]
    torch.save({**content, "valid": laughs}, folder / "laughs.pth")
    torch.save({"model": torch.zeros(4)}, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    os.mkfifo(folder / "fifo.pth")
    (folder / "folder.pth").mkdir()
    (folder / "whole.pth").unlink()
    return sorted(path.name for path in folder.iterdir())


JUDGE = """
import resource, sys
import checkpoints
from common.console import UserError

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

resource.setrlimit(resource.RLIMIT_CPU, (200, 200))  # seconds of processor time, for all of them
for path in sys.argv[1:]:
    before = peak()
    try:
        checkpoints.load_detector(path)
        found = "loaded"
    except UserError as error:
        found = str(error)
    print(path.split("/")[-1], peak() - before, repr(found), sep="\\t")
"""


@pytest.mark.slow
def test_hostile_checkpoints_run_no_code_and_take_little(tmp_path):
    folder = tmp_path / "hostile"
    folder.mkdir()
    names = hostile_files(folder)
    done = subprocess.run(
        [sys.executable, "-c", JUDGE, *(str(folder / name) for name in names)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == names
    for name, memory, found in rows:
        assert found != "'loaded'" and "\\n" not in found, name
        assert int(memory) < 2 << 30, name
    assert not (folder / "ran").exists()


@pytest.mark.slow
def test_commands_end_with_one_line(tmp_path):
    audio, model = tmp_path / "x.wav", tmp_path / "model.pth"
    soundfile.write(audio, np.zeros(100), 16000)
    audio.write_bytes(audio.read_bytes()[:30])
    model.write_bytes(b"PK\x03\x04" + bytes(100))
    (tmp_path / "key.txt").write_bytes(bytes(range(256)))
    for command in (
        ["EER_minDCF.py", "--labels_file", tmp_path / "key.txt", "--path", tmp_path / "key.txt"],
        ["checkpoint.py", "show", model],
        ["easy_inference_demo.py", "--model_path", model, "--file_to_test", audio],
    ):
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and not done.stdout, done
        assert done.stderr.splitlines()[-1].startswith(f"{command[0]}: error: ") and "Traceback" not in done.stderr
