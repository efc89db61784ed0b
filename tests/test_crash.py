"""Nothing lost: training that is killed, stopped, starved of disk or fed numbers that are none."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import with_back_end
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import checkpoints
import train
from common import console
from training import run_folder

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def flags(train_flags):
    return [*train_flags, "--algo", "3", "--average_best", "2", "--keep_best", "2", "--keep_last", "1"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, processes, flags):
    """The folder of a run that nothing happened to, and how many seconds it took."""
    logs, start = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
    (status,), text = processes({"flags": [*flags, "--log_dir", str(logs), "--foldername", "run"]})
    assert status == 0, text
    (folder,) = (logs / "run").iterdir()
    return folder, time.monotonic() - start


def same(value, other):
    if isinstance(value, torch.Tensor):
        return value.dtype == other.dtype and torch.equal(value, other)
    if isinstance(value, dict):
        return value.keys() == other.keys() and all(same(value[key], other[key]) for key in value)
    if isinstance(value, list | tuple):
        return len(value) == len(other) and all(map(same, value, other))
    return value == other


def assert_same_run(folder, other):
    """Same files, same weights, moments, random states and figures, same curves."""
    names = sorted(os.listdir(folder / "checkpoints"))
    assert names == sorted(os.listdir(other / "checkpoints"))
    for name in names:
        if name != checkpoints.PREVIOUS_NAME:
            found, expected = (checkpoints.read_checkpoint(run / "checkpoints" / name) for run in (folder, other))
            for key in expected:
                assert same(found[key], expected[key]), (name, key)
    found, expected = (EventAccumulator(str(run)).Reload() for run in (folder, other))
    for tag in ("train/loss", "train/grad_norm", "train/lr", "dev/eer_percent"):
        points = [[(event.step, event.value) for event in run.Scalars(tag)] for run in (found, expected)]
        assert points[0] == points[1], tag


def test_a_run_that_is_killed_at_twenty_moments_ends_with_the_same_weights(tmp_path, processes, flags, undisturbed):
    expected, seconds = undisturbed
    rng = random.Random(6)
    flags = [*flags, "--log_dir", str(tmp_path), "--resume", "auto", "--save_every_minutes", "0"]
    n_killed = n_finished = 0
    while n_killed < 20 or n_finished == 0:
        workers = str(rng.choice([0, 0, 1, 4]))
        run = {"flags": [*flags, "--foldername", f"run{n_finished}", "--num_workers", workers]}
        kill_after = None
        if n_killed < 20 and rng.random() < 0.5:
            kill_after = rng.uniform(0.1, 1) * seconds
        elif n_killed < 20:
            run["at"] = rng.choice([("disk", rng.randint(1, 40)), ("validation", rng.randint(1, 5))])
            run["at"] += (signal.SIGKILL,)
        (status,), text = processes(run, kill_after=kill_after)
        assert status in (0, -signal.SIGKILL), text
        n_killed += status != 0
        if status == 0:
            folder = sorted((tmp_path / f"run{n_finished}").iterdir())[-1]
            assert_same_run(folder, expected)
            n_finished += 1


@pytest.mark.slow
def test_a_start_within_a_second_of_the_last_hides_what_that_one_logged(tmp_path, monkeypatch):
    # Process numbers are ordered as text in the files' names: 900 comes after 1000.
    for pid, purge_step, value in [(900, 1, 0.5), (1000, 2, 0.25)]:
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        with run_folder.event_writer(tmp_path, purge_step) as writer:
            for step in (1, 2, 3) if pid == 900 else (2, 3):
                writer.add_scalar("train/loss", value, step)
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")
    assert [(event.step, event.value) for event in events] == [(1, 0.5), (2, 0.25), (3, 0.25)]


@pytest.mark.parametrize(
    "at, number, status",
    [
        (("step", 6), signal.SIGTERM, 143),
        (("step", 3), signal.SIGINT, 130),
        (("step", 9), signal.SIGHUP, 129),
        (("validation", 3), signal.SIGTERM, 143),
    ],
)
def test_a_signal_ends_a_run_after_its_step_with_all_saved(tmp_path, processes, flags, undisturbed, at, number, status):
    flags = [*flags, "--log_dir", str(tmp_path), "--foldername", "run", "--resume", "auto"]
    (found,), text = processes({"flags": flags, "at": [*at, number]})
    assert found == status and "Traceback" not in text, text
    name, nth = at
    batches = nth if name == "step" else 8  # 4 steps an epoch; the third stop in validation is the second one's start
    called = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C", signal.SIGHUP: "SIGHUP"}[number]
    assert f"stopped by {called} in epoch {(batches - 1) // 4 + 1} after {(batches - 1) % 4 + 1} batches" in text
    if number == signal.SIGHUP:  # as a run of before that name left it
        path = next((tmp_path / "run").iterdir()) / "checkpoints" / checkpoints.RESUME_NAME
        content = checkpoints.read_checkpoint(path)
        content["waiting"] = content.pop("pending_steps")
        assert content["waiting"]
        torch.save(content, tmp_path / "older.pth")
        os.replace(tmp_path / "older.pth", path)
    (found,), text = processes({"flags": flags})
    assert found == 0 and f"resumed after epoch {(batches - 1) // 4} and {(batches - 1) % 4 + 1} batches" in text
    (folder,) = (tmp_path / "run").iterdir()
    assert_same_run(folder, undisturbed[0])
    assert not (folder / "lock").exists() and len(json.loads((folder / "environment.json").read_text())) == 2


@pytest.mark.parametrize("case", ["read", "send", "full"])
def test_a_killed_worker_or_a_full_output_ends_a_run_in_a_line_with_all_saved(
    tmp_path, processes, flags, undisturbed, case
):
    flags = [*flags, "--log_dir", str(tmp_path), "--foldername", "run", "--resume", "auto"]
    run = {"flags": [*flags, "--num_workers", "2"], "stdout": str(tmp_path / "out")}
    # In the second epoch, 16 trials of each having come from either worker, in two batches, or while it is validated.
    run |= {"at": ["read", 40, signal.SIGKILL]} if case == "read" else {}
    run |= {"at": ["send", 4, signal.SIGKILL]} if case == "send" else {}
    run |= {"stdout": "/dev/full", "unbuffered": True} if case == "full" else {}
    (status,), text = processes(run)
    (line,) = text.strip().splitlines()
    assert status == 2 and line.startswith("train.py: error: "), text
    words = "standard output: cannot be written: No space left" if case == "full" else "killed by SIGKILL"
    assert words in line
    (status,), text = processes({"flags": flags})
    assert status == 0 and ("resumed after epoch" in text) == (case != "full"), text
    assert_same_run(sorted((tmp_path / "run").iterdir())[-1], undisturbed[0])


@pytest.fixture
def stopped(tmp_path, processes, flags):
    """A run that was stopped in its second epoch: (its folder, flags to go on)."""
    flags = [*flags, "--log_dir", str(tmp_path), "--foldername", "run", "--resume", "auto"]
    (status,), text = processes({"flags": flags, "at": ["step", 6, signal.SIGTERM]})
    assert status == 143, text
    (folder,) = (tmp_path / "run").iterdir()
    return folder, flags


def test_a_damaged_file_to_resume_from_gives_way_to_the_one_before(stopped, processes, undisturbed):
    folder, flags = stopped
    newest = folder / "checkpoints" / checkpoints.RESUME_NAME
    whole = newest.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1  # a bit among the weights: only a checksum tells
    newest.write_bytes(damaged)
    (status,), text = processes({"flags": flags})
    assert status == 0 and "resumed after epoch 1 and 0 batches" in text
    assert f"{newest}: " in text and f"going on from {newest.with_name(checkpoints.PREVIOUS_NAME)}" in text
    assert_same_run(folder, undisturbed[0])


def test_a_run_whose_files_to_resume_from_are_all_damaged_does_not_start_anew(stopped, fails):
    folder, flags = stopped
    for name in (checkpoints.RESUME_NAME, checkpoints.PREVIOUS_NAME):
        (folder / "checkpoints" / name).write_bytes(b"PK")
    fails(train.main, flags, str(folder / "checkpoints" / checkpoints.RESUME_NAME))


HOLD = """
import sys, time
from training import run_folder
with run_folder.locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(99)
"""


def test_two_runs_in_one_folder_are_refused_and_a_stale_lock_is_not(stopped, fails, processes):
    folder, flags = stopped
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        before = (folder / "lock").read_text()
        fails(train.main, flags, str(folder), str(holder.pid), socket.gethostname())
        assert (folder / "lock").read_text() == before
        holder.kill()
    (status,), text = processes({"flags": flags})
    assert status == 0 and f"lock: left behind by a run that is gone: process {holder.pid}" in text
    assert not (folder / "lock").exists()


def test_a_full_disk_leaves_the_last_good_file_and_says_what_is_needed(stopped, processes, undisturbed):
    folder, flags = stopped
    before = {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}
    limit = (folder / "checkpoints" / checkpoints.RESUME_NAME).stat().st_size // 2
    (status,), text = processes({"flags": flags, "file_limit": limit})
    assert status == 2 and "Traceback" not in text, text
    message = text.strip().splitlines()[-1]
    assert re.search(rf"{checkpoints.RESUME_NAME}: cannot be written: File too large; .* MB are needed", message)
    after = {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}
    for name in (checkpoints.RESUME_NAME, checkpoints.PREVIOUS_NAME, "epoch_1.pth"):
        assert after[name] == before[name]
    assert not [name for name in after if name.endswith(".tmp")]
    (status,), text = processes({"flags": flags})
    assert status == 0, text
    assert_same_run(folder, undisturbed[0])


def test_free_space_is_checked_before_the_first_epoch(tmp_path, flags, fails, monkeypatch, capsys):
    flags = [*flags, "--log_dir", str(tmp_path / "logs"), "--foldername", "run"]
    usage = run_folder.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    fails(train.main, flags, " 1.0 MB", "--keep_best")
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("case", [["--keep", "every"], ["--keep_best", "1", "--epochs", "4"]])
def test_what_the_run_needs_on_the_disk_is_what_it_writes(tmp_path, train_flags, output, monkeypatch, case):
    needed = []
    monkeypatch.setattr(run_folder, "check_space", lambda folder, *sizes: needed.extend(sizes))
    output(train.main, [*train_flags, *case, "--log_dir", str(tmp_path), "--foldername", "run"])
    (folder,) = (tmp_path / "run").iterdir()
    sizes = {path.name: path.stat().st_size for path in (folder / "checkpoints").iterdir()}
    # Beside what is there in the end: a third file to resume from, and the epoch's before --keep_best prunes.
    more = sizes[checkpoints.RESUME_NAME] + ("--keep_best" in case) * sizes["best_model.pt"]
    assert needed == pytest.approx(2 * [sum(sizes.values()) + more], rel=0.2)


def test_pruning_keeps_what_is_asked_for_and_what_the_average_needs(tmp_path):
    figures = {1: {"eer": 0.2, "loss": 9}, 2: {"eer": 0.1, "loss": 8}, 3: {"eer": 0.1, "loss": 1}}
    figures |= {4: {"eer": 0.4, "loss": 2}, 5: {"eer": 0.5, "loss": 3}}
    for keep_last, best, kept in [
        (1, [], [5]),
        (None, [("eer", 1)], [2]),
        (None, [("eer", 2)], [2, 3]),
        (2, [("eer", 1), ("loss", 2)], [2, 3, 4, 5]),
    ]:
        for epoch in figures:
            (tmp_path / f"epoch_{epoch}.pth").touch()
        (tmp_path / "epoch_7.pth").touch()  # not of this run's record: left alone
        (tmp_path / "best_model.pt").touch()
        left = dict(figures)
        run_folder.prune({epoch: tmp_path / f"epoch_{epoch}.pth" for epoch in figures}, left, keep_last, best)
        assert list(left) == kept
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {f"epoch_{epoch}.pth" for epoch in [*kept, 7]} | {"best_model.pt"}


def test_a_second_interrupt_ends_at_once():
    with console.StopSignals() as signals:
        assert signals.received == 0
        for _ in range(2):  # a cluster may send it to the process and to its group
            os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pair(run):
    """A run on two processes, as torchrun would start them."""
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [{**run, "env": {**where, "RANK": rank, "LOCAL_RANK": rank}} for rank in ("0", "1")]


@pytest.mark.parametrize("case", [["--batch_size", "9"], ["--grad_accum", "2", "--SSL_freeze_epoch", "1"]])
def test_two_processes_train_as_one_does(tmp_path, train_flags, processes, case):
    # In double precision: some weights have a gradient of zero but for rounding (a shift that the next batch norm takes
    # out again), and Adam makes steps of the same size of whatever sign that has.
    flags = [*train_flags, "--schedule", "constant", "--epochs", "2", "--algo", "3", "--average_best", "2", *case]
    flags += ["--log_dir", str(tmp_path), "--resume", "auto"]
    one, two = ({"flags": [*flags, "--foldername", name], "double": True} for name in ("one", "two"))
    (status,), text = processes(one)
    assert status == 0, text
    statuses, text = processes(*pair({**two, "at": ["step", 5, signal.SIGTERM]}))
    assert statuses == [143, 143], text
    statuses, text = processes(*pair(two))
    assert statuses == [0, 0] and text.count("finished") == 1, text
    one, two = (next((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert {path.name for path in one.glob("checkpoints/*")} == {path.name for path in two.glob("checkpoints/*")}
    start = checkpoints.read_checkpoint(one / "checkpoints" / "epoch_1.pth")["model"]
    for name in ("epoch_1.pth", "epoch_2.pth", "average_best_2.pth"):
        found, expected = (checkpoints.read_checkpoint(run / "checkpoints" / name) for run in (two, one))
        assert found["valid"].pop("selected_by") == expected["valid"].pop("selected_by")
        assert found["valid"] == pytest.approx(expected["valid"], rel=1e-5)
        differences = [(value - expected["model"][key]).abs().max() for key, value in found["model"].items()]
        assert max(differences) < 1e-5
    moved = [(value - start[key]).abs().max() for key, value in expected["model"].items() if "layers.0" in key]
    assert max(moved) > 1e-3


@pytest.mark.parametrize("name", ["AASIST", "Mamba", "MoE", "MFA", "PT_AASIST", "SLIM"])
def test_several_processes_train_what_has_unused_parameters(tmp_path, train_flags, processes, name):
    flags = [*with_back_end(train_flags, name), "--epochs", "1", "--algo", "0", "--batch_size", "4", "--crop", "2000"]
    statuses, text = processes(*pair({"flags": [*flags, "--log_dir", str(tmp_path), "--foldername", name]}))
    assert statuses == [0, 0], text


def test_two_processes_validate_whole_utterances_as_one_does(tmp_path, train_flags, processes):
    flags = [*train_flags, "--epochs", "1", "--algo", "0", "--validation", "eer", "--log_dir", str(tmp_path)]
    one, two = ({"flags": [*flags, "--foldername", name], "double": True} for name in ("one", "two"))
    lines = []
    for runs in ([one], pair(two)):
        statuses, text = processes(*runs)
        assert not any(statuses), text
        lines += re.findall(r"dev_loss \S+ dev_eer \S+", text)
    assert len(lines) == 2 and lines[0] == lines[1]
