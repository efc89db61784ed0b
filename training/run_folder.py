"""The folder of a training run: which one, one run at a time in it, its disk space, what is kept, where it ran.

LOG_DIR/FOLDERNAME/DATE-TIME holds config.json, environment.json, TensorBoard's events and checkpoints/.
"""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch.utils.tensorboard import SummaryWriter

import checkpoints
from common.atomic import atomic_open
from common.console import UserError, warn
from corpora import provenance


def choose(
    log_dir: Path | str, foldername: str, resume: str | None = None, resume_checkpoint_path: Path | str | None = None
) -> tuple[Path, list[Path]]:
    """(folder of the run, files to resume from, the newest first). A new folder is named by the date and time.

    resume "auto": the newest folder below log_dir/foldername that holds a file to resume from, if there is one.
    """
    if resume_checkpoint_path:
        path = Path(resume_checkpoint_path)
        if not path.is_file():
            raise UserError(f"--resume_checkpoint_path {path}: no such file")
        return path.resolve().parent.parent, [path]
    folder = Path(log_dir) / foldername
    if resume:
        names = (checkpoints.RESUME_NAME, checkpoints.PREVIOUS_NAME)
        for run in sorted({path.parent.parent for name in names for path in folder.glob(f"*/checkpoints/{name}")})[-1:]:
            return run, [path for path in (run / "checkpoints" / name for name in names) if path.exists()]
    return folder / datetime.datetime.now().strftime("%Y%m%d-%H%M%S"), []


@contextlib.contextmanager
def locked(folder: Path | str) -> Iterator[Callable[[], None]]:
    """Hold the folder for this process. Raises UserError, naming process and host, where another run holds it.

    The lock is the kernel's, on a file that says who took it: it ends with its process however that dies, and the file
    that is then left behind is recognised as stale. Forked workers do not inherit it.
    Gives a function that raises UserError if the folder, or checkpoints/ in it, is no longer the one that was locked.
    """
    path, checkpoints = Path(folder) / "lock", Path(folder) / "checkpoints"
    holder = f"process {os.getpid()} on host {socket.gethostname()}\n"
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        checkpoints.mkdir(exist_ok=True)
        opened = os.open(checkpoints, os.O_RDONLY)  # as long as it is open, no other folder gets its number
        if stale := path.read_text().strip():
            warn(f"{path}: left behind by a run that is gone: {stale}")
        path.write_text(holder)
    except Timeout as error:
        other = "another process"
        with contextlib.suppress(OSError):  # it has just finished
            other = path.read_text().strip() or other
        raise UserError(f"{folder}: a run is going on in this folder: {other}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be locked: {error.strerror or error}") from error
    ours = os.fstat(opened)

    def check_there():
        try:
            there = os.path.samestat(os.stat(checkpoints), ours)
        except (FileNotFoundError, NotADirectoryError):
            there = False
        except OSError as error:
            raise UserError(f"{checkpoints}: cannot be reached: {error.strerror}") from error
        if not there:
            raise UserError(f"{checkpoints}: deleted, moved or replaced while the run was going on")

    try:
        yield check_there
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone, or another run's
            if path.read_text() == holder:
                path.unlink()
        lock.release()
        os.close(opened)


def check_space(folder: Path | str, certain: int, possible: int) -> None:
    """Raise UserError where the disk has no room for what the run is certain to write, in bytes; warn where it has
    none for what it possibly writes. What the run's folder holds already counts as written.
    """
    place = folder = Path(folder)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    written = sum(path.stat().st_size for path in folder.glob("checkpoints/*")) if folder.exists() else 0
    advice = "--keep_best N and --keep_last N bound it"
    if certain - written > free:
        raise UserError(f"{folder}: the run needs {_size(certain - written)} of disk, free are {_size(free)}; {advice}")
    if possible - written > free:
        warn(f"{folder}: the run may need {_size(possible - written)}, free are {_size(free)}; {advice}")


def _size(n_bytes):
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes > 1e9 else f"{n_bytes / 1e6:,.1f} MB"


def prune(
    paths: dict[int, Path], figures: dict[int, dict[str, float]], keep_last: int | None, best: list[tuple[str, int]]
) -> None:
    """Delete the checkpoints of epochs that nothing asks for.

    paths: {epoch: checkpoint}. figures: {epoch: {figure: value}} of the epochs with a checkpoint. keep_last: how many
    of the last epochs stay. best: (figure, N) pairs; the N epochs with the lowest figure stay, of equal ones the
    earlier.
    """
    keep = set(sorted(figures)[-keep_last:] if keep_last else [])
    for name, n in best:
        keep |= set(sorted(figures, key=lambda epoch: (figures[epoch][name], epoch))[:n])
    for epoch in set(figures) - keep:
        paths[epoch].unlink(missing_ok=True)  # a run that goes on may have deleted it before it was killed
        del figures[epoch]


def clear_unfinished(checkpoints: Path | str) -> None:
    """Remove what a killed run was writing: temporary files are of the size of a checkpoint."""
    for path in Path(checkpoints).glob(".*.tmp"):
        path.unlink(missing_ok=True)


def event_writer(folder: Path | str, purge_step: int) -> SummaryWriter:
    """TensorBoard's writer of a run that starts, or goes on and hides what was logged from purge_step on.

    TensorBoard reads event files in the order of their names: the second of their start, the host, the process's number
    as text. The last two tell nothing of their order, so a start waits until no file carries its second.
    """
    while any(Path(folder).glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
        time.sleep(0.05)
    return SummaryWriter(folder, purge_step=purge_step)


def write_environment(folder: Path | str, device: torch.device, processes: int) -> str:
    """Add an entry to environment.json, one for every start of the run: versions, commit, machine.

    Returns what the arithmetic's rounding depends on and has changed since the start before, in words.
    """
    path = Path(folder) / "environment.json"
    try:
        starts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        starts = []
    starts.append({**_environment(device), "processes": processes})
    with atomic_open(path) as file:
        json.dump(starts, file, indent=1)
    return provenance.machine_difference(*map(_rounding, starts[-2:])) if len(starts) > 1 else ""


def _rounding(start):
    """What rounding depends on, {name: value}, of an entry of environment.json."""
    found = {name: start.get(name) for name in ("threads", "processes", "processor")}
    return {**found, "torch": start.get("packages", {}).get("torch"), "GPU": start.get("gpu", "none")}


def _environment(device):
    """What the numbers of a run may depend on beside its settings, as plain data."""
    packages = "torch torchaudio fairseq-fixed fairseq numpy scipy soundfile av soxr".split()
    here = Path(__file__).parent.parent
    found = {
        "started": datetime.datetime.now().isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in packages if (version := _version(name))} | {"torch": torch.__version__},
        "git_commit": _output("git", "-C", here, "rev-parse", "HEAD"),
        "git_changed": bool(_output("git", "-C", here, "status", "--porcelain", "--untracked-files=no")),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        found |= {
            "gpu": torch.cuda.get_device_name(device),
            "gpus": torch.cuda.device_count(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        }
    return found


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(*command):
    """What a command prints; None where it is not installed or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
