"""Text to trials: trial lists, keys and score files of every corpus, without torch and without audio."""

import os
from collections import namedtuple
from dataclasses import dataclass, replace
from pathlib import Path

from atomic import atomic_open
from console import UserError

BONAFIDE, SPOOF = 1, 0

AUDIO_EXTENSIONS = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".m4a")

# corpus -> its columns; "-" is a column that the corpus leaves unused.
Format = namedtuple("Format", "columns spoof_word")
FORMATS = {
    "ASVspoof2019_LA": Format(("speaker", "utt_id", "-", "attack", "key"), "spoof"),
    "CtrSVDD": Format(("dataset", "speaker", "utt_id", "-", "attack", "key"), "deepfake"),
    "list": Format(("utt_id",), None),
}


@dataclass(frozen=True, slots=True)
class Trial:
    """One utterance to be judged. label: 1 bona fide, 0 spoof, None unknown. `-` stands for a value not given."""

    utt_id: str
    label: int | None = None
    attack: str = "-"
    speaker: str = "-"
    dataset: str = "-"
    path: str | None = None


def read_protocol(path, corpus=None):
    """Read a trial list or a key.

    path: a text file with one trial a line, its columns separated by blanks. corpus: a name from FORMATS; where
    None, it is recognised from the first line. Returns a list of Trial in the order of the file, `path` not set.
    Raises UserError, naming file and line, for a wrong column count, an unknown label, a duplicate id, no trial.
    """
    rows = [(number, line.split()) for number, line in enumerate(_read_lines(path), 1) if line.strip()]
    if not rows:
        raise UserError(f"{path}: expected a trial a line, found none")
    corpus = corpus or _recognise(path, *rows[0])
    columns, spoof_word = FORMATS[corpus]
    labels = {"bonafide": BONAFIDE, spoof_word: SPOOF}
    trials, first_line = [], {}
    for number, values in rows:
        if len(values) != len(columns):
            raise UserError(
                f"{path}:{number}: expected the {len(columns)} columns of {corpus} ({' '.join(columns)}), "
                f"found {len(values)}: {' '.join(values)}"
            )
        row = dict(zip(columns, values))
        row.pop("-", None)
        if "key" in row:
            key = row.pop("key")
            if key not in labels:
                raise UserError(f"{path}:{number}: expected bonafide or {spoof_word} as the label, found {key}")
            row["label"] = labels[key]
        trial = Trial(**row)
        if trial.utt_id in first_line:
            raise UserError(f"{path}:{number}: {trial.utt_id} stands already in line {first_line[trial.utt_id]}")
        first_line[trial.utt_id] = number
        trials.append(trial)
    return trials


def _read_lines(path):
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected a text file, found bytes that are not UTF-8 text") from error


def _recognise(path, number, values):
    for corpus, (columns, spoof_word) in FORMATS.items():
        if len(values) == len(columns) and (spoof_word is None or values[-1] in ("bonafide", spoof_word)):
            return corpus
    known = "; ".join(f"{corpus}: {' '.join(columns)}" for corpus, (columns, _) in FORMATS.items())
    raise UserError(
        f"{path}:{number}: expected the columns of a known corpus ({known}), found {len(values)}: {' '.join(values)}"
    )


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


def scan_audio(folder):
    """Map each audio file's name without its ending to its path, in the order of the names; sub-folders not entered.

    Raises UserError where the folder cannot be read.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read as a folder of audio: {error.strerror}") from error
    found = {}
    for ending in reversed(AUDIO_EXTENSIONS):  # where a name has several endings, the first of the list wins
        for name in names:
            if name.lower().endswith(ending):
                found[name[: -len(ending)]] = os.path.join(folder, name)
    return found


def trials_of_folder(folder):
    """Every audio file of a folder as a trial with an unknown label, in the order of the names."""
    trials = [Trial(utt_id=utt_id, path=path) for utt_id, path in sorted(scan_audio(folder).items())]
    if not trials:
        raise UserError(f"{folder}: expected audio files ({' '.join(AUDIO_EXTENSIONS)}), found none")
    return trials


def locate_audio(trials, folder):
    """Set the path of every trial: the file in `folder` that is named utt_id and an audio ending.

    Raises UserError that counts, and in its details lists, every trial without a file.
    """
    files = scan_audio(folder)
    missing = [trial.utt_id for trial in trials if trial.utt_id not in files]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {len(trials)} trials have no audio file (listed above), "
            f"first {missing[0]}; expected UTTERANCE{'|'.join(AUDIO_EXTENSIONS)}",
            details=[f"missing audio: {os.path.join(folder, utt_id)}" for utt_id in missing],
        )
    return [replace(trial, path=files[trial.utt_id]) for trial in trials]


def read_scores(path):
    """Read a score file, a line `utt_id score` each. Returns {utt_id: score}, in the order of the file.

    Raises UserError, naming file and line, for a line of another form, a score that is no finite number, or an id
    that stands twice.
    """
    scores = {}
    for number, line in enumerate(_read_lines(path), 1):
        values = line.split()
        if not values:
            continue
        if len(values) != 2:
            raise UserError(f"{path}:{number}: expected `utt_id score`, found {len(values)} columns: {line.strip()}")
        utt_id, score = values
        try:
            score = float(score)
        except ValueError:
            raise UserError(f"{path}:{number}: expected a number as the score of {utt_id}, found {score}") from None
        if score - score != 0:  # infinite or not a number
            raise UserError(f"{path}:{number}: expected a finite score for {utt_id}, found {values[1]}")
        if utt_id in scores:
            raise UserError(f"{path}:{number}: {utt_id} has a score already; was the file appended to?")
        scores[utt_id] = score
    if not scores:
        raise UserError(f"{path}: expected a score a line, found none")
    return scores


def write_scores(path, scores):
    """Write {utt_id: score} as a score file, whole or not at all. Nine digits keep a float32 exactly."""
    with atomic_open(path) as file:
        file.writelines(f"{utt_id} {score:.9g}\n" for utt_id, score in scores.items())
