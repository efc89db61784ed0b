"""Training's configuration: each field a flag, a key of config.json, a check on resuming; what takes precedence."""

import dataclasses
import json
import re
import shutil

import pytest

import checkpoints
import corpora
import train
from common.console import UserError
from training.config import TrainingConfig
from training.options import option, saved_settings
from training.recipes import RECIPES

FIELDS = {field.name: field for field in dataclasses.fields(TrainingConfig)}
# A run that is under way: nothing is left open, and no rule between fields forbids that one of them changes.
BEGUN = TrainingConfig(loss="weighted_CCE", precision="fp32", average_by="train_loss", epochs=7)
# What a field needs of others.
NEEDS = dict.fromkeys(("label_step", "utterance_score"), {"labels": "both"})
NEEDS |= dict.fromkeys(("lora_alpha", "lora_targets", "save_adapters"), {"lora_rank": 8})
NEEDS |= {"adaptive_sam": {"sam": 0.05}, "teacher": {"loss": "OCKD"}, "members": {"loss": "gated_ensemble"}}
# What a run that began before some flags existed has in its config.json.
OLD = {"corpus": "CtrSVDD", "epochs": 75, "batch_size": 34, "optimizer": "AdamW", "lr": 1e-6, "weight_decay": 1e-4}
OLD |= {"schedule": "cosine", "T_max": 5, "min_lr": 1e-9, "loss": "focal", "class_weights": [0.1, 0.9], "crop": 64000}
OLD |= {"crop_place": "random", "SSL_freeze_epoch": -1, "seed": 42, "debug": False, "validation": "eer", "algo": 8}
OLD |= {"keep": "every", "average_best": 0, "average_by": "eer", "precision": "bf16", "grad_accum": 1, "minF": 20}


def parse(*flags, model_name="wav2vec2_Nes2Net_X"):
    return train.parse_args([*flags, *(["--model_name", model_name] if model_name else [])])[0]


def help_text(capsys):
    with pytest.raises(SystemExit):
        train.parse_args(["--help-all"])
    return capsys.readouterr().out


def another(name, begun=BEGUN):
    """A value that a field may have and `begun` has not."""
    field, value = FIELDS[name], getattr(begun, name)
    if choices := field.metadata.get("choices"):
        return next(choice for choice in choices if choice != value)
    if name == "augment":
        return f"{value}:p=0.5"
    kinds = {bool: lambda: not value, int: lambda: (value or 0) + 1, float: lambda: 0.9 * value if value else 0.5}
    new = (1000, 2000) if field.metadata.get("kind") else ("b", "a")
    kinds |= {tuple: lambda: new if value is None else value[::-1], str: lambda: f"{value or ''}x"}
    return kinds[field.type]()


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_saved_and_compared_if_it_decides_the_weights(name):
    if name in ("train_protocol", "dev_protocol", "train_audio_dir", "dev_audio_dir", "fs"):
        return  # not without the others; not free
    if name in ("train_segments", "dev_segments"):
        return  # not without the lists
    begun = dataclasses.replace(BEGUN, **NEEDS.get(name, {}))
    before = json.loads(json.dumps(saved_settings(begun)))
    now = dataclasses.replace(begun, **{name: another(name, begun)})
    if FIELDS[name].metadata.get("runtime"):
        assert name not in before
        now.check_same_run(before, "RUN")
    elif name in ("corpus", "epochs"):  # more epochs are the same run; a corpus decides through the other fields
        dataclasses.replace(BEGUN, **{name: another(name)}).check_same_run(before, "RUN")
    else:
        with pytest.raises(UserError, match=f"--{name}: .*RUN "):
            now.check_same_run(before, "RUN")


@pytest.mark.parametrize(
    "schedule", ["onecycle", "exponential", "cosine_decay", "warmup_cosine", "warmup_cosine_decay"]
)
def test_another_number_of_epochs_is_another_run_where_the_schedule_depends_on_it(schedule):
    begun = dataclasses.replace(BEGUN, schedule=schedule)
    with pytest.raises(UserError, match="--epochs: .*RUN .*7.* 8"):
        dataclasses.replace(begun, epochs=8).check_same_run(saved_settings(begun), "RUN")


def test_every_field_is_a_flag_and_every_flag_a_field(capsys):
    text = help_text(capsys)
    for name, field in FIELDS.items():
        shown = any(f"  --{name}{end}" in text for end in (" ", "\n", ","))
        assert shown == field.metadata.get("flag", True), name
    assert re.search(r"  --epochs, --num_epochs EPOCHS", re.sub(r"\s+--num", " --num", text))


def test_what_an_old_run_did_not_save_yet_has_its_default():
    now = TrainingConfig(corpus="CtrSVDD", loss="focal", precision="bf16")
    now.check_same_run(OLD, "RUN")
    assert now.drop_last is False  # of the record: CtrSVDD keeps its last batch
    for changed in ({"gamma": 0.25}, {"augment": "FIR-NB"}, {"early_stop": 3}, {"drop_last": True}):
        (name,) = changed
        with pytest.raises(UserError, match=f"--{name}"):
            dataclasses.replace(now, **changed).check_same_run(OLD, "RUN")
    with pytest.raises(UserError, match="--batch_size: .* 34.* 12.*--corpus CtrSVDD"):
        TrainingConfig(corpus="ASVspoof2019_LA", loss="focal", precision="bf16").check_same_run(OLD, "RUN")
    with pytest.raises(UserError, match="RUN/config.json: --lr: expected"):
        now.check_same_run({**OLD, "lr": "high"}, "RUN")


def test_a_run_of_an_older_version_goes_on(tmp_path, finished_run, train_flags, output):
    folder = tmp_path / "run" / finished_run.name
    shutil.copytree(finished_run, folder)
    config = json.loads((folder / "config.json").read_text())
    for name in ("drop_last", "gamma", "early_stop"):
        del config["training"][name]
    config["training"]["a_flag_that_went"] = 1
    (folder / "config.json").write_text(json.dumps(config))
    flags = [*train_flags, "--average_best", "2", "--log_dir", str(tmp_path), "--foldername", "run"]
    assert "resumed after epoch 3" in output(train.main, [*flags, "--resume", "auto"])
    (folder / "config.json").write_text("[]")
    with pytest.raises(UserError, match="expected the settings of the run to resume"):
        train.main([*flags, "--resume_checkpoint_path", str(folder / "checkpoints" / checkpoints.RESUME_NAME)])


@pytest.mark.parametrize(
    "values, words",
    [
        ({"lr": -1}, "--lr: expected a number of at least 0, found -1"),
        ({"lr": float("nan")}, "--lr"),
        ({"weight_decay": float("inf")}, "--weight_decay"),
        ({"epochs": 0}, "--epochs"),
        ({"epochs": 1.5}, "--epochs: expected a whole number"),
        ({"batch_size": True}, "--batch_size"),
        ({"schedule": "linear"}, "--schedule: expected one of constant, cosine"),
        ({"debug": 1}, "--debug: expected true or false"),
        ({"class_weights": [1.0]}, "--class_weights: expected 2 values"),
        ({"class_weights": [1.0, 0.0]}, "--class_weights"),
        ({"corpus": "MyCorpus"}, "--corpus"),
        ({"minF": 9000}, "minF must be at most maxF, found 9000"),
        ({"nBands": 0.5}, "--nBands"),
        ({"validation": "eer", "average_by": "loss"}, "--average_by loss needs --validation loss"),
        ({"schedule": "exponential", "lr": 0}, "--schedule exponential"),
        ({"resume": "auto", "resume_checkpoint_path": "x"}, "exclude each other"),
    ],
)
def test_values_are_checked_wherever_they_come_from(values, words, monkeypatch, capsys):
    with pytest.raises(UserError, match=words):
        TrainingConfig(**values)
    with pytest.raises(UserError, match="--train_protocol .*--dev_protocol"):
        TrainingConfig(train_protocol=["a"])
    monkeypatch.setitem(RECIPES, "wrong", values)
    with pytest.raises(SystemExit) as ended:
        parse("--recipe", "wrong", "--database_path", "x")
    assert ended.value.code == 2 and words in capsys.readouterr().err


def test_a_flag_counts_more_than_the_recipe_that_more_than_the_corpus_and_that_more_than_the_default(
    monkeypatch, tmp_path
):
    path = tmp_path / "meta.csv"
    path.write_text("file,speaker,label\na.wav,x,spoof\n")
    data = ["--train_protocol", str(path), "--dev_protocol", str(path)]
    record = dataclasses.replace(corpora.CORPORA["in_the_wild"], recipe={"weight_decay": 0.5, "lr": 0.25, "gamma": 0.1})
    monkeypatch.setitem(corpora.CORPORA, "in_the_wild", record)
    monkeypatch.setitem(RECIPES, "tested", {"model_name": "wav2vec2_GF", "weight_decay": 0.0, "lr": 0.125})
    config = parse("--recipe", "tested", "--lr", "0.0625", *data, model_name=None)
    assert (config.lr, config.weight_decay, config.gamma, config.T_max) == (0.0625, 0.0, 0.1, 5)
    assert parse(*data).weight_decay == 0.5 and parse("--database_path", "x").weight_decay == 1e-4
    assert TrainingConfig.of_corpus("in_the_wild").gamma == 0.1


def test_the_corpus_is_that_of_the_data_whatever_flag_names_them(tmp_path, corpus, capsys):
    singing, speech = tmp_path / "train.txt", corpora.official_files("ASVspoof2019_LA", "train", corpus)[0]
    singing.write_text("m4singer S1 U1 - - bonafide\nm4singer S1 U2 - A01 deepfake\n")

    def lists(*paths, **options):
        return parse(
            *(word for path in paths for word in ("--train_protocol", str(path), "--dev_protocol", str(path))),
            **options,
        )

    assert lists(singing) == dataclasses.replace(
        TrainingConfig(corpus="CtrSVDD"), train_protocol=[str(singing)], dev_protocol=[str(singing)]
    )
    assert (lists(speech).corpus, lists(speech).drop_last, lists(speech).seed) == ("ASVspoof2019_LA", True, 1234)
    joined = lists(singing, speech)  # of several: as the speech corpus
    assert (joined.corpus, joined.drop_last, joined.seed) == (None, True, 1234)
    config = parse("--train_protocol", str(singing), "--dev_protocol", str(singing), "--corpus", "ASVspoof2019_LA")
    assert (config.corpus, config.seed) == ("ASVspoof2019_LA", 1234)
    assert (
        lists(speech, model_name="wav2vec2_AASIST").lr
        == 1e-6
        == lists(joined.train_protocol[1], model_name="wav2vec2_AASIST").lr
    )
    with pytest.raises(UserError):
        train.read_trials(joined)
    assert "corpus: several; flags that are not given are those of ASVspoof2019_LA" in capsys.readouterr().out
    with pytest.raises(UserError, match="in_the_wild"):
        train.read_trials(parse("--database_path", str(tmp_path), "--corpus", "in_the_wild"))


@dataclasses.dataclass(frozen=True)
class WithEps(TrainingConfig):
    eps: float = option(0.0, "added to the root of second moments", group="training")


def test_a_field_that_is_added_is_a_flag_a_setting_a_check_and_part_of_recipes(monkeypatch, capsys):
    monkeypatch.setattr(train, "TrainingConfig", WithEps)
    assert "--eps EPS             added to the root of second moments (0.0)" in help_text(capsys)
    data = ["--database_path", "x"]
    config = parse(*data, "--eps", "0.5")
    assert saved_settings(config)["eps"] == 0.5 and parse(*data).eps == 0.0
    monkeypatch.setitem(RECIPES, "with_eps", {"model_name": "wav2vec2_GF", "eps": 0.75})
    assert parse(*data, "--recipe", "with_eps").eps == 0.75
    resolved = {"loss": "focal", "precision": "bf16", "corpus": "CtrSVDD"}
    WithEps(**resolved).check_same_run(OLD, "RUN")
    with pytest.raises(UserError, match=r"--eps: .*RUN .*0\.0.* 0\.5"):
        WithEps(**resolved, eps=0.5).check_same_run(OLD, "RUN")
    with pytest.raises(SystemExit):
        parse(*data, "--eps", "nan")
