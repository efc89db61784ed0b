"""ONNX files that `checkpoint.py export` writes: how onnxruntime opens them, and the facts in their metadata."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from common.console import UserError, shown
from common.workers import usable_cores

if TYPE_CHECKING:  # a package of its own, see requirements-onnx.txt
    import onnxruntime

# Read when it is imported: else it tells its makers of every model that it opens, and leaves a file in TMPDIR.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
FORMAT = "speech anti-spoofing detector, ONNX 1"


def onnx_session(model: str | bytes, threads: int | None = None) -> "onnxruntime.InferenceSession":
    """What computes an ONNX model, a file or its content, on the CPU. threads: None is one a usable core. Errors are
    onnxruntime's own.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are exceptions
    options.intra_op_num_threads = threads or usable_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # see common/threads.py
    return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])


def read_onnx(path: Path | str) -> tuple["onnxruntime.InferenceSession", dict]:
    """(session, facts by name, see checkpoints/exporting.py) of a file that `checkpoint.py export` wrote.

    Raises UserError if onnxruntime is missing, or the file is missing, damaged or of another kind.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: expected an ONNX file, found {'a folder' if Path(path).is_dir() else 'none'}")
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(f"{path}: needs onnxruntime (pip install -r requirements-onnx.txt)") from error
    try:
        session = onnx_session(str(path))
    except Exception as error:  # onnxruntime's have no base class of their own
        raise UserError(f"{path}: cannot be read as an ONNX file: {shown(str(error), 200)}") from error
    try:
        facts = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    except ValueError:
        facts = {}
    if facts.get("format") != FORMAT:
        raise UserError(f"{path}: expected an ONNX file that checkpoint.py export wrote, found another")
    return session, facts
