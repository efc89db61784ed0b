"""docs/extending.md is run as it stands there: its code goes into a copy of the project, its commands run in it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCK = r"\n\n```\w+\n(.*?)```"
NEW_FILE = re.compile(r"New file `([^`]+)`[^`\n]*:" + BLOCK, re.DOTALL)
CHANGE = re.compile(r"In `([^`]+)`, (before|after|instead of) `([^`]+)`:" + BLOCK, re.DOTALL)
COMMANDS = re.compile(r"```console\n(.*?)```", re.DOTALL)
SECTIONS = {part.split("\n", 1)[0]: part for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]}
TABLE = {row[0]: int(row[1]) for row in re.findall(r"^\| \[([^\]]+)\]\(#[^)]*\) \| (\d) \|", TEXT, re.MULTILINE)}


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """What the examples call `lists/`: twelve short recordings, and a list of them for training and one for dev."""
    folder = tmp_path_factory.mktemp("lists")
    rng = np.random.default_rng(1)
    rows = []
    for number in range(12):
        soundfile.write(folder / f"t{number}.wav", 0.1 * rng.standard_normal(8000 + 160 * number), 16000)
        rows.append(f"t{number}.wav,{'bonafide' if number % 2 else 'spoof'}\n")
    for name in ("train", "dev"):
        (folder / f"{name}.csv").write_text("path,label\n" + "".join(rows))
    scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.25, 0.9, 0.15, 0.05]
    (folder / "scores.txt").write_text("".join(f"t{number} {score}\n" for number, score in enumerate(scores)))
    return folder


def studio(lists, folder):
    """What the examples of corpora call `studio/`: the same recordings, with lists in its words and in folders."""
    shutil.copytree(lists, folder / "wav")
    words = ["neural machine", "- human", "vocoder machine", "- human"]
    for number in range(12):
        take = folder / "takes" / ("vocoder", "human")[number % 2] / "ann" / f"{number}.wav"
        take.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(lists / f"t{number}.wav", take)
    for name in ("train", "dev"):
        (folder / f"{name}.txt").write_text("".join(f"t{number} {words[number % 4]}\n" for number in range(12)))


def copy_of_the_project(folder, lists):
    for name in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split("\n"):
        if name.endswith((".py", ".html", ".toml")) and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    shutil.copytree(lists, folder / "lists")
    studio(lists, folder / "studio")


def apply_changes(section, folder):
    """Make the changes of a section in the copy; the code files that they touch."""
    touched = []
    for name, code in NEW_FILE.findall(section):
        assert not (folder / name).exists(), name
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
        touched.append(name)
    for name, where, anchor, code in CHANGE.findall(section):
        text = (folder / name).read_text()
        assert text.count(anchor) == 1, f"{name} has {text.count(anchor)} times {anchor}"
        if where == "instead of":
            text = text.replace(anchor, code.rstrip("\n"))
        else:
            at = (
                text.rindex("\n", 0, text.index(anchor)) + 1
                if where == "before"
                else text.index("\n", text.index(anchor)) + 1
            )
            text = text[:at] + code + text[at:]
        (folder / name).write_text(text)
        touched.append(name)
    return {name for name in touched if name.endswith(".py")}


def run_commands(section, folder):
    """Run the commands of a section; the lines below each, in its output in this order, `...` is any lines."""
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": "",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    n_commands = 0
    for block in COMMANDS.findall(section):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *expected = re.split(r"(?<!\\)\n", part)
            done = subprocess.run(["bash", "-c", command], cwd=folder, env=env, capture_output=True, text=True)
            output = done.stdout + done.stderr
            assert done.returncode == 0, f"{command}\n{output}"
            at = 0
            for line in filter(None, expected):
                if line != "...":
                    assert line in output[at:], f"{command}\nexpected {line}\n{output}"
                    at = output.index(line, at) + len(line)
            n_commands += 1
    assert n_commands


@pytest.mark.parametrize("title", SECTIONS)
def test_an_example_works_and_touches_as_many_files_as_the_table_says(title, tmp_path, lists):
    copy_of_the_project(tmp_path, lists)
    assert len(apply_changes(SECTIONS[title], tmp_path)) == TABLE[title]
    run_commands(SECTIONS[title], tmp_path)


def test_the_table_has_all_examples():
    assert list(TABLE) == list(SECTIONS) and len(TABLE) >= 9
