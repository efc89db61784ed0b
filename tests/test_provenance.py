"""A run knows its data, its machine and its files: what a start that goes on compares, and what must not vanish."""

import contextlib
import io
import json
import os
import shutil

import pytest
import torch

import checkpoints
import corpora
import train
from corpora import provenance
from training.kept import KeptCheckpoints
from training.trainer import Training

TRAIN = "ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.train.trn.txt"
DEV = "ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.dev.trl.txt"


def flags_of(train_flags, data, logs, *more):
    """train_flags with a constant learning rate, so that a longer run is the same run."""
    flags = [*train_flags, "--database_path", str(data), "--schedule", "constant", "--log_dir", str(logs)]
    return [*flags, "--foldername", "run", "--resume", "auto", *more]


@pytest.fixture(scope="module")
def begun(tmp_path_factory, corpus, train_flags):
    """Folder of a corpus and of the logs of a run that has trained an epoch on it."""
    place = tmp_path_factory.mktemp("begun")
    data = shutil.copytree(corpus, place / "corpus")
    with contextlib.redirect_stdout(io.StringIO()):
        train.main(flags_of(train_flags, data, place / "logs", "--epochs", "1"))
    return data, place / "logs"


@pytest.fixture
def goes_on(begun, train_flags, tmp_path):
    """A copy of that run and of its corpus, with the files' times: (corpus, folder of the run, flags of 2 epochs)."""
    data, logs = (shutil.copytree(folder, tmp_path / folder.name) for folder in begun)
    (folder,) = (logs / "run").iterdir()
    return data, folder, flags_of(train_flags, data, logs, "--epochs", "2")


def edit(path, change):
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


def swapped(lines):
    """The same lines, the first bona fide and the first spoofed trial with each other's label."""
    first = {key: next(i for i, line in enumerate(lines) if line.split()[-1] == key) for key in ("bonafide", "spoof")}
    for key, other in (("bonafide", "spoof"), ("spoof", "bonafide")):
        lines[first[key]] = lines[first[key]].replace(f" {key}", f" {other}")
    return lines


def first_audio(data, split):
    return min((data / f"ASVspoof2019_LA_{split}" / "flac").iterdir())


def test_a_corpus_that_moved_is_the_same_data(goes_on, begun, train_flags, tmp_path, output):
    _, folder, flags = goes_on
    assert "resumed after epoch 1" in output(train.main, flags)
    output(train.main, flags_of(train_flags, begun[0], tmp_path / "whole", "--epochs", "2"))
    (whole,) = (tmp_path / "whole" / "run").iterdir()
    found, expected = (checkpoints.read_checkpoint(run / "checkpoints" / "epoch_2.pth") for run in (folder, whole))
    assert all(torch.equal(found["model"][name], value) for name, value in expected["model"].items())


@pytest.mark.parametrize(
    "protocol, change, words",
    [
        (TRAIN, lambda lines: lines[1:], ["train data: other trials: 32 (", " before, 31 ("]),
        (DEV, lambda lines: lines[:-1], ["dev data: other trials: 20 (", " before, 19 ("]),
        (TRAIN, lambda lines: lines[::-1], ["train data: the same trials in another order"]),
        (TRAIN, swapped, ["train data: other labels"]),
        (DEV, swapped, ["dev data: other labels"]),
    ],
)
def test_another_list_is_another_run(goes_on, fails, protocol, change, words):
    data, folder, flags = goes_on
    edit(data / protocol, change)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    fails(train.main, flags, str(folder), *words, "--resume")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("split", ["train", "dev"])
@pytest.mark.parametrize("n_bytes, words", [(0, "same sizes, other modification times"), (1, "other sizes")])
def test_changed_audio_is_other_data(goes_on, fails, split, n_bytes, words):
    data, folder, flags = goes_on
    path = first_audio(data, split)
    path.write_bytes(path.read_bytes() + n_bytes * b"\0")
    n_files = {"train": 32, "dev": 20}[split]
    message = fails(train.main, flags, f"{split} data: ", f"1 of {n_files} ")
    assert str(path) in message and ("cp -p" in message) == (n_bytes == 0)


def test_a_run_without_digests_goes_on_and_has_them_then(goes_on, output, fails, capsys):
    data, folder, flags = goes_on
    config = json.loads((folder / "config.json").read_text())
    del config["data"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "resumed after epoch 1" in output(train.main, flags)
    assert "holds no digests of the run's data" in capsys.readouterr().err
    edit(data / DEV, swapped)
    fails(train.main, flags, "dev data: other labels")


def test_another_number_of_threads_is_said(goes_on, output, capsys):
    _, folder, flags = goes_on
    output(train.main, [*flags, "--epochs", "1"])
    assert "goes on with other" not in capsys.readouterr().err
    starts = json.loads((folder / "environment.json").read_text())
    starts[-1]["threads"] += 1
    (folder / "environment.json").write_text(json.dumps(starts))
    output(train.main, [*flags, "--epochs", "1"])
    threads = torch.get_num_threads()
    assert f"goes on with other threads {threads + 1} before, {threads} now:" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ what must not vanish


@pytest.fixture
def vanishes(monkeypatch):
    """vanishes(remove, epoch, name, owner): remove() is called when owner.name is, in that epoch."""

    def call(remove, epoch, name, owner=Training):
        original = getattr(owner, name)

        def hooked(self, *args):
            if self.state["epoch"] == epoch:
                remove()
            return original(self, *args)

        monkeypatch.setattr(owner, name, hooked)

    return call


@pytest.mark.parametrize("what", ["", "checkpoints"])
@pytest.mark.parametrize("when, epoch", [("step", 2), ("validate", 2), ("save", 3)])  # saved is where to go on: epoch 3
def test_a_folder_that_vanishes_is_an_error_and_is_not_made_again(goes_on, vanishes, fails, what, when, epoch):
    _, folder, flags = goes_on

    def remove():
        while (folder / what).exists():  # the log's thread may put a file back
            shutil.rmtree(folder / what, ignore_errors=True)

    vanishes(remove, epoch, when)
    fails(train.main, flags, str(folder / "checkpoints"))
    assert not (folder / what).exists()


def test_a_folder_of_the_same_name_is_not_the_run(goes_on, vanishes, fails):
    _, folder, flags = goes_on

    def replace():
        if (folder / "lock").exists():
            while folder.exists():
                shutil.rmtree(folder, ignore_errors=True)
            (folder / "checkpoints").mkdir(parents=True)

    vanishes(replace, 2, "validate")
    fails(train.main, flags, "deleted, moved or replaced")
    assert list(folder.rglob("*")) == [folder / "checkpoints"]


@pytest.mark.parametrize("name", ["epoch_1.pth", "best_model.pt"])
def test_a_checkpoint_that_vanishes_in_training_is_an_error(goes_on, vanishes, fails, name):
    _, folder, flags = goes_on
    path = folder / "checkpoints" / name
    vanishes(
        lambda: path.unlink(missing_ok=True), 3, "prune", KeptCheckpoints
    )  # the state is that of the epoch to come
    fails(train.main, [*flags, "--epochs", "3"], str(path.parent), name)
    assert not path.exists() and (path.parent / "epoch_2.pth").exists() and not (path.parent / "epoch_3.pth").exists()


def test_a_checkpoint_that_vanishes_before_the_average_is_an_error(train_flags, corpus, tmp_path, vanishes, fails):
    flags = flags_of(train_flags, corpus, tmp_path, "--epochs", "2", "--average_best", "1")
    vanishes(
        lambda: [path.unlink() for path in tmp_path.glob("run/*/checkpoints/epoch_1.pth")], 3, "check", KeptCheckpoints
    )
    fails(train.main, flags, "epoch_1.pth")
    (folder,) = (tmp_path / "run").iterdir()
    assert not (folder / "checkpoints" / "average_best_1.pth").exists()


def test_a_run_goes_on_without_a_deleted_checkpoint_unless_the_average_needs_it(
    train_flags, corpus, tmp_path, output, fails, capsys
):
    flags = flags_of(train_flags, corpus, tmp_path, "--average_best", "1")
    output(train.main, [*flags, "--epochs", "2"])
    (folder,) = (tmp_path / "run").iterdir()
    (best,) = checkpoints.read_checkpoint(folder / "checkpoints" / "average_best_1.pth")["averaged"]
    other = {"epoch_1.pth": "epoch_2.pth", "epoch_2.pth": "epoch_1.pth"}[best]
    (folder / "checkpoints" / other).unlink()
    output(train.main, [*flags, "--epochs", "3"])
    assert f"going on without {other}" in capsys.readouterr().err
    (folder / "checkpoints" / "average_best_1.pth").unlink()
    state = checkpoints.read_checkpoint(folder / "checkpoints" / checkpoints.RESUME_NAME)
    best = min(state["kept"], key=lambda epoch: state["kept"][epoch]["loss"])
    (folder / "checkpoints" / f"epoch_{best}.pth").unlink()
    fails(train.main, [*flags, "--epochs", "3"], "--average_best 1", f"epoch_{best}.pth")


def test_a_strange_checkpoint_in_the_folder_is_not_averaged(goes_on, vanishes, train_flags, tmp_path, corpus, output):
    flags = flags_of(train_flags, corpus, tmp_path / "other", "--epochs", "2", "--average_best", "2")

    def add():
        for path in (tmp_path / "other" / "run").glob("*/checkpoints/epoch_1.pth"):
            content = checkpoints.read_checkpoint(path)
            content["valid"] = {
                name: value if name == "selected_by" else 0.0 for name, value in content["valid"].items()
            }
            torch.save(content, path.with_name("epoch_99.pth"))

    vanishes(add, 2, "validate")
    assert "average of epoch_1.pth, epoch_2.pth:" in output(train.main, flags)


# ------------------------------------------------------------------------------------------------------- its own parts


def test_facts_do_not_depend_on_the_place_and_see_what_is_there(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    os.utime(tmp_path / "a.wav", ns=(0, 5 * provenance.SECOND + 7))
    trials = [corpora.Trial(name, 1, path=str(tmp_path / f"{name}.wav")) for name in ("a", "gone")]
    facts = provenance.data_facts(trials)
    shutil.copytree(tmp_path, tmp_path / "moved")
    os.utime(tmp_path / "moved" / "a.wav", ns=(0, 5 * provenance.SECOND))  # as an archive keeps it
    moved = [corpora.Trial(name, 1, path=str(tmp_path / "moved" / f"{name}.wav")) for name in ("a", "gone")]
    assert provenance.data_difference(facts, provenance.data_facts(moved), moved) == ""
    exact = [provenance.data_facts(part, unit=1) for part in (trials, moved)]
    assert "modification times" in provenance.data_difference(*exact, moved)
