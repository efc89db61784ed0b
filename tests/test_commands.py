"""The commands, end to end on a small corpus: what they write, what they print, how they fail."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY_FLAGS, speech_like
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import checkpoints
import corpora
import easy_inference_demo
import EER_minDCF
import eval as scoring
import model
import train
from common.console import UserError
from corpora import BONAFIDE, SPOOF
from data_utils import load_audio
from model import ModelConfig
from tools import demo_chain, make_demo_corpus
from training import schedules
from training.config import TrainingConfig

ROOT = Path(__file__).parent.parent
EVAL_LIST = "ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.eval.trl.txt"


def weights(folder, name):
    return checkpoints.read_checkpoint(Path(folder) / "checkpoints" / name)["model"]


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[key], other[key]) for key in state)


# ---------------------------------------------------------------------------------------------- make_demo_corpus


def test_the_corpus_is_laid_out_as_asvspoof2019(corpus):
    speakers = {}
    for split, expected in [("train", 32), ("dev", 20), ("eval", 24)]:
        protocol, audio = corpora.official_files("ASVspoof2019_LA", split, corpus)
        trials = corpora.locate_audio(corpora.read_protocol(protocol, "ASVspoof2019_LA"), audio)
        assert len(trials) == expected == len(os.listdir(audio))
        assert {trial.label for trial in trials} == {BONAFIDE, SPOOF}
        assert all((trial.attack == "-") == (trial.label == BONAFIDE) for trial in trials)
        speakers[split] = {trial.speaker for trial in trials}
        for trial in trials:
            info = soundfile.info(trial.path)
            assert (info.samplerate, info.channels, info.format) == (16000, 1, "FLAC")
    assert not speakers["train"] & speakers["eval"] and not speakers["train"] & speakers["dev"]
    attacks = {trial.attack for trial in trials} - {"-"}
    with open(corpus / "attack_groups.csv") as file:
        groups = {(row["attack"], row["group"]) for row in csv.DictReader(file)}
    assert {attack for attack, _ in groups} >= attacks
    assert "probe" in (corpus / "README.md").read_text().lower()


def test_the_same_seed_gives_the_same_corpus_byte_for_byte(tmp_path, recordings, corpus, output):
    flags = ["--speech_dir", str(recordings), "--sizes", "32", "20", "24"]
    output(make_demo_corpus.main, ["--out", str(tmp_path / "again"), *flags, "--jobs", "1"])
    files = sorted(path.relative_to(corpus) for path in corpus.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file())
    assert all((corpus / path).read_bytes() == (tmp_path / "again" / path).read_bytes() for path in files)
    assert "already built" in output(make_demo_corpus.main, ["--out", str(tmp_path / "again"), *flags])


def test_both_classes_pass_one_chain():
    rng = np.random.default_rng(0)
    for rate, gain in [(8000, 0.9), (44100, 1e-3)]:
        speech = speech_like(rng, 2.0, rate)
        x = gain * np.concatenate([np.zeros(rate), speech, np.zeros(rate), speech, np.zeros(rate)])
        y = demo_chain.telephone(x, rate, np.random.default_rng(1))
        assert 1.2 * 16000 <= len(y) <= 4 * 16000 and np.max(np.abs(y)) < 1
        assert -33 < 10 * np.log10(np.mean(y**2)) < -19
        spectrum = np.abs(np.fft.rfft(y)) ** 2
        frequency = np.fft.rfftfreq(len(y), 1 / 16000)
        outside = (frequency < 150) | (frequency > 3600)
        assert spectrum[outside].sum() < 1e-3 * spectrum.sum()
        frames = y[: len(y) // 160 * 160].reshape(-1, 160)
        level = 10 * np.log10(np.mean(frames**2, axis=1))
        quiet = "".join("q" if quiet else "." for quiet in level < level.max() - 38)
        assert max(map(len, re.findall("q*", quiet))) <= 12  # no pause of more than 0.12 s


def test_corpus_mistakes(tmp_path, recordings, corpus, fails):
    main = make_demo_corpus.main
    (tmp_path / "empty").mkdir()
    flags = ["--speech_dir", str(tmp_path / "empty")]
    fails(main, ["--out", str(tmp_path / "x"), *flags], "--speech_dir", "3 folders", "found 0")
    fails(main, ["--out", str(tmp_path / "empty" / "x"), *flags], "--out", "outside --speech_dir")
    fails(main, ["--out", str(recordings)], str(recordings), "exists")


# ------------------------------------------------------------------------------------------------------- train


def test_a_run_leaves_config_logs_and_checkpoints(finished_run):
    names = {path.name for path in (finished_run / "checkpoints").iterdir()}
    epochs = {"epoch_1.pth", "epoch_2.pth", "epoch_3.pth"}
    assert names == epochs | {"best_model.pt", "average_best_2.pth", checkpoints.RESUME_NAME, checkpoints.PREVIOUS_NAME}
    config = json.loads((finished_run / "config.json").read_text())
    assert config["model"]["ssl"] == "tiny" and config["training"]["lr"] == 0.002
    events = EventAccumulator(str(finished_run)).Reload()
    tags = {"train/loss", "train/grad_norm", "train/utt_per_s", "train/seconds", "train/seconds_of_waiting", "train/lr"}
    tags |= {"dev/loss", "dev/loss_augmented", "dev/eer_percent", "dev/threshold"}
    tags |= {"dev/loss_published", "dev/loss_augmented_published"}
    assert set(events.Tags()["scalars"]) == tags
    for tag in ("dev/eer_percent", "train/loss"):
        assert [event.step for event in events.Scalars(tag)] == [4, 8, 12]
    for epoch, event in enumerate(events.Scalars("dev/eer_percent"), 1):  # as the console's, not from 0 to 1
        eer = checkpoints.read_checkpoint(finished_run / "checkpoints" / f"epoch_{epoch}.pth")["valid"]["eer"]
        assert event.value == pytest.approx(100 * eer)
    assert "config/text_summary" in events.Tags()["tensors"]
    best = checkpoints.best_checkpoints(finished_run, 2)
    assert same(weights(finished_run, "average_best_2.pth"), checkpoints.average_checkpoints(best))
    assert same(weights(finished_run, "best_model.pt"), weights(finished_run, best[0].name))


def test_the_same_seed_gives_the_same_weights_with_any_number_of_workers(tmp_path, train_flags, finished_run, output):
    flags = [*train_flags, "--log_dir", str(tmp_path), "--foldername", "run", "--num_workers", "2"]
    text = output(train.main, flags)
    (folder,) = (tmp_path / "run").iterdir()
    assert same(weights(folder, "epoch_3.pth"), weights(finished_run, "epoch_3.pth"))
    lines = re.findall(r"^epoch (\d)/3 train_loss \S+ dev_loss \S+ dev_loss_augmented \S+ dev_eer \S+% lr ", text, re.M)
    assert lines == ["1", "2", "3"]


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, train_flags, finished_run, output):
    flags = [*train_flags, "--average_best", "2", "--log_dir", str(tmp_path), "--foldername", "run", "--resume", "auto"]
    process = subprocess.Popen([sys.executable, ROOT / "train.py", *flags], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch 1/3"):
            process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    text = output(train.main, flags)
    assert "resumed after epoch" in text
    (folder,) = (tmp_path / "run").iterdir()
    for name in ("epoch_3.pth", "average_best_2.pth", "best_model.pt"):
        assert same(weights(folder, name), weights(finished_run, name))
    text = output(train.main, flags)  # once more: nothing is left to train
    assert "epoch 3/3" not in text and "finished" in text


def test_a_resumed_run_keeps_its_settings(finished_run, train_flags, fails):
    resume = ["--resume_checkpoint_path", str(finished_run / "checkpoints" / checkpoints.RESUME_NAME)]
    flags = [*train_flags, "--average_best", "2"]
    fails(train.main, [*flags, *resume, "--seed", "4"], "--seed", " 3", " 4")
    fails(train.main, [*flags, *resume, "--Nes_ratio", "4", "2"], "--Nes_ratio", "[2, 2]", "[4, 2]")
    fails(train.main, [*flags, "--resume_checkpoint_path", "gone.pth"], "gone.pth")


@pytest.fixture(scope="module")
def ctrsvdd(tmp_path_factory):
    """A small corpus in the layout of CtrSVDD."""
    base = tmp_path_factory.mktemp("ctrsvdd")
    rng = np.random.default_rng(0)
    for split, n in [("train", 12), ("dev", 6), ("test", 30)]:
        (base / f"{split}_set").mkdir()
        lines = []
        for i in range(n):
            utt_id, spoof = f"CtrSVDD_0001_{split}_{i:04}", i % 3 > 0
            attack = f"A{9 + i % 6:02}" if spoof else "-"
            dataset = ["m4singer", "kising", "acesinger"][i // 3 % 3]
            lines.append(f"{dataset} CtrSVDD_0001 {utt_id} - {attack} {'deepfake' if spoof else 'bonafide'}\n")
            soundfile.write(base / f"{split}_set" / f"{utt_id}.flac", speech_like(rng, rng.uniform(0.3, 0.8)), 16000)
        (base / f"{split}.txt").write_text("".join(lines))
    return base


def test_the_singing_recipe_validates_by_eer_and_names_checkpoints_by_it(tmp_path, ctrsvdd, output):
    flags = ["--base_dir", str(ctrsvdd), *TINY_FLAGS, "--n_output_logits", "1", "--epochs", "2", "--batch_size", "6"]
    text = output(train.main, [*flags, "--crop", "4000", "--num_workers", "0", "--log_dir", str(tmp_path), "--debug"])
    (folder,) = tmp_path.glob("*/*")
    assert folder.parent.name == "wav2vec2_Nes2Net_X_e2_bz6_lr1e-06_algo8_seed42"
    training = json.loads((folder / "config.json").read_text())["training"]
    recipe = {
        "optimizer": "AdamW",
        "schedule": "cosine",
        "algo": 8,
        "crop_place": "random",
        "loss": "focal",
        "lr": 1e-6,
    }
    assert {name: training[name] for name in recipe} == recipe
    for epoch, path in checkpoints.epoch_checkpoints(folder).items():
        eer = checkpoints.read_checkpoint(path)["valid"]["eer"]
        assert path.name == f"model_{epoch}_EER_{eer}.pt"
        assert f"dev_eer {100 * eer:.3f}%" in text
    assert list(checkpoints.epoch_checkpoints(folder)) == [1, 2]


def test_epochs_that_are_validated_with_the_cosine_schedule():
    validated = [epoch for epoch in range(1, 76) if schedules.validates(TrainingConfig(corpus="CtrSVDD"), epoch)]
    assert validated == [1, 14, 15, 16, 24, 25, 26, 34, 35, 36, 44, 45, 46, 54, 55, 56, 64, 65, 66, 74, 75]


def test_a_frozen_encoder_stays_as_it_was(tmp_path, train_flags, output):
    import model

    flags = [*train_flags, "--epochs", "1", "--SSL_freeze_epoch", "1", "--log_dir", str(tmp_path), "--foldername", "f"]
    output(train.main, flags)
    (folder,) = (tmp_path / "f").iterdir()
    after = weights(folder, "epoch_1.pth")
    torch.manual_seed(3)
    before = model.build_detector(
        model.ModelConfig(**checkpoints.read_checkpoint(folder / "checkpoints/epoch_1.pth")["config"])
    )
    for name, value in before.state_dict().items():
        if name.startswith("front_end"):
            assert torch.equal(value, after[name]), name
    assert not torch.equal(before.state_dict()["back_end.fc.weight"], after["back_end.fc.weight"])


def test_train_mistakes(tmp_path, corpus, train_flags, fails, capsys):
    model = ["--model_name", "wav2vec2_Nes2Net_X"]
    for flags, words in [
        (model, ["--base_dir", "--database_path"]),
        ([*model, "--base_dir", "a", "--database_path", "b"], ["one of"]),
        ([*model, "--base_dir", "a", "--algo", "12"], ["--algo", "12"]),
        ([*model, "--base_dir", "a", "--lrr", "1"], ["--lrr"]),
        (["--base_dir", "a", "--model_name", "Nes3Net"], ["--model_name", "Nes3Net", "wav2vec2", "Nes2Net_X"]),
    ]:
        with pytest.raises(SystemExit) as ended:
            train.parse_args(flags)
        message = capsys.readouterr().err.splitlines()[-2]
        assert ended.value.code == 2 and all(word in message for word in words)
    run = [*train_flags, "--log_dir", str(tmp_path / "logs")]
    fails(
        train.main,
        [*run, "--database_path", str(tmp_path / "no")],
        "ASVspoof2019.LA.cm.train.trn.txt",
        "no/LA",
    )
    fails(train.main, [*run, "--minF", "9000"], "minF")
    fails(train.main, [*run, "--loss", "focal"], "--loss focal", "weighted_CCE", "--n_output_logits")
    fails(train.main, [*run, "--ssl", "xlsr_300m"], "xlsr2_300m.pt", "--ssl_path")
    assert not (tmp_path / "logs").exists()  # a mistake leaves nothing behind


def test_several_corpora_are_joined_for_training_and_scored_by_their_own_lists(tmp_path, corpus, capsys, fails):
    wild = tmp_path / "release_in_the_wild"
    wild.mkdir()
    trials = {}
    for split in ("train", "dev"):
        path, audio = corpora.official_files("ASVspoof2019_LA", split, corpus)
        trials[split] = corpora.read_trials(path, audio)
    lines = ["file,speaker,label"]
    for i, trial in enumerate(trials["dev"]):
        shutil.copy(trial.path, wild / f"{i}.flac")
        lines.append(f"{i}.wav,{trial.speaker},{'bona-fide' if trial.label else 'spoof'}")
    (wild / "meta.csv").write_text("\n".join(lines))

    lists = [str(corpora.official_files("ASVspoof2019_LA", split, corpus)[0]) for split in ("train", "dev")]
    flags = ["--model_name", "wav2vec2_Nes2Net_X", "--train_protocol", lists[0], "--dev_protocol", lists[1]]
    config, _ = train.parse_args([*flags, "--train_protocol", str(wild / "meta.csv")])
    joined, dev = train.read_trials(config)
    assert [trial.label for trial in joined] == [trial.label for trial in trials["train"] + trials["dev"]]
    assert [trial.path for trial in dev] == [trial.path for trial in trials["dev"]]
    assert joined[-1].path == str(wild / f"{len(dev) - 1}.flac") and all(Path(trial.path).is_file() for trial in joined)
    assert f"train: {len(joined)} trials" in capsys.readouterr().out

    named, _ = train.parse_args([*flags, "--train_audio_dir", str(Path(trials["train"][0].path).parent)])
    assert train.read_trials(named)[0] == trials["train"]
    args = scoring.parse_args(["--protocol", str(wild / "meta.csv"), "--model_path", "x", "--eval_output", "x"])
    assert [trial.path for trial in scoring.read_sets(args)[0].trials] == [trial.path for trial in joined[-len(dev) :]]

    ids = tmp_path / "ids.txt"
    ids.write_text("0\n")
    lists = {"train_protocol": [str(ids)], "dev_protocol": [str(ids)]}
    unlabelled = TrainingConfig(**lists, train_audio_dir=[str(wild)], dev_audio_dir=[str(wild)])
    with pytest.raises(UserError, match="expected labels, found 1 trials without"):
        train.read_trials(unlabelled)
    for wrong in (flags[:4], [*flags, "--dev_audio_dir", "a", "--dev_audio_dir", "b"], [*flags, "--base_dir", "x"]):
        with pytest.raises(SystemExit):
            train.parse_args(wrong)


def test_missing_audio_is_found_before_training(tmp_path, corpus, train_flags, fails):
    database = tmp_path / "db"
    for split in ("train", "dev"):
        (database / f"ASVspoof2019_LA_{split}" / "flac").mkdir(parents=True)
        for path in sorted((corpus / f"ASVspoof2019_LA_{split}" / "flac").iterdir())[2:]:
            (database / f"ASVspoof2019_LA_{split}" / "flac" / path.name).symlink_to(path)
    flags = [
        *train_flags,
        "--database_path",
        str(database),
        "--protocols_path",
        str(corpus),
        "--log_dir",
        str(tmp_path),
    ]
    fails(train.main, flags, "2 of 32 ", "LA_T_1000001")


# -------------------------------------------------------------------------------------------- eval and the reports


@pytest.fixture(scope="module")
def scores(finished_run, corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("scores") / "scores.txt"
    assert not scoring.main([*eval_flags(corpus), "--model_path", average(finished_run), "--eval_output", str(path)])
    return path


def average(finished_run):
    return str(finished_run / "checkpoints" / "average_best_2.pth")


def eval_flags(corpus):
    audio = corpus / "ASVspoof2019_LA_eval" / "flac"
    return ["--protocol", str(corpus / EVAL_LIST), "--audio_dir", str(audio), "--num_workers", "1"]


def test_scores_are_those_of_the_detector_in_trial_order(scores, finished_run, corpus):
    trials = corpora.read_protocol(corpus / EVAL_LIST)
    found = corpora.read_scores(scores)
    assert list(found) == [trial.utt_id for trial in trials]
    detector = checkpoints.load_detector(average(finished_run))
    for trial in trials[:5]:
        x = load_audio(corpus / "ASVspoof2019_LA_eval" / "flac" / f"{trial.utt_id}.flac")
        with torch.no_grad():
            assert found[trial.utt_id] == pytest.approx(detector(torch.from_numpy(x)[None])[0, 1].item(), abs=1e-5)


def test_every_way_to_name_an_average_gives_the_same_scores(tmp_path, scores, finished_run, corpus, output):
    best = [str(checkpoints.read_checkpoint(path)["epoch"]) for path in checkpoints.best_checkpoints(finished_run, 2)]
    ways = [
        ["--average_best", "2"],
        ["--model_ID_to_average", *best, "--num_average_model", "2"],
        ["--model_ID_to_average", *reversed(best)],
    ]
    for way in ways:
        out = tmp_path / "out.txt"
        out.write_text("an old file\n")
        output(
            scoring.main,
            [*eval_flags(corpus), "--model_folder_path", str(finished_run), *way, "--eval_output", str(out)],
        )
        assert out.read_bytes() == scores.read_bytes()


@pytest.mark.parametrize("way", ["best", "named"])
def test_an_average_as_published_is_asked_for_by_a_flag(way, tmp_path, finished_run, corpus, capsys, fails):
    paths = sorted(checkpoints.best_checkpoints(finished_run, 2))
    chosen = ["--average_best", "2"]
    if way == "named":  # in the order of their names, the later one first
        paths.reverse()
        chosen = ["--model_ID_to_average", *(str(checkpoints.read_checkpoint(path)["epoch"]) for path in paths)]
    checkpoints.average_to(tmp_path / "theirs.pth", paths, as_published=True)
    files = [tmp_path / "one.txt", tmp_path / "other.txt"]
    weights = [["--model_path", str(tmp_path / "theirs.pth")]]
    weights.append(["--model_folder_path", str(finished_run), *chosen, "--average_as_published"])
    for file, way in zip(files, weights):
        scoring.main([*eval_flags(corpus), *way, "--eval_output", str(file)])
    assert "arithmetic mean" not in capsys.readouterr().err
    assert files[0].read_bytes() == files[1].read_bytes()
    scoring.main([*eval_flags(corpus), *weights[1][:-1], "--eval_output", str(files[0])])
    assert "arithmetic mean; --average_as_published gives" in capsys.readouterr().err
    assert files[0].read_bytes() != files[1].read_bytes()
    fails(
        scoring.main,
        [*eval_flags(corpus), *weights[0], "--average_as_published", "--eval_output", str(tmp_path / "x.txt")],
        "--average_as_published",
        "--model_folder_path",
    )


def test_published_scoring_commands(tmp_path, finished_run, ctrsvdd, output, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [*TINY_FLAGS, "--model_path", average(finished_run), "--num_workers", "0"]
    output(scoring.main, [*flags, "--base_dir", f"{ctrsvdd}/test_set", "--outputname", "NAME", "--test_mode", "4s"])
    found = corpora.read_scores("scores/NAME.txt")
    assert list(found) == sorted(path.stem for path in (ctrsvdd / "test_set").iterdir())
    text = output(EER_minDCF.main, ["--labels_file", f"{ctrsvdd}/test.txt", "--path", "scores/NAME.txt"])
    assert text.count("-" * 57 + "\n") == 4

    # ASVspoof 2021: a list of bare ids, the first 64,600 samples, batches of two.
    folder, text = tmp_path / "DB" / "ASVspoof2021_DF_eval" / "flac", tmp_path / "PROTO" / "ASVspoof_DF_cm_protocols"
    folder.mkdir(parents=True)
    text.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, seconds in enumerate([0.5, 5, 1]):
        soundfile.write(folder / f"DF_E_{i}.flac", speech_like(rng, seconds), 16000)
    (text / "ASVspoof2021.DF.cm.eval.trl.txt").write_text("DF_E_2\nDF_E_0\nDF_E_1\n")
    output(
        scoring.main,
        [*flags, "--track", "DF", "--batch_size", "2", "--is_eval", "--eval", "--test_protocol", "4sec"]
        + ["--database_path", "DB/", "--protocols_path", "PROTO/", "--eval_output", "score_DF.txt"],
    )
    found = corpora.read_scores("score_DF.txt")
    assert list(found) == ["DF_E_2", "DF_E_0", "DF_E_1"]
    detector = checkpoints.load_detector(average(finished_run))
    for utt_id, score in found.items():
        x = load_audio(folder / f"{utt_id}.flac")
        x = torch.from_numpy(np.resize(x, 64600))  # numpy's resize repeats from the start
        with torch.no_grad():
            assert score == pytest.approx(detector.score(x[None]).item(), abs=1e-5)


TRAIN_CTRSVDD = """python train.py --base_dir DIR/ --algo 8 --gpu_id 2 --T_max 5 --epochs 75 --lr 0.000001
    --batch_size 34 --agg SEA --pool_func 'mean' --dilation 1 --Nes_ratio 8 8 --SE_ratio 1
    --model_name WavLM_Nes2Net_X --seed 420
    --foldername WavLM_SEA_Nes2Net_X_mean_8x8_SEr1_dila1_algo8_Tmax5_bz34_lr1e6_seed420"""
TRAIN_LA = """python train.py --track LA --algo 4 --batch_size 12 --lr 0.00000025 --seed 12345 --num_epochs 100
    --pool_func 'mean' --SE_ratio 1 --Nes_ratio 8 8 --model_name wav2vec2_Nes2Net_X --database_path DB/
    --protocols_path PROTO/"""
SCORE_CTRSVDD = """python eval.py --base_dir DIR/test_set --model_path CKPT.pt --agg SEA --pool_func 'mean'
    --dilation 1 --Nes_ratio 8 8 --SE_ratio 1 --model_name WavLM_Nes2Net_X --outputname NAME"""
SCORE_DF = """python eval.py --track DF --batch_size 2 --is_eval --eval --model_name wav2vec2_Nes2Net_X
    --pool_func 'mean' --SE_ratio 1 --Nes_ratio 8 8 --test_protocol '4sec' --num_average_model 5
    --model_ID_to_average 56 60 62 76 95 --database_path DB/ --protocols_path PROTO/ --model_folder_path RUN/
    --eval_output score_DF.txt"""
SCORE_ITW = """python eval.py --track in_the_wild --model_name wav2vec2_Nes2Net_X --test_protocol 'full'
    --in_the_wild_path release_in_the_wild --model_path CKPT.pth --eval_output score_ITW.txt"""
JUDGE = "python easy_inference_demo.py --model_path CKPT.pt --file_to_test FILE.flac --model_name WavLM_Nes2Net_X_SeLU"


@pytest.mark.parametrize(
    "main, command, expected",
    [
        (train, TRAIN_CTRSVDD, ModelConfig("WavLM_Nes2Net_X")),
        (train, TRAIN_LA, ModelConfig("wav2vec2_Nes2Net_X")),
        (scoring, SCORE_CTRSVDD, ModelConfig("WavLM_Nes2Net_X")),
        (scoring, SCORE_DF, ModelConfig("wav2vec2_Nes2Net_X")),
        (scoring, SCORE_ITW, ModelConfig("wav2vec2_Nes2Net_X")),
        (easy_inference_demo, JUDGE, ModelConfig("WavLM_Nes2Net_X_SeLU")),
    ],
)
def test_the_published_commands_name_the_published_networks_letter_for_letter(main, command, expected):
    args = main.parse_args(shlex.split(command)[2:])
    flags = args[1] if main is train else model.given_model_flags(args)
    assert ModelConfig(**flags) == expected


@pytest.mark.slow
def test_published_checkpoints_are_scored_by_the_published_commands(tmp_path, ctrsvdd, output, monkeypatch):
    # Detectors of the published names, sizes but for a tiny encoder, and layout, as their release holds them.
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    soundfile.write("FILE.flac", speech_like(rng, 1.2), 16000)
    (tmp_path / "release_in_the_wild").mkdir()
    (tmp_path / "release_in_the_wild" / "0.wav").write_bytes((tmp_path / "FILE.flac").read_bytes())
    places = {"WavLM": "ssl_model.model.model", "wav2vec2": "ssl_model.model"}
    for name, file in [
        ("WavLM_Nes2Net_X", "CKPT.pt"),
        ("WavLM_Nes2Net_X_SeLU", "SELU.pt"),
        ("wav2vec2_Nes2Net_X", "CKPT.pth"),
    ]:
        torch.manual_seed(0)
        detector = model.build_detector(ModelConfig(name, ssl="tiny"))
        prefixes = {"front_end.model": places[detector.config.front_end], "back_end": "Nested_Res2Net_TDNN"}
        prefixes["aggregation"] = "ssl_model"
        state = {
            next(key.replace(ours, theirs, 1) for ours, theirs in prefixes.items() if key.startswith(ours)): tensor
            for key, tensor in detector.state_dict().items()
        }
        torch.save(state, file)
    command = shlex.split(SCORE_CTRSVDD.replace("DIR", str(ctrsvdd)))[2:]
    output(scoring.main, [*command, "--num_workers", "0"])
    assert len(corpora.read_scores("scores/NAME.txt")) == len(list((ctrsvdd / "test_set").iterdir()))
    output(scoring.main, [*shlex.split(SCORE_ITW)[2:], "--num_workers", "0"])
    assert list(corpora.read_scores("score_ITW.txt")) == ["0"]
    assert "score: " in output(easy_inference_demo.main, shlex.split(JUDGE.replace("CKPT", "SELU"))[2:])


def test_a_trial_that_cannot_be_read_is_listed_and_the_rest_scored(tmp_path, finished_run, corpus, capsys):
    audio = tmp_path / "audio"
    audio.mkdir()
    for path in sorted((corpus / "ASVspoof2019_LA_eval" / "flac").iterdir())[:4]:
        (audio / path.name).write_bytes(path.read_bytes())
    broken = sorted(audio.iterdir())[1]
    broken.write_bytes(b"fLaC")
    flags = ["--base_dir", str(audio), "--model_path", average(finished_run), "--eval_output", str(tmp_path / "s.txt")]
    assert scoring.main([*flags, "--num_workers", "0"]) == 1
    assert "1 of 4 trials have no score" in capsys.readouterr().err
    assert len(corpora.read_scores(tmp_path / "s.txt")) == 3
    utt_id, why = (tmp_path / "s.txt.errors.tsv").read_text().rstrip("\n").split("\t")
    assert utt_id == broken.stem and "cannot be read as audio" in why
    broken.write_bytes((audio / sorted(os.listdir(audio))[0]).read_bytes())
    assert not scoring.main([*flags, "--num_workers", "0"])
    assert not (tmp_path / "s.txt.errors.tsv").exists() and len(corpora.read_scores(tmp_path / "s.txt")) == 4


def test_eval_mistakes(tmp_path, finished_run, corpus, fails, capsys):
    folder, out = ["--model_folder_path", str(finished_run)], ["--eval_output", str(tmp_path / "s.txt")]
    trials = eval_flags(corpus)
    for flags, word in [
        ([*folder, *out], "--protocol"),
        ([*trials, *folder, *out], "--average_best"),
        ([*trials, *folder, "--average_best", "2"], "--eval_output"),
        (
            [*trials, *folder, *out, "--model_ID_to_average", "1", "2", "--num_average_model", "3"],
            "--num_average_model 3",
        ),
        (["--track", "DF", *folder, *out, "--average_best", "2"], "--database_path"),
    ]:
        with pytest.raises(SystemExit) as ended:
            scoring.parse_args(flags)
        assert ended.value.code == 2 and word in capsys.readouterr().err.splitlines()[-2]
    fails(scoring.main, [*trials, *folder, *out, "--model_ID_to_average", "1", "9"], " 9", "1, 2, 3")
    model = ["--model_path", average(finished_run)]
    fails(scoring.main, [*trials, *model, *out, "--pool_func", "ASTP"], "--pool_func", "mean", "ASTP")
    fails(scoring.main, [*trials, "--model_path", str(corpus / "README.md"), *out], "README.md")
    assert not (tmp_path / "s.txt").exists()


# ------------------------------------------------------------------------------------------- easy_inference_demo


def test_the_demo_agrees_with_eval_and_says_what_it_means(scores, finished_run, corpus, output):
    utt_id, score = next(iter(corpora.read_scores(scores).items()))
    file = corpus / "ASVspoof2019_LA_eval" / "flac" / f"{utt_id}.flac"
    flags = ["--model_path", average(finished_run), "--file_to_test", str(file)]
    text = output(easy_inference_demo.main, [*flags, "--model_name", "wav2vec2_Nes2Net_X"])
    assert float(re.search(r"^score: (\S+)$", text, re.M)[1]) == pytest.approx(score, abs=1e-5)
    threshold = checkpoints.read_checkpoint(average(finished_run))["valid"]["threshold"]
    assert text.startswith(f"likely {'genuine' if score > threshold else 'synthetic'}: {file}, ")
    note = json.loads((corpus / "corpus.json").read_text())["note"]
    assert text.splitlines()[2] == f"warning: {note}"
    text = output(easy_inference_demo.main, [*flags, "--threshold", "1000"])
    assert text.startswith("likely synthetic: ") and f"\nwarning: {note}\n" in text
    text = output(easy_inference_demo.main, [*flags, "--threshold", "-1000", "--test_mode", "4s"])
    assert text.startswith("likely genuine: ")


# ---------------------------------------------------------------------------------------------------- shell scripts


@pytest.mark.parametrize(
    "command", [["train.sh", "ctrsvdd"], ["train.sh", "x"], ["eval.sh"], ["eval.sh", "ctrsvdd", "a"]]
)
def test_shell_scripts_say_how_they_are_used(command):
    environment = {**os.environ, "PYTHON": "false"}
    done = subprocess.run(["bash", *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and f"bash {command[0]} ctrsvdd DIR" in done.stderr
