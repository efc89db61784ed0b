"""Lists and audio as they arrive damaged: every command ends in one line that names the file, and the line of it."""

from pathlib import Path

import pytest
from corpus_trees import unpack
from test_every_corpus import SHORT

import EER_minDCF
import eval as eval_command
import train

FORMS = ["ASVspoof2019_LA", "ASVspoof2021_DF", "ASVspoof5", "CtrSVDD", "in_the_wild", "csv"]
FORMS += ["ASVspoof2019_PA", "ASVspoof2021_PA", "ASVspoof2015", "Codecfake", "ADD2023", "AntiDeepfake"]
FOUND_AROUND = ["ASVspoof2019_LA", "Codecfake", "csv"]


def edit(line, words):
    """damage(lines): the list with a line of it replaced, counted from 0; None: left out."""
    return lambda lines: [*lines[:line], *words(lines[line]), *lines[line + 1 :]]


def relabelled(line):
    for word in ("bonafide", "bona-fide", "spoof", "deepfake", "human", "genuine", "real", "fake"):
        line = line.replace(f"{word},", "perhaps,").replace(f",{word}", ",perhaps")
        line = " ".join("perhaps" if part == word else part for part in line.split(" "))
    return [line]


# {name: (what becomes of the lines, the number of the line that is named, words)}
LISTS_DAMAGED = {
    "unknown label": (edit(3, relabelled), 4, ["label", "found perhaps"]),
    "duplicate line": (lambda lines: [*lines, lines[2]], -1, ["duplicate id", "first in line 3"]),
    "a column too few": (
        edit(2, lambda line: [line.replace(",", "", 1) if "," in line else line.split(" ", 1)[1]]),
        3,
        [],
    ),
    "a column too many": (edit(2, lambda line: [line + (",x" if "," in line else " x")]), 3, ["columns"]),
    "empty list": (lambda lines: [], None, ["found none"]),
    "blank lines alone": (lambda lines: ["", "  "], None, ["found none"]),
    "bytes of a picture": (lambda lines: ["\x89PNG\r", "\x1a\xff"], None, ["expected a text file"]),
    "zero bytes": (lambda lines: [*lines, "\0\0\0"], None, ["expected a text file"]),
}


def commands(key, tmp_path, checkpoint, audio_dir=None, report=True):
    """(main, its flags): training on a list, scoring it, reporting on it."""
    scores = tmp_path / "scores.txt"
    scores.write_text("a 1\n")
    folders = (
        [["--train_audio_dir", str(audio_dir), "--dev_audio_dir", str(audio_dir)], ["--audio_dir", str(audio_dir)]]
        if audio_dir
        else [[], []]
    )
    logs = ["--log_dir", str(tmp_path / "logs"), "--foldername", "run"]
    yield train.main, ["--train_protocol", str(key), "--dev_protocol", str(key), *SHORT, *logs, *folders[0]]
    yield (
        eval_command.main,
        [
            "--protocol",
            str(key),
            "--model_path",
            str(checkpoint),
            "--eval_output",
            str(tmp_path / "out.txt"),
            *folders[1],
        ],
    )
    if report:
        yield EER_minDCF.main, ["--labels_file", str(key), "--path", str(scores)]


@pytest.mark.parametrize("damage", LISTS_DAMAGED)
@pytest.mark.parametrize("corpus", FORMS)
def test_a_damaged_list(corpus, damage, tmp_path, fails):
    key, _ = unpack(tmp_path, corpus)
    change, number, words = LISTS_DAMAGED[damage]
    lines = change(key.read_text().splitlines())
    key.write_bytes("".join(f"{line}\n" for line in lines).encode("latin-1"))
    number = len(lines) if number == -1 else number
    place = f"{key}:{number}: " if number else f"{key}: "
    for main, flags in commands(key, tmp_path, tmp_path / "no.pth"):
        if damage != "unknown label" or main is not eval_command.main:  # scoring needs no labels
            fails(main, flags, place, *words)


def cut(path):
    path.write_bytes(path.read_bytes()[:1500])


AUDIO_DAMAGED = {
    "cut": (cut, "truncated"),
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "web page": (lambda path: path.write_bytes(b"<!DOCTYPE html><html></html>"), "cannot be read as audio"),
}


@pytest.mark.parametrize("damage", AUDIO_DAMAGED)
@pytest.mark.parametrize("corpus", FOUND_AROUND)
def test_damaged_audio_ends_training_and_is_listed_by_scoring(corpus, damage, tmp_path, fails, untrained, capsys):
    key, trials = unpack(tmp_path, corpus)
    change, words = AUDIO_DAMAGED[damage]
    (_, (broken, (*_, path)), *_) = trials.items()
    change(Path(path))
    (main, flags), (score, its_flags) = commands(key, tmp_path, untrained, report=False)
    fails(main, flags, path, words)
    assert score(its_flags) == 1
    (line,) = (tmp_path / "out.txt.errors.tsv").read_text().splitlines()
    assert line.startswith(f"{broken}\t{path}: ") and words in line
    assert "1 of 4 trials have no score" in capsys.readouterr().err
    assert len((tmp_path / "out.txt").read_text().splitlines()) == 3


def test_audio_that_is_not_there_is_named_and_counted(tmp_path, fails, untrained):
    (tmp_path / "other").mkdir()
    for corpus in FOUND_AROUND:
        key, trials = unpack(tmp_path / corpus, corpus)
        (_, (gone, (*_, path)), *_) = trials.items()
        wrong = tmp_path / "other"
        for main, flags in commands(key, tmp_path, untrained, wrong, report=False):
            fails(main, flags, f"{wrong}: ", "4 of 4 ", next(iter(trials)))
        for main, flags in commands(key, tmp_path, untrained, tmp_path / "none", report=False):
            fails(main, flags, f"{tmp_path / 'none'}: ", "No such file")
        Path(path).unlink()
        folder = path.removesuffix(gone + Path(path).suffix)
        for main, flags in commands(key, tmp_path, untrained, folder, report=False):
            fails(main, flags, "1 of 4 ", gone)


@pytest.mark.parametrize("path", ["/etc/hostname", "../csv/a/1.wav", "a/../../csv/a/1.wav"])
def test_a_path_outside_the_folder_of_audio_is_refused(path, tmp_path, fails, untrained):
    key, _ = unpack(tmp_path / "csv", "csv")
    key.write_text(key.read_text().replace("a/1.wav", path))
    for main, flags in commands(key, tmp_path, untrained, tmp_path / "csv", report=False):
        fails(main, flags, f"{tmp_path / 'csv'}: ", "forbidden", path)


@pytest.mark.parametrize("corpus", FOUND_AROUND)
def test_a_folder_of_audio_one_too_high_or_too_low_is_told(corpus, tmp_path, fails, untrained):
    key, trials = unpack(tmp_path / corpus, corpus)
    utt_id, (*_, path) = next(iter(trials.items()))
    folder = Path(path.removesuffix(utt_id + Path(path).suffix))
    (folder / "deeper").mkdir()
    for wrong in (folder.parent, folder / "deeper"):
        for main, flags in commands(key, tmp_path, untrained, wrong, report=False):
            fails(main, flags, f"{wrong}: 4 of 4 ", str(folder))
