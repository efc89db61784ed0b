"""Not a test: a server that runs commands in forked processes, so that a test pays for importing torch once.

Each line of stdin is JSON. runs: one a process, all at once: {"flags": [...], "log": file, "env": {...}} and, where
asked for, "at": [name from HOOKS, n-th call, signal to get there]; "double": in that precision; "file_limit": the
largest file in bytes; "more_files": how many it may open; "shm": bytes of a /dev/shm of its own; "stdout": a file,
"unbuffered" or not; "command": another one than train. kill_after: seconds, or null. The answer is a line of their
exit statuses.
"""

import atexit
import ctypes
import gc
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time

# Imported before the forks; what a command would import only when it comes to it, too.
import fairseq.models.wav2vec.wav2vec2  # noqa: F401
import librosa  # noqa: F401
import soxr  # noqa: F401
import torch._dynamo  # noqa: F401
from fairseq.modules import Fp32GroupNorm

import data_utils
import eval as eval_script
import train
from inference import scoring
from model import Detector
from reports import metrics
from training.losses import LOSSES

logging.getLogger().setLevel(logging.WARNING)  # fairseq's import makes it DEBUG, which the project undoes for its own
CLONE_NEWNS = 0x20000
HOOKS = {
    "disk": [(os, "fsync"), (os, "replace")],
    "read": [(data_utils, "load_audio"), (scoring, "load_audio")],  # in each worker
    "send": [(os, "write")],
    "scored": [(eval_script.PartialScores, "add")],
    "step": [(train.Training, "step")],
    "validation": [(train.Training, "validate"), (metrics, "compute_eer")],
}


def stop_at(name, nth, number):
    calls = 0

    def hooked(function):
        def wrapper(*args, **options):
            nonlocal calls
            calls += 1
            if calls == nth:
                os.kill(os.getpid(), number)
            return function(*args, **options)

        return wrapper

    for owner, attribute in HOOKS[name]:
        setattr(owner, attribute, hooked(getattr(owner, attribute)))


def in_double_precision():
    start, hidden_states = train.Training.__init__, Detector.hidden_states
    train.Training.__init__ = lambda self, config, detector, loss, *rest: start(
        self, config, detector.double(), loss.double(), *rest
    )
    for loss in LOSSES.values():
        loss.total = lambda self, logits, labels, total=loss.total: total(self, logits.double(), labels)
    Detector.hidden_states = lambda self, x, *normalized: hidden_states(self, x.double(), *normalized)
    Fp32GroupNorm.forward = torch.nn.GroupNorm.forward


def start(run):
    pid = os.fork()
    if pid:
        return pid
    with open(run["log"], "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if "stdout" in run:
        os.dup2(os.open(run["stdout"], os.O_WRONLY | os.O_CREAT), 1)
    sys.stdout = sys.__stdout__ = open(1, "w", buffering=1 if run.get("unbuffered") else -1, closefd=False)
    command = {"train": train, "eval": eval_script}[run.get("command", "train")]
    sys.argv = [f"{command.__name__}.py", *run["flags"]]
    os.environ.update(run.get("env", {}))
    if limit := run.get("file_limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if "more_files" in run:
        limit = len(os.listdir("/proc/self/fd")) - 1 + run["more_files"]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if "shm" in run:
        assert not ctypes.CDLL(None).unshare(CLONE_NEWNS)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={run['shm']}", "tmpfs", "/dev/shm"], check=True)
    if run.get("double"):
        in_double_precision()
    if run.get("at"):
        stop_at(*run["at"])
    try:
        command.run(command.main)
    except SystemExit as ended:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(ended.code or 0)  # without taking down the interpreter, which is what takes longest


gc.freeze()  # what the forks share is left alone
print("ready", flush=True)
for line in sys.stdin:
    task = json.loads(line)
    pids = [start(run) for run in task["runs"]]
    statuses, end = {}, time.monotonic() + (task.get("kill_after") or 600)
    while len(statuses) < len(pids):
        if time.monotonic() > end:
            for pid in set(pids) - set(statuses):
                os.kill(pid, signal.SIGKILL)
            end = float("inf")
        for pid in set(pids) - set(statuses):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                statuses[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    print(json.dumps([statuses[pid] for pid in pids]), flush=True)
