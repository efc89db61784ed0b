"""Submissions to leader boards, read again by parsers of their own."""

import hashlib
import os

import numpy as np
import pytest
import soundfile as sf

import EER_minDCF

SCORES = {"u1": 0.1, "u2": -1.5e-30, "u3": 123456.789012345}


@pytest.fixture
def folder(tmp_path):
    """A table of two sets with audio in two formats; the score file in another order than the key."""
    for name in ("in_the_wild", "sonar"):
        (tmp_path / name).mkdir()
        for utt, ending in (("u1", "wav"), ("u2", "flac"), ("u3", "wav")):
            sf.write(tmp_path / name / f"{utt}.{ending}", np.zeros(160), 16000)
        (tmp_path / f"{name}.csv").write_text("path,label\nu2.flac,spoof\nu1.wav,bonafide\nu3.wav,bonafide\n")
        (tmp_path / f"{name}.txt").write_text("".join(f"{u} {s!r}\n" for u, s in SCORES.items()))
    (tmp_path / "sets.csv").write_text(
        "name,key,audio_dir,Nes2Net-X v1\n"
        + "".join(f"{name},{name}.csv,{name},{name}.txt\n" for name in ("in_the_wild", "sonar"))
    )
    return tmp_path


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def command(folder, board, out="out"):
    return ["--sets", str(folder / "sets.csv"), "--arena", board, str(folder / out)]


def test_dfarena(folder, output):
    (folder / "out").mkdir()  # an empty folder will do
    written = output(EER_minDCF.main, command(folder, "dfarena")).split()[1::2]
    assert written == [str(folder / "out" / f"{name}.txt") for name in ("in_the_wild", "sonar")]
    for name in ("in_the_wild", "sonar"):
        rows = [line.split(" ") for line in (folder / "out" / f"{name}.txt").read_text().splitlines()]
        for (path, score), utt in zip(rows, ("u2", "u1", "u3"), strict=True):  # the key's order
            assert os.path.isabs(path) and os.path.samefile(path, folder / name / os.path.basename(path))
            stem, ending = os.path.splitext(os.path.basename(path))
            assert (stem, float(score)) == (utt, SCORES[utt]) and ending == (".flac" if utt == "u2" else ".wav")
    assert sorted(tree(folder / "out")) == ["in_the_wild.txt", "sonar.txt"]


def test_a_submission_is_a_score_file_of_the_same_figures(folder, output):
    output(EER_minDCF.main, command(folder, "dfarena"))
    out = folder / "out" / "sonar.txt"
    reports = [
        output(EER_minDCF.main, ["--labels_file", str(folder / "sonar.csv"), "--path", str(path), "--csv"])
        for path in (out, folder / "sonar.txt")
    ]
    assert reports[0] == reports[1]


def test_benchmarks(folder, output):
    (folder / "in_the_wild" / "u1.wav").unlink()  # no audio is needed
    output(EER_minDCF.main, command(folder, "benchmarks"))
    files = tree(folder / "out")
    assert len(files) == 4
    for name in ("in_the_wild", "sonar"):
        content = files[f".eval_results/SpeechAntiSpoofingBenchmarks/{name}/scores.txt"]
        assert {u: float(s) for u, s in (line.split() for line in content.decode().splitlines())} == SCORES
        entry = files[f"submissions/{name}/nes2net-x-v1.yaml"].decode()
        fields = dict(line.split("#")[0].strip().split(": ") for line in entry.splitlines() if line.startswith("  "))
        assert fields == {"scores_url": "null", "scores_sha256": hashlib.sha256(content).hexdigest()}
        assert "artifact:\n" in entry and "http" not in entry


def test_asvspoof5(folder, output):
    flags = ["--set", "eval", str(folder / "sonar.csv"), str(folder / "sonar.txt"), "--arena", "asvspoof5"]
    output(EER_minDCF.main, [*flags, str(folder / "scores.tsv")])
    head, *rows = [line.split("\t") for line in (folder / "scores.tsv").read_text().splitlines()]
    assert head == ["filename", "cm-score"]
    assert [(u, float(s)) for u, s in rows] == [(u, SCORES[u]) for u in ("u2", "u1", "u3")]
    output(EER_minDCF.main, [*flags, str(folder / "negated.tsv"), "--higher_is", "spoof"])
    assert (folder / "negated.tsv").read_text().splitlines()[2] == "u1\t-0.1"


def test_lists_without_labels_and_subsets(folder, output):
    (folder / "ids.txt").write_text("u3\nu1\nu2\n")
    flags = ["--set", "eval", str(folder / "ids.txt"), str(folder / "sonar.txt"), "--arena", "asvspoof5"]
    output(EER_minDCF.main, [*flags, str(folder / "scores.tsv")])
    assert [line.split()[0] for line in (folder / "scores.tsv").read_text().splitlines()[1:]] == ["u3", "u1", "u2"]
    rows = [("u1", "eval", "spoof"), ("u2", "hidden", "spoof"), ("u3", "eval", "bonafide")]
    key = folder / "2021.txt"
    key.write_text("".join(f"S {u} none - {'A07' if k == 'spoof' else k} {k} notrim {s}\n" for u, s, k in rows))
    for subset, expected in (("", ["u1", "u2", "u3"]), ("eval", ["u1", "u3"])):
        (folder / "sets.csv").write_text(f"name,key,subset,s\nLA,{key},{subset},sonar.txt\n")
        output(EER_minDCF.main, command(folder, "asvspoof5", f"{subset}.tsv"))
        lines = (folder / f"{subset}.tsv").read_text().splitlines()[1:]
        assert [line.split()[0] for line in lines] == expected


def test_a_submission_is_whole_or_not_there(folder, fails):
    def refused(board, *words, out="out", table=None, extra=()):
        before = tree(folder)
        if table is not None:
            (folder / "sets.csv").write_text(table)
            before = tree(folder)
        fails(EER_minDCF.main, [*command(folder, board, out), *extra], *words)
        assert tree(folder) == before and not [p for p in os.listdir(folder) if p.endswith(".tmp")]

    table = (folder / "sets.csv").read_text()
    refused("dfarena", "sonar: expected a new or empty folder", out="sonar")
    refused("benchmarks", "sonar.txt: expected a new or empty folder", out="sonar.txt")
    refused("asvspoof5", "expected one set, found in_the_wild, sonar")
    refused("hugging", "expected one of dfarena, benchmarks, asvspoof5, found hugging")
    refused("dfarena", "--arena ", "combined with --by", extra=("--by", "attack"))
    refused("dfarena", "my_set: expected a set of Speech DF Arena", table=table.replace("sonar,", "my_set,", 1))
    refused("benchmarks", "a/b: expected the name", table=table.replace("sonar,", "a/b,", 1))
    refused("benchmarks", "one system, found s, t", table="name,key,s,t\na,sonar.csv,sonar.txt,in_the_wild.txt\n")
    refused("benchmarks", "one system, found none", table="name,key\na,sonar.csv\n")
    one = "name,key,s\na,sonar.csv,sonar.txt\n"
    refused("asvspoof5", "--arena", "found the input ", out="sonar.txt", table=one)
    (folder / "sonar" / "u3.wav").unlink()
    refused("dfarena", "u3", table=table)
    scores = (folder / "sonar.txt").read_text()
    (folder / "sonar.txt").write_text(scores.replace("u2", "u4"))
    refused("benchmarks", "1 trials without a score (first u2)", table=table)
    with pytest.raises(Exception) as error:
        EER_minDCF.main(command(folder, "benchmarks"))
    assert "--allow_missing" not in str(error.value)
    (folder / "sonar.txt").write_text(scores.replace("u2 -1.5e-30", "u2 nan"))
    refused("benchmarks", "NaN or infinite", table=table)


def test_names_with_blanks(folder, fails):
    (folder / "sonar" / "u3.wav").rename(folder / "sonar" / "u 3.wav")
    (folder / "sonar.csv").write_text("path,label\nu 3.wav,spoof\n")
    (folder / "sonar.txt").write_text("u 3 1.5\n")
    (folder / "sets.csv").write_text("name,key,audio_dir,s\nsonar,sonar.csv,sonar,sonar.txt\n")
    fails(EER_minDCF.main, command(folder, "dfarena"), "u 3.wav: ")
    fails(EER_minDCF.main, command(folder, "benchmarks"), "u 3: ")
    assert not (folder / "out").exists()
