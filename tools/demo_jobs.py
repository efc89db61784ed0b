"""Parallel processing of demo corpus trials."""

import concurrent.futures
import multiprocessing
import signal as signals

from common.console import OF_THE_MACHINE, UserError


def in_processes(function, items, shared, jobs):
    """Generator of function(item, *shared) of each item, in order, by `jobs` processes. UserError if one dies."""
    try:
        pool = concurrent.futures.ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start_process)
    except OSError as error:  # of a semaphore, which is a small file there
        if error.errno in OF_THE_MACHINE:
            raise
        raise UserError(f"/dev/shm: {error.strerror}; --jobs {jobs} needs a few bytes of it") from error
    with pool:
        try:
            at_once = max(1, min(8, len(items) // jobs))
            yield from pool.map(function, items, *([value] * len(items) for value in shared), chunksize=at_once)
        except concurrent.futures.process.BrokenProcessPool as error:
            why = "killed perhaps because memory ran out; fewer need less"
            raise UserError(f"--jobs {jobs}: a process that makes trials ended early, {why}") from error
        finally:
            pool.shutdown(cancel_futures=True)  # nobody waits for what has not begun


def _start_process():
    import threadpoolctl

    for number in (signals.SIGINT, signals.SIGHUP):  # they reach all processes of a terminal: the main one decides
        signals.signal(number, signals.SIG_IGN)
    threadpoolctl.threadpool_limits(1)  # one process per core is enough
