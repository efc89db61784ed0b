"""Processes, pipes, signals and limits of the machine: nothing waits for ever, and the reason is told in one line."""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT, TINY_FLAGS, speech_like, with_back_end

import checkpoints
import data_utils
import easy_inference_demo
import eval as eval_script
import train
from back_ends import BACK_ENDS, build_back_end
from common import console, workers
from common.workers import Workers
from inference import scoring
from model import ModelConfig, build_detector, choose_device
from tools import demo_jobs

N_FILES = 12


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    for i in range(N_FILES):
        soundfile.write(folder / f"{i:02}.wav", speech_like(rng, 1 + i / 10), 16000)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.pth"
    torch.manual_seed(0)
    config = ModelConfig("wav2vec2_Nes2Net_X", ssl="tiny", Nes_ratio=(2, 2))
    checkpoints.save_checkpoint(path, config, build_detector(config).state_dict())
    return path


@pytest.fixture(scope="module")
def command(audio, model):
    """eval.py's flags but --eval_output and --num_workers: batches of one file."""
    return ["--base_dir", str(audio), "--model_path", str(model), "--batch_samples", "1"]


@pytest.fixture(scope="module")
def expected(command, tmp_path_factory, processes):
    """The score file of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("expected") / "s.txt"
    statuses, text = processes(
        {"command": "eval", "flags": [*command, "--num_workers", "0", "--eval_output", str(out)]}
    )
    assert statuses == [0], text
    assert out.read_bytes().count(b"\n") == N_FILES
    return out.read_bytes()


def error_line(text):
    """The one line of stderr that a failed command leaves."""
    (line,) = [line for line in text.splitlines() if not line.startswith(("detector: ", "trials: ", "going on with"))]
    assert ".py: error: " in line, text
    return line


@pytest.mark.parametrize("flags", [[], ["--batch_samples", str(100 * 16000)]])
def test_scoring_needs_nothing_of_dev_shm(command, expected, tmp_path, processes, flags):
    out = tmp_path / "s.txt"
    flags = [*command, "--num_workers", "3", *flags, "--eval_output", str(out)]
    run = {"command": "eval", "flags": flags}
    statuses, text = processes({**run, "shm": 4096} if may_mount() else run)
    assert statuses == [0], text
    assert set(out.read_bytes().split()[::2]) == set(expected.split()[::2])
    if len(flags) == len(command) + 4:
        assert out.read_bytes() == expected


def may_mount():
    """May this process mount? Where not, the tests of a full /dev/shm see the machine's own."""
    done = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], capture_output=True)
    return done.returncode == 0


def test_training_needs_nothing_of_dev_shm(train_flags, tmp_path, processes):
    flags = [*train_flags, "--num_workers", "2", "--epochs", "1", "--check_audio", "--skip_bad_audio", "1"]
    run = {"flags": [*flags, "--log_dir", str(tmp_path)]}
    statuses, text = processes({**run, "shm": 4096} if may_mount() else run)
    assert statuses == [0], text


def test_no_batch_of_a_worker_is_shared_memory():
    ((x,), rest), *_ = Workers(lambda n: ([np.full((2, n), n, np.float32)], n), 2).results(iter([3, 4]))
    assert not x.is_shared() and x.tolist() == [[3, 3, 3]] * 2 and rest == 3


@pytest.mark.parametrize(
    "at, number",
    [("read", signal.SIGKILL), ("send", signal.SIGKILL), ("read", signal.SIGSEGV), ("read", signal.SIGBUS)],
)
def test_a_killed_worker_is_named_and_no_score_lost(command, expected, tmp_path, processes, at, number):
    out = tmp_path / "s.txt"
    run = {"command": "eval", "flags": [*command, "--num_workers", "2", "--eval_output", str(out)]}
    statuses, text = processes({**run, "at": [at, 4, number]})
    line = error_line(text)
    assert statuses == [2] and f"was killed by {number.name}" in line and "--num_workers 2" in line, text
    assert ("--num_workers 0" in line) == (number == signal.SIGKILL)
    assert not out.exists() and not Path(f"{out}.errors.tsv").exists()
    statuses, text = processes(run)
    assert statuses == [0] and re.search(r"[1-5] of 12 batches are done", text), text
    assert out.read_bytes() == expected and len(list(tmp_path.iterdir())) == 1


def test_a_bug_in_a_worker_shows_where_it_is():
    with pytest.raises(ZeroDivisionError) as raised:
        list(Workers(lambda n: ([], 1 // n), 2).results([1, 2, 0, 3]))
    assert "1 // n" in "".join(raised.value.__notes__)


def test_workers_go_on_after_a_pass_that_was_broken_off():
    workers = Workers(lambda n: ([np.zeros(10**6, np.float32)], n), 2)
    for _ in workers.results(range(20)):
        break
    assert [n for _, n in workers.results(range(5))] == list(range(5))


def test_a_killed_process_of_the_demo_corpus_and_a_full_dev_shm_are_told(monkeypatch):
    rendered = demo_jobs.in_processes(eval, ["1", "__import__('os')._exit(9)"], ({}, {}), 1)
    with pytest.raises(console.UserError, match="--jobs 1: "):
        list(rendered)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(demo_jobs.concurrent.futures, "ProcessPoolExecutor", full)
    with pytest.raises(console.UserError, match="/dev/shm: No space left on device"):
        list(demo_jobs.in_processes(eval, [], ({}, {}), 1))


@pytest.mark.parametrize("number, status", [(signal.SIGHUP, 129), (signal.SIGTERM, 143)])
def test_a_signal_ends_scoring_in_a_line_and_no_score_is_lost(command, expected, tmp_path, processes, number, status):
    out = tmp_path / "s.txt"
    run = {"command": "eval", "flags": [*command, "--num_workers", "2", "--eval_output", str(out)]}
    statuses, text = processes({**run, "at": ["scored", 4, number]})
    assert statuses == [status] and number.name in error_line(text), text
    statuses, text = processes(run)
    assert statuses == [0] and "3 of 12 batches are done" in text, text
    assert out.read_bytes() == expected


def test_under_nohup_a_run_does_not_stop():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with console.StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not signals.received
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_too_many_open_files_are_no_fault_of_a_trial(command, expected, tmp_path, processes):
    found = []
    for more in (0, 1, 2, 3, 5, 8, 30):
        out = tmp_path / f"{more}.txt"
        flags = [*command, "--num_workers", "2", "--eval_output", str(out)]
        statuses, text = processes({"command": "eval", "flags": flags, "more_files": more})
        assert statuses in ([0], [2]) and "Traceback" not in text, text
        assert not Path(f"{out}.errors.tsv").exists()
        if statuses == [2]:
            assert "Too many open files" in error_line(text) and not out.exists()
        else:
            assert out.read_bytes() == expected
        found += statuses
    assert found[0] == 2 and found[-1] == 0


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, os.strerror(errno.EMFILE)), MemoryError()])
@pytest.mark.parametrize("num_workers", ["0", "1"])
def test_what_the_machine_lacks_is_no_fault_of_a_trial(command, tmp_path, fails, monkeypatch, error, num_workers):
    def lacking(*_, **__):
        raise error

    monkeypatch.setattr("common.audio._by_libsndfile", lacking)
    out = tmp_path / "s.txt"
    what = "out of memory" if isinstance(error, MemoryError) else "Too many open files"
    fails(eval_script.main, [*command, "--num_workers", num_workers, "--eval_output", str(out)], what)
    assert not Path(f"{out}.errors.tsv").exists() and not out.exists()
    fails(easy_inference_demo.main, ["--model_path", command[3], "--file_to_test", command[1]], what)


# ------------------------------------------------------------------------------------------------- standard streams


REPORT = ["EER_minDCF.py", "--help"]
TALK = """
import sys
sys.path.insert(0, {root!r})
from common.console import UserError, progress, run, warn
def main():
    warn("careful")
    for _ in progress(range(3), disable=False):
        pass
    print("x" * 100_000)
    return 0
run(main)
"""


def shell(line, *arguments):
    """Run a line of bash in which "$@" is Python with these arguments. Returns (status, stdout, stderr)."""
    done = subprocess.run(
        ["bash", "-c", line, "bash", sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", [[], ["-u"]])
@pytest.mark.parametrize("program", [REPORT, ["-c", TALK.format(root=str(ROOT))]])
@pytest.mark.parametrize(
    "redirection, status, what",
    [
        ('"$@" > /dev/full', 2, "standard output: cannot be written: No space left on device"),
        ('"$@" >&-', 2, "standard output is closed"),
        ('exec 3> >(true); wait $!; "$@" >&3', 1, "standard output: its reader is gone"),
        ('"$@" > /dev/null <&-', 0, None),
        ('"$@" > /dev/null 2>&-', 0, None),
        ('"$@" > /dev/null 2> /dev/full', 0, None),
        ('"$@" >&- 2>&- <&-', 2, None),
    ],
)
def test_standard_streams_that_fail(redirection, status, what, program, unbuffered):
    found, _, errors = shell(redirection, *unbuffered, *program)
    assert found == status and "Traceback" not in errors and "Exception ignored" not in errors, errors
    lines = [line for line in errors.splitlines() if "careful" not in line and "it/s" not in line]
    assert len(lines) == (what is not None) and (not what or what in lines[0]), errors


def test_a_standard_input_that_cannot_be_read_is_told(command, fails, monkeypatch):
    flags = ["--model_path", command[3], "--file_to_test", "-"]
    monkeypatch.setattr(sys, "stdin", None)
    fails(easy_inference_demo.main, flags, "-: standard input is closed")
    with open("/proc/self/mem") as memory:  # nothing lies at address 0
        monkeypatch.setattr(sys, "stdin", memory)
        fails(easy_inference_demo.main, flags, "standard input: ", "Input/output error")


def test_a_bug_keeps_its_traceback_and_a_command_its_own_status():
    program = "from common.console import run\nprint('said')\nrun(lambda: 1 // 0)"
    status, out, errors = shell('"$@"', "-c", program)
    assert status == 1 and out == "said\n" and "ZeroDivisionError" in errors
    assert shell('"$@"', "-c", program.replace("1 // 0", "7"))[0] == 7


# ------------------------------------------------------------------------------------ batch norms and parts of a batch


@pytest.mark.parametrize("name", BACK_ENDS)
def test_a_back_end_says_how_many_trials_a_batch_needs(name):
    torch.manual_seed(0)
    back_end = build_back_end(ModelConfig(f"wav2vec2_{name}"), 64, 3).train()
    n = back_end.least_batch
    for size in {1, n}:
        states = torch.randn(3, size, 8, 64)
        features = list(states) if back_end.takes_hidden_states else states[0]
        if size < n:
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                back_end(features)
        else:
            assert back_end(features).isfinite().all()


@pytest.mark.parametrize(
    "case, words",
    [
        (["--batch_size", "1"], ["--batch_size 1", "one holds 1", "MHFA needs 2"]),
        (["--batch_size", "8", "--grad_accum", "8"], ["--grad_accum 8", "one holds 1"]),
        (["--batch_size", "7", "--grad_accum", "2"], None),  # 4 and 3, of 32 trials the last 4: 2 and 2
        (["--batch_size", "7", "--grad_accum", "3"], ["one holds 1"]),  # 3, 3 and 1
    ],
)
def test_a_part_of_one_trial_is_refused_where_the_back_end_normalises_over_trials(
    case, words, train_flags, tmp_path, fails, monkeypatch
):
    def loaded(*_, **__):
        raise SystemExit(99)

    for owner, name in [(train.checkpoints, "new_detector"), (data_utils, "load_audio")]:
        monkeypatch.setattr(owner, name, loaded)
    flags = with_back_end([*train_flags, "--log_dir", str(tmp_path), *case], "MHFA")
    if words:
        monkeypatch.setattr(train, "read_trials", loaded)
        fails(train.main, flags, *words)
        flags = ["wav2vec2_Nes2Net_X" if flag == "wav2vec2_MHFA" else flag for flag in flags]
    with pytest.raises(SystemExit, match="99"):
        train.main(flags)
    assert not any(tmp_path.iterdir())


def test_a_last_batch_that_is_too_small_is_refused_before_weights_are_read(train_flags, corpus, tmp_path, fails):
    key = tmp_path / "key.csv"
    lists = corpus / "ASVspoof2019_LA_cm_protocols"
    lines = next(lists.glob("*train*")).read_text().splitlines()
    key.write_text("\n".join([*lines[:4], *lines[-5:]]) + "\n")
    audio = str(corpus / "ASVspoof2019_LA_train" / "flac")
    flags = [flag for flag in with_back_end(train_flags, "MHFA") if flag not in ("--database_path", str(corpus))]
    flags += ["--train_protocol", str(key), "--train_audio_dir", audio, "--dev_protocol", str(key), "--dev_audio_dir"]
    flags += [audio, "--ssl_path", str(tmp_path / "none.pt"), "--batch_size", "16"]
    flags += ["--grad_accum", "8", "--log_dir", str(tmp_path / "logs")]  # of the 9 trials: 2, 2, 2, 2 and 1
    fails(train.main, flags, " 9 trials", " 1", "MHFA", " 2")
    sizes = [(len(loader), loader.batch_sampler.sizes()) for loader in (nine_trials(False), nine_trials(True))]
    assert sizes == [(3, {4, 1}), (2, {4})]


def nine_trials(drop_last):
    return data_utils.make_loader(data_utils.TrialDataset([None] * 9), 4, shuffle=True, drop_last=drop_last)


def test_unequal_numbers_of_parts_on_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(train.distributed, "world_size", lambda: 2)
    config, _ = train.parse_args(["--base_dir", "x", *TINY_FLAGS, "--batch_size", "9", "--grad_accum", "5"])
    with pytest.raises(console.UserError, match="2 processes"):
        train.check_parts(config, "Nes2Net_X", [9])
    train.check_parts(config, "Nes2Net_X", [10])
    train.check_parts(config, "MHFA", [10])  # parts of one trial on each of two processes: their statistics are of two


def test_utterance_batch_norm_is_refused_where_one_utterance_has_no_statistics(command, tmp_path, fails):
    config = ModelConfig("wav2vec2_MHFA", ssl="tiny")
    checkpoints.save_checkpoint(tmp_path / "m.pth", config, build_detector(config).state_dict())
    flags = [str(tmp_path / "m.pth") if flag == command[3] else flag for flag in command]
    flags += ["--batch_norm", "utterance", "--eval_output", str(tmp_path / "s.txt")]
    fails(eval_script.main, flags, "--batch_norm utterance", "MHFA")
    assert not list(tmp_path.glob("s.*"))


@pytest.mark.parametrize(
    "cores, here, training, scoring_on_a_gpu", [(64, 1, 12, 4), (64, 8, 8, 4), (8, 4, 2, 2), (1, 1, 1, 1), (4, 8, 1, 1)]
)
def test_processes_on_one_machine_share_its_cores(monkeypatch, cores, here, training, scoring_on_a_gpu):
    monkeypatch.setattr(workers, "usable_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))
    assert workers.share_of_cores(12) == training
    assert scoring.readers(torch.device("cuda")) == scoring_on_a_gpu and scoring.readers(torch.device("cpu")) == 0


def test_the_chosen_gpu_becomes_the_current_one(monkeypatch):
    """Kernels and memory of a process that chose another one would else be on the first."""
    current = []
    for name, value in {"is_available": True, "device_count": 4}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert choose_device(3) == torch.device("cuda:3") and current == [3]
    with pytest.raises(console.UserError, match="0 to 3.* 4"):
        choose_device(4)
