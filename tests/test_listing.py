"""`python -m corpora NAME FOLDER`: lists of corpora that have none."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from corpus_trees import TREES, expand

import corpora
from corpora import __main__ as command
from corpora import listing
from corpora.records import CORPORA, Corpus

ROOT = Path(__file__).parent.parent
WITHOUT_LISTS = [name for name, record in CORPORA.items() if record.paths]


def plant(folder, paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def rows_of(output, corpus, folder):
    """{path: the other columns} of the list that the command prints."""
    rows = list(csv.reader(io.StringIO(output(command.main, [corpus, str(folder)]), newline="")))
    assert rows[0] == ["path", "label", "attack", "speaker", "language", "split"]
    return {row[0]: tuple(row[1:]) for row in rows[1:]}


def test_every_corpus_of_folders_has_a_tree():
    assert list(TREES) == WITHOUT_LISTS


@pytest.mark.parametrize("corpus", WITHOUT_LISTS)
def test_a_corpus_is_listed_from_its_folder_one_above_and_one_of_its_own(corpus, tmp_path, output, capsys):
    plant(tmp_path, TREES[corpus])
    expected = TREES[corpus]
    assert rows_of(output, corpus, tmp_path) == expected
    n = sum(row[0] == "bonafide" for row in expected.values())
    told = capsys.readouterr().err
    assert f"{corpus}: {n} bona fide and {len(expected) - n} spoofed trials" in told
    assert CORPORA[corpus].bonafide_from in told and "skipped" not in told and "all listed" not in told
    for path in expected:
        for depth in range(1, path.count("/") + 1):  # its root, its split, its folder of a label
            inner = "/".join(path.split("/")[:depth])
            within = {p.removeprefix(f"{inner}/"): row for p, row in expected.items() if p.startswith(f"{inner}/")}
            assert rows_of(output, corpus.lower(), tmp_path / inner) == within


@pytest.mark.parametrize("corpus", [name for name in WITHOUT_LISTS if "/" in expand(CORPORA[name].layout)[0]])
def test_the_layout_that_help_shows_fits_the_rule(corpus, tmp_path, output, capsys):
    paths = expand(CORPORA[corpus].layout)
    plant(tmp_path, paths)
    assert sorted(rows_of(output, corpus, tmp_path)) == sorted(paths)
    assert "skipped" not in capsys.readouterr().err


def test_letter_case_of_folders_is_that_of_the_disk(tmp_path, output):
    plant(tmp_path, ["For-Norm/Training/REAL/a.WAV", "For-Norm/Training/Fake/a.wav"])
    expected = {
        "For-Norm/Training/Fake/a.wav": ("spoof", "-", "-", "-", "Training"),
        "For-Norm/Training/REAL/a.WAV": ("bonafide", "-", "-", "-", "Training"),
    }
    assert rows_of(output, "for", tmp_path) == expected


def test_what_does_not_fit_is_counted_and_named(tmp_path, output, capsys):
    plant(tmp_path, TREES["FoR"])
    plant(
        tmp_path, ["FoR/for-norm/training/reel/x.wav", "FoR/for-norm/y.mp3", "FoR/for-norm/readme.txt", "FoR/._a.wav"]
    )
    plant(tmp_path, ["FoR/for-norm/testing/real/line\nend.wav", os.fsdecode(b"FoR/for-norm/testing/real/\xff.wav")])
    assert rows_of(output, "FoR", tmp_path) == TREES["FoR"]
    told = capsys.readouterr().err
    assert "skipped 4 that do not match for-norm/{training,validation,testing}/{real,fake}/file1.wav" in told
    for name in ("reel/x.wav", "for-norm/y.mp3", "line end.wav", "\\udcff.wav"):
        assert name in told
    assert "skipped 1 that have no audio extension, or are links to folders: FoR/for-norm/readme.txt" in told

    plant(tmp_path, [*TREES["MLAAD"], "MLAAD_v5/fake/en/suno_bark/meta.csv"])
    output(command.main, ["MLAAD", str(tmp_path / "MLAAD_v5")])
    assert "skipped" not in capsys.readouterr().err

    plant(tmp_path, [path.replace("for-norm", "for-2sec") for path in TREES["FoR"]])
    assert len(rows_of(output, "FoR", tmp_path)) == 2 * len(TREES["FoR"])
    assert "found 2 copies of FoR, all are listed: " in capsys.readouterr().err


def test_the_list_is_sorted_naturally_and_read_as_it_is(tmp_path, output):
    names = ["file1.wav", "file2.wav", "file02.wav", "file10.wav", 'a, "b".wav', "é.wav", "two words.wav"]
    plant(tmp_path, [f"training/real/{name}" for name in reversed(names)])
    paths = [path.rpartition("/")[2] for path in rows_of(output, "FoR", tmp_path)]
    assert paths == ['a, "b".wav', "file1.wav", "file02.wav", "file2.wav", "file10.wav", "two words.wav", "é.wav"]
    (tmp_path / "list.csv").write_text(output(command.main, ["FoR", str(tmp_path)]), encoding="utf-8")
    trials = corpora.read_trials(tmp_path / "list.csv", tmp_path)
    assert sorted(os.path.basename(trial.path) for trial in trials) == sorted(names)
    assert {trial.label for trial in trials} == {1}


def test_mistakes_end_in_a_line_that_says_what_was_expected(tmp_path, fails):
    plant(tmp_path, ["voices/a.wav", "voices/b.wav"])
    words = ("expected files of MLAAD", "fake/de/", "found 2 audio files elsewhere, first voices/a.wav")
    fails(command.main, ["MLAAD", str(tmp_path)], str(tmp_path), *words)
    (tmp_path / "empty").mkdir()
    fails(command.main, ["MLAAD", str(tmp_path / "empty")], str(tmp_path / "empty"))
    fails(command.main, ["FoR", str(tmp_path / "absent")], "absent", "No such file")
    fails(command.main, ["ForReal", str(tmp_path)], "ForReal", *WITHOUT_LISTS)
    words = ("ASVspoof5: expected a corpus without lists", "ASVspoof5.train.tsv", "ASVspoof5_protocols")
    fails(command.main, ["asvspoof5", str(tmp_path)], *words)
    fails(command.main, ["in_the_wild", str(tmp_path)], "meta.csv")


def test_the_corpora_are_listed_a_line_each(output):
    lines = output(command.main, []).splitlines()
    for name, record in CORPORA.items():
        if record.paths or record.lists or record.keys:
            (line,) = (line for line in lines if line.startswith(f"  {name} "))
            assert (record.layout or listing.list_of(record)) in line
    assert not any(line.startswith("  csv ") for line in lines)


def test_the_command_is_started_by_its_folder_writes_utf8_and_needs_no_torch(tmp_path):
    plant(tmp_path, ["training/real/é.wav", "training/fake/b.wav", "c.wav"])
    code = "import runpy, sys; sys.argv = ['corpora', 'FoR', sys.argv[1]]\n"
    code += "try: runpy.run_module('corpora', run_name='__main__')\n"
    code += "finally: assert not {'torch', 'scipy', 'soundfile'} & set(sys.modules)"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for call in (["-c", code, tmp_path], ["-m", "corpora", "FoR", tmp_path]):
        done = subprocess.run([sys.executable, *call], cwd=ROOT, capture_output=True, env=environment)
        expected = "path,label,attack,speaker,language,split\n"
        expected += "training/fake/b.wav,spoof,-,-,-,training\ntraining/real/é.wav,bonafide,-,-,-,training\n"
        assert (done.returncode, done.stdout.decode()) == (0, expected), done.stderr
        assert done.stderr.startswith(b"corpora: warning: ")


def test_a_corpus_of_folders_is_one_record(tmp_path, monkeypatch, output):
    rule = r"(?:(?P<bonafide>human)|(?P<attack>bot[0-9]+))/[^/]+"
    monkeypatch.setitem(CORPORA, "Shop", Corpus(header=True, paths=rule, layout="{human,bot1}/a.wav"))
    plant(tmp_path, ["x/human/a.wav", "x/bot2/b.wav", "x/bot10/b.wav"])
    assert rows_of(output, "shop", tmp_path) == {
        "x/bot2/b.wav": ("spoof", "bot2", "-", "-", "-"),
        "x/bot10/b.wav": ("spoof", "bot10", "-", "-", "-"),
        "x/human/a.wav": ("bonafide", "-", "-", "-", "-"),
    }


def test_pieces_of_one_length_are_listed_by_their_folder(tmp_path, output):
    plant(tmp_path, [f"data/segmented/test/{n}s/{label}/a_seg_0.wav" for n in (4, 10) for label in ("real", "fake")])
    assert rows_of(output, "Deepfake_Eval_2024", tmp_path / "data/segmented/test/4s") == {
        "fake/a_seg_0.wav": ("spoof", "-", "a", "-", "test"),
        "real/a_seg_0.wav": ("bonafide", "-", "a", "-", "test"),
    }
