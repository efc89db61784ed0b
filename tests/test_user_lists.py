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
    assert "found names alone" in found


def test_audio_one_folder_below_the_list_is_told(write, tmp_path):
    (tmp_path / "wav").mkdir()
    for name in ("a", "b"):
        soundfile.write(tmp_path / "wav" / f"{name}.wav", np.zeros(160), 16000)
    path = write("path,label\na.wav,spoof\nb.wav,bonafide\n")
    assert f"; {tmp_path / 'wav'} has 2 of the first 2; " in refusal(corpora.read_trials, path)
