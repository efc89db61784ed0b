"""Lists as users write them, and what they are told of those that no one can read."""

import numpy as np
import pytest
import soundfile

import corpora
import EER_minDCF
from common.console import UserError
from corpora import BONAFIDE, SPOOF


@pytest.fixture
def write(tmp_path):
    def call(text, name="list.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return call


def labels(path, **options):
    table = corpora.read_table(path, **options)
    return dict(zip(table.utt_id, table.label.tolist()))


def refusal(call, *arguments, **options):
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    return str(error.value)


@pytest.mark.parametrize("separator", [" ", "   ", "\t", ",", ";"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n"])
def test_headers_in_any_separator_and_line_end(write, separator, end):
    rows = [("Path", "Attack", "LABEL"), ("a.wav", "A1", "Spoof"), ("b.wav", "-", "bonafide")]
    path = write("".join(separator.join(row) + end for row in rows))
    if end != "\n\n":
        assert labels(path) == {"a": SPOOF, "b": BONAFIDE}
    text = path.read_text() + separator.join(("c.wav", "A1", "perhaps"))
    assert f"list.csv:{7 if end == chr(10) * 2 else 4}: " in refusal(corpora.read_table, write(text))


def test_a_short_line_is_told_by_the_titles_of_its_own_table(write):
    assert "expected the 2 columns path, label, found 1: a.wav" in refusal(
        corpora.read_table, write("path,label\na.wav\n")
    )


def test_score_files_of_old_line_ends(write):
    assert corpora.read_scores(write("a 1\rb 2\r")) == {"a": 1.0, "b": 2.0}


def test_labels_in_a_column_of_another_name(write, tmp_path):
    key, scores = write("path,is_fake\na.wav,0\nb.wav,1\n"), write("a 1\nb 2\n", "scores.txt")
    found = refusal(EER_minDCF.main, ["--labels_file", str(key), "--path", str(scores)])
    assert "a column label|key" in found and "is_fake" in found
    found = refusal(EER_minDCF.main, ["--labels_file", str(write("a\nb\n")), "--path", str(scores)])
    assert "found only names" in found


def test_audio_one_folder_below_the_list_is_told(write, tmp_path):
    (tmp_path / "wav").mkdir()
    for name in ("a", "b"):
        soundfile.write(tmp_path / "wav" / f"{name}.wav", np.zeros(160), 16000)
    path = write("path,label\na.wav,spoof\nb.wav,bonafide\n")
    assert f"; {tmp_path / 'wav'} has 2 of the first 2; " in refusal(corpora.read_trials, path)


@pytest.mark.parametrize("words", ["0 1", "1 0", "0.0 1.0", "1 2", "-1 1", "True False", "echt falsch"])
def test_labels_of_ones_own(write, words):
    """Each word of the two may mean bona fide; the error says so of numbers, and names what the list has."""
    first, second = words.split()
    path = write(f"path,label\na.wav,{first}\nb.wav,{second}\nc.wav,{second}\n")
    for bonafide in (first, second):
        of = {word: BONAFIDE if word == bonafide else SPOOF for word in (first, second)}
        assert labels(path, bonafide=bonafide) == {"a": of[first], "b": of[second], "c": of[second]}
    found = refusal(corpora.read_table, path)
    assert found.startswith(f"{path}:2: ")
    if first[-1].isdecimal():
        assert f"--bonafide {first} if it means bona fide, --bonafide {second} if {second} does" in found
    else:
        assert f"found {first}; --bonafide WORD sets" in found


def test_numbers_are_told_in_either_spelling(write):
    assert labels(write("path,label\na.wav,0.0\nb.wav,1.0\n"), bonafide="1") == {"a": SPOOF, "b": BONAFIDE}
    assert labels(write("a.wav 0\nb.wav 1\n"), bonafide="0.0") == {"a": BONAFIDE, "b": SPOOF}


def test_three_labels_are_two_too_many_for_one_word(write):
    text = "path,label\na.wav,0\nb.wav,1\nc.wav,2\n"
    assert refusal(corpora.read_table, write(text)).endswith("--bonafide 0 if it means bona fide")
    assert "list.csv:4: " in refusal(corpora.read_table, write(text), bonafide="1")


def test_an_empty_label_means_nothing(write):
    path = write("path,label\na.wav,real\nb.wav,\n")
    for bonafide in (None, "real"):
        assert refusal(corpora.read_table, path, bonafide=bonafide).endswith("as the label, found none")


def test_bars_in_score_files_as_in_lists(write):
    assert corpora.read_scores(write("utt_id|score\na|1\nb|2\n")) == {"a": 1.0, "b": 2.0}
    assert corpora.read_scores(write("a|1.5\nb|2\n")) == {"a": 1.5, "b": 2.0}


def test_an_empty_name_is_told(write, tmp_path):
    for text in ("path,label\na.wav,real\n,fake\n", "path\tlabel\n\na.wav\treal\n  \tfake\n"):
        assert f":{text.count(chr(10))}: expected the name of an utterance, found none" in refusal(
            corpora.read_table, write(text)
        )


def test_blanks_around_the_words_of_parquet_files_count_as_little_as_in_tables(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    columns = {"path": [" a.wav", "b.wav "], "label": ["real ", " fake"]}
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    assert labels(tmp_path / "x.parquet") == {"a": BONAFIDE, "b": SPOOF}
