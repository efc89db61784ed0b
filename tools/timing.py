"""Timing of alternative implementations in turns, and tables of the results."""

import contextlib
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent


def time_ways(ways, repeats, device="cpu", warm_up=1):
    """Time alternative implementations {name: callable}; the first is the naive one.

    They take turns, so that what else the machine does falls on all of them; warm_up turns before are not counted.
    Returns a row a way: name, seconds (median), spread (range of the middle half), ratio (how many times faster than
    the naive way: the median over turns).
    """
    seconds = {name: [] for name in ways}
    for turn in range(repeats + warm_up):
        for name, way in ways.items():
            taken = seconds_of(way, device)
            if turn >= warm_up:
                seconds[name].append(taken)
    naive = next(iter(seconds.values()))
    return [{"name": name, **figures(taken, naive)} for name, taken in seconds.items()]


def seconds_of(way, device="cpu"):
    """Seconds that one call takes, until the device is done."""
    started = time.perf_counter()
    way()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def figures(taken, naive):
    """seconds (median), spread (range of the middle half) and ratio (to the naive way's) of the seconds of some calls.
    naive: as many seconds, or None where that way could not be timed.
    """
    low, high = np.quantile(taken, [0.25, 0.75])
    ratio = statistics.median(a / b for a, b in zip(naive, taken)) if naive else None
    return {"seconds": statistics.median(taken), "spread": high - low, "ratio": ratio}


def print_rows(title, rows):
    """One table: what every row has, then whatever else some rows have, a column each."""
    columns = list(
        dict.fromkeys(["seconds", "spread", "ratio", *(key for row in rows for key in row if key != "name")])
    )
    table = [[title, *columns]]
    for row in rows:
        values = {key: "" if value is None else value for key, value in row.items()}
        values |= {"ratio": f"{row['ratio']:.2f}x"} if row.get("ratio") else {}
        cells = [values.get(key, "") for key in columns]
        table.append([row["name"], *(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells)])
    table[0][3] = "faster"
    widths = [max(map(len, column)) for column in zip(*table)]
    print()
    for name, *cells in table:
        print(f"{name:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(cells, widths[1:])), sep="  ")


def machine(device):
    """What the figures depend on: processor, cores, threads, versions, accelerator."""
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            flags = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in file if ":" in line}
        processor = flags.get("model name", processor)
        features = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags.get("flags", "")]
        processor += f" ({', '.join(features)})" if features else ""
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device == "cuda" else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


# Ends with the benchmark, however that ends.
BUSY = """
import os
parent = os.getppid()
print(flush=True)
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""


@contextlib.contextmanager
def busy_processes(n):
    """Within, n other processes compute all the time; gives them as Popen."""
    processes = []
    with contextlib.ExitStack() as stack:
        for _ in range(n):
            command = [sys.executable, "-c", BUSY]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            stack.enter_context(process)  # waits for it in the end
            stack.callback(process.kill)
            process.stdout.readline()  # it has started
            processes.append(process)
        yield processes


# From command to first score, each in a process of its own: argv is the checkpoint.
PEAK = """
with open("/proc/self/status") as file:
    print(next(line.split()[1] for line in file if line.startswith("VmHWM")))  # peak resident memory, kB
"""


def run_here(command):
    """Run a command here whose last word is its peak memory in kB: (seconds, GB)."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - started, int(done.stdout.split()[-1]) / 2**20


PIPES = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
