"""The audio of trials: lists the audio files of a folder and finds the file of each trial."""

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

# Characters that a line of a score file cannot hold: control characters, line ends, bytes that are not UTF-8.
_NOT_IN_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def list_audio(folder: str | os.PathLike, recursive: bool = False) -> tuple[list[str], list[str]]:
    """List a folder: (audio files, other files and sub-folders), two sorted lists of names relative to the folder.

    Audio files are recognised by their extension. Hidden files and folders (macOS writes `._name` next to every file)
    are in neither list. recursive: also list sub-folders, but not links to folders.
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


def warn_of_others(folder: str | os.PathLike, others: list[str], reason: str = "have no audio extension") -> None:
    """Warn of names in a folder that are skipped: `others` of list_audio."""
    if others:
        names = ", ".join(map(shown, others[:5])) + (", ..." if len(others) > 5 else "")
        warn(f"{folder}: skipped {len(others)} that {reason}: {names}")


def scan_audio(folder: str | os.PathLike) -> dict[str, str]:
    """{name without extension: path} of the audio files of a folder, without sub-folders.

    If several files differ only in their extension, the name maps to the first of AUDIO_EXTENSIONS, and the names with
    extensions map to the other files as well. Names are included as on the disk and composed (Unicode NFC).
    Raises UserError if the folder cannot be read.
    """
    return _by_name(folder, list_audio(folder)[0])


def _by_name(folder, names):
    paths = {}
    for ending in reversed(AUDIO_EXTENSIONS):
        for name in names:
            if name.lower().endswith(ending):
                paths[_as_utf8(name[: -len(ending)])] = os.path.join(folder, name)
    stems = Counter(stem(name) for name in names)
    paths |= {_as_utf8(name): os.path.join(folder, name) for name in names if stems[stem(name)] > 1}
    composed = {unicodedata.normalize("NFC", name): path for name, path in paths.items() if not name.isascii()}
    return composed | paths  # macOS decomposes letters; lists seldom do


def _as_utf8(name):
    """A file name decoded as UTF-8, as in lists, whatever the locale; other bytes become surrogates."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "surrogateescape")


def trials_of_folder(folder: str | os.PathLike) -> list[Trial]:
    """All audio files of a folder as trials with unknown labels, sorted by name.

    The id is the file name without its extension, or with it if another file differs only in its extension.
    Warns of skipped names, except hidden files. Raises UserError if there is no audio.
    """
    names, others = list_audio(folder)
    warn_of_others(folder, others, "are folders or have no audio extension")
    if not names:
        raise UserError(f"{folder}: expected audio files ({' '.join(AUDIO_EXTENSIONS)}), found none")
    stems = Counter(map(stem, names))
    ids = {_as_utf8(stem(name) if stems[stem(name)] == 1 else name): name for name in names}
    if len(ids) < len(names):  # a.mp3, a.wav and a.wav.mp3
        ids = {_as_utf8(name): name for name in names}
    return [Trial(utt_id=utt_id, path=os.path.join(folder, name)) for utt_id, name in sorted(ids.items())]


def name_problem(utt_id: str) -> str | None:
    """Reason why a name cannot be the id in a line `utt_id score`; None if it can."""
    if _NOT_IN_A_LINE.search(utt_id):
        return (
            "its name has a line end, a control character or bytes that are not UTF-8, which a score file cannot hold"
        )
    if utt_id != utt_id.strip() or not utt_id:
        return "its name is empty, or begins or ends with a blank, which a score file cannot represent"
    return None


def read_protocol(path: str | os.PathLike, corpus: str | None = None, **labels: object) -> list[Trial]:
    """Read a trial list or a key, in the order of the file; the `path` of trials is not set.

    A folder gives its audio files as trials, with paths. Arguments and errors: see read_table.
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

    audio_dir None: the folder is searched for around the protocol, where the corpus's archives are unpacked.
    bonafide, need_labels: see read_table.
    Raises the UserErrors of read_table and locate_audio, and UserError with the places searched if no folder is found.
    """
    if os.path.isdir(protocol):
        return trials_of_folder(protocol)
    table = read_table(protocol, corpus, bonafide=bonafide, need_labels=need_labels)
    return locate_audio(table.trials(), audio_dir or _audio_around(protocol, table))


def _audio_around(protocol, table):
    names = [_Listed(name, short) for name, short in _names((table.file or table.utt_id)[:10])]
    above = list(Path(protocol).absolute().parents)[:4]
    if names[0].is_absolute:
        # Without --audio_dir or the like, a list must not choose files outside its own folder.
        if any(name.path_in(above[0]) for name in names):
            return above[0]
        raise UserError(
            f"{protocol}: audio not found: its paths are absolute, first {shown(names[0].name)}, and not below "
            f"{above[0]}; give a folder of audio above them, or / for any (see --help for the flag)"
        )
    # A list of ids alone may belong to any corpus whose files have no header.
    records = [table.record] if table.record.audio else [record for record in CORPORA.values() if not record.header]
    parts = [part for record in records for folders in record.audio.values() for part in folders]
    places = list(dict.fromkeys(base / part for base in above for part in parts))
    for place in places:  # several splits have folders next to each other: the first trials decide
        if place.is_dir() and any(name.path_in(place) for name in names):
            return place
    instead = _instead(above[0], [name for name in names if name.split(above[0])])
    raise UserError(
        f"{protocol}: audio not found; searched {', '.join(map(str, places))}{instead}; give the folder of audio (see "
        "--help for the flag)"
    )


def _names(names):
    """(name with extension, name without) of each name in a list; see utterance_names."""
    return zip(utterance_names(names, endings=True), utterance_names(names))


class _Listed:
    """The audio of a trial as its list names it. name: with the extension, if the list has one; short: without."""

    def __init__(self, name, short):
        self.name, self.short = name, short
        self.is_absolute = name.startswith("/") or re.match("[A-Za-z]:/", name) is not None

    def split(self, folder, roots=None):
        """(sub-folder, name, short name) relative to a folder; None if outside. roots: _roots(folder), if computed."""
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
        """Path of the trial's file in a folder; None if there is none or it would be outside the folder.

        scans: cache {(folder, sub-folder): scan_audio, folder: _roots}; None: test single files, list no folder.
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
    """Prefixes of absolute paths below a folder: the folder as given and with links resolved."""
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
    """Set the path of every trial: the file in `folder` with its name in the list, or with another extension.

    A name may have a sub-folder (`sub/name`) or be absolute, but must not lead outside the folder; `/` allows any path.
    Raises UserError that counts the trials outside the folder or without a file and names the first. Its details list
    all of them, unless no trial has a file. The message says if the files are in a folder above or below, or differ in
    letter case or extension.
    """
    names = [_Listed(*pair) for pair in _names([trial.file or trial.utt_id for trial in trials])]
    scans = {(folder, ""): scan_audio(folder), folder: _roots(folder)}
    paths = [name.path_in(folder, scans) for name in names]
    missing = [name for name, path in zip(names, paths) if path is None]
    outside = [name.name for name in missing if name.split(folder) is None]
    if outside:
        raise UserError(
            f"{folder}: {len(outside)} of {len(trials)} trials are outside this folder of audio, which is forbidden: "
            f"{_first(outside)}; expected absolute paths below it, or relative paths without `..`"
        )
    if missing:
        details = [f"missing audio: {os.path.join(folder, shown(name.short))}" for name in missing]
        if len(missing) == len(trials):
            details = []  # the folder is wrong, not single files
        raise UserError(
            f"{folder}: {len(missing)} of {len(trials)} trials have no audio file{' (listed above)' * bool(details)}, "
            f"first {_first([name.name for name in missing])}; expected UTTERANCE with an extension "
            f"({' '.join(AUDIO_EXTENSIONS)}){_instead(folder, missing)}",
            details=details,
        )
    return [replace(trial, path=path) for trial, path in zip(trials, paths)]


def _first(names):
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(shown, names[:3])) + more


def _instead(folder, missing):
    """Hint on where missing audio seems to be: in a neighbouring folder, or under another name; "" if not found."""
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
                    why = "differs in letter case" if is_audio else "has no audio extension"
                    return f"; found {shown(other)}, which {why}"
        except OSError:
            pass
    return ""
