"""Every corpus, in small, from its official layout to a report: found, read, trained on, scored, reported."""

import json
import re
import shlex
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
from corpus_trees import LISTS, TREES, expand, record_audio, unpack

import corpora
import EER_minDCF
import eval as eval_command
import train
from corpora import __main__ as list_command
from corpora.records import CORPORA

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "corpora.md").read_text(encoding="utf-8")
DETECTOR = ["--model_name", "LogMel_MHFA", "--back_end_options", "heads=2", "compressed=8"]
SHORT = [*DETECTOR, "--epochs", "1", "--batch_size", "4", "--crop", "4000", "--algo", "0", "--num_workers", "0"]


def train_score_report(folder, lists, audio_dirs, output):
    """Train on all lists, score each, report on all together: (scores {utt_id: score}, the report)."""
    flags = [word for path in lists for word in ("--train_protocol", str(path), "--dev_protocol", str(path))]
    flags += [word for path in audio_dirs for word in ("--train_audio_dir", str(path), "--dev_audio_dir", str(path))]
    output(train.main, [*flags, *SHORT, "--log_dir", str(folder / "logs"), "--foldername", "run"])
    (checkpoint,) = folder.glob("logs/run/*/checkpoints/best_model.pt")
    for i, path in enumerate(lists):
        flags = ["--protocol", str(path), "--model_path", str(checkpoint), "--eval_output", str(folder / f"{i}.txt")]
        flags += ["--audio_dir", str(audio_dirs[i])] if audio_dirs else []
        output(eval_command.main, [*flags, "--num_workers", "0"])
    key, scores = lists[0], folder / "0.txt"
    if len(lists) > 1:  # as docs/corpora.md joins them
        key, scores = folder / "both.csv", folder / "both.txt"
        (first, *more) = (path.read_text() for path in lists)
        key.write_text(first + "".join(text.partition("\n")[2] for text in more))
        scores.write_text("".join((folder / f"{i}.txt").read_text() for i in range(len(lists))))
    flags = ["--labels_file", str(key), "--path", str(scores), "--replicates", "20", "--json"]
    return corpora.read_scores(scores), json.loads(output(EER_minDCF.main, flags))


def check_report(report, trials):
    """trials: a (label, attack) each."""
    rows = {(row["by"], row["name"]): (row["n_bonafide"], row["n_spoof"]) for row in report["rows"]}
    attacks = [attack for label, attack in trials if label == "spoof"]
    n_bonafide = sum(label == "bonafide" for label, _ in trials)
    assert rows["pooled", "pooled"] == (n_bonafide, len(attacks))
    by_attack = {name: counts for (by, name), counts in rows.items() if by == "attack"}
    if len(set(attacks)) > 1:
        assert by_attack == {attack: (n_bonafide, attacks.count(attack)) for attack in attacks}
    return rows


def test_no_corpus_is_left_out():
    assert {*TREES, *LISTS} == set(CORPORA) - {"list", "SASV"}  # ids alone, and scores


@pytest.mark.parametrize("corpus", LISTS)
def test_a_corpus_with_a_list(corpus, tmp_path, output):
    key, trials = unpack(tmp_path, corpus)
    assert corpora.read_table(key).corpus == corpus
    audio_dirs = [tmp_path / LISTS[corpus].audio_dir] if LISTS[corpus].audio_dir else []
    read = corpora.read_trials(key, *audio_dirs)
    assert {
        trial.utt_id: ("bonafide" if trial.label else "spoof", trial.attack, trial.path) for trial in read
    } == trials
    scores, report = train_score_report(tmp_path, [key], audio_dirs, output)
    assert list(scores) == list(trials)
    assert report["corpus"] == corpus
    rows = check_report(report, [trial[:2] for trial in trials.values()])
    broken_down = {column: [name for by, name in rows if by == column] for column, _ in rows}
    assert {column: names for column, names in broken_down.items() if column not in ("pooled", "attack")} == LISTS[
        corpus
    ].by


@pytest.mark.parametrize("corpus", [name for name in TREES if name != "BonaFide"])
def test_a_corpus_without_a_list(corpus, tmp_path, output):
    names = [corpus, "BonaFide"] if CORPORA[corpus].bonafide_from else [corpus]
    lists, audio_dirs, trials = [tmp_path / f"{name}.csv" for name in names], [], {}
    for name, path in zip(names, lists):
        audio_dirs.append(tmp_path / name)
        record_audio(audio_dirs[-1], TREES[name])
        path.write_text(output(list_command.main, [name, str(audio_dirs[-1])]))
        inside = audio_dirs[-1] / "list.csv"  # its audio is then found without a flag
        inside.write_text(path.read_text())
        assert [trial.path for trial in corpora.read_trials(inside)] == [str(audio_dirs[-1] / p) for p in TREES[name]]
        table = corpora.read_table(path)
        words = {column: [values.values[code] for code in values.codes] for column, values in table.columns.items()}
        rows = zip(*(words[column] for column in ("attack", "speaker", "language", "split")))
        labels = ["bonafide" if label else "spoof" for label in table.label]
        expected = {path.rpartition(".")[0]: row for path, row in TREES[name].items()}
        assert {utt_id: (label, *row) for utt_id, label, row in zip(table.utt_id, labels, rows)} == expected
        trials |= expected
    scores, report = train_score_report(tmp_path, lists, audio_dirs, output)
    assert set(scores) == set(trials)
    rows = check_report(report, [row[:2] for row in trials.values()])
    for i, column in ((3, "language"), (4, "split")):
        values = {row[i] for row in trials.values()} - {"-"}
        assert {name for by, name in rows if by == column} == (values if len(values) > 1 else set())


def test_the_docs_have_every_corpus_as_its_record_says():
    lines = [line for line in DOCS.splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert sorted(name.strip("`") for name, *_ in rows) == sorted(set(CORPORA) - {"SASV"})
    for name, files, labels, breakdowns in rows:
        name = name.strip("`")
        record = CORPORA[name]
        if record.paths:
            groups = re.compile(record.paths).groupindex
            columns = [column for column in ("attack", "language", "split") if column in groups]
            assert files.strip("`") == record.layout and record.bonafide_from in labels
            assert breakdowns == ", ".join(columns), name
        else:
            patterns = [pattern for cell in re.findall("`(.*?)`", files) for pattern in expand(cell)]
            names = [*record.lists.values(), *record.keys]
            assert not names or all(any(fnmatch(name, pattern) for name in names) for pattern in patterns), name
            assert not names or patterns, name
            assert breakdowns == ("" if name == "list" else ", ".join(record.breakdowns)), name


def test_the_docs_name_the_corpora_with_lists():
    text = " ".join((ROOT / "docs" / "reports.md").read_text(encoding="utf-8").split())
    (told,) = re.findall(r"what each is broken down by: (.*?), and tables of your own", text)
    told = re.sub("[-_ ]", "", told).lower()
    for name, record in CORPORA.items():
        if record.paths is None and name not in ("csv", "list", "SASV"):
            parts = re.findall(r"\d+|\D+", re.sub(r"_(LA|DF|PA|metainfo)$|_", "", name).lower())
            assert all(part in told for part in parts), name


def test_the_docs_name_the_corpora_without_lists():
    text = " ".join((ROOT / "docs" / "reports.md").read_text(encoding="utf-8").split())
    (names,) = re.findall(r"makes a list of a corpus that has none: (.*?)\.", text)
    names = {re.sub(r"[- (]+", "_", name.rstrip(")")) for name in names.split(", ")}
    assert names == set(TREES) - {"BonaFide"}
    assert "(corpora.md)" in text


def test_spoofed_speech_is_joined_with_another_corpus_as_the_docs_say(tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    record_audio(tmp_path / "WAVEFAKE", TREES["WaveFake"])
    record_audio(tmp_path / "LJSPEECH", TREES["BonaFide"])
    record_audio(tmp_path / "DEV", ["a.wav", "b.wav"])
    Path("dev.csv").write_text("path,label\na.wav,spoof\nb.wav,bonafide\n")
    (block,) = re.findall(r"```console\n(.*?)```", DOCS, re.DOTALL)
    for line in block.splitlines():
        command, _, file = line.removeprefix("$ ").partition(" > ")
        words = shlex.split(
            command.removeprefix("python ").replace("CKPT.pt", "".join(map(str, Path().glob("**/best_*.pt"))))
        )
        if words[:2] == ["-m", "corpora"]:
            Path(file).write_text(output(list_command.main, words[2:]))
        elif words[0] == "train.py":
            output(train.main, [*words[1:], *SHORT])
        elif words[0] == "eval.py":
            output(eval_command.main, words[1:])
        elif words[0] == "EER_minDCF.py":
            report = output(EER_minDCF.main, [*words[1:], "--replicates", "20"])
        else:
            subprocess.run(["bash", "-c", f"{command} > {file}"], check=True)
    assert "3 bona fide and 4 spoofed trials" in report and "\nljspeech_melgan " in report
