"""Checkpoints by their name on Hugging Face: a server on the loopback stands for it."""

import errno
import hashlib
import http.server
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
from conftest import whisper_folder

import checkpoint
import checkpoints
import easy_inference_demo
import eval as scoring
import train
from common.console import UserError
from model import ModelConfig, build_detector

# isort: split
# After checkpoints, which says what it may ask for.
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http

OLD, NEW = "a" * 40, "b" * 40  # commits


class Hub(http.server.ThreadingHTTPServer):
    """Repositories {name: {commit: {file: bytes}}}, `main` the last commit. Large files are redirected, as LFS's are.

    errors: {repository: (status, code)} of its answers. cuts: how many answers end in the middle. asked: what was.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories, self.errors, self.cuts, self.asked, self.delay = {}, {}, 0, [], 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def got(self):
        """Names of the files whose content was asked for."""
        return [path.rpartition("/")[2] for method, path, _ in self.asked if method == "GET"]


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def fail(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self):
        hub = self.server
        hub.asked.append((self.command, self.path, dict(self.headers)))
        parts = self.path.strip("/").split("/")
        cdn = parts[0] == "cdn"
        owner, name, _, revision, *file = parts[1:] if cdn else parts
        repository, file = f"{owner}/{name}", "/".join(file)
        if repository in hub.errors:
            return self.fail(*hub.errors[repository])
        if repository not in hub.repositories:
            return self.fail(401, "RepoNotFound")
        commits = hub.repositories[repository]
        commit = list(commits)[-1] if revision == "main" else revision
        if commit not in commits:
            return self.fail(404, "RevisionNotFound")
        if file not in commits[commit]:
            return self.fail(404, "EntryNotFound")
        content = commits[commit][file]
        digest = hashlib.sha256(content).hexdigest()
        if not file.endswith(".json") and not cdn:
            self.send_response(302)
            self.send_header("Location", f"/cdn/{repository}/resolve/{commit}/{file}")
            self.send_header("X-Linked-Etag", f'"{digest}"')
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        start = int(self.headers.get("Range", "bytes=0-")[6:].rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            time.sleep(hub.delay)
            cut = hub.cuts > 0 and not file.endswith(".json")
            hub.cuts -= cut
            self.wfile.write(content[start : start + (len(content) - start) // 2] if cut else content[start:])
            self.close_connection = True

    do_GET = do_HEAD


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    for module in (file_download, _http):  # it waits before it tries again
        monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def gone(hub):
    hub.shutdown()
    hub.server_close()
    _http.close_session()  # or it goes on talking over the connection that it has


def content_of(path):
    return path.read_bytes()


@pytest.fixture
def detector(hub, tmp_path):
    """Two commits of a released detector, in owner/name; the last one's scores differ. Returns those of both."""
    detectors = {}
    for seed, commit in enumerate((OLD, NEW)):
        torch.manual_seed(seed)
        model = build_detector(ModelConfig("wav2vec2_GF", ssl="tiny")).eval()
        weights = {f"m_ssl.model.{n}": t for n, t in model.front_end.model.state_dict().items()}
        safetensors.torch.save_file(weights | model.back_end.state_dict(), tmp_path / "model.safetensors")
        files = {"sub/epoch_3.safetensors": content_of(tmp_path / "model.safetensors"), "README.md": b"text"}
        hub.repositories.setdefault("owner/name", {})[commit] = files
        detectors[commit] = model
    return detectors


def score_of(path):
    with torch.inference_mode():
        return checkpoints.load_detector(path).score(torch.ones(1, 4000).cumsum(1).sin()).item()


def expected(model):
    with torch.inference_mode():
        return model.score(torch.ones(1, 4000).cumsum(1).sin()).item()


def incomplete(tmp_path):
    return [path for path in (tmp_path / "cache").rglob("*") if path.name.endswith(".incomplete")]


def test_a_file_is_downloaded_once_and_read_offline(hub, detector, tmp_path):
    name = "hf://owner/name/sub/epoch_3.safetensors"
    path, resolved = checkpoints.fetch(name, "--model_path")
    assert resolved == f"{name}@{NEW}" and str(tmp_path / "cache") in path
    assert score_of(path) == expected(detector[NEW])
    assert hub.got() == ["epoch_3.safetensors"]
    assert all("authorization" not in {key.lower() for key in headers} for *_, headers in hub.asked)
    assert checkpoints.fetch(name, "--model_path") == (path, resolved)
    assert len(hub.got()) == 1
    gone(hub)
    assert checkpoints.fetch(name, "--model_path") == (path, resolved)
    assert checkpoints.fetch(resolved, "--model_path") == (path, resolved)


def test_a_revision_is_that_revision(hub, detector):
    path, resolved = checkpoints.fetch(f"hf://owner/name/sub/epoch_3.safetensors@{OLD}", "--model_path")
    assert resolved.endswith(f"@{OLD}") and score_of(path) == expected(detector[OLD]) != expected(detector[NEW])


def test_an_interrupted_download_goes_on_and_is_whole(hub, detector, monkeypatch):
    hub.cuts = 2
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what it keeps of a part
    path, _ = checkpoints.fetch("hf://owner/name/sub/epoch_3.safetensors", "--model_path")
    whole = hub.repositories["owner/name"][NEW]["sub/epoch_3.safetensors"]
    assert open(path, "rb").read() == whole
    ranges = [headers.get("Range") or headers.get("range") for method, _, headers in hub.asked if method == "GET"]
    assert len(ranges) == 3 and ranges[0] is None and ranges[1] < ranges[2]


def test_no_half_file_is_left_of_a_download_that_is_always_cut(hub, detector, tmp_path, monkeypatch):
    monkeypatch.setattr(Answer, "do_GET", cut_at_once)
    name = "hf://owner/name/sub/epoch_3.safetensors"
    with pytest.raises(UserError, match="--model_path hf://owner"):
        checkpoints.fetch(name, "--model_path")
    assert not incomplete(tmp_path) and not list((tmp_path / "cache").glob("models--*/snapshots/*/sub/*"))
    monkeypatch.setattr(Answer, "do_GET", Answer.do_HEAD)
    assert score_of(checkpoints.fetch(name, "--model_path")[0]) == expected(detector[NEW])


def cut_at_once(self):
    self.server.asked.append((self.command, self.path, dict(self.headers)))
    self.send_response(200)
    self.send_header("Content-Length", "1000")
    self.end_headers()
    self.close_connection = True


def test_a_full_disk_is_named(hub, detector, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_download, "http_get", full)
    with pytest.raises(UserError, match="No space left on device"):
        checkpoints.fetch("hf://owner/name/sub/epoch_3.safetensors", "--model_path")
    assert not incomplete(tmp_path)


@pytest.mark.parametrize(
    "name, words",
    [
        ("hf://owner/other/a.pt", "or repository on Hugging Face"),
        ("hf://owner/name/other.pt", "no file other.pt"),
        ("hf://owner/name/README.md@other", "no such revision"),
        ("hf://owner/gated/a.pt", "terms"),
        ("hf://owner/private/a.pt", "hf auth login"),
        ("hf://owner/broken/a.pt", "503"),
        ("hf://owner/lost/a.pt", "Hugging Face returned an error: "),  # as a server that is none of theirs does
        ("HF:/owner/name/a.pt", "expected a file or hf://OWNER/NAME/FILE"),
        ("https://huggingface.co/owner/name/resolve/main/a.pt", "expected a file or hf://OWNER/NAME/FILE"),
        ("hf://owner/name", "expected hf://OWNER/NAME/FILE[@REVISION]"),
        ("hf://owner/name/", "expected hf://"),
        ("hf://owner", "expected hf://"),
        ("hf://", "expected hf://"),
        ("hf://owner/name/../../a.pt", "expected hf://"),
        ("hf://owner/name//a.pt", "expected hf://"),
        ("hf://owner/name/a.pt@", "expected hf://"),
        ("hf://owner/name/a\n.pt", "expected hf://"),
        ("hf://-owner-/na..me/a.pt", "not a valid name"),
    ],
)
def test_what_cannot_be_had_is_an_error_of_one_line(hub, detector, name, words, fails):
    hub.errors = {
        "owner/gated": (403, "GatedRepo"),
        "owner/private": (401, ""),
        "owner/broken": (503, ""),
        "owner/lost": (404, ""),
    }
    with pytest.raises(UserError) as refused:
        checkpoints.fetch(name, "--model_path")
    assert words in str(refused.value) and "\n" not in str(refused.value)
    if name != "hf://owner/name":  # to be shown, a repository is a folder
        fails(checkpoint.main, ["show", name], words)


def test_no_network_is_named(hub, detector, fails):
    gone(hub)
    flags = ["--model_path", "hf://owner/name/sub/epoch_3.safetensors", "--file_to_test", "x.wav"]
    open("x.wav", "wb").close()
    fails(easy_inference_demo.main, flags, "--model_path hf://owner/name/sub", "Hugging Face cannot be reached")


def test_only_one_of_several_processes_downloads(hub, detector):
    hub.delay = 0.2
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: checkpoints.fetch("hf://owner/name/sub/epoch_3.safetensors", ""), range(4)))
    assert len(set(paths)) == 1 and len(hub.got()) == 1


@pytest.fixture
def encoders(hub, tmp_path):
    """Repositories of one small Whisper: its weights once as safetensors, once as a pickle, once in parts."""
    folder = whisper_folder(tmp_path / "whisper")
    config = content_of(folder / "config.json")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    both = {"model.safetensors": content_of(folder / "model.safetensors")}
    both |= {"pytorch_model.bin": content_of(tmp_path / "pytorch_model.bin"), "tf_model.h5": b"0" * 1000}
    hub.repositories["open/both"] = {NEW: {"config.json": config, "README.md": b"text", **both}}
    hub.repositories["open/pickle"] = {NEW: {"config.json": config, "pytorch_model.bin": both["pytorch_model.bin"]}}
    parts, places = {}, {}
    for i, names in enumerate((list(weights)[::2], list(weights)[1::2])):
        part = f"model-{i}.safetensors"
        safetensors.torch.save_file({name: weights[name] for name in names}, tmp_path / part)
        parts[part] = content_of(tmp_path / part)
        places |= dict.fromkeys(names, part)
    index = json.dumps({"weight_map": places}).encode()
    hub.repositories["open/parts"] = {
        NEW: {"config.json": config, "model.safetensors.index.json": index, **parts, "model-9.safetensors": b"other"}
    }
    hub.repositories["open/empty"] = {NEW: {"config.json": config}}
    return {name.removeprefix("conv1."): tensor for name, tensor in weights.items()}, folder


@pytest.mark.parametrize(
    "name, files",
    [
        ("open/both", ["config.json", "model.safetensors"]),
        ("hf://open/pickle", ["config.json", "pytorch_model.bin"]),
        (
            f"hf://open/parts@{NEW}",
            ["config.json", "model.safetensors.index.json", "model-0.safetensors", "model-1.safetensors"],
        ),
    ],
)
def test_a_folder_is_its_settings_and_one_set_of_weights(hub, encoders, name, files):
    path, resolved = checkpoints.fetch(name, "--ssl_path", encoder=True)
    assert resolved == f"hf://{name.removeprefix('hf://').partition('@')[0]}@{NEW}"
    assert hub.got() == files
    fields, weights = checkpoints.read_pretrained(path, "Whisper")
    expected_fields, expected_weights = checkpoints.read_pretrained(encoders[1], "Whisper")
    assert fields == expected_fields
    assert all(torch.equal(tensor, weights[key]) for key, tensor in expected_weights.items())
    asked = len(hub.asked)
    assert checkpoints.fetch(resolved, "--ssl_path", encoder=True) == (path, resolved)
    assert len(hub.asked) == asked  # a commit that is there needs no network
    gone(hub)
    assert checkpoints.fetch(name, "--ssl_path", encoder=True) == (path, resolved)


def test_a_folder_without_weights_and_local_names(hub, encoders, tmp_path):
    with pytest.raises(UserError, match="hf://open/empty: .*model.safetensors"):
        checkpoints.fetch("open/empty", "--ssl_path", encoder=True)
    asked = len(hub.asked)
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "both").mkdir()
    for local in ("open/both", "nowhere/xlsr.pt", "none", "a/b/c", "/nowhere/b", None):
        assert checkpoints.fetch(local, "--ssl_path", encoder=True) == (local, local)
    assert checkpoints.fetch("open/other", "--model_path") == ("open/other",) * 2
    assert len(hub.asked) == asked
    with pytest.raises(UserError, match="--ssl_path open/other: "):
        checkpoints.fetch("open/other", "--ssl_path", encoder=True)


def recordings_and_list(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(8):
        soundfile.write(tmp_path / f"t{i}.wav", 0.1 * rng.standard_normal(5000), 16000)
    rows = [f"t{i}.wav,{'bonafide' if i % 2 else 'spoof'}\n" for i in range(8)]
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(rows))


@pytest.mark.slow
def test_the_commands_take_the_names(hub, detector, encoders, tmp_path, output, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    recordings_and_list(tmp_path)
    name = "hf://owner/name/sub/epoch_3.safetensors"
    lines = output(checkpoint.main, ["show", name])
    assert f"{name}@{NEW}, " in lines and "wav2vec2_GF" in lines
    assert "Whisper encoder" in output(checkpoint.main, ["show", "hf://open/both"])
    text = output(
        scoring.main, ["--protocol", "list.csv", "--audio_dir", ".", "--model_path", name, "--eval_output", "s"]
    )
    assert f"{name}@{NEW}" in text
    demo = output(easy_inference_demo.main, ["--model_path", name, "--file_to_test", "t0.wav", "--test_mode", "full"])
    score = float((tmp_path / "s").read_text().split()[1])
    assert abs(float(demo.split("score: ")[1].split()[0]) - score) < 1e-5

    common = ["--train_protocol", "list.csv", "--dev_protocol", "list.csv", "--epochs", "1", "--batch_size", "4"]
    common += ["--crop", "4000", "--num_workers", "0", "--algo", "0", "--validation", "loss", "--foldername"]
    output(train.main, [*common, "tuned", "--model_name", "wav2vec2_GF", "--model_path", name])
    text = output(train.main, [*common, "other", "--model_name", "Whisper_GF", "--ssl_path", "open/both"])
    configs = {p.parent.parent.name: p.read_text() for p in (tmp_path / "logs").glob("*/*/config.json")}
    tuned, other = json.loads(configs["tuned"]), json.loads(configs["other"])
    assert tuned["training"]["model_path"] == name and tuned["downloaded"] == {"--model_path": f"{name}@{NEW}"}
    assert other["downloaded"] == {"--ssl_path": f"hf://open/both@{NEW}"}
    for config in configs.values():
        assert str(tmp_path / "cache") not in config and "hf_secret" not in config and "127.0.0.1" not in config
