"""Tables of evaluation sets."""

import pytest

import corpora
from common.console import UserError


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_a_table_of_sets(tmp_path, monkeypatch, separator):
    monkeypatch.chdir(write(tmp_path / "cwd" / "here.txt", "").parent)
    beside = write(tmp_path / "tables" / "keys" / "la.txt", "")
    write(tmp_path / "tables" / "here.txt", "")  # the working directory comes first
    rows = [
        ("Name", "key", "audio_dir", "subset", "Nes2Net-X", "b"),
        ("LA", "keys/la.txt", "", "progress", "scores/new, or not.txt", "here.txt"),
        ("", "", "", "", "", ""),
        ("in the wild", "here.txt", "/audio", "", "x", "keys/la.txt"),
    ]
    quoted = [[f'"{cell}"' if "," in cell else cell for cell in row] for row in rows]
    table = write(tmp_path / "tables" / "sets.csv", "".join(separator.join(row) + "\n" for row in quoted))
    first, second = corpora.read_sets(table)
    scores = {"Nes2Net-X": "scores/new, or not.txt", "b": "here.txt"}
    assert first == corpora.EvalSet("LA", str(beside), None, "progress", scores)
    assert second == corpora.EvalSet("in the wild", "here.txt", "/audio", None, {"Nes2Net-X": "x", "b": str(beside)})


def test_a_table_without_systems(tmp_path):
    key = write(tmp_path / "k.txt", "")
    assert corpora.read_sets(write(tmp_path / "sets.csv", "name,key\na,k.txt\n"))[0].scores == {}
    assert corpora.read_sets(tmp_path / "sets.csv")[0].key == str(key)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", ["sets.csv: ", "name and key", "found no line"]),
        ("name,key\n", ["sets.csv: ", "found only one line"]),
        ("name,scores\na,b\n", ["sets.csv:1: ", "name and key", "name,scores"]),
        ("name,key,\na,k.txt,x\n", ["sets.csv:1: ", "different", "column names"]),
        ("name,key,key\na,k.txt,k.txt\n", ["sets.csv:1: ", "different", "column names"]),
        ("\nname,key,s\n\na,k.txt\n", ["sets.csv:4: ", "name, key, s", "found 2"]),
        ("name,key,s\na,k.txt,\n", ["sets.csv:2: ", "column s is empty"]),
        ("name,key\na,k.txt\na,k.txt\n", ["sets.csv:3: ", "column name", "duplicate name a, first in line 2"]),
        ("name,key,subset\na,k.txt,dev\n", ["sets.csv:2: ", "column subset", "progress", "found dev"]),
        ("name,key\na,gone.txt\n", ["sets.csv:2: ", "column key", "gone.txt does not exist", "next to"]),
    ],
)
def test_mistakes_in_a_table_of_sets(tmp_path, text, words):
    write(tmp_path / "k.txt", "")
    with pytest.raises(UserError) as error:
        corpora.read_sets(write(tmp_path / "sets.csv", text))
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)
