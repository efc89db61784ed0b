"""Text to trials: trial lists, keys and score files of every corpus, without torch and without audio."""

import csv
import io
import math
import os
import re
import stat
from collections import Counter, namedtuple
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common.atomic import atomic_open
from common.console import UserError, shown, warn

BONAFIDE, SPOOF, UNKNOWN = 1, 0, -1

# Of the formats that audio.py reads. If a folder holds a name with several of them, the first of these is its audio.
AUDIO_EXTENSIONS = tuple(
    ".flac .wav .mp3 .ogg .opus .m4a .oga .spx .mp4 .m4b .m4v .mov .3gp .3g2 .aac .webm .mkv .mka .wma .wmv .asf .avi "
    ".flv .ts .mpg .mpeg .mp2 .aiff .aif .aifc .caf .au .snd .w64 .rf64 .amr .ac3 .eac3 .sph .nist .voc".split()
)
# No line of a score file can hold a name with one of these: control characters, line ends, bytes that are no UTF-8.
_NOT_IN_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

# corpus -> the columns of its text files, "-" being one that nothing is read from, and where its audio lies: folders
# relative to the protocol, to a folder above it, or to LA/ or DF/ there.
Format = namedtuple("Format", "columns spoof_word audio")
_LA_PARTS = [f"ASVspoof2019_LA_{split}/flac" for split in ("train", "dev", "eval")]
FORMATS = {
    "ASVspoof2019_LA": Format(("speaker", "utt_id", "-", "attack", "key"), "spoof", _LA_PARTS),
    "PartialSpoof": Format(
        ("speaker", "utt_id", "-", "attack", "key"), "spoof", [f"{s}/con_wav" for s in ("train", "dev", "eval")]
    ),
    "ASVspoof2021_LA": Format(
        ("speaker", "utt_id", "codec", "transmission", "attack", "key", "trim", "subset"),
        "spoof",
        ["ASVspoof2021_LA_eval/flac"],
    ),
    "ASVspoof2021_DF": Format(
        tuple("speaker utt_id codec source attack key trim subset vocoder task team gender_pair language".split()),
        "spoof",
        ["ASVspoof2021_DF_eval/flac"],
    ),
    # CtrSVDD and the challenge-phase files of ASVspoof 5 have six columns each; see _recognise.
    "ASVspoof5_metainfo": Format(
        ("speaker", "utt_id", "gender", "-", "attack", "key"), "spoof", ["flac_T", "flac_D", "flac_E"]
    ),
    "CtrSVDD": Format(
        ("dataset", "speaker", "utt_id", "-", "attack", "key"),
        "deepfake",
        ["train_set", "dev_set", "test_set"],
    ),
    # Column 6 is the codec's seed, the source utterance; the last is unused.
    "ASVspoof5": Format(
        ("speaker", "utt_id", "gender", "codec", "codec_quality", "-", "attack_tag", "attack", "key", "-"),
        "spoof",
        ["flac_T", "flac_D", "flac_E_eval", "eval_full/flac_E_eval", "ASVspoof5_eval/flac_E_eval"],
    ),
    "list": Format(("utt_id",), None, []),
}
# Headers of the tables with commas or tabs. in_the_wild is such a table.
ID_NAMES, LABEL_NAMES = ("path", "file", "filename", "utt_id"), ("label", "key", "cm-label")
TABLE_LABELS = {"bonafide": BONAFIDE, "bona-fide": BONAFIDE, "1": BONAFIDE}
TABLE_LABELS |= {"spoof": SPOOF, "deepfake": SPOOF, "0": SPOOF}
SUBSETS = {"eval": "eval", "progress": "progress", "hidden": "hidden", "hidden_track": "hidden", "all": None}

_PIECE = 1 << 18  # characters that are split at once: bounds the memory, and stays in the cache
_LINE_END = "\0"  # no text file holds it

# A column with few different values: codes (trials,) into values, a list of str in the order of their appearance.
Column = namedtuple("Column", "codes values")


@dataclass(frozen=True, slots=True)
class Trial:
    """One utterance to be judged. label: 1 bona fide, 0 spoof, None unknown. `-` stands for a value not given."""

    utt_id: str
    label: int | None = None
    attack: str = "-"
    speaker: str = "-"
    dataset: str = "-"
    path: str | None = None
    codec: str = "-"


@dataclass
class TrialTable:
    """The trials of a list or key as columns, which is how 600,000 of them are read and counted in seconds.

    utt_id: list of str. label: (trials,) int8, 1 bona fide, 0 spoof, -1 unknown. columns: name -> Column. names: those
    of all columns that the file has.
    """

    path: str
    corpus: str
    utt_id: list
    label: np.ndarray
    columns: dict = field(default_factory=dict)
    names: list = field(default_factory=list)

    def __len__(self):
        return len(self.utt_id)

    def select(self, mask):
        """The trials where mask (trials,) holds, in their order."""
        return TrialTable(
            self.path,
            self.corpus,
            [self.utt_id[i] for i in np.flatnonzero(mask)],
            self.label[mask],
            {name: Column(codes[mask], values) for name, (codes, values) in self.columns.items()},
            self.names,
        )

    def subset_mask(self, name):
        """(trials,) where an ASVspoof 2021 subset is, a name of SUBSETS; other corpora have none and are whole."""
        if "subset" not in self.columns or SUBSETS[name] is None:
            return np.ones(len(self), bool)
        codes, values = self.columns["subset"]
        if SUBSETS[name] not in values:
            raise UserError(f"{self.path}: expected trials of the subset {name}, found {', '.join(values)}")
        return codes == values.index(SUBSETS[name])

    def trials(self):
        """The same as a list of Trial."""
        names = [name for name in ("attack", "speaker", "dataset", "codec") if name in self.columns]
        words = [[self.columns[name].values[code] for code in self.columns[name].codes] for name in names]
        labels = [None if label == UNKNOWN else label for label in self.label.tolist()]
        return [
            Trial(utt_id, label, **dict(zip(names, row)))
            for utt_id, label, *row in zip(self.utt_id, labels, *words, strict=True)
        ]


def read_protocol(path, corpus=None):
    """Read a trial list or a key: a list of Trial in the order of the file, `path` not set.

    Otherwise as read_table. A folder is the list of the audio files in it, with their paths.
    """
    if os.path.isdir(path):
        return trials_of_folder(path)
    return read_table(path, corpus).trials()


def read_table(path, corpus=None, columns=None):
    """Read a trial list or a key of any corpus as a TrialTable.

    path: a text file with one trial a line, its columns separated by blanks; or a table with a header, separated by
    commas or tabs, of which path (or file, filename, utt_id) and label have a meaning and every other column is kept.
    An audio ending of an utterance's name is dropped. corpus: a name from FORMATS, "in_the_wild" or "csv"; where
    None, it is recognised from the first line. columns: names of those that are wanted where there are such; None: all.
    `bonafide` as an attack, codec or vocoder is read as `-`.
    Raises UserError, naming file and line, for a wrong column count, an unknown label, a duplicate id, no trial.
    """
    text = _read_text(path)
    found = re.search(r"[^\n]*\S[^\n]*", text)
    if not found:
        raise UserError(f"{path}: expected a trial a line, found none")
    number, first = text.count("\n", 0, found.start()) + 1, found[0]
    header = _header(path, number, first, corpus)
    if header:
        separator, names = header
        corpus = "in_the_wild" if names == ["file", "speaker", "label"] else "csv"
        labels, label_words = TABLE_LABELS, "one of " + ", ".join(TABLE_LABELS)
        names = ["utt_id" if name in ID_NAMES else "key" if name in LABEL_NAMES else name for name in names]
        pieces = _split_csv(path, text, number, separator, names)
    else:
        corpus = corpus or _recognise(path, number, first.split())
        names, spoof_word, _ = FORMATS[corpus]
        labels, label_words = {"bonafide": BONAFIDE, spoof_word: SPOOF}, f"bonafide or {spoof_word}"
        pieces = _split_words(path, text, len(names), f"the {len(names)} columns of {corpus} ({' '.join(names)})")

    utt_ids, label, line_numbers = [], [np.zeros(0, np.int8)], []
    others = [name for name in names if name not in ("utt_id", "key", "-")]
    indices = {name: _Index() for name in others if columns is None or name in columns}
    codes = {name: [np.zeros(0, np.int32)] for name in indices}
    for lines, piece in pieces:
        piece = dict(zip(names, piece))
        utt_ids += piece["utt_id"]
        line_numbers.append(lines)
        try:
            label.append(np.fromiter(map(labels.__getitem__, piece.get("key", ())), np.int8))
        except KeyError:
            line, key = next((line, key) for line, key in zip(lines, piece["key"]) if key not in labels)
            raise UserError(f"{path}:{line}: expected {label_words} as the label, found {shown(key)}") from None
        for name, index in indices.items():
            codes[name].append(np.fromiter(map(index.__getitem__, piece[name]), np.int32))
    if not utt_ids:
        raise UserError(f"{path}: expected a trial a line, found none")

    utt_ids = _without_endings(utt_ids)
    if len(set(utt_ids)) != len(utt_ids):
        seen = {}
        for utt_id, line in zip(utt_ids, (line for lines in line_numbers for line in lines)):
            if utt_id in seen:
                raise UserError(f"{path}:{line}: {shown(utt_id)} stands already in line {seen[utt_id]}")
            seen[utt_id] = line
    table = TrialTable(
        str(path),
        corpus,
        utt_ids,
        np.concatenate(label) if "key" in names else np.full(len(utt_ids), UNKNOWN, np.int8),
        {name: Column(np.concatenate(codes[name]), index.words) for name, index in indices.items()},
        others,
    )
    if corpus == "ASVspoof2019_LA" and "attack" in table.columns and "CON" in table.columns["attack"].values:
        table.corpus = "PartialSpoof"  # the same columns; its spoofed trials are concatenations
    return table


class _Index(dict):
    """word -> its code; a new word gets the next one. `words` lists them by code."""

    def __init__(self):
        self.words = []

    def __missing__(self, word):
        if word in ("bonafide", "bona-fide", ""):
            self[word] = self["-"]
        else:
            self[word] = len(self.words)
            self.words.append(word)
        return self[word]


def _read_text(path):
    """The text of a file. Raises UserError for one that is missing, not a regular file, or no text."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a FIFO would be waited for, perhaps for ever
            raise UserError(f"{path}: cannot be read: expected a regular file")
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected a text file, found bytes that are not UTF-8 text") from error
    if _LINE_END in text:
        raise UserError(f"{path}: expected a text file, found a zero byte")
    return text


def _split_words(path, text, n, expected):
    """Cut a text into n columns of words. Yields (line numbers, n sequences of words) piece by piece.

    Blank lines are skipped. Raises UserError for a line with another number of words.
    """
    start, number = 0, 1
    while start < len(text):
        end = text.find("\n", start + _PIECE) + 1 or len(text)
        piece = text[start:end] if text[end - 1] == "\n" else text[start:end] + "\n"
        n_lines = piece.count("\n")
        # All lines at once, the line ends being words too, take half the time of line by line.
        words = piece.replace("\n", f" {_LINE_END} ").split()
        if len(words) == n_lines * (n + 1) and words[n :: n + 1].count(_LINE_END) == n_lines:
            yield range(number, number + n_lines), [words[i :: n + 1] for i in range(n)]
        else:
            rows = [(i, line.split()) for i, line in enumerate(piece.split("\n"), number) if line.strip()]
            for i, words in rows:
                if len(words) != n:
                    raise UserError(f"{path}:{i}: expected {expected}, found {len(words)}: {shown(' '.join(words))}")
            if rows:
                yield [i for i, _ in rows], [list(column) for column in zip(*(words for _, words in rows))]
        start, number = end, number + n_lines


def _header(path, number, first, corpus):
    """(separator, column names) where the first line is the header of a table, None where it is a trial."""
    separator = "," if "," in first else "\t"
    names = [name.strip().strip('"').lower() for name in first.strip().split(separator)]
    if corpus in (None, "csv", "in_the_wild") and any(name in ID_NAMES for name in names):
        for words in (ID_NAMES, LABEL_NAMES):
            if sum(name in words for name in names) > 1:
                raise UserError(f"{path}:{number}: expected one of the columns {'|'.join(words)}, found {shown(first)}")
        if len(set(names)) != len(names):
            raise UserError(f"{path}:{number}: expected the name of every column once, found {shown(first)}")
        return separator, names
    if separator == "," or corpus in ("csv", "in_the_wild"):
        raise UserError(
            f"{path}:{number}: expected a header with {'|'.join(ID_NAMES)} and {'|'.join(LABEL_NAMES)}, "
            f"found {shown(first)}"
        )
    return None


def _split_csv(path, text, number, separator, columns):
    """As _split_words, for the lines of a table below its header in line `number`."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        rows = [(reader.line_num, [word.strip() for word in row]) for row in reader if any(map(str.strip, row))][1:]
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: {error}") from error
    for i, row in rows:
        if len(row) != len(columns):
            raise UserError(
                f"{path}:{i}: expected the {len(columns)} columns {', '.join(columns)}, "
                f"found {len(row)}: {shown(separator.join(row))}"
            )
    if rows:
        yield [i for i, _ in rows], [list(column) for column in zip(*(row for _, row in rows))]


def _recognise(path, number, values):
    for corpus, (columns, spoof_word, _) in FORMATS.items():
        if len(values) != len(columns):
            continue
        # Where two corpora have as many columns, these tell: the word for spoof, and the gender of ASVspoof 5.
        if spoof_word is None or dict(zip(columns, values))["key"] in ("bonafide", spoof_word):
            if corpus != "ASVspoof5_metainfo" or values[2] in ("F", "M"):
                return corpus
    known = "; ".join(f"{corpus}: {' '.join(format.columns)}" for corpus, format in FORMATS.items())
    raise UserError(
        f"{path}:{number}: expected the columns of a known corpus ({known}) or a header with a column path and commas, "
        f"found {len(values)}: {shown(' '.join(values))}"
    )


def _without_endings(utt_ids):
    """Names of utterances without the ending of an audio file, if the first of them has one.

    Names that differ in their ending alone keep it.
    """
    if not utt_ids[0].lower().endswith(AUDIO_EXTENSIONS):
        return utt_ids
    stems = [_stem(name) if name.lower().endswith(AUDIO_EXTENSIONS) else name for name in utt_ids]
    if len(set(stems)) == len(stems):
        return stems
    n_endings = Counter(stem for name, stem in set(zip(utt_ids, stems)) if name != stem)
    return [name if n_endings[stem] > 1 else stem for name, stem in zip(utt_ids, stems)]


def find_file(what, *places):
    """The first of `places` that exists. Raises UserError that lists the places looked at."""
    for place in places:
        if Path(place).exists():
            return Path(place)
    raise UserError(f"{what} not found; looked for {', '.join(map(str, places))}")


def ctrsvdd_files(base_dir, split):
    """(protocol, audio folder) of CtrSVDD's train, dev or test set. Raises UserError listing the places looked at."""
    base = Path(base_dir)
    return find_file(f"--base_dir: {split} list", base / f"{split}.txt"), base / f"{split}_set"


def asvspoof2019_files(database_path, protocols_path, split):
    """(protocol, audio folder) of ASVspoof 2019 LA's train, dev or eval set, in the layout of the official archive or
    of the published scripts. protocols_path None: below database_path. Raises UserError listing the places.
    """
    database, name = Path(database_path), {"train": "train.trn", "dev": "dev.trl", "eval": "eval.trl"}[split]
    return (
        _find_protocol(
            Path(protocols_path or database), f"ASVspoof2019.LA.cm.{name}.txt", "ASVspoof2019_LA", "ASVspoof_LA"
        ),
        _find_audio(database, f"ASVspoof2019_LA_{split}"),
    )


def asvspoof2021_files(database_path, protocols_path, track):
    """(trial list, audio folder) of ASVspoof 2021 LA or DF; otherwise as asvspoof2019_files."""
    database = Path(database_path)
    name = f"ASVspoof2021.{track}.cm.eval.trl.txt"
    return (
        _find_protocol(Path(protocols_path or database), name, f"ASVspoof_{track}", f"ASVspoof2021_{track}_eval"),
        _find_audio(database, f"ASVspoof2021_{track}_eval"),
    )


def _find_protocol(folder, name, *corpora):
    inside = [*(f"{corpus}_cm_protocols" for corpus in corpora), corpora[-1], "."]
    return find_file("protocol", *(place / part / name for place in (folder, folder / "LA") for part in inside))


def _find_audio(database, part):
    return find_file("audio", *(place / part / "flac" for place in (database, database / "LA")))


def list_audio(folder, recursive=False):
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


def warn_of_others(folder, others, reason="have no ending of audio"):
    """Say how many names of a folder are not read, and which: `others` of list_audio."""
    if others:
        names = ", ".join(map(shown, others[:5])) + (", ..." if len(others) > 5 else "")
        warn(f"{folder}: {len(others)} skipped, they {reason}: {names}")


def scan_audio(folder):
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
    stems = Counter(_stem(name) for name in names)
    return found | {_as_utf8(name): os.path.join(folder, name) for name in names if stems[_stem(name)] > 1}


def _stem(name):
    return name[: name.rindex(".")]


def _as_utf8(name):
    """A file's name as lists spell it, which are UTF-8 whatever the locale; bytes that are not UTF-8 as surrogates."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "surrogateescape")


def trials_of_folder(folder):
    """Every audio file of a folder as a trial with an unknown label, in the order of the names.

    Its id is the file's name without the ending; with it if another file differs in the ending alone.
    Warns of what it skips but hidden files. Raises UserError if there is no audio.
    """
    names, others = list_audio(folder)
    warn_of_others(folder, others, "are folders or have no ending of audio")
    if not names:
        raise UserError(f"{folder}: expected audio files ({' '.join(AUDIO_EXTENSIONS)}), found none")
    stems = Counter(map(_stem, names))
    ids = {_as_utf8(_stem(name) if stems[_stem(name)] == 1 else name): name for name in names}
    if len(ids) < len(names):  # beside a.mp3 and a.wav, a.wav.mp3
        ids = {_as_utf8(name): name for name in names}
    return [Trial(utt_id=utt_id, path=os.path.join(folder, name)) for utt_id, name in sorted(ids.items())]


def name_problem(utt_id):
    """Why a name cannot stand in a line `utt_id score`; None if it can."""
    if _NOT_IN_A_LINE.search(utt_id):
        return "its name holds a line end, a control character or bytes that are not UTF-8, which a score file cannot"
    if utt_id != utt_id.strip() or not utt_id:
        return "its name is empty, or begins or ends with a blank, which a score file cannot tell from none"
    return None


def read_trials(protocol, audio_dir=None, corpus=None):
    """Read a trial list or key and locate its audio: a list of Trial with paths.

    audio_dir None: the folder is looked for around the protocol, where the corpus's archives unpack it to.
    Raises UserError as read_table and locate_audio, and where no folder is found, listing the places looked at.
    """
    if os.path.isdir(protocol):
        return trials_of_folder(protocol)
    table = read_table(protocol, corpus)
    return locate_audio(table.trials(), audio_dir or _audio_around(protocol, table))


def _audio_around(protocol, table):
    parts = FORMATS[table.corpus].audio if table.corpus in FORMATS else [".", "release_in_the_wild"]
    parts = parts or [part for format in FORMATS.values() for part in format.audio]
    above = list(Path(protocol).absolute().parents)[:4]
    places = list(dict.fromkeys(base / part for base in above for part in parts))
    for place in places:  # the folders of several splits lie side by side: a look at the first trials tells
        if place.is_dir() and any(_inside(place, utt_id) for utt_id in table.utt_id[:10]):
            return place
    raise UserError(f"{protocol}: its audio not found; looked for {', '.join(map(str, places))}; --help names the flag")


def _inside(folder, utt_id):
    """The path of an utterance's audio in a folder or a sub-folder, None where there is none or it leads outside."""
    parts = utt_id.split("/")
    if ".." in parts or os.path.isabs(utt_id):
        return None
    paths = (os.path.join(folder, utt_id + ending) for ending in (*AUDIO_EXTENSIONS, ""))
    return next((path for path in paths if os.path.isfile(path)), None)


def locate_audio(trials, folder):
    """Set the path of every trial: the file in `folder` that is named utt_id and an audio ending.

    An id may name a sub-folder (`sub/name`), but never lead outside the folder.
    Raises UserError that counts, and in its details lists, every trial without a file.
    """
    files = {"": scan_audio(folder)}
    paths = []
    for trial in trials:
        sub, _, name = trial.utt_id.rpartition("/")
        if sub not in files:
            place = os.path.join(folder, sub)
            outside = os.path.isabs(trial.utt_id) or ".." in sub.split("/")
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


def read_score_columns(path):
    """Read a score file without judging it: (utt_ids, scores (trials,) float64, line numbers).

    A line is `utt_id score`; or `utt_id source key score`, as ASVspoof 2019 has it; or, below a header, two columns
    separated by a comma or a tab. Ids may hold blanks. Raises UserError, naming file and line, for another form.
    """
    text = _read_text(path)
    try:
        pieces = [
            (lines, names, _numbers(path, lines, values)) for lines, (names, values) in _split_words(path, text, 2, "")
        ]
    except ValueError:  # UserError is one, too: not simply a word and a number a line
        pieces = [_score_lines(path, text)]
    lines = [line for lines, _, _ in pieces for line in lines]
    if not lines:
        raise UserError(f"{path}: expected a score a line, found none")
    names = [name for _, names, _ in pieces for name in names]
    return _without_endings(names), np.concatenate([values for _, _, values in pieces]), lines


def _numbers(path, lines, words, what="the score", finite=False):
    """Words as numbers. Raises UserError, naming the line, for one that is none; finite: or is NaN or infinite.

    Python's own float() takes 1_000 and the digits of every script, too.
    """
    joined = "".join(words)
    try:
        if "_" in joined or not joined.isascii():
            raise ValueError
        values = list(map(float, words))
        if finite and not np.all(np.isfinite(values)):
            raise ValueError
        return values
    except ValueError:
        line, word = next((line, word) for line, word in zip(lines, words) if not _is_number(word, finite))
        kind = "a finite number" if finite else "a number"
        raise UserError(f"{path}:{line}: expected {kind} as {what}, found {shown(word)}") from None


def _is_number(word, finite):
    try:
        value = float(word)
    except ValueError:
        return False
    return "_" not in word and word.isascii() and (math.isfinite(value) or not finite)


def _score_lines(path, text):
    rows = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    separator = next((character for character in ",\t" if rows and character in rows[0][1]), None)
    if separator and rows[0][1].split(separator)[0].strip().lower() in ID_NAMES:
        rows = rows[1:]
    else:
        separator = None
    names, scores = [], []
    for number, line in rows:
        *words, score = line.rsplit(separator, 1) if separator else line.split()
        if not words:
            raise UserError(f"{path}:{number}: expected `utt_id score`, found 1 columns: {shown(line)}")
        name = words[0] if len(words) == 3 and words[2] in ("bonafide", "spoof") else line[: -len(score)].rstrip()
        names.append(name.removesuffix(separator or "").strip())
        scores += _numbers(path, [number], [score], f"the score of {shown(names[-1])}")
    return [number for number, _ in rows], names, scores


def read_scores(path):
    """Read a score file. Returns {utt_id: score}, in the order of the file.

    Raises UserError, naming file and line, as read_score_columns and for a score that is no finite number or an id
    that stands twice.
    """
    names, values, lines = read_score_columns(path)
    scores = {}
    for number, utt_id, score in zip(lines, names, values.tolist()):
        if score - score != 0:  # infinite or not a number
            raise UserError(f"{path}:{number}: expected a finite score for {shown(utt_id)}, found {score}")
        if utt_id in scores:
            raise UserError(f"{path}:{number}: {shown(utt_id)} has a score already; was the file appended to?")
        scores[utt_id] = score
    return scores


def write_scores(path, scores):
    """Write {utt_id: score} as a score file, whole or not at all. Nine digits keep a float32 exactly."""
    with atomic_open(path) as file:
        file.writelines(f"{utt_id} {score:.9g}\n" for utt_id, score in scores.items())


# Where the organisers' archives and the published scripts keep the key of an evaluation set, below a folder of keys.
KEY_PLACES = [f"{base}CM/trial_metadata.txt" for base in ("LA/", "DF/", "keys/LA/", "keys/DF/", "keys/", "")]
KEY_PLACES += [
    f"{base}{name}"
    for name in ("ASVspoof2019.LA.cm.eval.trl.txt", "PartialSpoof.LA.cm.eval.trl.txt")
    for base in ("", "ASVspoof2019_LA_cm_protocols/", "ASVspoof_LA_cm_protocols/", "LA/ASVspoof2019_LA_cm_protocols/")
    + ("PartialSpoof_LA_cm_protocols/", "protocols/PartialSpoof_LA_cm_protocols/")
]
KEY_PLACES += ["ASVspoof5.eval.track_1.tsv", "meta.csv", "release_in_the_wild/meta.csv", "test.txt"]


def find_key(folder, utt_id):
    """The key in a folder of keys that names utt_id. Raises UserError that lists the places looked at."""
    places = [Path(folder) / place for place in KEY_PLACES]
    found = [place for place in places if place.is_file()]
    if len(found) == 1:
        return found[0]
    for place in found:
        if f"{utt_id} " in _read_text(place) or f"{utt_id}." in _read_text(place):
            return place
    looked = f"none of {', '.join(map(str, found))} names {shown(utt_id)}" if found else "found none"
    raise UserError(f"{folder}: expected a key; {looked}; looked for {', '.join(map(str, places))}")


TARGET, NONTARGET, ASV_SPOOF = 1, 0, 2
# Trials of speaker verification: score (trials,) float64; kind (trials,) of TARGET, NONTARGET, ASV_SPOOF; columns as
# those of a TrialTable.
AsvTrials = namedtuple("AsvTrials", "score kind columns")


def read_asv_trials(scores, key=None):
    """Read the scores of a speaker verification system as AsvTrials.

    scores: `source target|nontarget|spoof score` a line (ASVspoof 2019); with a key of ASVspoof 2021's eight columns,
    `speaker trial score`, joined with it line by line. Raises UserError where a line of either does not fit.
    """
    columns = _word_columns(scores, ("attack", "kind", "score") if key is None else ("-", "-", "score"))
    score = columns.pop("score")
    if key is not None:
        names = ["kind" if name == "key" else name for name in FORMATS["ASVspoof2021_LA"].columns]
        columns = _word_columns(key, [name if name in ("codec", "attack", "kind", "subset") else "-" for name in names])
    codes, words = columns.pop("kind")
    if len(score) != len(codes):
        raise UserError(f"{scores}: expected the {len(codes)} trials of {key}, found {len(score)}")
    kinds = {"target": TARGET, "nontarget": NONTARGET, "spoof": ASV_SPOOF}
    if strange := set(words) - set(kinds):
        raise UserError(f"{key or scores}: expected target, nontarget or spoof, found {shown(min(strange))}")
    return AsvTrials(score, np.array([kinds[word] for word in words])[codes], columns)


def _word_columns(path, names):
    """The columns of a text file but "-": those named score as numbers, the others as Columns."""
    indices = {name: _Index() for name in names if name != "-"}
    pieces = {name: [] for name in indices}
    for lines, piece in _split_words(path, _read_text(path), len(names), f"{len(names)} columns ({' '.join(names)})"):
        for name, words in zip(names, piece):
            if name == "score":
                pieces[name].append(np.array(_numbers(path, lines, words, finite=True)))
            elif name != "-":
                pieces[name].append(np.fromiter(map(indices[name].__getitem__, words), np.int32))
    if not pieces["score" if "score" in pieces else "kind"]:
        raise UserError(f"{path}: expected a trial a line, found none")
    joined = {name: np.concatenate(parts) for name, parts in pieces.items()}
    return {name: x if name == "score" else Column(x, indices[name].words) for name, x in joined.items()}


def read_sasv(path):
    """Read a table with a header and the columns asv_score, cm_score and sasv_label, one trial a line.

    sasv_label: 1 target, 2 nontarget, both bona fide; 0 spoof. Returns (TrialTable, {name: scores (trials,)} of every
    column whose name ends in _score, AsvTrials). Raises UserError, naming file and line, for anything else.
    """
    try:
        rows = list(csv.reader(io.StringIO(_read_text(path), newline="")))
    except csv.Error as error:
        raise UserError(f"{path}: {error}") from error
    needed = {"asv_score", "cm_score", "sasv_label"}
    if not rows or not needed <= set(rows[0]):
        found = shown(",".join(rows[0])) if rows else "an empty file"
        raise UserError(f"{path}:1: expected a header with {', '.join(sorted(needed))}, found {found}")
    if len(set(rows[0])) < len(rows[0]):
        raise UserError(f"{path}:1: expected the name of every column once, found {shown(','.join(rows[0]))}")
    names, rows = rows[0], [(number, row) for number, row in enumerate(rows[1:], 2) if row]
    for number, row in rows:
        if len(row) != len(names):
            raise UserError(f"{path}:{number}: expected {len(names)} columns, found {len(row)}")
    values = {}
    for name, column in zip(names, zip(*(row for _, row in rows))):
        if name in needed or name.endswith("_score"):
            values[name] = np.array(_numbers(path, [number for number, _ in rows], column, name, finite=True))
    if not rows or not np.all(np.isin(values["sasv_label"], (0, 1, 2))):
        raise UserError(f"{path}: expected trials with 0, 1 or 2 in the column sasv_label")
    label = values.pop("sasv_label").astype(int)
    kind = np.array([ASV_SPOOF, TARGET, NONTARGET])[label]
    table = TrialTable(str(path), "SASV", [str(number) for number, _ in rows], (label > 0).astype(np.int8))
    return table, values, AsvTrials(values["asv_score"], kind, {})


def find_asv(key, corpus):
    """(ASV scores, ASV key or None) that the organisers keep beside a key, or None where there are none."""
    base = Path(key).absolute().parent.parent
    if corpus == "ASVspoof2021_LA":
        found = sorted((base / "ASV").glob("ASV[Tt]orch_[Kk]aldi/score.txt"))
        return (found[0], base / "ASV" / "trial_metadata.txt") if found else None
    if corpus == "ASVspoof2019_LA":
        split = next((split for split in ("dev", "eval") if f".{split}." in Path(key).name), None)
        scores = base / "ASVspoof2019_LA_asv_scores" / f"ASVspoof2019.LA.asv.{split}.gi.trl.scores.txt"
        return (scores, None) if scores.is_file() else None
    return None
