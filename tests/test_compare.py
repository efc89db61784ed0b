"""tools/compare.py: commands run in this process, in place of those that it starts."""

import csv
import json
import statistics

import pytest
import torch

import checkpoints
import EER_minDCF
import eval
import train
from common.console import UserError
from corpora import read_scores, read_table
from model import count_parameters
from reports.metrics import compute_eer
from tools import compare
from tools.cost import multiply_accumulates

pytestmark = pytest.mark.slow
KEY = "ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.eval.trl.txt"
ON_DEMO = ["--corpus", "x", "--front_end", "LogMel", "--ssl", "logmel"]


class Commands:
    """In place of compare.script: runs a command in this process, and is interrupted at the one numbered `stop`."""

    def __init__(self):
        self.done, self.stop = [], None

    def __call__(self, name, *flags):
        if len(self.done) == self.stop:
            raise UserError("interrupted")
        {"train": train.main, "eval": eval.main}[name](list(map(str, flags)))
        self.done.append((name, flags))


@pytest.fixture
def commands(monkeypatch):
    commands = Commands()
    monkeypatch.setattr(compare, "script", commands)
    return commands


def settings_of(flags):
    """{system: (TrainingConfig, model flags)} of a comparison's runs."""
    args, given = compare.parse_args(flags)
    return {name: train.parse_args([*own, *given]) for name, own in compare.systems_of(args).items()}


def test_flags_of_train_count_more_than_those_of_the_demo_and_of_recipes():
    settings = settings_of([*ON_DEMO[:2], "--back_ends", "SLS", "Nes2Net", "--recipes", "TCM", "--lr", "0.5"])
    (sls, sls_model), (_, nested_model), (tcm, _) = settings.values()
    assert list(settings) == ["SLS", "Nes2Net", "recipe_TCM"]
    assert (sls.batch_size, sls.crop, sls.average_best, sls.lr, sls.database_path) == (16, 24000, 3, 0.5, "x")
    assert (tcm.batch_size, tcm.crop, tcm.algo, tcm.lr) == (20, 66800, 5, 0.5)
    assert sls_model == {"model_name": "wav2vec2_SLS", "ssl": "tiny"}
    assert nested_model["Nes_ratio"] == [4, 4]
    assert train.choose_loss(sls.loss, 2) == "weighted_CCE"


def test_a_recipe_takes_the_front_end_that_is_asked_for():
    (_, model), *_ = settings_of(["--corpus", "x", "--recipes", "AttM_LSTM"]).values()
    assert model == {"model_name": "WavLM_AttM_LSTM", "ssl": "tiny"}
    (_, model), *_ = settings_of(["--corpus", "x", "--recipes", "AttM_LSTM", "--front_end", "wav2vec2"]).values()
    assert model["model_name"] == "wav2vec2_AttM_LSTM"


def test_every_back_end_is_compared_with_nes2net_x():
    args, _ = compare.parse_args(["--corpus", "x"])
    assert args.back_ends[0] == "Nes2Net_X" and set(args.back_ends) == set(compare.BACK_ENDS)


@pytest.mark.parametrize(
    "flags, words",
    [
        ([], ["--corpus", "--key"]),
        (["--corpus", "x", "--key", "y"], ["--corpus", "--key"]),
        (["--corpus", "x", "--seed=3"], ["--seed:", "--seeds"]),
        (["--corpus", "x", "--model_name", "wav2vec2_GF"], ["--model_name:", "--back_ends"]),
    ],
)
def test_flags_that_make_no_comparison(flags, words, capsys):
    with pytest.raises(SystemExit) as ended:
        compare.parse_args(flags)
    assert ended.value.code == 2
    message = capsys.readouterr().err.splitlines()[-2]
    assert all(word in message for word in words), message


def test_any_corpus_two_seeds_and_a_recipe_interrupted_and_resumed(tmp_path, corpus, commands, output, fails):
    """A LogMel front-end, lists and a key instead of the demo's folder."""
    lists, out = corpus / "ASVspoof2019_LA_cm_protocols", tmp_path / "out"
    flags = ["--train_protocol", lists / "ASVspoof2019.LA.cm.train.trn.txt"]
    flags += ["--dev_protocol", lists / "ASVspoof2019.LA.cm.dev.trl.txt", "--num_workers", "0"]
    flags += ["--front_end", "LogMel", "--epochs", "1", "--batch_size", "8", "--crop", "8000", "--crop_place", "random"]
    flags += ["--key", corpus / KEY, "--attack_groups", corpus / "attack_groups.csv", "--out", out]
    flags = [*map(str, flags), "--back_ends", "GF", "--recipes", "LGF", "--average_best", "1"]

    commands.stop = 3  # two systems are trained, one is scored
    fails(compare.main, flags, "interrupted")
    assert [name for name, _ in commands.done] == ["train", "eval", "train"]
    commands.stop = None
    before = (out / "scores" / "GF_seed1.txt").stat()
    text = output(compare.main, [*flags, "--seeds", "1", "2"])
    assert [name for name, _ in commands.done[3:]] == ["train", "eval"] * 3  # of which one run had been trained
    assert len(list((out / "logs" / "recipe_LGF_seed1").iterdir())) == 1
    assert (out / "scores" / "GF_seed1.txt").stat().st_mtime_ns == before.st_mtime_ns
    settings = json.loads(next((out / "logs" / "recipe_LGF_seed2").glob("*/config.json")).read_text())["training"]
    assert (settings["seed"], settings["schedule"], settings["batch_size"]) == (2, "step", 8)

    rows = {row["system"]: row for row in csv.DictReader((out / "table.csv").read_text().splitlines())}
    assert set(rows) == {"GF", "recipe_LGF"}
    trials = read_table(corpus / KEY)
    for name, row in rows.items():
        eers = []
        for seed in (1, 2):
            scores = read_scores(out / "scores" / f"{name}_seed{seed}.txt")
            classes = ([scores[u] for u, label in zip(trials.utt_id, trials.label) if label == k] for k in (1, 0))
            eers.append(100 * compute_eer(*classes)[0])
        figures = {"best": min(eers), "mean": statistics.mean(eers), "sd": statistics.stdev(eers)}
        assert {what: float(row[f"pooled {what}"]) for what in figures} == pytest.approx(figures)
        assert float(row["pooled low"]) <= float(row["pooled mean"]) <= float(row["pooled high"])
        assert row["below 50 %"] == ("yes" if float(row["pooled high"]) < 50 else "no")
        assert (row["p"] == "") == (name == "GF")  # the first is the baseline
        (path,) = (out / "logs" / f"{name}_seed1").glob("*/checkpoints/average_best_1.pth")
        detector = checkpoints.load_detector(path)
        assert int(row["parameters"]) == count_parameters(detector.back_end)
        features = torch.zeros(1, detector.front_end.n_frames(64600), detector.front_end.channels)
        assert float(row["MMACs"]) == multiply_accumulates(detector.back_end, features) / 1e6
        assert float(row["seconds"]) > 0
        shown = f"| {figures['best']:.1f} ({figures['mean']:.1f} ± {figures['sd']:.1f}) |"
        assert next(line for line in text.splitlines() if line.startswith(f"| {name} |")).count(shown) == 1
    means = [float(row["pooled mean"]) for row in rows.values()]
    assert means == sorted(means)
    report = json.loads(
        output(
            EER_minDCF.main,
            ["--labels_file", str(corpus / KEY), "--path", str(out / "scores" / "GF_seed1.txt"), "--json"]
            + ["--attack_groups", str(corpus / "attack_groups.csv")],
        )
    )
    groups = {row["name"] for row in report["rows"] if row["by"] == "group"}
    assert groups == {column[:-5] for column in rows["GF"] if column.endswith(" mean")} - {"pooled"}
    assert (out / "table.md").read_text() in text
    assert (out / "table.png").read_bytes().startswith(b"\x89PNG")

    n_commands = len(commands.done)
    assert output(compare.main, [*flags, "--seeds", "1", "2"]).splitlines()[-4:-1] == text.splitlines()[-4:-1]
    assert len(commands.done) == n_commands
    fails(compare.main, [*flags, "--lr", "0.1"], "--out", "flags")


def test_what_would_fail_the_table_is_told_before_training(tmp_path, commands, fails):
    fails(compare.main, ["--corpus", str(tmp_path / "absent"), "--out", str(tmp_path)], "absent", "eval.trl.txt")
    key = tmp_path / "key.csv"
    key.write_text("path,label\nx.flac,spoof\n")
    fails(compare.main, ["--key", str(key), "--out", str(tmp_path)], "--key", str(key))
    assert not commands.done


def test_a_failed_run_ends_the_comparison(tmp_path, corpus, fails):
    flags = ["--corpus", str(corpus), "--out", str(tmp_path / "out"), "--epochs", "0"]
    fails(compare.main, flags, "train.py", "status 2")
