"""Outputs never destroy inputs, devices, links or each other."""

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import checkpoint
import checkpoints
import corpora
import easy_inference_demo
import EER_minDCF
import eval as scoring
import train
from common import atomic
from common.atomic import atomic_open
from model import ModelConfig, build_detector
from tools import benchmark, compare, make_demo_corpus

ROOT = Path(__file__).parent.parent
TINY = ModelConfig(model_name="wav2vec2_Nes2Net_X", ssl="tiny", Nes_ratio=(2, 2))


def write(path, text):
    with atomic_open(path) as file:
        file.write(text)


@pytest.fixture
def folder(tmp_path):
    """A folder of inputs: audio, the key of it, scores, a table of attacks, and a run's checkpoint."""
    rng = np.random.default_rng(0)
    (tmp_path / "audio").mkdir()
    names = [f"LA_E_{i}" for i in range(4)]
    for name in names:
        soundfile.write(tmp_path / "audio" / f"{name}.wav", 0.1 * rng.standard_normal(4000), 16000)
    lines = [f"S {name} - {'- bonafide' if i % 2 else 'A07 spoof'}\n" for i, name in enumerate(names)]
    (tmp_path / "key.txt").write_text("".join(lines))
    (tmp_path / "scores.txt").write_text("".join(f"{name} {i % 2 + i / 10}\n" for i, name in enumerate(names)))
    (tmp_path / "groups.csv").write_text("attack,group\nA07,seen\n")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    valid = {"eer": 0.1, "threshold": 0.0, "selected_by": "eer"}
    state = build_detector(TINY).state_dict()
    checkpoints.save_checkpoint(tmp_path / "run" / "checkpoints" / "epoch_1.pth", TINY, state, valid=valid)
    return tmp_path


def command(name, folder, output):
    """(main, its arguments) of a command that reads what `folder` holds and writes `output`."""
    model, key, scores = folder / "run" / "checkpoints" / "epoch_1.pth", folder / "key.txt", folder / "scores.txt"
    audio, run = folder / "audio", folder / "run"
    report = ["--labels_file", key, "--path", scores, "--attack_groups", folder / "groups.csv", "--replicates", 0]
    average = ["--protocol", key, "--audio_dir", audio, "--model_folder_path", run, "--average_best", 1]
    demo = ["--model_path", model, "--file_to_test", audio]
    main, flags = {
        "eval": (scoring.main, [*average, "--eval_output", output]),
        "eval of a folder": (scoring.main, ["--base_dir", audio, "--model_path", model, "--eval_output", output]),
        "demo --csv": (easy_inference_demo.main, [*demo, "--csv", output]),
        "demo --json": (easy_inference_demo.main, [*demo, "--json", output]),
        "demo --plot": (easy_inference_demo.main, [*demo[:-1], audio / "LA_E_0.wav", "--plot", output]),
        "report --plot": (EER_minDCF.main, [*report, "--plot", output]),
        "report --write_scores": (
            EER_minDCF.main,
            [*report, "--calibrate", scores, key, "--write_scores", output],
        ),
        "convert": (checkpoint.main, ["convert", model, output]),
        "average": (checkpoint.main, ["average", output, model]),
        "calibrate": (checkpoint.main, ["calibrate", model, output, scores, key]),
    }[name]
    return main, list(map(str, flags))


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


MODEL, AUDIO = "run/checkpoints/epoch_1.pth", "audio/LA_E_0.wav"


@pytest.mark.parametrize(
    "name, inputs",
    [
        ("eval", [MODEL, AUDIO, "key.txt"]),
        ("eval of a folder", [MODEL, AUDIO]),
        ("demo --csv", [MODEL, AUDIO]),
        ("demo --json", [MODEL, AUDIO]),
        ("demo --plot", [MODEL, AUDIO]),
        ("report --plot", ["scores.txt", "key.txt", "groups.csv"]),
        ("report --write_scores", ["scores.txt", "key.txt", "groups.csv"]),
        ("convert", [MODEL]),
        ("average", [MODEL]),
        ("calibrate", [MODEL, "scores.txt", "key.txt"]),
    ],
)
def test_an_output_that_is_an_input_is_refused(folder, fails, name, inputs):
    # Where the output has an ending of its own, only a link can name another kind of file.
    ending = {"report --plot": ".png", "convert": ".pt", "average": ".pt", "calibrate": ".pt"}.get(name, "")
    (folder / "there").symlink_to(folder)
    for i, path in enumerate(inputs):
        names = [folder / f"hard{i}{ending}", folder / f"soft{i}{ending}"]
        os.link(folder / path, names[0])
        names[1].symlink_to(path)
        if path.endswith(ending) or path == MODEL:
            names += [folder / path, folder / "there" / path]
        before = contents(folder)
        for output in names:
            fails(*command(name, folder, output), str(output))
            assert contents(folder) == before


def test_what_eval_writes_beside_the_scores_is_refused_too(folder, fails):
    for name in ("s.txt.errors.tsv", "s.txt.partial-0"):
        os.link(folder / "key.txt", folder / name)
        before = contents(folder)
        fails(*command("eval", folder, folder / "s.txt"), name)
        assert contents(folder) == before
        (folder / name).unlink()


@pytest.mark.slow
def test_inputs_that_no_flag_names_are_refused(folder, fails):
    keys = folder / "keys" / "LA"
    for part in ("CM", "ASV/ASVTorch_Kaldi"):
        (keys / part).mkdir(parents=True)
    places = ("CM/trial_metadata.txt", "ASV/trial_metadata.txt", "ASV/ASVTorch_Kaldi/score.txt")
    for place in places:
        (keys / place).write_text("x")
    for place in places:
        (folder / "r.png").symlink_to(keys / place)
        flags = [str(folder / "scores.txt"), str(folder / "keys"), "eval", "--plot", str(folder / "r.png")]
        fails(EER_minDCF.main, flags, "r.png")
        (folder / "r.png").unlink()
    wave = folder / AUDIO
    before = wave.read_bytes()
    with open(wave, "rb") as standard_input:
        model = str(folder / MODEL)
        flags = ["--model_path", model, "--file_to_test", "-", "--json", str(wave)]
        done = subprocess.run(
            [sys.executable, ROOT / "easy_inference_demo.py", *flags], stdin=standard_input, capture_output=True
        )
    assert done.returncode == 2 and b"found the input " in done.stderr and wave.read_bytes() == before


def test_two_outputs_on_one_path_are_refused(folder, fails):
    (folder / "out").mkdir()
    (folder / "there").symlink_to("out")
    (folder / "dangling").symlink_to("out/x")
    (folder / "a").write_text("a")
    os.link(folder / "a", folder / "b")
    new, old = folder / "out" / "x", folder / "a"
    others = [new, f"{folder}/out/../out/./x", folder / "there" / "x", folder / "dangling"]
    for first, second in [*((new, other) for other in others), (old, folder / "b")]:
        main, flags = command("demo --csv", folder, first)
        fails(main, [*flags, "--json", str(second)], "--csv", "--json", str(second))
        main, flags = command("demo --plot", folder, first)
        fails(main, [*flags, "--csv", str(second)], "--csv", "--plot", str(second))
    main, flags = command("report --write_scores", folder, folder / "x.png")
    fails(main, [*flags, "--plot", str(folder / "x.png")], "--plot", "--write_scores", str(folder / "x.png"))
    assert sorted(os.listdir(folder / "out")) == [] and (folder / "a").read_text() == "a"


@pytest.mark.parametrize("name", ["eval", "demo --csv", "demo --plot", "report --plot", "convert", "benchmark"])
def test_what_cannot_be_written_is_told_before_work_starts(folder, fails, name, monkeypatch):
    def work(*_, **__):
        raise AssertionError("work has started")

    for module, function in [
        (scoring, "read_detector"),
        (easy_inference_demo, "read_judge"),
        (corpora, "read_score_columns"),
        (checkpoints, "read_detector"),
        (benchmark, "machine"),
    ]:
        monkeypatch.setattr(module, function, work)
    (folder / "x.png.pt").mkdir()
    (folder / "closed").mkdir()
    os_access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder / "closed" and os_access(path, mode))
    ending = {"convert": ".pt"}.get(name, ".png")
    (folder / f"folder{ending}").mkdir()
    for output, words in [
        (folder / f"folder{ending}", "it is a folder"),
        (folder / "key.txt" / "sub" / f"x{ending}", "key.txt is not a folder"),
        (folder / "closed" / "new" / f"x{ending}", "no permission to write in"),
    ]:
        main, flags = (
            (benchmark.main, ["rawboost", "--json", str(output)])
            if name == "benchmark"
            else command(name, folder, output)
        )
        if "not a folder" in words:
            words = "ot a "  # the system's own "Not a directory", or ours
        fails(main, flags, str(output), words)


def test_folders_that_cannot_be_written_are_told_before_work_starts(folder, fails, recordings, monkeypatch):
    monkeypatch.setattr(train, "read_trials", None)
    monkeypatch.setattr(compare, "script", None)
    monkeypatch.setattr(make_demo_corpus, "own_recordings", None)
    place = str(folder / "key.txt")
    flags = ["--base_dir", str(folder), "--model_name", "wav2vec2_AASIST", "--ssl", "tiny", "--log_dir"]
    fails(train.main, [*flags, place], "--log_dir", place)
    fails(train.main, [*flags, str(folder), "--foldername", "key.txt"], "--log_dir", place)
    fails(compare.main, ["--corpus", str(folder), "--out", place], "--out", place)
    fails(make_demo_corpus.main, ["--out", f"{place}/x", "--speech_dir", str(recordings)], "--out", place)


def test_a_corpus_is_never_built_over_what_it_is_built_from(tmp_path, recordings, fails):
    speech = tmp_path / "corpus.building"
    speech.mkdir()
    for path in recordings.iterdir():
        (speech / path.name).symlink_to(path)
    (tmp_path / "link").symlink_to(speech)
    for flags, word in [
        (["--out", tmp_path / "corpus", "--speech_dir", speech], "--speech_dir"),
        (["--out", tmp_path / "corpus", "--speech_dir", tmp_path / "link"], "--speech_dir"),
        (["--out", tmp_path / "corpus", "--speech_dir", recordings, "--cache", speech / "packages"], "--cache"),
        (["--out", speech / "corpus", "--speech_dir", speech], "--out"),
    ]:
        fails(make_demo_corpus.main, list(map(str, flags)), word)
        assert len(list(speech.iterdir())) == len(list(recordings.iterdir()))


def test_mode_and_link_of_an_existing_file_are_kept(tmp_path):
    (tmp_path / "data").mkdir()
    target, link = tmp_path / "data" / "s.txt", tmp_path / "s.txt"
    link.symlink_to("data/s.txt")
    write(link, "first")  # a dangling link makes its target
    assert link.is_symlink() and target.read_text() == "first"
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask
    for mode in (0o600, 0o664, 0o444):
        target.chmod(mode)
        with atomic_open(link) as file:
            assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == mode  # before anything is in it
            file.write(str(mode))
        assert link.is_symlink() and target.read_text() == str(mode)
        assert stat.S_IMODE(target.stat().st_mode) == mode
    with atomic_open(link, previous="before.txt") as file:
        file.write("last")
    assert target.read_text() == "last" and (tmp_path / "data" / "before.txt").read_text() == str(0o444)
    with pytest.raises(KeyError), atomic_open(link) as file:
        file.write("half")
        raise KeyError
    assert target.read_text() == "last" and sorted(os.listdir(tmp_path / "data")) == ["before.txt", "s.txt"]


def test_a_file_that_is_being_written_is_not_taken_for_a_leftover(tmp_path):
    (tmp_path / ".run.1234567.tmp").touch()  # of a process that was killed
    with atomic_open(tmp_path / "run.seed1") as file:
        write(tmp_path / "run", "other")
        file.write("mine")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"run": "other", "run.seed1": "mine"}


class Pipe:
    """A FIFO with a reader; read() gives what was written to it."""

    def __init__(self, path):
        self.path, self.found = path, []
        os.mkfifo(path)
        self.thread = threading.Thread(target=lambda: self.found.append(path.read_bytes()), daemon=True)
        self.thread.start()

    def read(self):
        self.thread.join(60)
        assert stat.S_ISFIFO(os.lstat(self.path).st_mode)
        return self.found[0]


@pytest.mark.slow
def test_every_command_writes_into_a_pipe_that_stays_one(folder, capfd):
    for name, begins in [
        ("eval", b"LA_E_0 "),
        ("demo --csv", b"file,seconds,"),
        ("demo --json", b"{\n"),
        ("demo --plot", b"\x89PNG"),
        ("report --plot", b"\x89PNG"),
        ("report --write_scores", b"LA_E_0 "),
        ("convert", b"PK"),
        ("average", b"PK"),
    ]:
        pipe = Pipe(folder / ("pipe.pt" if "PK" in str(begins) else "pipe.png"))
        main, flags = command(name, folder, pipe.path)
        assert not main(flags)
        assert pipe.read().startswith(begins)
        pipe.path.unlink()
    assert sorted(os.listdir(folder)) == ["audio", "groups.csv", "key.txt", "run", "scores.txt"]


def test_trials_without_a_score_are_told_where_nothing_can_lie_beside_the_scores(folder, capsys):
    (folder / AUDIO).write_bytes(b"RIFF")
    pipe = Pipe(folder / "pipe")
    main, flags = command("eval", folder, pipe.path)
    assert main(flags) == 1 and pipe.read().count(b"\n") == 3
    assert "LA_E_0\t" in (text := capsys.readouterr().err) and "1 of 4 trials have no score, listed above" in text
    assert sorted(os.listdir(folder)) == ["audio", "groups.csv", "key.txt", "pipe", "run", "scores.txt"]


# No test writes to a name in /dev: a mistake would replace the device for the whole machine. /proc and /dev/pts let
# nobody replace what they hold.


def test_devices_are_written_to(tmp_path):
    ours, terminal = os.openpty()
    os.set_blocking(ours, False)
    (tmp_path / "terminal").symlink_to(os.ttyname(terminal))
    before = os.stat(tmp_path / "terminal")
    write(tmp_path / "terminal", "text")
    assert os.read(ours, 100) == b"text" and os.listdir(tmp_path) == ["terminal"]
    assert (tmp_path / "terminal").is_symlink() and os.path.samestat(os.stat(tmp_path / "terminal"), before)
    for descriptor in (ours, terminal):
        os.close(descriptor)
    atomic.check_outputs([("--csv", os.devnull), ("--json", os.devnull)], [os.devnull])  # nothing can be lost there


STANDARD_OUTPUT = """
import sys
from common.atomic import atomic_open
print("before")
with atomic_open(sys.argv[1]) as file:
    file.write("table\\n")
print("after")
"""


@pytest.mark.parametrize("name", ["stdout", "/proc/self/fd/1", "log.txt", "link.txt"])
def test_standard_output_is_written_to_in_its_place(tmp_path, name):
    (tmp_path / "log.txt").write_text("old\n")
    (tmp_path / "link.txt").symlink_to("log.txt")
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")  # as /dev/stdout is
    path = tmp_path / name
    for mode, old in [("a", "old\n"), ("w", "")]:
        with open(tmp_path / "log.txt", mode) as file:
            subprocess.run([sys.executable, "-c", STANDARD_OUTPUT, path], cwd=ROOT, stdout=file, check=True)
        assert (tmp_path / "log.txt").read_text() == f"{old}before\ntable\nafter\n"
    if "txt" not in name:
        found = subprocess.run([sys.executable, "-c", STANDARD_OUTPUT, path], cwd=ROOT, stdout=subprocess.PIPE)
        assert found.stdout == b"before\ntable\nafter\n"
    assert (tmp_path / "stdout").is_symlink() and (tmp_path / "link.txt").is_symlink()


def test_what_is_written_to_standard_output_stands_alone_there(folder, capfd):
    (folder / "stdout").symlink_to("/proc/self/fd/1")  # as /dev/stdout is
    main, flags = command("eval", folder, folder / "stdout")
    assert not main(flags)
    assert [line.split()[0] for line in capfd.readouterr().out.splitlines()] == [f"LA_E_{i}" for i in range(4)]
    main, flags = command("demo --json", folder, folder / "stdout")
    assert not main(flags)
    assert len(json.loads(capfd.readouterr().out)["files"]) == 4


@pytest.mark.slow
def test_runs_that_differ_after_a_dot_share_no_list_of_errors(folder, fails):
    (folder / AUDIO).write_bytes(b"RIFF")
    names = ["run.seed1", "run.seed2", "run2", "run2.txt"]
    for name in names:
        main, flags = command("eval", folder, folder / name)
        assert main(flags) == 1
    assert sorted(path.name for path in folder.glob("*.errors.tsv")) == [f"{name}.errors.tsv" for name in names]
    (folder / "run2.partial-notes").touch()  # not of ours
    for name in names:  # one that is finished removes nothing of another
        (folder / f"{name}.txt.partial-0").write_text("of a run that was killed\n")
    main, flags = command("eval", folder, folder / "run2")
    assert main(flags) == 1
    assert (folder / "run2.partial-notes").exists() and len(list(folder.glob("run*.txt.partial-0"))) == 4


def test_one_score_file_by_two_names_is_scored_by_one_run(folder, fails):
    (folder / "link.txt").symlink_to("s.txt")
    first = scoring.PartialScores(folder / "s.txt", 0, {}, [])
    main, flags = command("eval", folder, folder / "link.txt")
    fails(main, flags, "link.txt: another process")
    first.remove()
    assert not main(flags)
    assert (folder / "link.txt").is_symlink() and len(corpora.read_scores(folder / "s.txt")) == 4
