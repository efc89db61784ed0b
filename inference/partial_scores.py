"""Partial scores of an interrupted scoring run, and the check that another run may resume from them."""

import glob
import hashlib
import json
import os
import re
import tempfile
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from common.atomic import is_stream
from common.console import UserError
from corpora import Trial, provenance
from model import Detector


def detector_facts(detector: Detector) -> dict[str, object]:
    """Digest of a detector, taken before precision.prepare, and `machine`, which affects only rounding."""
    weights = hashlib.sha256(json.dumps(detector.config.to_dict()).encode())
    for name, tensor in detector.state_dict().items():
        weights.update(name.encode())
        weights.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    device = next(detector.parameters()).device
    machine = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }
    return {"detector": weights.hexdigest(), "machine": machine}


def run_facts(detector: dict, data: dict, batches: list[list[int]], **settings: object) -> dict[str, object]:
    """Facts that the scores of a run depend on, as plain data. Only a run with the same facts may resume it.

    detector: its detector_facts. data: provenance.data_facts of the trials.
    """
    plan = hashlib.sha256(json.dumps(batches).encode())
    return {**detector, "plan of batches": plan.hexdigest(), **settings, "data": data}


class PartialScores:
    """Partial scores of a run, next to its score file: SCORES.partial-RANK, one file per process.

    The first line of a file holds the facts of its run. One line of JSON per batch follows; if the process was killed,
    the last line may be torn. `done` is {batch number: (scores {index: score}, failures {index: why}, silent [index])}.
    A file of another run is kept until the first batch is added, so that an error before that loses nothing. If the
    output is a device or a pipe, the partial scores are kept in a temporary folder and cannot be resumed.
    Raises UserError if another process is writing the same score file, or if existing files hold scores of other data
    (the message says what differs).
    """

    def __init__(self, out: Path, rank: int, run: dict, trials: list[Trial]) -> None:
        self.folder = tempfile.TemporaryDirectory() if is_stream(out) else None
        # Next to the target of a link, so that two runs that write one file under two names detect each other.
        self.out, self.rank = Path(self.folder.name, "scores") if self.folder else Path(os.path.realpath(out)), rank
        self.run, self.machines = run, []
        path = self._path(rank)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A lock of the kernel ends with the process, even if that is killed.
            self.lock = FileLock(path, blocking=False, fallback_to_soft=False)
            self.lock.acquire()
            self.file = open(path, "a+b", buffering=0)
        except Timeout as error:
            raise UserError(f"{out}: another process is writing to it; wait for it or choose another file") from error
        except OSError as error:
            raise UserError(f"{out}: cannot be written: {error.strerror}") from error
        try:
            self._check_data(trials)
        except UserError:
            self.close()
            raise
        self.done, self.whole = self._read(path)
        self.others = self._others(self._header(path))

    def _check_data(self, trials):
        """Raise UserError if a file of any process holds scores of other trials or other audio."""
        headers = {path: header for path in self._paths() if (header := self._header(path))}
        for path, header in headers.items():
            before = header.get("data")  # files of an earlier version have none: they belong to another run
            if before and (reason := provenance.data_difference(before, self.run["data"], trials, labels=False)):
                names = ", ".join(map(str, headers))
                raise UserError(
                    f"{path}: holds scores of other data: {reason}; remove {names} to start over or choose another file"
                )

    def _others(self, header):
        """Names of the facts that differ in a file of another run; empty for a file of this run or a new one."""
        if header is None:
            return []
        if "data" not in header:
            return ["version of eval.py"]
        names = dict.fromkeys([*self.run, *header])
        return [name for name in names if name not in ("data", "machine") and header.get(name) != self.run.get(name)]

    @staticmethod
    def _header(path):
        """Facts in the first line of a file; None if that line is missing or torn."""
        try:
            with open(path, "rb") as file:
                line = file.readline()
            header = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):  # removed by another process of this run
            return None
        return header if isinstance(header, dict) else None

    def machine_differences(self) -> list[str]:
        """Differences between this machine and those of the resumed runs, in words."""
        differences = [provenance.machine_difference(machine, self.run["machine"]) for machine in self.machines]
        return sorted(set(filter(None, differences)))

    def _path(self, rank):
        return self.out.with_name(f"{self.out.name}.partial-{rank}")

    def _read(self, path):
        """Read the batches in a file, and count its bytes up to the last whole line; none if it is of another run."""
        done, whole = {}, 0
        header = self._header(path)
        if header is None or self._others(header):
            return {}, 0
        self.machines.append(header["machine"])
        lines = path.read_bytes().splitlines(keepends=True)
        for line in lines[1:]:
            try:
                number, scores, failures, silent = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            done[number] = (dict(scores), dict(failures), silent)
            whole += len(line)
        return done, whole + len(lines[0])

    def _write(self, line):
        try:
            self.file.write(line)
        except OSError as error:
            raise UserError(f"{self.file.name}: cannot be written: {error.strerror}") from error

    def add_other_ranks(self) -> None:
        """Take over the scores of the other processes of the interrupted run; it may have had more processes."""
        for path in self._paths():
            self.done |= self._read(path)[0]

    def _paths(self):
        paths = map(Path, glob.glob(f"{glob.escape(str(self.out))}.partial-*"))
        return [path for path in paths if re.fullmatch(r"\d+", path.name.removeprefix(f"{self.out.name}.partial-"))]

    def add(self, number: int, scores: dict, failures: dict[int, str], silent: list[int]) -> None:
        """Keep the result of a batch and append it to the file; a process killed meanwhile leaves a torn line."""
        if self.whole is not None:
            self.file.truncate(self.whole)
            if not self.whole:
                self._write(json.dumps(self.run).encode() + b"\n")
            self.whole = None
        self.done[number] = (scores, failures, silent)
        line = json.dumps([number, list(scores.items()), list(failures.items()), silent])
        self._write(line.encode() + b"\n")

    def close(self) -> None:
        """Close the file so that another process can resume from it. A second call does nothing."""
        if self.file.closed:
            return
        path = self._path(self.rank)
        if path.exists() and not path.stat().st_size:
            path.unlink()
        self.file.close()
        self.lock.release()

    def remove(self) -> None:
        """Remove the partial scores and close; the first process removes those of all processes."""
        for path in self._paths() if self.rank == 0 else [self._path(self.rank)]:
            path.unlink(missing_ok=True)
        self.close()
        if self.folder:
            self.folder.cleanup()
