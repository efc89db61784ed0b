"""Pickled .npy files: numpy's arrays and plain data are read from them, and no code is run."""

import io
import os
import pickle
import re
from pathlib import Path

import numpy as np

from common.console import UserError, shown
from common.safe_pickle import NUMPY, limited_memory

_MEMORY = 1 << 30  # bytes beside twenty times those of the file that reading an array may take


class _Unpickler(pickle.Unpickler):
    """A pickle of numpy's arrays and plain data, and of nothing else."""

    allowed = {name: stand_in for stand_in, name in NUMPY}

    def find_class(self, module, name):
        try:
            return self.allowed[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name}") from None


def unpickled(path: str | os.PathLike) -> object:
    """What the pickle in an .npy file holds.

    Raises UserError for a damaged file, and for a pickle that could run code or takes more memory than its size
    accounts for.
    """
    try:
        data = Path(path).read_bytes()
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        _, _, dtype = read_header[version](stream)
        if not dtype.hasobject:
            raise UserError(f"{path}: expected a pickled dictionary, found an array of {dtype}")
        with limited_memory(20 * len(data) + _MEMORY):
            content = _Unpickler(stream).load()
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        if re.fullmatch(r"[\w.]+\.\w+", str(error)):
            raise UserError(
                f"{path}: refused: expected arrays of labels, found a pickle with {shown(str(error))}, which could run "
                "code"
            ) from error
        raise UserError(f"{path}: expected arrays of labels, found a damaged file") from error
    except MemoryError as error:
        raise UserError(f"{path}: refused: reading it takes more memory than its size accounts for") from error
    except Exception as error:  # whatever a damaged file makes of the reader; the file is at fault, not the program
        raise UserError(f"{path}: expected arrays of labels, found a damaged file") from error
    return content[()] if isinstance(content, np.ndarray) and content.ndim == 0 else content
