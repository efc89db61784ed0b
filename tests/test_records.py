"""A corpus, a figure or a column of a report is one entry: made here, it works everywhere with no other change."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import TINY_FLAGS

import checkpoints
import corpora
import EER_minDCF
import eval as eval_command
import train
from common.console import UserError
from reports import figures, metrics, tables

ROOT = Path(__file__).parent.parent
RADIO = corpora.Corpus(
    columns=("utt_id", "station", "attack", "key"),
    bonafide="live",
    spoof="fake",
    roots=("", "Radio"),
    lists={split: f"radio.{split}.lst" for split in ("train", "dev", "final")},
    list_folders=("lists",),
    audio={split: (f"{split}/waves",) for split in ("train", "dev", "final")},
    keys=("Radio/lists/radio.final.lst",),
    recipe={"epochs": 2, "batch_size": 5, "lr": 0.002, "crop": 4000, "validation": "eer", "algo": 0, "seed": 7},
    recipe_of_models={"wav2vec2_Nes2Net_X": {"epochs": 1}},
    drop_last=False,
    track="radio",
    test_length=6000,
    test_protocol="4sec",
    breakdowns={"station": (), "attack": ("vocoder", "concatenation")},
    cluster="station",
    published="in_the_wild",
)


@pytest.fixture
def radio(tmp_path, monkeypatch):
    """An archive of a corpus of its own: 4 columns, other words for the labels, other folders."""
    monkeypatch.setitem(corpora.CORPORA, "Radio", RADIO)
    rng = np.random.default_rng(0)
    for split, n in (("train", 12), ("dev", 8), ("final", 24)):
        folder = tmp_path / "Radio" / split / "waves"
        folder.mkdir(parents=True)
        lines = []
        for i in range(n):
            live = i % 2 == 0
            soundfile.write(folder / f"{split}{i}.wav", 0.1 * rng.standard_normal(7000 + 10 * i), 16000)
            attack = "-" if live else ["concatenation", "amateur2", "amateur10", "vocoder"][i // 2 % 4]
            lines.append(f"{split}{i} {'AB'[i // 4 % 2]} {attack} {'live' if live else 'fake'}\n")
        (tmp_path / "Radio" / "lists").mkdir(exist_ok=True)
        (tmp_path / "Radio" / "lists" / f"radio.{split}.lst").write_text("".join(lines))
    return tmp_path


def test_a_corpus_is_one_record(radio, tmp_path, output):
    lists = radio / "Radio" / "lists"
    # Recognised, found: by the list alone, and by the archive's folder alone.
    assert corpora.read_table(lists / "radio.dev.lst").corpus == "Radio"
    assert [trial.label for trial in corpora.read_protocol(lists / "radio.dev.lst")] == [1, 0] * 4
    assert corpora.read_trials(lists / "radio.dev.lst")[0].path == str(radio / "Radio/dev/waves/dev0.wav")
    expected = lists / "radio.train.lst", radio / "Radio" / "train" / "waves"
    assert corpora.official_files("Radio", "train", radio) == expected

    # Trained on, by its own recipe.
    data = ["--train_protocol", str(lists / "radio.train.lst"), "--dev_protocol", str(lists / "radio.dev.lst")]
    logs = ["--log_dir", str(tmp_path / "logs"), "--foldername", "run", "--num_workers", "0"]
    output(train.main, [*data, *TINY_FLAGS, *logs])
    (run,) = (tmp_path / "logs" / "run").iterdir()
    training = json.loads((run / "config.json").read_text())["training"]
    wanted = RADIO.recipe | {"corpus": "Radio", "epochs": 1}
    assert {name: training[name] for name in wanted} == wanted
    (checkpoint,) = run.glob("checkpoints/*EER*.pt")
    assert checkpoints.read_checkpoint(checkpoint)["config"]["ssl"] == "tiny"

    # Scored, at its own test length; the evaluation set is that of its last list.
    scores = tmp_path / "scores.txt"
    flags = ["--database_path", str(radio), "--model_path", str(checkpoint), "--eval_output", str(scores)]
    text = output(eval_command.main, ["--track", "radio", *flags, "--num_workers", "0"])
    assert "trials: 24, first 6000 samples" in text and list(corpora.read_scores(scores))[0] == "final0"

    # Reported and broken down in its order; the key is found in the folder; its published program gives a figure.
    flags = ["--path", str(scores), "--labels_file", str(radio), "--replicates", "20", "--published", "--json"]
    report = json.loads(output(EER_minDCF.main, flags))
    assert report["corpus"] == "Radio" and report["key"] == str(lists / "radio.final.lst")
    names = [(row["by"], row["name"]) for row in report["rows"]]
    attacks = ["vocoder", "concatenation", "amateur2", "amateur10"]
    assert names == [("pooled", "pooled"), ("station", "A"), ("station", "B"), *(("attack", name) for name in attacks)]
    values = np.array(list(corpora.read_scores(scores).values()))
    pooled = report["rows"][0]["figures"]
    assert pooled["eer"]["value"] == metrics.compute_eer(values[::2], values[1::2])[0]
    assert "published_eer" in pooled and "published_min_dcf" not in pooled


def test_a_line_that_fits_no_record_names_the_new_one_too(radio):
    path = radio / "list.txt"
    path.write_text("a b c d e f g\n")
    with pytest.raises(UserError, match="Radio: utt_id station attack key"):
        corpora.read_table(path)
    path.write_text("a A - live\nb B vocoder fake\nc B - spoof\n")
    with pytest.raises(UserError, match=":3: .*live .*fake .*spoof"):
        corpora.read_table(path)


def test_corpora_with_as_many_columns_are_told_apart(tmp_path, monkeypatch):
    spoken = corpora.Corpus(columns=("speaker", "utt_id", "gender", "attack", "key"), first_line={"gender": "F|M"})
    monkeypatch.setitem(corpora.CORPORA, "Spoken", spoken)
    part = corpora.Corpus(columns=spoken.columns, some_line={"gender": ("X",)})
    monkeypatch.setitem(corpora.CORPORA, "Part", part)
    table = corpora.Corpus(columns=("utt_id", "verdict", "key"), header=True, bonafide="human", spoof="machine")
    monkeypatch.setitem(corpora.CORPORA, "Table", table)
    path = tmp_path / "key.txt"
    for text, corpus, genders in (
        ("S1 a - A07 spoof\nS2 b - - bonafide\n", "ASVspoof2019_LA", None),
        ("S1 a M A07 spoof\nS2 b F bonafide bonafide\n", "Spoken", ["M", "F"]),
        ("S1 a M A07 spoof\nS2 b X - bonafide\n", "Part", ["M", "X"]),
        ("utt_id,verdict,key\na,sure,machine\nb,human,human\n", "Table", None),
    ):
        path.write_text(text)
        read = corpora.read_table(path, columns=())
        assert (read.corpus, read.utt_id, read.label.tolist()) == (corpus, ["a", "b"], [0, 1])
        read = corpora.read_table(path)
        assert not genders or read.columns["gender"].values == genders
        for name in {"attack", "verdict"} & read.columns.keys():  # the word for bona fide is no attack
            assert "-" in read.columns[name].values, text


def test_a_split_that_a_corpus_has_no_list_of_is_named(tmp_path):
    with pytest.raises(UserError, match="ASVspoof2021_LA.* eval"):
        corpora.official_files("ASVspoof2021_LA", "train", tmp_path)
    with pytest.raises(UserError, match="in_the_wild"):
        corpora.official_files("in_the_wild", "train", tmp_path)


def test_names_of_corpora_stand_in_their_records_alone():
    """Recipes are named after the corpus that they are for, and the benchmark makes keys of some."""
    names = "|".join(name for name in corpora.CORPORA if name not in ("list", "csv"))
    for path in sorted(ROOT.rglob("*.py")):
        folder = path.relative_to(ROOT).parts[0]
        if folder not in ("corpora", "tests", "tools") and not path.name.startswith("recipes") and folder[0] != ".":
            for number, line in enumerate(path.read_text().splitlines(), 1):
                programs = path.name == "published.py" and "{" in line  # a program is named after its corpus
                assert programs or not re.search(rf"[\"']({names})[\"']|corpus (==|!=|in) ", line), f"{path}:{number}"


@pytest.fixture
def scored(tmp_path):
    """Flags of a report on two systems by attack, and the scores of the first."""
    rng = np.random.default_rng(1)
    key, scores = [], {}
    for i in range(300):
        attack = "-" if i % 3 == 0 else f"A0{i % 3}"
        key.append(f"S{i % 25} u{i} - {attack} {'bonafide' if attack == '-' else 'spoof'}\n")
        scores[f"u{i}"] = round(rng.normal(1.5 * (attack == "-")), 3)
    (tmp_path / "key.txt").write_text("".join(key))
    corpora.write_scores(tmp_path / "first.txt", scores)
    corpora.write_scores(tmp_path / "second.txt", {name: x + rng.normal() for name, x in scores.items()})
    paths = [str(tmp_path / f"{name}.txt") for name in ("first", "second")]
    return ["--labels_file", str(tmp_path / "key.txt"), "--path", *paths, "--replicates", "30"], scores


def test_a_figure_is_one_entry(scored, output, monkeypatch):
    """The half total error rate at its best threshold: with its interval in every form, and compared."""
    flags, scores = scored
    hter = figures.Figure("min_hter", "min HTER %", lambda curve: np.min(curve.frr + curve.far, axis=-1) / 2, scale=100)
    monkeypatch.setattr(figures, "FIGURES", [*figures.FIGURES, hter])
    values = np.array(list(scores.values()))
    bonafide, attack = values[::3], values[1::3]
    expected = min(np.mean(bonafide <= t) + np.mean(attack > t) for t in values) / 2

    report = json.loads(output(EER_minDCF.main, [*flags, "--json"]))
    (row,) = (row for row in report["rows"] if (row["name"], row["system"]) == ("A01", "first"))
    found = row["figures"]["min_hter"]
    assert found["value"] == pytest.approx(expected) and found["low"] < expected < found["high"]
    (comparison,) = (c for c in report["comparisons"] if c["figure"] == "min_hter")
    assert comparison["low"] < comparison["difference"] < comparison["high"] < 0
    text, latex = output(EER_minDCF.main, flags), output(EER_minDCF.main, [*flags, "--latex"])
    low, high = f"{100 * found['low']:.4f}", f"{100 * found['high']:.4f}"
    assert re.search(rf"^A01 +first .* {100 * expected:.4f} +{low} to {high} +100 +100$", text, re.M)
    assert "min HTER %: first - second" in text
    assert r"min HTER \%" in latex and f"{100 * expected:.4f} [{low}, {high}] & 100 & 100" in latex
    rows = list(csv.DictReader(io.StringIO(output(EER_minDCF.main, [*flags, "--csv"]))))
    assert [float(rows[0][f"min_hter{end}"]) > 0 for end in ("", "_low", "_high")] == [True] * 3

    monkeypatch.setattr(figures, "FIGURES", [figures.replace(hter, pooled_only=True), *figures.FIGURES[:1]])
    text = output(EER_minDCF.main, flags)
    assert text.count("min HTER %") == 2  # below the tables, once a system


def test_a_column_is_one_entry(scored, output, monkeypatch):
    flags, _ = scored
    column = tables.Column("n", "trials", lambda row: len(row.condition.bonafide) + len(row.condition.spoof))
    monkeypatch.setattr(tables, "COLUMNS_RIGHT", [*tables.COLUMNS_RIGHT, column])
    report = json.loads(output(EER_minDCF.main, [*flags, "--json"]))
    assert [row["n"] for row in report["rows"]] == [300, 300, 200, 200, 200, 200]
    assert re.search(r"^A01 +first .* 100 +100 +200$", output(EER_minDCF.main, flags), re.M)
    assert "100 & 100 & 200 \\\\" in output(EER_minDCF.main, [*flags, "--latex"])
    assert output(EER_minDCF.main, [*flags, "--csv"]).startswith("by,name,system,n_bonafide,n_spoof,n,eer")
