"""Audio files from names on the command line, and the default detector."""

import contextlib
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.console import UserError
from corpora import list_audio, warn_of_others

DEMO_LOGS = Path(__file__).parent.parent / "demo" / "logs"  # where train.sh trains the demo's detector


def find_detector() -> tuple[str, str]:
    """Default detector: (checkpoint, the reason for this choice).

    $NES2NET_MODEL, else the newest run in demo/logs: its average, else its best epoch.
    Raises UserError, with instructions to get a detector.
    """
    if named := os.environ.get("NES2NET_MODEL"):
        return named, "named by NES2NET_MODEL"
    runs = sorted(DEMO_LOGS.glob("*/*/checkpoints"), key=lambda folder: (folder.parent.name, folder.parent.parent.name))
    for folder in reversed(runs):  # a run is named YYYYMMDD-HHMMSS; it may have no checkpoint yet
        averages = sorted(folder.glob("average_best_*.pth"), key=os.path.getmtime, reverse=True)
        for path in [*averages, *sorted(folder.glob("best_model.p*"))]:
            return os.path.relpath(path), "the newest of demo/logs"
    raise UserError(
        "expected --model_path CKPT or NES2NET_MODEL=CKPT, found neither, nor a detector in demo/logs",
        [
            "bash train.sh   trains the demo's small detector in about five minutes; it is then the default",
            "--model_path hf://nielsr/nes2net-checkpoints/FILE   downloads a released one, see docs/checkpoints.md",
        ],
    )


@contextlib.contextmanager
def find_files(names: Iterable[str]) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Resolve names to audio files, without duplicates.

    Yields ({display name: path}, {name: why nothing was found}).

    names: files, folders (audio files in them and their sub-folders), patterns, and `-` for standard input, which is
    copied to a temporary file while the context is open. Warns about files skipped in folders, except hidden ones.
    Raises UserError if no name matches a file.
    """
    with contextlib.ExitStack() as copies:
        found, missing = {}, {}
        for name in names:
            if name == "-":
                found["standard input"] = copies.enter_context(_copy_of_standard_input()).name
                continue
            if os.path.isfile(name):
                files = [name]
            elif os.path.isdir(name):
                files, others = list_audio(name, recursive=True)
                files = [str(Path(name, file)) for file in files]
                warn_of_others(name, others)
            else:
                files = sorted(file for file in glob.glob(name, recursive=True) if os.path.isfile(file))
            if not files:
                missing[name] = f"{name}: expected a file, a folder with audio files, a pattern or -, found nothing"
            found |= dict(zip(files, files))
        if not found:
            *others, reason = missing.values()
            raise UserError(reason, others)
        yield found, missing


def _copy_of_standard_input():
    """Copy standard input to an open temporary file. Raises UserError if that fails."""
    if sys.stdin is None:
        raise UserError("-: standard input is closed")
    copy = None
    try:
        copy = tempfile.NamedTemporaryFile()
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            copy and copy.close()
        raise UserError(f"standard input: cannot be copied to a temporary file: {error.strerror}") from error
    return copy
