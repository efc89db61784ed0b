"""Folders of audio: one listing for every command, nothing skipped in silence, names that are no text."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT, encode, speech_like

import corpora
import easy_inference_demo
import eval as eval_command
from common.audio import load_audio
from common.console import UserError
from inference.files import find_files

# Bytes of names: of another encoding, with what ends lines or moves a terminal's cursor, with what ends an id.
ODD_NAMES = [
    b"mod\x85",
    b"line\nfeed",
    b"re\rturn",
    b"tab\tbed",
    b"esc\x1b[2J",
    b" blank",
    b"blank ",
    "sep\u2028".encode(),
]
GOOD_NAMES = ["a", "z", "caf\u00e9", "two words", "narrow\u202fblank"]


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    path = tmp_path_factory.mktemp("speech") / "x.flac"
    soundfile.write(path, speech_like(np.random.default_rng(0), 0.5), 16000)
    return path


@pytest.fixture
def odd(tmp_path, speech):
    """A folder of files with good and odd names."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in [*ODD_NAMES, *map(str.encode, GOOD_NAMES)]:
        shutil.copy(os.fsencode(speech), os.fsencode(folder) + b"/" + name + b".flac")
    return folder


def tree(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_one_listing_skips_hidden_files_and_names_the_rest(tmp_path, capsys):
    tree(
        tmp_path,
        "b.WAV",
        "a.flac",
        "a.mp3",
        "notes.txt",
        "._a.flac",
        ".git/d.wav",
        "sub/c.m4a",
        "sub/d.txt",
        "none",
    )
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    audio, others = corpora.list_audio(tmp_path)
    assert (audio, others) == (["a.flac", "a.mp3", "b.WAV", "loop.wav"], ["none", "notes.txt", "sub/"])
    audio, others = corpora.list_audio(tmp_path, recursive=True)
    assert audio == ["a.flac", "a.mp3", "b.WAV", "loop.wav", "sub/c.m4a"]
    assert others == ["none", "notes.txt", "sub/d.txt", "sub/up/"]

    assert [trial.utt_id for trial in corpora.read_protocol(tmp_path)] == ["a.flac", "a.mp3", "b", "loop"]
    said = capsys.readouterr().err
    assert f"{tmp_path}: skipped 3 that are folders or have no audio extension: none, notes.txt, sub/\n" in said
    with find_files([str(tmp_path)]) as (files, _):
        assert list(files) == [str(tmp_path / name) for name in audio]
    assert "skipped 4 that have no audio extension: none, notes.txt, sub/d.txt, sub/up/\n" in capsys.readouterr().err


def test_names_that_differ_in_their_ending_are_several_trials(tmp_path):
    tree(tmp_path, "audio/a.wav", "audio/a.mp3", "audio/b.wav", "audio/c.flac")
    (tmp_path / "key.csv").write_text("path,label\na.wav,spoof\na.mp3,bonafide\nb.wav,bonafide\nc.flac,spoof\n")
    trials = corpora.read_trials(tmp_path / "key.csv", tmp_path / "audio")
    expected = [("a.wav", "a.wav"), ("a.mp3", "a.mp3"), ("b", "b.wav"), ("c", "c.flac")]
    assert [(trial.utt_id, os.path.basename(trial.path)) for trial in trials] == expected
    in_folder = corpora.trials_of_folder(tmp_path / "audio")
    assert sorted((trial.utt_id, trial.path) for trial in in_folder) == sorted((t.utt_id, t.path) for t in trials)

    scores = {trial.utt_id: float(i) for i, trial in enumerate(trials)}
    corpora.write_scores(tmp_path / "scores.txt", scores)
    assert corpora.read_scores(tmp_path / "scores.txt") == scores
    (tmp_path / "twice.csv").write_text("path,label\na.wav,spoof\na.mp3,bonafide\na.wav,bonafide\n")
    with pytest.raises(UserError, match="twice.csv:4: .*a.wav, .*line 2"):
        corpora.read_protocol(tmp_path / "twice.csv")
    (tmp_path / "audio" / "pairs.csv").write_text("path,label\na.wav,spoof\na.mp3,bonafide\n")
    assert len(corpora.read_trials(tmp_path / "audio" / "pairs.csv")) == 2  # its audio is found around it
    # A list without endings means the first of them.
    (tmp_path / "list.txt").write_text("a\nb\n")
    assert corpora.read_trials(tmp_path / "list.txt", tmp_path / "audio")[0].path.endswith("a.wav")

    tree(tmp_path, "audio/a.wav.mp3")
    assert len(corpora.trials_of_folder(tmp_path / "audio")) == 5


def test_a_sub_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    tree(tmp_path, "a.wav", "shut/b.wav")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert corpora.list_audio(tmp_path, recursive=True) == (["a.wav"], ["shut/ (Permission denied)"])


def test_every_command_reads_the_same_formats(tmp_path, untrained, output):
    x = speech_like(np.random.default_rng(0), 0.5).astype(np.float32)
    folder = tmp_path / "formats"
    folder.mkdir()
    encode(folder / "v1.mp4", x, "aac", "mp4", video=True)
    encode(folder / "v2.aac", x, "aac", "adts")
    encode(folder / "v3.webm", x, "libopus", "webm", rate=48000)
    encode(folder / "v4.wma", x, "wmav2", "asf")
    for name in ("v5.aiff", "v6.caf", "v7.au", "v8.wav"):
        soundfile.write(folder / name, x, 16000)
    shutil.copy(folder / "v1.mp4", folder / "v9.wav")
    model = ["--model_path", str(untrained)]
    output(eval_command.main, [*model, "--base_dir", str(folder), "--eval_output", str(tmp_path / "s.txt")])
    scores = corpora.read_scores(tmp_path / "s.txt")
    output(easy_inference_demo.main, [*model, "--file_to_test", str(folder), "--json", str(tmp_path / "out.json")])
    judged = json.loads((tmp_path / "out.json").read_text())["files"]
    assert {Path(entry["file"]).stem: entry["score"] for entry in judged} == pytest.approx(scores, abs=1e-6)
    assert len(scores) == 9 and scores["v1"] == scores["v9"]
    trials = corpora.read_trials(protocols_list(tmp_path, ["v1", "v8"]), folder)  # an mp4 first
    assert [Path(trial.path).name for trial in trials] == ["v1.mp4", "v8.wav"]
    assert all(len(load_audio(trial.path)) for trial in trials)


def protocols_list(folder, ids):
    path = folder / "list.csv"
    path.write_text("path,label\n" + "".join(f"{utt_id}.mp4,spoof\n" for utt_id in ids))
    return path


def test_names_that_no_line_can_hold_are_listed_and_the_rest_is_scored(tmp_path, odd, untrained, capsys):
    out = tmp_path / "scores.txt"
    flags = ["--base_dir", str(odd), "--model_path", str(untrained), "--eval_output", str(out)]
    assert eval_command.main(flags) == 1
    scores = corpora.read_scores(out)
    assert sorted(scores) == sorted(GOOD_NAMES) and len(set(scores.values())) == 1
    rows = [line.split("\t") for line in Path(f"{out}.errors.tsv").read_bytes().decode("utf-8").split("\n")[:-1]]
    assert sorted(name for name, _ in rows) == sorted(
        ["mod\\udc85", "line\\nfeed", "re\\rturn", "tab\\tbed", "esc\\x1b[2J", " blank", "blank ", "sep\\u2028"]
    )
    assert all("which a score file cannot" in why for _, why in rows)
    assert f"{len(ODD_NAMES)} of {len(ODD_NAMES) + len(GOOD_NAMES)} trials have no score" in capsys.readouterr().err
    before = out.read_bytes()
    assert eval_command.main(flags) == 1 and out.read_bytes() == before


def check_demo(status, stdout, folder):
    """What the demo said of the folder of odd names, on stdout and in its tables."""
    n_files = len(ODD_NAMES) + len(GOOD_NAMES)
    assert status == 0 and len(re.findall("^likely [a-z]+ +score: ", stdout, re.M)) == n_files
    assert all(name in stdout for name in ("mod\\udc85", "line\\nfeed", "re\\rturn", "esc\\x1b[2J", "two words.flac"))
    assert not {"\x1b", "\r", "\x85", "\u2028"} & set(stdout)
    files = json.loads((folder / "out.json").read_text("utf-8"))["files"]
    assert sorted(os.fsencode(Path(entry["file"]).stem) for entry in files) == sorted(
        ODD_NAMES + list(map(str.encode, GOOD_NAMES))
    )
    with open(folder / "out.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == n_files and all(row["score"] for row in rows)
    assert len((folder / "out.csv").read_bytes().splitlines()) == n_files + 1


def test_the_demo_judges_odd_names_and_prints_them_escaped(tmp_path, odd, untrained, capsys, fails):
    model = ["--model_path", str(untrained), "--file_to_test"]
    tables = ["--json", str(tmp_path / "out.json"), "--csv", str(tmp_path / "out.csv")]
    status = easy_inference_demo.main([*model, str(odd), *tables])
    check_demo(status or 0, capsys.readouterr().out, tmp_path)
    one = str(odd / os.fsdecode(ODD_NAMES[0] + b".flac"))
    assert not easy_inference_demo.main([*model, one, "--plot", str(tmp_path / "x.png")])
    (odd / os.fsdecode(b"bad\xff\n.wav")).write_bytes(b"no audio")
    fails(
        easy_inference_demo.main,
        [*model, str(odd / os.fsdecode(b"bad\xff\n.wav"))],
        "bad\\udcff\\n.wav: ",
    )


@pytest.mark.slow
def test_odd_names_on_an_ascii_terminal(tmp_path, odd, untrained):
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}

    def run(*command):
        command = [sys.executable, *command, "--model_path", str(untrained)]
        return subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, timeout=600)

    done = run("eval.py", "--base_dir", str(odd), "--eval_output", str(tmp_path / "scores.txt"))
    assert done.returncode == 1 and b"Traceback" not in done.stderr, done.stderr
    assert sorted(corpora.read_scores(tmp_path / "scores.txt")) == sorted(GOOD_NAMES)
    tables = ["--json", str(tmp_path / "out.json"), "--csv", str(tmp_path / "out.csv")]
    done = run("easy_inference_demo.py", "--file_to_test", str(odd), *tables)
    assert not done.stderr
    check_demo(done.returncode, done.stdout.decode("ascii"), tmp_path)


def test_a_full_disk_is_no_end_of_standard_input(untrained, monkeypatch, fails):
    monkeypatch.setattr("tempfile.NamedTemporaryFile", lambda: open("/dev/full", "wb"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bytes(100_000))))
    flags = ["--model_path", str(untrained), "--file_to_test", "-"]
    fails(easy_inference_demo.main, flags, "standard input: ", "No space left")
