"""The audio of trials: which files of a folder are audio, and which of them belongs to which trial."""

import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from common.console import UserError, shown, warn
from corpora.records import CORPORA
from corpora.tables import Trial, read_table
from corpora.text import AUDIO_EXTENSIONS, stem, utterance_names

# No line of a score file can hold a name with one of these: control characters, line ends, bytes that are no UTF-8.
_NOT_IN_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def list_audio(folder: str | os.PathLike, recursive: bool = False) -> tuple[list[str], list[str]]:
    """The files of a folder that are audio by the endings of their names, and what else is there, sub-folders too.

    Returns two sorted lists of names relative to the folder. Hidden files and folders (macOS writes `._name` beside
    every file) are in neither. recursive: sub-folders are entered, but not links to folders.
    Raises UserError if the folder cannot be read.
    """
    audio, others, folders = [], [], [""]
    while folders:
        sub = folders.pop()
        try:
            entries = list(os.scandir(os.path.join(folder, sub)))
        except OSError as error:
            if not sub:
                raise UserError(f"{folder}: cannot be read as a folder of audio: {error.strerror}") from error
            others.append(f"{sub}{os.sep} ({error.strerror})")
            continue
        for entry in entries:
            name = os.path.join(sub, entry.name)
            if entry.name.startswith("."):
                continue
            if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                if recursive and not entry.is_symlink():
                    folders.append(name)
                else:
                    others.append(name + os.sep)
            else:
                (audio if entry.name.lower().endswith(AUDIO_EXTENSIONS) else others).append(name)
    return sorted(audio), sorted(others)


def warn_of_others(folder: str | os.PathLike, others: list[str], reason: str = "have no ending of audio") -> None:
    """Say how many names of a folder are not read, and which: `others` of list_audio."""
    if others:
        names = ", ".join(map(shown, others[:5])) + (", ..." if len(others) > 5 else "")
        warn(f"{folder}: {len(others)} skipped, they {reason}: {names}")


def scan_audio(folder: str | os.PathLike) -> dict[str, str]:
    """Map each audio file's name without its ending to its path; sub-folders not entered.

    If several files differ in their ending alone, the name stands for the first of AUDIO_EXTENSIONS, and the names
    with their endings for each of them. Raises UserError if the folder cannot be read.
    """
    return _by_name(folder, list_audio(folder)[0])


def _by_name(folder, names):
    found = {}
    for ending in reversed(AUDIO_EXTENSIONS):
        for name in names:
            if name.lower().endswith(ending):
                found[_as_utf8(name[: -len(ending)])] = os.path.join(folder, name)
    stems = Counter(stem(name) for name in names)
    return found | {_as_utf8(name): os.path.join(folder, name) for name in names if stems[stem(name)] > 1}


def _as_utf8(name):
    """A file's name as lists spell it, which are UTF-8 whatever the locale; bytes that are not UTF-8 as surrogates."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "surrogateescape")


def trials_of_folder(folder: str | os.PathLike) -> list[Trial]:
    """Every audio file of a folder as a trial with an unknown label, in the order of the names.

    Its id is the file's name without the ending; with it if another file differs in the ending alone.
    Warns of what it skips but hidden files. Raises UserError if there is no audio.
    """
    names, others = list_audio(folder)
    warn_of_others(folder, others, "are folders or have no ending of audio")
    if not names:
        raise UserError(f"{folder}: expected audio files ({' '.join(AUDIO_EXTENSIONS)}), found none")
    stems = Counter(map(stem, names))
    ids = {_as_utf8(stem(name) if stems[stem(name)] == 1 else name): name for name in names}
    if len(ids) < len(names):  # beside a.mp3 and a.wav, a.wav.mp3
        ids = {_as_utf8(name): name for name in names}
    return [Trial(utt_id=utt_id, path=os.path.join(folder, name)) for utt_id, name in sorted(ids.items())]


def name_problem(utt_id: str) -> str | None:
    """Why a name cannot stand in a line `utt_id score`; None if it can."""
    if _NOT_IN_A_LINE.search(utt_id):
        return "its name holds a line end, a control character or bytes that are not UTF-8, which a score file cannot"
    if utt_id != utt_id.strip() or not utt_id:
        return "its name is empty, or begins or ends with a blank, which a score file cannot tell from none"
    return None


def read_protocol(path: str | os.PathLike, corpus: str | None = None) -> list[Trial]:
    """Read a trial list or a key, in the order of the file; `path` of the trials is not set.

    Otherwise as read_table. A folder is the list of the audio files in it, with their paths.
    """
    if os.path.isdir(path):
        return trials_of_folder(path)
    return read_table(path, corpus).trials()


def read_trials(
    protocol: str | os.PathLike, audio_dir: str | os.PathLike | None = None, corpus: str | None = None
) -> list[Trial]:
    """Read a trial list or key and locate its audio: trials with paths.

    audio_dir None: the folder is looked for around the protocol, where the corpus's archives unpack it to.
    Raises UserError as read_table and locate_audio, and where no folder is found, listing the places looked at.
    """
    if os.path.isdir(protocol):
        return trials_of_folder(protocol)
    table = read_table(protocol, corpus)
    return locate_audio(table.trials(), audio_dir or _audio_around(protocol, table))


def _audio_around(protocol, table):
    # A bare list of ids may be of any corpus whose files have no header.
    records = [table.record] if table.record.audio else [record for record in CORPORA.values() if not record.header]
    parts = [part for record in records for folders in record.audio.values() for part in folders]
    above = list(Path(protocol).absolute().parents)[:4]
    places = list(dict.fromkeys(base / part for base in above for part in parts))
    names = utterance_names((table.file or table.utt_id)[:10])
    for place in places:  # the folders of several splits lie side by side: a look at the first trials tells
        if place.is_dir() and any(_inside(place, name) for name in names):
            return place
    raise UserError(f"{protocol}: its audio not found; looked for {', '.join(map(str, places))}; --help names the flag")


def _inside(folder, utt_id):
    """The path of an utterance's audio in a folder or a sub-folder, None where there is none or it leads outside."""
    parts = utt_id.split("/")
    if ".." in parts or os.path.isabs(utt_id):
        return None
    paths = (os.path.join(folder, utt_id + ending) for ending in (*AUDIO_EXTENSIONS, ""))
    return next((path for path in paths if os.path.isfile(path)), None)


def locate_audio(trials: list[Trial], folder: str | os.PathLike) -> list[Trial]:
    """Set the path of every trial: the file in `folder` that is named utt_id and an audio ending.

    An id may name a sub-folder (`sub/name`), but never lead outside the folder.
    Raises UserError that counts, and in its details lists, every trial without a file.
    """
    files = {"": scan_audio(folder)}
    paths = []
    for utt_id in utterance_names([trial.file or trial.utt_id for trial in trials]):
        sub, _, name = utt_id.rpartition("/")
        if sub not in files:
            place = os.path.join(folder, sub)
            outside = os.path.isabs(utt_id) or ".." in sub.split("/")
            files[sub] = {} if outside or not os.path.isdir(place) else scan_audio(place)
        paths.append(files[sub].get(name))
    missing = [trial.utt_id for trial, path in zip(trials, paths) if path is None]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {len(trials)} trials have no audio file (listed above), "
            f"first {shown(missing[0])}; expected UTTERANCE and an ending ({' '.join(AUDIO_EXTENSIONS)})",
            details=[f"missing audio: {os.path.join(folder, shown(utt_id))}" for utt_id in missing],
        )
    return [replace(trial, path=path) for trial, path in zip(trials, paths)]
