"""Reading of ONNX files written by `checkpoint.py export`: session and metadata."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from common.console import UserError, shown
from common.workers import usable_cores

if TYPE_CHECKING:  # optional package, see requirements-onnx.txt
    import onnxruntime

# Must be set before onnxruntime is imported: its telemetry would report every opened model and leave a file in TMPDIR.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
FORMAT = "speech anti-spoofing detector, ONNX 1"


def onnx_session(model: str | bytes, threads: int | None = None) -> "onnxruntime.InferenceSession":
    """Create a CPU session for an ONNX model, a file or its content.

    threads: None: one per usable core. Raises onnxruntime's own errors.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only: errors are raised as exceptions anyway
    options.intra_op_num_threads = threads or usable_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # see common/threads.py
    return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])


def read_onnx(path: Path | str) -> tuple["onnxruntime.InferenceSession", dict]:
    """Open a file written by `checkpoint.py export`: (session, {name: fact}), see checkpoints/exporting.py.

    Raises UserError if onnxruntime is missing, or if the file is missing, damaged or of another kind.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: expected an ONNX file, found {'a folder' if Path(path).is_dir() else 'no file'}")
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(f"{path}: needs onnxruntime (pip install -r requirements-onnx.txt)") from error
    try:
        session = onnx_session(str(path))
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise UserError(f"{path}: cannot be read as an ONNX file: {shown(str(error), 200)}") from error
    try:
        facts = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    except ValueError:
        facts = {}
    if facts.get("format") != FORMAT:
        raise UserError(f"{path}: expected an ONNX file written by checkpoint.py export, found another ONNX file")
    return session, facts
