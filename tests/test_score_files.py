"""Score files of other programs, and how they are joined with a key."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest

import checkpoint
import checkpoints
import corpora
import EER_minDCF
from common.console import UserError
from reports import metrics

IDS = ["LA_E_7", "LA_E_5", "LA_E_9", "LA_E_1"]
WORDS = ["bonafide", "spoof", "spoof", "bonafide"]
SCORES = [1.5, -2.25, 0.0, 3.0]


def write(path, text):
    path.write_text(text)
    return path


def lines(form, start=""):
    return start + "".join(
        form.format(i=i, id=u, word=w, score=s, other=7 - s, number=int(w == "bonafide"), capital=w.capitalize()) + "\n"
        for i, (u, w, s) in enumerate(zip(IDS, WORDS, SCORES))
    )


@pytest.mark.parametrize(
    "text, labelled",
    [
        (lines("{id} {word} {score}"), True),
        (lines("{id} {score} {word}"), True),
        (lines("{id}\t{score}\t{capital}"), True),
        (lines("{id} - {word} {score}"), True),  # ASVspoof 2019
        (lines("Output, {id}, {word}, {score}"), True),
        (lines("{id},{score}"), False),
        (lines("{id};{score}"), False),
        (lines("{i} {id} {score} {word}"), True),
        (lines("{i},{id},{score}", "Output,id,score\n"), False),
        (lines("{id}\t{score}", "filename\tcm-score\n"), False),
        (lines("{id} {score}", "filename cm-score\n"), False),
        (lines("{id},{score},{word}", "filename,cm-score,cm-label\n"), True),
        (lines("{score};{number};{id}", "Score;label;utt_id\n"), False),  # what 1 means, the file does not say
        (lines("{i},{id},{score}", ",filename,score\n"), False),  # pandas' index
        (lines("{i}\t{id}\t{score}", "\tfilename\tscore\n"), False),
        (lines("{id},{score}", ",score\n"), False),  # a pandas.Series
        (lines("{id},{other},{score},{number}", "utt,time,llr,turn\n"), False),
        (lines('"{id}","{score}"', '"file","foo"\n'), False),
        (lines("/data/x/{id}.flac {score}"), None),
    ],
)
def test_forms_of_other_programs(tmp_path, text, labelled):
    scored = corpora.read_score_columns(write(tmp_path / "s.txt", text))
    assert [u.rsplit("/")[-1] for u in scored.utt_ids] == IDS
    assert scored.scores.tolist() == SCORES
    first = 1 + (len(text.splitlines()) > len(IDS))
    assert list(scored.lines) == list(range(first, first + 4))
    assert (scored.labels is not None) == bool(labelled)
    if labelled:
        assert scored.labels.tolist() == [1, 0, 0, 1]


def test_numbers_as_ids(tmp_path):
    for text in ("7 spoof 1.5\n9 bonafide 2\n", "id,score\n7,1.5\n9,2\n", "score,who\n1.5,7\n2,9\n"):
        scored = corpora.read_score_columns(write(tmp_path / "s.txt", text))
        assert (scored.utt_ids, scored.scores.tolist()) == (["7", "9"], [1.5, 2])
    for ids in (["track 1", "track 2"], ["ann 3", "bob 1"], ["2 3", "1 4"]):
        text = "".join(f"{utt_id} {i}.5\n" for i, utt_id in enumerate(ids))
        assert corpora.read_score_columns(write(tmp_path / "s.txt", text)).utt_ids == ids


@pytest.mark.parametrize(
    "text, column, number",
    [
        (lines("{id} {other} {score}"), "3", "2, 3"),
        (lines("{id},{other},{score}"), "3", "2, 3"),
        (lines("{id},{other},{score}", "file,fake,real\n"), "real", "fake, real"),
        (lines("{id},{other},{score}", "file,fake,real\n"), "3", "fake, real"),
        (lines("{id},{other},{score}", "file,score,llr\n"), "llr", "score, llr"),
        (lines("{id} {number} {score}"), "3", "2, 3"),  # labels or logits: nobody can tell
        (lines("{i} {id} {word} {other} {score}"), "5", "4, 5"),
    ],
)
def test_two_columns_of_numbers_ask_which(tmp_path, text, column, number):
    path = write(tmp_path / "s.txt", text)
    with pytest.raises(UserError, match=rf"s.txt:\d: .*found 2: {number}; --score_column"):
        corpora.read_score_columns(path)
    scored = corpora.read_score_columns(path, column)
    assert (scored.utt_ids, scored.scores.tolist()) == (IDS, SCORES)
    for wrong in ("0", "6", "loss", "-1"):
        with pytest.raises(UserError, match=f"--score_column {wrong}"):
            corpora.read_score_columns(path, wrong)


@pytest.mark.parametrize(
    "text, words",
    [
        ("a,1.5\nb,x\nc,2\n", [":2: ", "expected a number", "found x"]),
        ("a spoof 1\nb spoof one\nc spoof 2\n", [":2: ", "found one"]),
        ("file,score\na,1\nb,2,3\n", [":3: ", "2 columns", "found 3"]),
        ("file,score\na,1\nb,\n", [":3: ", "expected a number"]),
        ("file,label\na,spoof\n", [":2: ", "one column of scores", "found none"]),
        ("score\n1\n2\n", [":2: ", "no column of ids"]),
        ("a 0,5\nb 0,7\n", [":1: ", "found 0,5"]),  # a decimal comma separates nothing
        ("a spoof 0,5\nb spoof 0,7\n", [":1: ", "found none in a spoof 0,5"]),
        ("a;0,5\nb;0,7\n", [":1: ", "found one word: a;0,5"]),
        ("a;spoof;0,5\nb;spoof;0,7\n", [":1: "]),
        ('file,score\n"a,1\n', [":"]),
        ("file,score\n", ["found none"]),
    ],
)
def test_damaged_files_of_other_programs(tmp_path, text, words):
    with pytest.raises(UserError) as error:
        corpora.read_score_columns(write(tmp_path / "s.txt", text))
    for word in ["s.txt:", *words]:
        assert word in str(error.value), str(error.value)
    assert "\n" not in str(error.value)


# --------------------------------------------------------------------------------------------------- joins with a key


@pytest.mark.parametrize(
    "names, ids",
    [
        (["/d/real/1.wav", "/d/fake/1.wav"], ["real/1", "fake/1"]),
        (["1.wav", "2.flac"], ["eval/1", "eval/2"]),
        (["C:\\audio\\1.wav", "C:\\audio\\2.wav"], ["1", "2"]),
        (["/d/a.wav", "/d/a.mp3", "/d/b.mp3"], ["a.wav", "a.mp3", "b"]),
        (["a", "x/b.wav"], ["a", "b"]),
        (["/d/\u00e9.wav"], ["e\u0301"]),
        (["a", "/x/a"], ["a", "x/a"]),  # the equal one is gone, what is left is alike
        (["b.flac", "a.flac"], ["/x/a.wav", "/x/b.wav"]),
    ],
)
def test_ids_that_are_alike_as_paths(names, ids):
    order = list(range(len(ids)))
    random.Random(1).shuffle(order)
    places, alike = corpora.places_of("s.txt", [names[i] for i in order], ids)
    expected = places.tolist()
    if names != ["b.flac", "a.flac"]:
        assert [order[place] for place in expected] == list(range(len(ids)))
    else:
        assert [names[order[place]] for place in expected] == ["a.flac", "b.flac"]
    assert all(alike[name] in ids for name in alike) and set(alike) == set(names) - set(ids)


@pytest.mark.parametrize(
    "names, ids, words",
    [
        (["/d/real/1.wav", "/d/fake/1.wav"], ["1", "2"], ["/d/real/1.wav and /d/fake/1.wav", "trial 1"]),
        (["1"], ["real/1", "fake/1"], ["real/1 and fake/1"]),
        (["/d/a.flac"], ["a.wav", "a.mp3"], ["a.wav and a.mp3"]),
        (["/d/real/1"], ["1", "real/1"], ["real/1 and 1"]),
    ],
)
def test_ambiguous_ids_are_never_joined(names, ids, words):
    with pytest.raises(UserError) as error:
        corpora.places_of("s.txt", names, ids)
    assert all(word in str(error.value) for word in ["s.txt: ", *words])


def test_what_is_not_alike_is_not_joined():
    places, alike = corpora.places_of("s.txt", ["xa.wav", "a/b", "b"], ["a", "b", "ab"])
    assert (places.tolist(), alike) == ([-1, 2, -1], {})


# ------------------------------------------------------------------------------------------------------- the commands


@pytest.fixture
def case(tmp_path):
    """The case "scores" of the field: 200 trials with an EER of 13.066 %."""
    r = np.random.default_rng(0)
    ids = [f"LA_E_{1000000 + i}" for i in range(200)]
    genuine = r.random(200) < 0.3
    scores = r.standard_normal(200) + 2 * genuine
    words = np.where(genuine, "bonafide", "spoof")
    rows = list(zip(ids, words, scores))
    write(tmp_path / "key.txt", "".join(f"LA_0001 {u} - {'-' if w == 'bonafide' else 'A07'} {w}\n" for u, w, _ in rows))
    return tmp_path, rows


def eer_of(output, folder, *flags):
    found = output(EER_minDCF.main, ["--labels_file", str(folder / "key.txt"), *flags, "--json", "--replicates", "0"])
    return json.loads(found)["rows"][0]["figures"]["eer"]["value"]


@pytest.mark.parametrize(
    "form, flags",
    [
        ("{u} {s:.6f}", ()),
        ("{u} {w} {s:.6f}", ()),
        ("{u} {s:.6f} {w}", ()),
        ("/data/LA/{u}.flac {s:.6f}", ()),  # Speech DF Arena
        ("{u} {t:.6f} {s:.6f}", ("--score_column", "3")),
        ("{u} {t:.6f} {s:.6f}", ("--score_column", "2", "--higher_is", "spoof")),
        ("{u},{t:.6f},{w}", ("--higher_is", "spoof")),
    ],
)
def test_the_case_scores(case, output, form, flags):
    folder, rows = case
    path = write(folder / "s.txt", "".join(form.format(u=u, w=w, s=s, t=-s) + "\n" for u, w, s in rows))
    assert round(100 * eer_of(output, folder, "--path", str(path), *flags), 3) == 13.066


def test_paths_that_are_joined_are_said(case, output, capsys):
    folder, rows = case
    path = write(folder / "s.txt", "".join(f"/data/{u}.wav {s}\n" for u, _, s in rows))
    eer_of(output, folder, "--path", str(path))
    assert "200 ids match the key only by the end of their paths" in capsys.readouterr().err


def test_a_label_that_is_not_the_keys_is_an_error(case, fails):
    folder, rows = case
    u, w, s = rows[3]
    rows[3] = (u, "spoof" if w == "bonafide" else "bonafide", s)
    path = write(folder / "s.txt", "".join(f"{u} {w} {s}\n" for u, w, s in rows))
    fails(EER_minDCF.main, ["--labels_file", str(folder / "key.txt"), "--path", str(path)], "s.txt:4: ", u, "key.txt")


def test_no_flag_is_advised_that_does_not_help(case, fails, capsys, output):
    folder, rows = case
    flags = ["--labels_file", str(folder / "key.txt"), "--path"]

    def message(names, *more):
        part = [(u, s) for u, w, s in rows if names(u, w)] or [("stranger", 0)]
        path = write(folder / "s.txt", "".join(f"{u} {s}\n" for u, s in part))
        with pytest.raises(UserError) as error:
            EER_minDCF.main([*flags, str(path), *more])
        return str(error.value)

    assert "--allow_missing" in message(lambda u, w: u != rows[0][0])
    for names in (lambda u, w: False, lambda u, w: w == "spoof"):
        assert "without a score" in message(names) and "--allow_missing" not in message(names)
    assert "--allow_missing" not in message(lambda u, w: False, "--allow_missing")
    two = [
        write(folder / name, "".join(f"{u} {s}\n" for u, w, s in rows[i : i + 100]))
        for i, name in ((0, "a"), (100, "b"))
    ]
    with pytest.raises(UserError) as error:  # each file leaves trials, both together none
        EER_minDCF.main([*flags, *map(str, two)])
    assert "--allow_missing" not in str(error.value)

    right = write(folder / "right.txt", "".join(f"{u} {s}\n" for u, w, s in rows))
    wrong = write(folder / "wrong.txt", "".join(f"{u} {-s}\n" for u, w, s in rows))
    for paths, more, words in [
        ([wrong], [], "higher for spoofs (then add --higher_is spoof)"),
        ([right], ["--higher_is", "spoof"], "higher for bona fide trials (then leave out --higher_is spoof)"),
        ([right, wrong], [], "wrong: EER above 50 %: are its scores higher for spoofs (then negate them)"),
    ]:
        output(EER_minDCF.main, [*flags, *map(str, paths), *more, "--replicates", "0"])
        assert words in capsys.readouterr().err


def test_calibration_reads_them_too(case, output, untrained, tmp_path):
    folder, rows = case
    dev = write(folder / "dev.txt", "".join(f"/x/{u}.wav {w} {-s}\n" for u, w, s in rows))
    key, out = str(folder / "key.txt"), tmp_path / "out.pth"
    flags = ["--higher_is", "spoof"]
    output(checkpoint.main, ["calibrate", str(untrained), str(out), str(dev), key, *flags])
    classes = [np.array([s for _, w, s in rows if w == word]) for word in ("bonafide", "spoof")]
    assert checkpoints.read_checkpoint(out)["valid"]["threshold"] == metrics.compute_eer(*classes)[1]
    calibrated = [tmp_path / "a.txt", tmp_path / "b.txt"]
    plain = write(folder / "plain.txt", "".join(f"{u} {s}\n" for u, _, s in rows))
    eer_of(
        output, folder, "--path", str(dev), "--calibrate", str(dev), key, *flags, "--write_scores", str(calibrated[0])
    )
    eer_of(output, folder, "--path", str(plain), "--calibrate", str(plain), key, "--write_scores", str(calibrated[1]))
    assert calibrated[0].read_text() == calibrated[1].read_text()


def test_the_forms_in_the_documentation(tmp_path):
    text = (Path(__file__).parent.parent / "docs" / "reports.md").read_text(encoding="utf-8")
    table = text[text.index("| form |") : text.index("Columns are separated")]
    examples = [example for line in table.splitlines()[2:] for example in re.findall(r"`([^`]+)`", line)]
    assert len(examples) == 7
    for example in examples:
        row = example.replace("cm-label", "cm-label\nLA_E_1,2.5,bonafide") if "filename" in example else example
        row = row.replace("utt_id,score", "utt_id,score\n0,LA_E_1,2.5") if ",utt_id" in row else row
        more = row.splitlines()[-1].replace("LA_E_1", "LA_E_2")
        scored = corpora.read_score_columns(write(tmp_path / "s.txt", f"{row}\n{more}\n"))
        assert scored.utt_ids[0].endswith("LA_E_1") and scored.scores[0] in (2.5, -3.1), example
