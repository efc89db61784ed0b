"""Where the archives of the corpora, and the published scripts, keep lists, audio and keys."""

from pathlib import Path

from common.console import UserError, shown
from corpora.text import read_text


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
        if f"{utt_id} " in read_text(place) or f"{utt_id}." in read_text(place):
            return place
    looked = f"none of {', '.join(map(str, found))} names {shown(utt_id)}" if found else "found none"
    raise UserError(f"{folder}: expected a key; {looked}; looked for {', '.join(map(str, places))}")
