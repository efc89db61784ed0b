"""docs/reproducing.md: every command in it parses, every system of docs/literature.md is in it."""

import re
import shlex
from pathlib import Path

import pytest

import checkpoint
import easy_inference_demo
import EER_minDCF
import eval as scoring
import train
from back_ends import BACK_ENDS
from tools import benchmark
from tools.cost import costs, published
from training.own_recipes import OWN
from training.recipes import RECIPES

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "reproducing.md").read_text(encoding="utf-8")
LITERATURE = (ROOT / "docs" / "literature.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
PARSERS = {
    "train.py": train.parse_args,
    "eval.py": scoring.parse_args,
    "EER_minDCF.py": EER_minDCF.parse_args,
    "checkpoint.py": checkpoint.parse_args,
    "easy_inference_demo.py": easy_inference_demo.parse_args,
    "tools/benchmark.py": benchmark.parse_args,
}
# What is read while a command is parsed: lists, to recognise their corpus.
LISTS = {"ASVspoof5": "T_1 T_0000000001 F - - - AC1 A01 spoof -\n", "PartialSpoof": "LA_0001 CON_T_1 - CON spoof\n"}


def parsed(command):
    python, program, *flags = shlex.split(command)
    assert python == "python"
    return program, PARSERS[program](flags)


@pytest.fixture
def lists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in set(re.findall(r"--(?:train|dev)_protocol (\S+)", TEXT)):
        Path(place).parent.mkdir(exist_ok=True)
        Path(place).write_text(LISTS[Path(place).name.split(".")[0]])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command, lists):
    parsed(command)


def test_the_commands_train_as_every_recipe_says(lists):
    recipes = {config.recipe for program, (config, *_) in map(parsed_training, COMMANDS) if program == "train.py"}
    assert recipes - {None} == RECIPES.keys() - OWN.keys()


def parsed_training(command):
    program, result = parsed(command)
    return program, result if program == "train.py" else (None,)


def test_every_row_of_the_authors_table_is_accounted_for():
    rows = re.findall(r"^\| 20\d\d \| ([^|]+?) \|.*\|([^|]*)\|$", LITERATURE, re.MULTILINE)
    assert len(rows) == 34
    for name, recipes in rows:
        if recipes.strip():
            assert RECIPES.keys() >= set(recipes.strip().split(", ")), name
        else:
            words = re.split(r" \(ensemble| \(WavLM|, re-impl|, extra", name)[0]
            assert words.replace("WavLM, ", "") in TEXT, name


@pytest.mark.slow
def test_the_table_of_costs_is_what_the_benchmark_counts():
    rows = re.findall(r"^\| (\w+) \| ([\d,]+) \| ([\d,.]+) \|$", TEXT, re.MULTILINE)
    assert {name for name, *_ in rows} == BACK_ENDS.keys()
    for name, parameters, millions in rows:
        expected = costs(*published(name))
        assert (parameters, millions) == (f"{expected['parameters']:,}", f"{expected['MMACs']:,.1f}"), name
