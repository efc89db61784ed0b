"""Labels of partially spoofed speech. Times in the oracles are whole samples or fractions, not floating point."""

import os
import pickle
from fractions import Fraction

import numpy as np
import pytest

import corpora
from common.console import UserError
from corpora import BONAFIDE, SPOOF
from corpora.segments import (
    NON_SPEECH,
    crop_spans,
    find_segments,
    fit_spans,
    read_segments,
    spans_of_labels,
    unit_labels,
    with_spans,
    write_rttm,
)
from data_utils import first_samples

SPANS = [(0.0, 0.62, BONAFIDE), (0.62, 1.3, SPOOF), (1.3, 1.54, NON_SPEECH), (1.54, 2.1, BONAFIDE)]
RTTM = """SPEAKER a 1 0.62 0.68 <NA> <NA> spoof <NA> <NA>
SPEAKER a 1 0 0.62 <NA> <NA> bonafide <NA> <NA>
SPEAKER a 1 1.54 0.56 <NA> <NA> bonafide <NA> <NA>
"""


def test_all_forms_of_an_utterance_give_the_same_spans(tmp_path):
    (tmp_path / "vad").mkdir()
    (tmp_path / "vad" / "a.vad").write_text("0 0.62 1\n0.62 1.3 0\n1.3 1.54 2\n1.54 2.1 1\n")
    (tmp_path / "rttm").write_text(RTTM)
    (tmp_path / "lines").write_text(
        "a 2.1 spoof 0.0000-0.5000-bonafide 0.5-0.62-bonafide 6.2e-1-1.3-spoof 1.54-2.1-bonafide\n"
    )
    for form in ("vad", "rttm", "lines"):
        assert read_segments(tmp_path / form) == {"a": SPANS}, form
    codes = np.repeat(["1", "0", "2", "1"], [31, 34, 12, 28])
    for name, labels in (("text", codes), ("numbers", codes.astype(int)), ("list", codes.tolist())):
        path = tmp_path / f"{name}_seglab_0.02.npy"
        np.save(path, {"a": labels, np.str_("b"): labels[:3]}, allow_pickle=True)
        assert read_segments(path) == {"a": SPANS, "b": [(0.0, 0.06, BONAFIDE)]}, name
    labels = unit_labels(SPANS, 2.1, 0.16)  # of coarser labels, spans at their resolution
    np.save(tmp_path / "coarse_seglab_0.16.npy", {"a": labels}, allow_pickle=True)
    (coarse,) = read_segments(tmp_path / "coarse_seglab_0.16.npy").values()
    assert coarse == [(0.0, 0.48, BONAFIDE), (0.48, 1.44, SPOOF), (1.44, 2.08, BONAFIDE)]


def test_written_rttm_is_read_as_the_same_spans(tmp_path):
    segments = {"a": SPANS, "b": [(0.0, 0.0000625, SPOOF), (0.0000625, 33.3333333, BONAFIDE)]}
    write_rttm(tmp_path / "out", segments)
    assert read_segments(tmp_path / "out") == segments
    with pytest.raises(UserError, match="RTTM.* a b"):
        write_rttm(tmp_path / "other", {"a b": SPANS})
    assert not (tmp_path / "other").exists()


def test_utterances_without_spans_are_of_their_label(tmp_path):
    (tmp_path / "lines").write_text("a 2.1 spoof\n\nb 0.5 bonafide\nc 1 spoof 0.25-0.5-spoof\n")
    assert read_segments(tmp_path / "lines") == {
        "a": [(0.0, 2.1, SPOOF)],
        "b": [(0.0, 0.5, BONAFIDE)],
        "c": [(0.0, 0.25, NON_SPEECH), (0.25, 0.5, SPOOF), (0.5, 1.0, NON_SPEECH)],
    }


def test_what_rounding_does_to_times_is_mended(tmp_path):
    (tmp_path / "lines").write_text("a 1 spoof 0-0.3334-bonafide 0.3333-1.0005-spoof 0.5-0.5-bonafide\n")
    (spans,) = read_segments(tmp_path / "lines").values()
    assert spans == [(0.0, 0.3334, BONAFIDE), (0.3334, 1.0, SPOOF)]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "expected segment labels, found"),
        ("a b c\n", r":1: expected RTTM \(SPEAKER.*\) or UTT DURATION.*found a b c"),
        ("\na 2 spoof\nb\n", ":3: expected UTT DURATION.*found b"),
        ("a 2 spoof\na 2 spoof\n", ":2: duplicate labels for a"),
        ("a 2 spoof 0-1-spoof 0.9-2-bonafide\n", ":1: expected no overlap, found 0.9 to 2 s .* at 1 s"),
        ("a 2 spoof 1-0.5-spoof\n", ":1: expected 0 <= start <= end of a span, found 1 to 0.5 s"),
        ("a 2 spoof -1-0.5-spoof\n", ":1: expected 0 <= start .*, found -1 to 0.5 s"),
        ("a 2 spoof 1-2.5-spoof\n", ":1: expected spans within 2 s, found 1 to 2.5 s"),
        ("a 2 bonafide 1-2-spoof\n", ":1: expected spans that agree with the label bonafide"),
        ("a 2 spoof 1-2-fake\n", ":1: expected one of bonafide, .*, found fake"),
        ("a 2 spoof 1:2:spoof\n", ":1: expected START-END-LABEL, found 1:2:spoof"),
        ("a 2 spoof 1-1..2-spoof\n", ":1: expected a finite number as a time in seconds, found 1..2"),
        ("a 0 spoof\n", ":1: expected spans longer than 0 s, found none"),
        (
            RTTM + "SPEAKER a 1 2.1 -1 <NA> <NA> spoof <NA> <NA>\n",
            ":4: expected 0 <= start <= end of a span, found 2.1 to 1.1 s",
        ),
        (RTTM + "SPEAKER a 1 0 nan <NA> <NA> spoof <NA> <NA>\n", ":4: expected a finite number .*, found nan"),
        (RTTM + "SPEAKER a 1 0 1\n", ":4: expected SPEAKER UTT 1 START"),
        (RTTM + "SPEAKER a 1 2.05 1 <NA> <NA> spoof <NA> <NA>\n", ":4: expected no overlap, found 2.05 to 3.05 s"),
    ],
)
def test_labels_that_do_not_fit_are_told_by_line(tmp_path, text, message):
    path = tmp_path / "labels"
    path.write_text(text)
    with pytest.raises(UserError, match=f"{path}.*{message}"):
        read_segments(path)


def test_vad_files_that_do_not_fit_are_told_by_line(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: .*UTT.vad"):
        read_segments(tmp_path)
    for text, message in (("0 1 1\n1 2 spoof\n", "2: expected one of 0, 1, 2"), ("0 1\n", "1: expected START END")):
        (tmp_path / "a.vad").write_text(text)
        with pytest.raises(UserError, match=f"{tmp_path / 'a.vad'}:{message}"):
            read_segments(tmp_path)
    with pytest.raises(UserError, match="No such file"):
        read_segments(tmp_path / "none")


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("was-run",)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"a": Malicious()}, "refused: .* posix.mkdir, which could run code"),
        ({"a": np.array([Malicious()], dtype=object)}, "refused: .* posix.mkdir, which could run code"),
        ({"a": ["0", "3"]}, "expected an array of labels 0, 1 or 2 for a"),
        ({"a": ["0", "x"]}, "expected an array of labels 0, 1 or 2 for a"),
        ({"a": np.zeros((2, 2))}, "expected an array of labels 0, 1 or 2 for a"),
        ({"a": []}, "expected an array of labels 0, 1 or 2 for a"),
        ({1: ["0"]}, "expected a dictionary"),
        ({}, "expected a dictionary"),
    ],
)
def test_a_pickle_with_code_or_other_content_is_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    np.save("x_seglab_0.02.npy", np.array(content, dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=f"^x_seglab_0.02.npy: {message}"):
        read_segments("x_seglab_0.02.npy")
    assert os.listdir() == ["x_seglab_0.02.npy"]
    if isinstance(content.get("a"), Malicious):  # else this test would show nothing
        np.load("x_seglab_0.02.npy", allow_pickle=True)
        assert os.path.isdir("was-run")


def test_arrays_of_older_numpy_are_read(tmp_path):
    path, content = tmp_path / "x_seglab_0.02.npy", np.empty((), object)
    content[()] = {"a": np.repeat(["1", "0"], [31, 74]), "b": np.array([0, 1])}
    np.save(path, content, allow_pickle=True)
    pickled = pickle.dumps(content, 3).replace(b"numpy._core.", b"numpy.core.")
    assert b"cnumpy.core.multiarray\n" in pickled
    path.write_bytes(path.read_bytes()[:128] + pickled)
    assert read_segments(path) == {
        "a": [(0.0, 0.62, BONAFIDE), (0.62, 2.1, SPOOF)],
        "b": [(0.0, 0.02, SPOOF), (0.02, 0.04, BONAFIDE)],
    }


def test_arrays_of_another_kind_damaged_or_of_an_unknown_unit_are_refused(tmp_path):
    np.save(tmp_path / "labels.npy", {"a": ["0"]}, allow_pickle=True)
    with pytest.raises(UserError, match="labels.npy: .*_seglab_UNIT.npy"):
        read_segments(tmp_path / "labels.npy")
    path = tmp_path / "x_seglab_0.02.npy"
    np.save(path, np.zeros(3))
    with pytest.raises(UserError, match="dictionary.* float64"):
        read_segments(path)
    np.save(path, {"a": np.array(["0"] * 100)}, allow_pickle=True)
    data = path.read_bytes()
    for damaged in (data[:-20], data[:50], data[: data.index(b"a", 130)] + pickle.dumps([1, 2])[2:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="x_seglab_0.02.npy: "):
            read_segments(path)
    path.write_bytes(data[:128] + b"\x80\x03]r\xff\xff\xff\x0f.")  # a memo of 268,435,455 entries
    with pytest.raises(UserError, match="refused: reading it needs too much memory"):
        read_segments(path)


@pytest.mark.slow
def test_unit_labels_equal_exact_fractions():
    rng = np.random.default_rng(0)
    for _ in range(300):
        grid = rng.choice([50, 100, 1000, 16000])  # times as a file of that precision, or samples, have them
        edges = np.unique(rng.integers(0, 4 * grid, rng.integers(2, 9)))
        times = [Fraction(0), *(Fraction(int(edge), int(grid)) for edge in edges if edge)]
        labels = rng.permutation(np.arange(len(times)) % 3)
        spans = [(float(a), float(b), int(label)) for a, b, label in zip(times, times[1:], labels)]
        for text in ("0.01", "0.02", "0.04", "0.16", "0.64"):
            unit = Fraction(text)
            n = int(times[-1] / unit + Fraction(1, 2))
            expected = [
                SPOOF
                if any(min(b, (i + 1) * unit) > max(a, i * unit) for a, b, k in zip(times, times[1:], labels) if k == 0)
                else BONAFIDE
                for i in range(n)
            ]
            assert unit_labels(spans, float(times[-1]), float(text)).tolist() == expected


def test_labels_of_units_and_their_spans_are_each_others_inverse():
    rng = np.random.default_rng(0)
    for unit in (0.01, 0.02, 0.64):
        labels = rng.integers(0, 2, 500).astype(np.int8)
        spans = spans_of_labels(labels, unit)
        assert len(spans) == 1 + np.count_nonzero(np.diff(labels))
        assert unit_labels(spans, spans[-1][1], unit).tolist() == labels.tolist()
    assert spans_of_labels(labels[:0], 0.02) == []


def test_crops_take_labels_from_where_samples_are_taken():
    rng = np.random.default_rng(0)
    for _ in range(100):
        labels = np.repeat([1, 0, 2, 1, 0], rng.integers(0, 4000, 5))
        spans = spans_of_labels(labels, 1 / 16000)
        length, start = rng.integers(1, 30000), rng.integers(0, len(labels))
        cropped = crop_spans(spans, start / 16000, length / 16000)
        expected = first_samples(labels, start + length)[start:]  # as data_utils repeats and cuts waveforms
        assert cropped[0][0] == 0 and all(a[1] == b[0] for a, b in zip(cropped, cropped[1:]))
        edges = [round(16000 * end) for _, end, _ in cropped]
        assert np.repeat([label for *_, label in cropped], np.diff([0, *edges])).tolist() == expected.tolist()


def test_spans_are_cut_or_stretched_to_a_recording():
    assert fit_spans(SPANS, 1.4) == [*SPANS[:2], (1.3, 1.4, NON_SPEECH)]
    assert fit_spans(SPANS, 1.3) == SPANS[:2]
    assert fit_spans(SPANS, 2.5) == [*SPANS[:3], (1.54, 2.5, BONAFIDE)]
    assert crop_spans(SPANS[:2], 1.0, 2.0, duration=1.4) == [
        (0.0, 0.4, SPOOF),
        (0.4, 1.02, BONAFIDE),
        (1.02, 1.8, SPOOF),
        (1.8, 2.0, BONAFIDE),
    ]


def test_names_of_utterances_are_those_of_lists(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("sub/a.wav 1.0 spoof 0.0-1.0-spoof\nb.wav 1.0 bonafide\n")
    assert list(read_segments(path)) == ["sub/a", "b"] == corpora.read_table(path).utt_id
    assert [len(trial.spans) for trial in with_spans(corpora.read_table(path).trials(), path)] == [1, 1]


def test_files_that_are_no_text_have_no_spans_in_their_lines(tmp_path):
    for name in ("list.parquet", "train_seglab_0.02.npy"):
        (tmp_path / name).write_bytes(b"\x93NUMPY")
        assert find_segments(tmp_path / name) is None
