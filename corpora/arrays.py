"""Safe reading of pickled .npy files: numpy arrays and plain data only; no code is run."""

import io
import os
import pickle
import re
from pathlib import Path

import numpy as np

from common.console import UserError, shown
from common.safe_pickle import NUMPY, limited_memory

_MEMORY = 1 << 30  # bytes that reading may take in addition to twenty times the file's size


class _Unpickler(pickle.Unpickler):
    """Unpickler that accepts only numpy arrays and plain data."""

    allowed = {name: stand_in for stand_in, name in NUMPY}

    def find_class(self, module, name):
        try:
            return self.allowed[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name}") from None


def unpickled(path: str | os.PathLike) -> object:
    """Content of the pickle in an .npy file.

    Raises UserError for a damaged file, and for a pickle that could run code or needs too much memory for its size.
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
        raise UserError(f"{path}: refused: reading it needs too much memory for a file of its size") from error
    except Exception as error:  # a damaged file can raise anything in numpy and pickle; it is not a bug of this program
        raise UserError(f"{path}: expected arrays of labels, found a damaged file") from error
    return content[()] if isinstance(content, np.ndarray) and content.ndim == 0 else content
