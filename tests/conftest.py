"""What several tests need: reference weights, speech-like recordings, a small corpus and a detector trained on it."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
from scipy.signal import lfilter

import checkpoints
import common.onnx_file  # noqa: F401  before onnxruntime, whose telemetry it turns off
from data_utils import make_loader
from front_ends.whisper import sinusoids
from model import ModelConfig, build_detector

# As many threads as the processes that tests start: with other numbers a sum may differ in its last digit.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
# Processes that tests start would inherit that these are ignored: SIGHUP under `nohup`, Ctrl-C behind `&` in a script.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
REFERENCE = Path(__file__).parent / "reference"
# As few parameters as the code path allows, so that a test trains in seconds.
TINY_FLAGS = ["--model_name", "wav2vec2_Nes2Net_X", "--ssl", "tiny", "--Nes_ratio", "2", "2"]

TINY = ModelConfig(model_name="wav2vec2_Nes2Net_X", ssl="tiny", Nes_ratio=(2, 2))


def with_back_end(flags, name):
    """The flags of a run for another back-end: without the options of Nes2Net."""
    place = flags.index("--Nes_ratio")
    flags = flags[:place] + flags[place + 3 :]
    return [f"wav2vec2_{name}" if flag == TINY_FLAGS[1] else flag for flag in flags]


def read_reference(name):
    return json.loads((REFERENCE / name).read_text())


def waveforms_of_batches(dataset, num_workers):
    """The waveforms of the batches of an epoch, 4 trials each."""
    loader = make_loader(dataset, 4, shuffle=True, seed=5, num_workers=num_workers)
    loader.batch_sampler.epoch = 2
    return [x.numpy() for x, *_ in loader]


def reference_weights(shapes):
    """{published name: tensor}, filled by the rule of the reference vectors: each from its own name."""
    weights = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(0)
            continue
        if name.endswith("running_var"):
            values = rng.uniform(0.5, 1.5, shape)
        elif len(shape) <= 1:
            values = 0.1 * rng.standard_normal(shape) + name.endswith("weight")
        else:
            values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        weights[name] = torch.tensor(values, dtype=torch.float32)
    return weights


def reference_input(entry):
    values = np.random.default_rng(entry["seed"]).standard_normal(entry["shape"])
    return torch.tensor(values, dtype=torch.float32)


def whisper_folder(folder, prefix="", more=(), **settings):
    """A small Whisper as transformers writes it, names below a prefix, with `more` weights and other settings."""
    reference = read_reference("whisper.json")
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**reference["config"], "decoder_layers": 1, **settings}))
    weights = reference_weights(reference["shapes"]) | {"embed_positions.weight": sinusoids(1500, 32)}
    weights = {prefix + name: tensor for name, tensor in weights.items()}
    safetensors.torch.save_file(weights | {name: torch.ones(2, 3) for name in more}, folder / "model.safetensors")
    return folder


def speech_like(rng, seconds=1.6, rate=16000, pitch=120):
    """A voice of sorts, (samples,): pulses through three moving resonances, in syllables with short pauses."""
    n = int(seconds * rate)
    phase = np.cumsum(pitch * (1 + 0.1 * np.sin(2 * np.pi * 2 * np.arange(n) / rate)) / rate)
    x = np.diff(np.floor(phase), prepend=0) + 0.01 * rng.standard_normal(n)
    for centre in rng.uniform([300, 900, 2200], [800, 1800, 3000]):
        radius = np.exp(-np.pi * 90 / rate)
        x = lfilter([1], [1, -2 * radius * np.cos(2 * np.pi * centre / rate), radius**2], x)
    x *= 0.55 - 0.45 * np.cos(2 * np.pi * rng.uniform(3, 5) * np.arange(n) / rate)
    return 0.5 * x / np.max(np.abs(x))


class Pipe(io.RawIOBase):
    """A file that cannot be sought in, so that its writer never learns, or tells, how long it became."""

    def __init__(self, path):
        self.file = open(path, "wb")

    def write(self, data):
        return self.file.write(data)

    def writable(self):
        return True

    def close(self):
        self.file.close()
        super().close()


def encode(path, x, codec, container, rate=16000, video=False, pipe=False, metadata=None, **options):
    """Write x, (samples,) at 16 kHz, with FFmpeg's encoders; with a picture or to a pipe if wished. Returns path."""
    target = Pipe(path) if pipe else str(path)
    with av.open(target, "w", format=container, container_options=options) as out:
        out.metadata.update(metadata or {})
        if video:
            picture = out.add_stream("mpeg4", rate=25)
            picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"
        stream = out.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 12200 if container == "amr" else 32000 if codec.startswith("wma") else 96000
        stream.codec_context.format = stream.codec_context.codec.audio_formats[0].name
        resampler = av.AudioResampler(stream.codec_context.format.name, "mono", rate)
        if video:
            for i in range(int(25 * len(x) / 16000)):
                frame = av.VideoFrame(64, 64, "yuv420p")
                frame.pts, frame.time_base = i, Fraction(1, 25)
                out.mux(picture.encode(frame))
            out.mux(picture.encode(None))
        for at in range(0, len(x), 1024):
            frame = av.AudioFrame.from_ndarray(np.asarray(x, np.float32)[None, at : at + 1024], "flt", "mono")
            frame.sample_rate, frame.pts = 16000, at
            for part in resampler.resample(frame):
                out.mux(stream.encode(part))
        for part in resampler.resample(None):
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    if pipe:
        target.close()
    return path


# A test is slow if it trains, or starts processes, by these fixtures; the others carry the mark themselves.
SLOW_FIXTURES = {"corpus", "processes", "trained"}


def pytest_collection_modifyitems(items):
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def everything_is_speech(request, monkeypatch):
    """Noises and tones, which most tests judge, are taken for speech; tests marked `hears` have what tells."""
    if "hears" not in request.keywords:
        monkeypatch.setattr("inference.doubts.speech_model", lambda: _always)


def _always(frames, state):
    return np.ones(len(frames)), state


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """A checkpoint with random weights and figures of its own."""
    path = tmp_path_factory.mktemp("untrained") / "detector.pth"
    torch.manual_seed(0)
    valid = {"eer": 0.1, "threshold": 0.0, "selected_by": "loss"}
    checkpoints.save_checkpoint(path, TINY, build_detector(TINY).state_dict(), valid=valid, trained_on="CORPUS")
    return path


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    """A folder of recordings, a sub-folder a speaker, as `tools/make_demo_corpus.py --speech_dir` takes it."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    for speaker, pitch in enumerate([100, 120, 140, 170, 200]):
        (folder / f"speaker{speaker}").mkdir()
        for i in range(10):
            x = speech_like(rng, rng.uniform(1.2, 2.0), 8000, pitch)
            soundfile.write(folder / f"speaker{speaker}" / f"{i}.wav", x, 8000)
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory, recordings):
    """A small corpus in the layout of ASVspoof 2019 LA, built by tools/make_demo_corpus.py."""
    from tools import make_demo_corpus

    folder = tmp_path_factory.mktemp("demo") / "corpus"
    make_demo_corpus.main(
        ["--out", str(folder), "--speech_dir", str(recordings), "--sizes", "32", "20", "24", "--jobs", "2"]
    )
    return folder


@pytest.fixture(scope="session")
def train_flags(corpus):
    """Flags of a run that takes seconds; --log_dir and --foldername are left to the test."""
    return [
        *("--database_path", str(corpus), *TINY_FLAGS, "--epochs", "3", "--batch_size", "8", "--crop", "8000"),
        *("--crop_place", "random", "--algo", "4", "--optimizer", "AdamW", "--lr", "0.002", "--schedule", "onecycle"),
        *("--keep", "every", "--num_workers", "0", "--seed", "3"),
    ]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, train_flags):
    """The folder of a finished run, with the average of its 2 best epochs."""
    import train

    logs = tmp_path_factory.mktemp("logs")
    train.main([*train_flags, "--average_best", "2", "--log_dir", str(logs), "--foldername", "run"])
    (folder,) = (logs / "run").iterdir()
    return folder


@pytest.fixture
def folders(tmp_path):
    """noise_dir and room_dir: tones of 900 Hz and up; a room that is a delay of 100 samples."""
    for number, name in enumerate(["noise/a", "speech/a", "speech/b", "speech/c", "speech/d", "music/a"]):
        path = tmp_path / "noise" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        tone = 0.1 * np.sin(2 * np.pi * (900 + 100 * number) * np.arange(20000) / 16000)
        soundfile.write(path, tone, 16000 if number else 8000, subtype="FLOAT")
    (tmp_path / "rooms" / "small").mkdir(parents=True)
    soundfile.write(tmp_path / "rooms" / "small" / "delay.wav", 0.3 * (np.arange(200) == 100), 16000, subtype="FLOAT")
    return {"noise_dir": str(tmp_path / "noise"), "room_dir": str(tmp_path / "rooms")}


@pytest.fixture
def fails(capsys):
    """fails(main, argv, *words): main(argv) ends as a user's mistake should, and its one line holds the words."""

    def check(main, argv, *words):
        from common import console

        with pytest.raises(SystemExit) as ended:
            console.run(lambda: main(argv))
        lines = capsys.readouterr().err.strip().splitlines()
        message = lines[-1]
        if re.fullmatch(r"see \S.* --help", message):  # below an error of flags
            message = lines[-2]
        assert ended.value.code == 2, message
        assert "error: " in message
        for word in words:
            assert word in message
        return message

    return check


@pytest.fixture
def output():
    """output(main, argv): what main prints on stdout."""

    def call(main, argv):
        with contextlib.redirect_stdout(io.StringIO()) as text:
            status = main(argv)
        assert not status
        return text.getvalue()

    return call


@pytest.fixture(scope="session")
def processes(tmp_path_factory):
    """processes(*runs, kill_after=None): run commands, each in a process; their exit statuses and output."""
    log = tmp_path_factory.mktemp("processes") / "log.txt"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, ROOT / "tests" / "forked_train.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as server:
        assert server.stdout.readline() == "ready\n"

        def call(*runs, kill_after=None):
            log.unlink(missing_ok=True)
            task = {"runs": [{"log": str(log), **run} for run in runs], "kill_after": kill_after}
            print(json.dumps(task), file=server.stdin, flush=True)
            statuses = json.loads(server.stdout.readline())
            return statuses, log.read_text()

        yield call
        server.terminate()  # an end of its input would not reach it: processes that read audio hold copies of the pipe
