"""Safe reading of untrusted pickles: stand-ins for numpy's classes, and a memory limit."""

import contextlib
import math
import pickle
import re
from collections.abc import Iterator

import numpy as np


class _Dtype:
    """Stand-in for numpy.dtype while a pickle is read.

    numpy.dtype trusts the sizes and flags in a pickle and may then use bytes of the file as addresses. This class
    allows only numbers, text, dates and bytes.
    """

    def __init__(self, code: object, align: object = False, copy: object = True) -> None:
        if not re.fullmatch(r"[biufc]\d{1,2}|[SUV]\d{1,6}|[mM]8|O8", str(code)):
            raise pickle.UnpicklingError(f"numpy dtype {code}")
        self.dtype = np.dtype("O" if code == "O8" else code)

    def __setstate__(self, state):
        if state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")

    def __reduce__(self):
        return self.dtype.__reduce__()

    def __repr__(self):
        return str(self.dtype)


class _Array(np.ndarray):
    """Stand-in for numpy.ndarray during and after reading a pickle; it is saved as numpy.ndarray."""

    def __new__(cls):
        return super().__new__(cls, 0)

    def __setstate__(self, state):
        _, shape, stand_in, is_fortran, values = state
        dtype, n_values = stand_in.dtype, math.prod(shape)
        n_given = len(values) if dtype.hasobject else len(values) / max(dtype.itemsize, 1)
        kind = list if dtype.hasobject else bytes
        if type(values) is not kind or min(shape, default=0) < 0 or n_values != n_given:
            raise pickle.UnpicklingError("numpy array of another size than its values")
        super().__setstate__((1, tuple(shape), dtype, bool(is_fortran), values))

    def __reduce__(self):
        return np.asarray(self).__reduce__()


def _array(kind, shape, code):
    return _Array()


def _scalar(dtype, value):
    """Convert a numpy scalar to a Python number or text."""
    return value if dtype.dtype.hasobject else np.frombuffer(value, dtype.dtype, count=1)[0].item()


def _no_bytes():
    return b""  # the pickle protocol of torch.save writes empty bytes as a call of bytes()


# (allowed stand-in, the name in a pickle that it replaces)
NUMPY = [
    (_Dtype, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    (_no_bytes, "builtins.bytes"),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((kind, f"numpy.{kind.__name__}") for kind in {*np.sctypeDict.values()} if issubclass(kind, np.number | np.bool_)),
]


@contextlib.contextmanager
def limited_memory(n_bytes: int) -> Iterator[None]:
    """Limit the memory within the block to n_bytes more than now; beyond it, MemoryError is raised. Linux only."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = now + n_bytes
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
