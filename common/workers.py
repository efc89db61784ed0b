"""Worker processes that read audio while the detector computes (prefetch).

Each worker has its own socket to the main process. If one end dies, reads at the other end stop, so nothing waits
forever. Waveforms are sent through the socket, not through /dev/shm, which is small in some containers, and not as open
files, whose number is limited.
"""

import contextlib
import itertools
import math
import multiprocessing
import os
import signal
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import util
from typing import TYPE_CHECKING

import numpy as np

from common.console import UserError

if TYPE_CHECKING:
    import torch

AHEAD = 2  # prefetched tasks per process
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def usable_cores() -> int:
    """Number of cores that this process may use, given the machine, its CPU affinity and its container's limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            share, period = file.read().split()
        return max(min(cores, math.ceil(int(share) / int(period))), 1)
    except (OSError, ValueError):  # no limit: no such file, or "max"
        return cores


def share_of_cores(most: int) -> int:
    """Number of audio workers for this process: its share of the usable cores, from 1 to `most`.

    One worker pays off even on one core, because the GPU then does not wait for files.
    """
    n_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes on this machine, set by torchrun
    return min(most, max(usable_cores() // n_processes, 1))


class Workers:
    """Pool of n processes that compute make(task), started on first use; n = 0: compute in this process.

    make: maps a task to (float32 arrays, other small picklable data). pin_memory: put the tensors into pinned memory,
    from which copies to the GPU are fastest.
    """

    def __init__(self, make: Callable[..., tuple[list[np.ndarray], object]], n: int, pin_memory: bool = False) -> None:
        if n < 0:
            raise UserError(f"--num_workers: expected at least 0, found {n}")
        self.make, self.n, self.pin_memory = make, n, pin_memory
        self.processes, self.end = [], None

    def results(self, tasks: Iterable) -> Iterator[tuple[list["torch.Tensor"], object]]:
        """Yield (tensors, other data) of each task, in order.

        Raises the exceptions of make, and UserError if a process cannot be started or dies.
        """
        if not self.n:
            import torch

            for task in tasks:
                arrays, rest = self.make(task)
                tensors = [torch.from_numpy(array) for array in arrays]
                yield [x.pin_memory() for x in tensors] if self.pin_memory else tensors, rest
            return
        if not self.processes:
            self._start()
        tasks, asked, turns = iter(tasks), deque(), itertools.cycle(self.processes)
        try:
            while True:
                for task in itertools.islice(tasks, AHEAD * self.n - len(asked)):
                    asked.append(next(turns))
                    self._talk(asked[-1], lambda connection, task=task: connection.send(task))
                if not asked:
                    return
                tensors, rest = self._talk(asked[0], self._receive)
                asked.popleft()
                if isinstance(rest, Exception):
                    raise rest
                yield tensors, rest
        finally:
            if asked:  # the pass was interrupted: discard results that are still pending
                self.close()

    def close(self) -> None:
        """End the processes; the next use starts new ones."""
        if self.end:
            self.end()
        self.processes = []

    def _start(self):
        # Signals such as Ctrl-C reach all processes of a terminal or a cluster's job; only the main process reacts.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        # Also runs at interpreter exit, before multiprocessing joins its processes.
        self.end = util.Finalize(self, _end, [self.processes], exitpriority=10)
        try:
            for _ in range(self.n):
                here, there = multiprocessing.Pipe()
                with there:
                    process = multiprocessing.Process(target=_serve, args=[there, here, self.make], daemon=True)
                    process.start()
                self.processes.append((here, process))
        except OSError as error:
            self.close()
            if error.filename:  # standard output, which is flushed before the fork
                raise
            raise UserError(
                f"--num_workers {self.n}: cannot start processes: {error.strerror}; --num_workers 0 needs none"
            ) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _talk(self, worker, talk):
        connection, process = worker
        try:
            return talk(connection)
        except (EOFError, OSError) as error:
            process.join(10)
            code = process.exitcode or 0
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            advice = ""
            if code == -signal.SIGKILL:
                advice = ", probably because memory ran out; fewer workers need less, --num_workers 0 the least"
            who = f"process {process.pid}, an audio worker,"
            raise UserError(f"--num_workers {self.n}: {who} {how}{advice}") from error

    def _receive(self, connection):
        import torch  # imported here: programs without torch import this folder

        shapes, rest = connection.recv()
        tensors = [torch.empty(shape, pin_memory=self.pin_memory) for shape in shapes]
        for x in tensors:
            bytes_left = memoryview(x.numpy()).cast("B")
            while bytes_left:
                n = os.readv(connection.fileno(), [bytes_left])
                if not n:
                    raise EOFError
                bytes_left = bytes_left[n:]
        return tensors, rest


def _serve(connection, other_end, make):
    """Main loop of a worker, until the main process closes its end of the connection or is gone."""
    import torch

    other_end.close()  # a copy; only the main process may hold this end
    torch.set_num_threads(1)
    while True:
        try:
            task = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            arrays, rest = make(task)
        except UserError as error:
            arrays, rest = [], error
        except Exception as error:  # a bug; raised again in the main process
            error.add_note(f"In an audio worker:\n{traceback.format_exc()}")
            arrays, rest = [], error
        arrays = [np.ascontiguousarray(array, dtype=np.float32) for array in arrays]
        try:
            connection.send(([array.shape for array in arrays], rest))
            for array in arrays:
                bytes_left = memoryview(array).cast("B")
                while bytes_left:
                    bytes_left = bytes_left[os.write(connection.fileno(), bytes_left) :]
        except ConnectionError:
            return


def _end(processes):
    for connection, _ in processes:
        # close() alone would not end the connection, because workers started later hold copies of it.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)
        connection.close()
    end = time.monotonic() + 5
    for _, process in processes:
        process.join(max(end - time.monotonic(), 0))
        process.kill()
        process.join()
