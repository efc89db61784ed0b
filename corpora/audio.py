"""The audio of trials: which files of a folder are audio, and which of them belongs to which trial."""

import os
import re
import unicodedata
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
    with their endings for each of them. Names stand there as on the disk and composed (Unicode's NFC).
    Raises UserError if the folder cannot be read.
    """
    return _by_name(folder, list_audio(folder)[0])


def _by_name(folder, names):
    found = {}
    for ending in reversed(AUDIO_EXTENSIONS):
        for name in names:
            if name.lower().endswith(ending):
                found[_as_utf8(name[: -len(ending)])] = os.path.join(folder, name)
    stems = Counter(stem(name) for name in names)
    found |= {_as_utf8(name): os.path.join(folder, name) for name in names if stems[stem(name)] > 1}
    composed = {unicodedata.normalize("NFC", name): path for name, path in found.items() if not name.isascii()}
    return composed | found  # macOS decomposes letters, lists seldom do


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


def read_protocol(path: str | os.PathLike, corpus: str | None = None, **labels: object) -> list[Trial]:
    """Read a trial list or a key, in the order of the file; `path` of the trials is not set.

    Otherwise as read_table. A folder is the list of the audio files in it, with their paths.
    """
    if os.path.isdir(path):
        return trials_of_folder(path)
    return read_table(path, corpus, **labels).trials()


def read_trials(
    protocol: str | os.PathLike,
    audio_dir: str | os.PathLike | None = None,
    corpus: str | None = None,
    bonafide: str | None = None,
    need_labels: bool = True,
) -> list[Trial]:
    """Read a trial list or key and locate its audio: trials with paths.

    audio_dir None: the folder is looked for around the protocol, where the corpus's archives unpack it to.
    bonafide, need_labels: see read_table.
    Raises UserError as read_table and locate_audio, and where no folder is found, listing the places looked at.
    """
    if os.path.isdir(protocol):
        return trials_of_folder(protocol)
    table = read_table(protocol, corpus, bonafide=bonafide, need_labels=need_labels)
    return locate_audio(table.trials(), audio_dir or _audio_around(protocol, table))


def _audio_around(protocol, table):
    names = [_Listed(name, short) for name, short in _names((table.file or table.utt_id)[:10])]
    above = list(Path(protocol).absolute().parents)[:4]
    if names[0].is_absolute:
        # No folder was named, and a list must not choose one that is not its own.
        if any(name.path_in(above[0]) for name in names):
            return above[0]
        raise UserError(
            f"{protocol}: its audio not found: its paths are absolute, first {shown(names[0].name)}, and not below "
            f"{above[0]}; name the folder of the audio that they lie below, or / for any; --help names the flag"
        )
    # A bare list of ids may be of any corpus whose files have no header.
    records = [table.record] if table.record.audio else [record for record in CORPORA.values() if not record.header]
    parts = [part for record in records for folders in record.audio.values() for part in folders]
    places = list(dict.fromkeys(base / part for base in above for part in parts))
    for place in places:  # the folders of several splits lie side by side: a look at the first trials tells
        if place.is_dir() and any(name.path_in(place) for name in names):
            return place
    instead = _instead(above[0], [name for name in names if name.split(above[0])])
    raise UserError(
        f"{protocol}: its audio not found; looked for {', '.join(map(str, places))}{instead}; --help names the flag"
    )


def _names(names):
    """(name with its ending, name without) of each name as a list has it; see utterance_names."""
    return zip(utterance_names(names, endings=True), utterance_names(names))


class _Listed:
    """The audio of a trial as its list calls it. name: with the ending, if there is one; short: without."""

    def __init__(self, name, short):
        self.name, self.short = name, short
        self.is_absolute = name.startswith("/") or re.match("[A-Za-z]:/", name) is not None

    def split(self, folder, roots=None):
        """(sub-folder of the folder, name, short name); None if it lies outside. roots: see _roots, if known."""
        name, short = self.name, self.short
        if self.is_absolute:
            root = next((root for root in roots or _roots(folder) if name.startswith(root)), None)
            if root is None:
                return None
            name, short = name[len(root) :], short[len(root) :]
        sub, _, base = name.rpartition("/")
        if sub.startswith("/") or ".." in sub.split("/"):
            return None
        return sub, base, short[len(sub) + bool(sub) :]

    def path_in(self, folder, scans=None):
        """The path of its file in a folder, None if there is none or it would lie outside.

        scans: {(folder, sub-folder): scan_audio, folder: _roots} of those that are known; None: asks file by file.
        """
        parts = self.split(folder, scans and scans.get(folder))
        if parts is None:
            return None
        sub, name, short = parts
        if scans is None:
            paths = (os.path.join(folder, sub, short + ending) for ending in (*AUDIO_EXTENSIONS, ""))
            paths = [os.path.join(folder, sub, name), *paths]
            found = next((path for path in paths if os.path.isfile(path)), None)
            return found or (None if (sub + name).isascii() else self.path_in(folder, {}))
        if (folder, sub) not in scans:
            scans[folder, sub] = _scan_sub_folder(folder, sub)
        files = scans[folder, sub]
        if not name.lower().endswith(AUDIO_EXTENSIONS):
            return files.get(short)
        with_ending = (files.get(stem(name)), files.get(name))
        exact = (path for path in with_ending if path and _composed(os.path.basename(path)) == _composed(name))
        return next(exact, None) or files.get(short)


def _roots(folder):
    """What absolute paths below a folder begin with."""
    return [os.path.join(root, "") for root in (os.path.abspath(folder), os.path.realpath(folder))]


def _composed(name):
    return name if name.isascii() else unicodedata.normalize("NFC", _as_utf8(name))


def _scan_sub_folder(folder, sub):
    for form in (sub, *(unicodedata.normalize(form, sub) for form in ("NFC", "NFD"))):
        place = os.path.join(folder, form)
        if not form or os.path.isdir(place):
            return scan_audio(place if form else folder)
    return {}


def locate_audio(trials: list[Trial], folder: str | os.PathLike) -> list[Trial]:
    """Set the path of every trial: the file in `folder` of its name in the list, or with another ending.

    A name may have a sub-folder (`sub/name`), or be absolute, but never lead outside the folder; `/` allows any.
    Raises UserError that names the first trials outside or without a file and counts them; in its details it lists
    all, if there are others. It says if they lie in a folder above or below, or differ in letter case or ending.
    """
    names = [_Listed(*pair) for pair in _names([trial.file or trial.utt_id for trial in trials])]
    scans = {(folder, ""): scan_audio(folder), folder: _roots(folder)}
    paths = [name.path_in(folder, scans) for name in names]
    missing = [name for name, path in zip(names, paths) if path is None]
    outside = [name.name for name in missing if name.split(folder) is None]
    if outside:
        raise UserError(
            f"{folder}: {len(outside)} of {len(trials)} trials lie outside this folder of audio, which is forbidden: "
            f"{_first(outside)}; an absolute path must lie below it, and none may have `..`"
        )
    if missing:
        details = [f"missing audio: {os.path.join(folder, shown(name.short))}" for name in missing]
        if len(missing) == len(trials):
            details = []  # the folder is wrong
        raise UserError(
            f"{folder}: {len(missing)} of {len(trials)} trials have no audio file{' (listed above)' * bool(details)}, "
            f"first {_first([name.name for name in missing])}; expected UTTERANCE and an ending "
            f"({' '.join(AUDIO_EXTENSIONS)}){_instead(folder, missing)}",
            details=details,
        )
    return [replace(trial, path=path) for trial, path in zip(trials, paths)]


def _first(names):
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(shown, names[:3])) + more


def _instead(folder, missing):
    """Where the audio that is missing in a folder seems to be, in words; "" if nowhere near."""
    names, found = missing[:10], {}
    try:
        folders = [entry.path for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        folders = []
    for place in [*sorted(folders)[:100], os.path.dirname(os.path.abspath(folder))]:
        if n := sum(name.path_in(place) is not None for name in names if not name.is_absolute):
            found[place] = n
    if found:
        place = max(found, key=found.get)
        return f"; {place} has {found[place]} of {'them' if len(names) == 1 else f'the first {len(names)}'}"
    for name in names:
        sub, _, short = name.split(folder)
        try:
            for other in sorted(os.listdir(os.path.join(folder, sub))):
                if short.lower() in (other.lower(), os.path.splitext(other)[0].lower()):
                    is_audio = other.lower().endswith(AUDIO_EXTENSIONS)
                    why = "in another letter case" if is_audio else "but its ending is none of audio"
                    return f"; {shown(other)} is there, {why}"
        except OSError:
            pass
    return ""
