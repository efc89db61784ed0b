"""train.py by recipe, and what recipes need beside the corpora's: schedules, early stopping, FIR, other losses."""

import dataclasses
import json
import math

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT

import checkpoints
import corpora
import train
from back_ends import BACK_ENDS
from common.audio import load_audio
from data_utils import first_samples
from training.config import TrainingConfig
from training.kept import KeptCheckpoints
from training.recipes import RECIPES
from training.schedules import EVERY_STEP, SCHEDULES, validates


def parse(*flags):
    return train.parse_args(["--database_path", "x", *flags])


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_sets_every_flag_that_it_says(name):
    config, model_flags = parse("--recipe", name)
    values = {**dataclasses.asdict(config), **model_flags}
    for flag, value in RECIPES[name].items():
        if flag != "not_carried_over":
            found = values[flag]
            assert (list(found) if isinstance(found, tuple) else found) == value, flag


def test_the_demo_is_trained_as_before_it_was_a_recipe():
    flags = "--model_name wav2vec2_Nes2Net_X --ssl tiny --Nes_ratio 4 4 --algo 8 --crop 24000 --crop_place random"
    flags += " --epochs 20 --batch_size 16 --optimizer AdamW --lr 0.002 --weight_decay 0.01 --schedule onecycle"
    flags += " --class_weights 0.5 0.5 --keep every --average_best 3 --seed 1"
    before, model_before = parse(*flags.split())
    config, model_flags = parse("--recipe", "demo")
    assert (dataclasses.replace(config, recipe=None), model_flags) == (before, model_before)
    command = next(line for line in (ROOT / "train.sh").read_text().splitlines() if "--foldername nes2net_x" in line)
    data = "--database_path $corpus --log_dir demo/logs --foldername nes2net_x --resume auto"
    assert command.split()[1:] == ["train.py", "--recipe", "demo", *data.split()]


def test_every_published_rival_has_a_recipe():
    named = {recipe["model_name"].split("_", 1)[1] for recipe in RECIPES.values()}
    assert named >= {name for name in BACK_ENDS if not name.startswith("Nes2Net")} - {"ASP_MLP"}


def test_flags_override_a_recipe_and_the_corpus_fills_in():
    flags = ["--recipe", "AttM_LSTM", "--lr", "0.5", "--model_name", "WavLM_MHFA", "--class_weights", "1", "2"]
    config, model_flags = parse(*flags)
    assert (config.lr, model_flags["model_name"], config.class_weights) == (0.5, "WavLM_MHFA", (1, 2))
    assert (config.batch_size, config.seed) == (64, 1234)  # the recipe's, the corpus's
    assert parse("--model_name", "wav2vec2_AASIST")[0].lr == 1e-6


def test_recipes_are_listed_and_wrong_ones_named(capsys, fails):
    with pytest.raises(SystemExit) as ended:
        train.parse_args(["--recipe", "list"])
    assert not ended.value.code
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")] == list(RECIPES)
    (conformer,) = (line for line in lines if line.startswith("Conformer:"))
    assert "--model_name wav2vec2_Conformer --epochs 75 --early_stop 7 --batch_size 20" in conformer
    fails(train.main, ["--recipe", "Nonsense", "--database_path", "x"], "--recipe", "Conformer", "found Nonsense")


def rates(schedule, n_steps=4, **flags):
    """The learning rate of every epoch's first step."""
    config = TrainingConfig(schedule=schedule, lr=1, epochs=9, **flags)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = SCHEDULES[schedule](config, optimizer, n_steps)
    found = []
    for _ in range(config.epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for _ in range(n_steps if schedule in EVERY_STEP else 1):
            scheduler.step()
    return found


def test_schedules_of_recipes():
    assert rates("step", T_max=3, gamma=0.5) == pytest.approx([1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25])
    assert rates("exponential", min_lr=1e-3) == pytest.approx([1e-3 ** (e / 9) for e in range(9)])
    # Pan et al. 2024: lr (e + 1) / 5 for e < 5, then lr 0.8^(e - 5).
    expected = [0.2, 0.4, 0.6, 0.8, 1, 1, 0.8, 0.64, 0.512]
    assert rates("warmup_exponential", warmup_epochs=5, gamma=0.8) == pytest.approx(expected)
    cosine = [(1 + math.cos(math.pi * e / 6)) / 2 for e in range(6)]
    assert rates("warmup_cosine", warmup_epochs=3) == pytest.approx([1 / 3, 2 / 3, 1, *cosine])
    # Of 9 epochs of 4 steps: min + (max - min) (1 + cos(pi step / steps)) / 2.
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * 4 * e / 36)) / 2 for e in range(9)]
    assert rates("cosine_decay", min_lr=0.1) == pytest.approx(cosine, rel=1e-12)
    warmed_up = [0, 1 / 2, *(0.1 + 0.9 * (1 + math.cos(math.pi * e / 7)) / 2 for e in range(7))]
    assert rates("warmup_cosine_decay", warmup_epochs=2, min_lr=0.1) == pytest.approx(warmed_up)
    with_many = rates("cosine_decay", n_steps=500, min_lr=0.1)
    assert with_many == pytest.approx(cosine, rel=1e-9)


def test_epochs_before_the_first_that_is_asked_for_are_not_validated():
    def validated(**flags):
        config = TrainingConfig(validation="eer", **flags)
        return [epoch for epoch in range(1, config.epochs + 1) if validates(config, epoch)]

    assert validated(schedule="cosine_decay", epochs=14, validate_from=11) == [11, 12, 13, 14]
    assert validated(schedule="cosine_decay", epochs=3, validate_from=11) == [3]
    assert validated(schedule="constant", epochs=3) == [1, 2, 3]
    every = validated(schedule="cosine", epochs=75, T_max=5)
    assert validated(schedule="cosine", epochs=75, T_max=5, validate_from=20) == [e for e in every if e >= 20]


@pytest.mark.parametrize(
    "keep, kept, stale", [("improved", [1, 2, 6], 0), ("not_worse", [1, 2, 3, 5, 6], 0), ("every", [*range(1, 8)], 1)]
)
def test_an_equal_figure_is_kept_and_counts_as_no_worse_if_asked_for(keep, kept, stale, tmp_path):
    """The published rule for not_worse: `if best >= eer: save, best = eer, wait = 0, else: wait += 1`."""
    config = TrainingConfig(validation="eer", keep=keep)
    state = {"best": {}, "stale": 0, "kept": {}}
    kept_checkpoints = KeptCheckpoints(config, None, tmp_path, state)
    kept_checkpoints.save_weights = lambda *a, **k: None
    counts = []
    for epoch, eer in enumerate([0.4, 0.2, 0.2, 0.3, 0.2, 0.1, 0.3][: 7 if keep == "every" else 6], 1):
        names = kept_checkpoints.keep_validated(epoch, {"eer": eer})
        assert bool(names) == (epoch in kept)
        assert ("best_model.pt" in names) == (epoch in ([1, 2, 3, 5, 6] if keep == "not_worse" else [1, 2, 6]))
        counts.append(state["stale"])
    assert sorted(state["kept"]) == kept and counts[-1] == stale
    assert counts[:5] == ([0, 0, 0, 1, 0] if keep == "not_worse" else [0, 0, 1, 2, 3])


def test_one_class_softmax_with_filters_until_it_gets_no_better(tmp_path, train_flags, output):
    """The rate is so high that the training loss soon rises; the epoch before is the one that is kept."""
    flags = ["--loss", "OC_softmax", "--n_output_logits", "1", "--augment", "FIR-NB", "--epochs", "20", "--lr", "0.3"]
    flags += ["--early_stop", "1", "--average_by", "train_loss", "--average_best", "1", "--schedule", "constant"]
    command = [*train_flags, *flags, "--keep_best", "1", "--log_dir", str(tmp_path), "--foldername", "run"]
    text = output(train.main, command)
    assert "stopped early: 1 validated epochs without a lower train_loss" in text
    losses = [float(line.split("train_loss ")[1].split()[0]) for line in text.splitlines() if "train_loss " in line]
    losses = losses[: len([line for line in text.splitlines() if line.startswith("epoch ")])]
    assert len(losses) < 20 and losses[-1] >= losses[-2] and losses[:-1] == sorted(losses[:-1], reverse=True)

    (folder,) = (tmp_path / "run").iterdir()
    training = json.loads((folder / "config.json").read_text())["training"]
    assert (training["augment"], training["early_stop"], training["loss"]) == ("FIR-NB", 1, "OC_softmax")
    kept = checkpoints.read_checkpoint(folder / "checkpoints" / "average_best_1.pth")
    assert kept["averaged"] == [f"epoch_{len(losses) - 1}.pth"]
    detector = checkpoints.load_detector(folder / "checkpoints" / "average_best_1.pth")
    assert detector.config.output == "cosine"
    with torch.inference_mode():
        assert detector.score(100 * torch.randn(5, 8000)).abs().max() <= 1


def test_a_run_by_the_asvspoof_5_recipe(tmp_path, corpus, output):
    """Its lists, its augmentation, its validation, at the size of a toy."""
    lists = {"train": "ASVspoof5.train.tsv", "dev": "ASVspoof5.dev.track_1.tsv"}
    for split, name in lists.items():
        lines = []
        for trial in corpora.read_trials(*corpora.official_files("ASVspoof2019_LA", split, corpus)):
            key = "bonafide" if trial.label else "spoof"
            lines.append(f"{trial.speaker} {trial.utt_id} F - - - AC1 {trial.attack} {key} -\n")
        (tmp_path / name).write_text("".join(lines))
        (tmp_path / f"flac_{split[0].upper()}").symlink_to(corpus / f"ASVspoof2019_LA_{split}" / "flac")
    rng = np.random.default_rng(0)
    for folder in ("musan/noise", "musan/music", "rooms"):
        (tmp_path / folder).mkdir(parents=True)
        soundfile.write(tmp_path / folder / "a.wav", 0.1 * rng.standard_normal(4000), 16000)
    command = ["--recipe", "Nes2Net_X_ASVspoof5", "--ssl", "tiny", "--Nes_ratio", "2", "2", "--crop", "8000"]
    command += ["--train_protocol", str(tmp_path / lists["train"]), "--dev_protocol", str(tmp_path / lists["dev"])]
    command += ["--noise_dir", str(tmp_path / "musan"), "--room_dir", str(tmp_path / "rooms"), "--num_workers", "0"]
    command += ["--epochs", "2", "--batch_size", "8", "--log_dir", str(tmp_path / "logs"), "--foldername", "run"]
    text = output(train.main, command)
    assert "feature_grad_mult 0 (recipe)" in text
    (first,) = [line for line in text.splitlines() if line.startswith("epoch 1/2")]
    assert " - lr " in first  # not validated
    (folder,) = (tmp_path / "logs" / "run").iterdir()
    (kept,) = (folder / "checkpoints").glob("model_2_EER_*.pt")
    stored = checkpoints.read_checkpoint(kept)
    assert stored["config"]["agg"] == "last" and stored["config"]["n_output_logits"] == 2

    # The figures of the dev set are of the first samples alone.
    dev = corpora.read_trials(tmp_path / lists["dev"])
    detector = checkpoints.load_detector(kept)
    x = torch.from_numpy(np.stack([first_samples(load_audio(trial.path), 8000) for trial in dev]))
    labels = torch.tensor([trial.label for trial in dev])
    with torch.inference_mode():
        logits = detector(x)
    expected = torch.nn.functional.cross_entropy(logits, labels, weight=torch.tensor([0.1, 0.9]))
    assert stored["valid"]["loss"] == pytest.approx(expected.item(), abs=1e-5)


def test_a_loss_that_does_not_fit_is_named(train_flags, fails):
    fails(train.main, [*train_flags, "--loss", "OC_softmax"], "--loss OC_softmax", "weighted_CCE or AM_softmax")
    fails(train.main, ["--database_path", "x", "--model_name", "wav2vec2_SLS", "--ssl", "tiny", "--loss", "AM_softmax"])
