"""A finished run that goes on to more epochs, and what a run logs: its console, and rates in percent."""

import json
import signal
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_crash import assert_same_run
from tqdm import tqdm

import checkpoints
import train
from common.console import UserError
from training.config import TrainingConfig
from training.console_log import ConsoleLog
from training.schedules import SCHEDULES, rates


@pytest.mark.parametrize("schedule", [["cosine", "--T_max", "3"], ["step", "--T_max", "1"]])
def test_a_finished_run_goes_on_as_one_that_was_longer_from_the_start(tmp_path, train_flags, processes, schedule):
    flags = [*train_flags, "--schedule", *schedule, "--average_best", "2", "--keep_best", "2", "--keep_last", "1"]
    flags += ["--log_dir", str(tmp_path), "--resume", "auto"]
    texts = []
    for name, epochs in (("long", "4"), ("extended", "2"), ("extended", "4")):
        (status,), text = processes({"flags": [*flags, "--foldername", name, "--epochs", epochs]})
        assert status == 0, text
        texts.append(text)
    (long,), (extended,) = (list((tmp_path / name).iterdir()) for name in ("long", "extended"))
    assert_same_run(extended, long)
    assert "was started with 2 epochs and goes on to 4" in texts[2] and "goes on to" not in texts[0] + texts[1]
    assert json.loads((extended / "config.json").read_text())["training"]["epochs"] == 4
    # The console of all starts, without what a bar writes.
    log = (extended / "console.log").read_text()
    starts = log.split("== ")[1:]
    assert len(starts) == 2 and all("--foldername extended" in start.splitlines()[0] for start in starts)
    for start, text in zip(starts, texts[1:]):
        assert start.splitlines()[1:] == [line.split("\r")[-1].strip() for line in text.splitlines()]
    assert [line.split()[1] for line in log.splitlines() if line.startswith("epoch ")] == ["1/2", "2/2", "3/4", "4/4"]


def test_what_depends_on_the_number_of_epochs_is_refused_with_the_way_out(tmp_path, train_flags, finished_run, fails):
    logs = finished_run.parent.parent
    flags = [*train_flags, "--average_best", "2", "--log_dir", str(logs), "--foldername", "run", "--resume", "auto"]
    words = ["--epochs: the run in", "was started with 3, found 5; --schedule onecycle depends on their number"]
    fails(train.main, [*flags, "--epochs", "5"], *words, f"--model_path {finished_run}/checkpoints/")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_tell_which_schedules_depend_on_the_number_of_epochs(schedule):
    config = TrainingConfig(schedule=schedule, epochs=9, T_max=4, lr=0.1, min_lr=0.001)
    other = TrainingConfig(schedule=schedule, epochs=12, T_max=4, lr=0.1, min_lr=0.001)
    free = schedule in ("constant", "cosine", "step", "warmup_exponential")
    assert (rates(config, 9) == rates(other, 9)) == free and len(rates(other, 9)) == 27
    assert rates(other, 12)[:27] == rates(other, 9)


def test_rates_are_those_of_the_formulas():
    def found(**values):
        return rates(TrainingConfig(lr=0.1, **values), 4, n_steps=2)

    assert found(schedule="step", epochs=9, T_max=1, gamma=0.5) == pytest.approx(
        [0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.0125, 0.0125]
    )
    assert found(schedule="exponential", epochs=4, min_lr=0.1 / 2**8) == pytest.approx([0.1 / 2**i for i in range(8)])


def test_a_run_that_began_with_rates_from_0_to_1_goes_on_with_them(tmp_path, train_flags, processes):
    flags = [*train_flags, "--log_dir", str(tmp_path), "--foldername", "run", "--resume", "auto"]
    (status,), text = processes({"flags": flags, "at": ["step", 6, signal.SIGTERM]})
    assert status == 143, text
    (folder,) = (tmp_path / "run").iterdir()
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("logged_rates") == "percent"
    (folder / "config.json").write_text(json.dumps(config))
    (status,), text = processes({"flags": flags})
    assert status == 0, text
    events = EventAccumulator(str(folder)).Reload()
    eers = [
        checkpoints.read_checkpoint(folder / "checkpoints" / f"epoch_{epoch}.pth")["valid"]["eer"]
        for epoch in (1, 2, 3)
    ]
    assert [event.value for event in events.Scalars("dev/eer")] == pytest.approx(eers[1:])
    assert [event.value for event in events.Scalars("dev/eer_percent")] == pytest.approx([100 * eers[0]])
    assert "logged_rates" not in json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    "error, last",
    [
        (UserError("no such file", details=["a", "b"]), ["a", "b", "error: no such file"]),
        (KeyboardInterrupt(), ["stopped by Ctrl-C"]),
        (ZeroDivisionError("a bug"), ["ZeroDivisionError: a bug"]),
        (SystemExit(143), ["half a line"]),
    ],
)
def test_the_console_is_kept_from_the_start_without_bars_and_to_the_error(tmp_path, capsys, monkeypatch, error, last):
    monkeypatch.setattr(sys, "argv", ["train.py", "--comment", "two words"])
    streams = sys.stdout, sys.stderr
    with pytest.raises(type(error)), ConsoleLog() as log:
        print("before there is a folder")
        log.open(tmp_path)
        for i in tqdm(range(3), leave=False, mininterval=0):
            print(f"line {i}", "of three", sep=" ", file=sys.stderr if i == 1 else sys.stdout)
        print("half a line", end="")
        raise error
    assert (sys.stdout, sys.stderr) == streams
    lines = (tmp_path / "console.log").read_text().splitlines()
    assert lines[0].startswith("== 20") and lines[0].endswith(" train.py --comment 'two words'")
    assert lines[1:5] == ["before there is a folder", *(f"line {i} of three" for i in range(3))]
    assert lines[-len(last) :] == last and "half a line" in lines
    printed = capsys.readouterr()
    assert "3/3" in printed.err and "line 1" in printed.err and "line 2" in printed.out


def test_a_console_log_that_takes_no_more_stops_nothing(tmp_path, capsys):
    (tmp_path / "console.log").symlink_to("/dev/full")
    with ConsoleLog() as log:
        log.open(tmp_path)
        print("a line")
    assert capsys.readouterr().out == "a line\n"
