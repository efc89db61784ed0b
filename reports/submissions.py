"""Submissions to public leader boards: complete score files in the boards' formats.

Sources: Speech DF Arena, one file per set with lines `ABSOLUTE_PATH SCORE`; SpeechAntiSpoofingBenchmarks, the README of
a dataset's submissions (a score file in the system's repository, an entry with its checksum in the dataset's
repository); ASVspoof 5's evaluation package, a table with the columns filename and cm-score.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Sequence

import corpora
from common.atomic import atomic_open
from common.console import UserError, shown
from corpora import EvalSet
from reports.systems import align

SUBMISSIONS = ("dfarena", "benchmarks", "asvspoof5")
DFARENA_SETS = (
    "dfadd add_2023_round_1 add_2023_round_2 add_2022_track_1 add_2022_track_3 codecfake asvspoof_2019 "
    "asvspoof_2021_la asvspoof_2021_df asvspoof_2024 in_the_wild fake_or_real librisevoc sonar"
).split()
ENTRY = """\
# Copy into the results_template.yaml of {dataset}, then fill in the remaining fields there.
artifact:
  scores_url: null  # fill in: the address of scores.txt, pinned to the commit that holds it
  scores_sha256: {sha256}
"""


def write_submission(
    kind: str, out: str | os.PathLike, sets: Sequence[EvalSet], read: Callable = corpora.read_score_columns
) -> list[str]:
    """Write the scores of one system as a submission to a leader board. Returns the paths of the files.

    kind: "dfarena" or "benchmarks" (`out` is a new or empty folder), or "asvspoof5" (`out` is a file). A set has all
    trials of its key, or those of its subset, in the order of the key; labels are not needed. read: function of a path
    that returns ScoreColumns. Raises UserError, and writes nothing, for several systems, a set name that the leader
    board does not have, score files that do not match their keys, or (dfarena) missing audio.
    """
    for one in sets:
        if len(one.scores) != 1:
            raise UserError(f"--arena: expected the scores of one system, found {', '.join(one.scores) or 'none'}")
    if kind == "asvspoof5":
        if len(sets) != 1:
            raise UserError(f"--arena {kind}: expected one set, found {', '.join(one.name for one in sets)}")
        lines = "".join(f"{utt_id}\t{score!r}\n" for utt_id, score, _ in _trials(sets[0], read))
        with atomic_open(out) as file:
            file.write(f"filename\tcm-score\n{lines}")
        return [str(out)]
    if os.path.lexists(out) and (not os.path.isdir(out) or os.listdir(out)):
        raise UserError(f"--arena {kind} {out}: expected a new or empty folder, found a file or a folder with files")
    contents = {}
    for one in sets:
        contents |= (_dfarena if kind == "dfarena" else _benchmark)(one, read)
    out = os.path.realpath(out)
    partial = f"{out}.{os.getpid()}.tmp"
    try:
        for name, content in contents.items():
            with atomic_open(os.path.join(partial, name)) as file:
                file.write(content)
        os.replace(partial, out)  # an existing empty folder is replaced
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [os.path.join(out, name) for name in contents]


def _trials(one, read, paths=None):
    """[(utt_id, score, path)] of the trials of a set."""
    table = corpora.read_table(one.key, columns=("subset",), need_labels=False)
    wanted = table.subset_mask(one.subset or "all")
    (scores_file,) = one.scores.values()
    scores, _, _ = align([(scores_file, read(scores_file))], table, None, wanted)
    rows = zip(table.utt_id, scores[:, 0].tolist(), paths or table.utt_id, strict=True)
    return [row for row, chosen in zip(rows, wanted) if chosen]


def _dfarena(one, read):
    if one.name not in DFARENA_SETS:
        raise UserError(f"{shown(one.name)}: expected a set of Speech DF Arena: {', '.join(DFARENA_SETS)}")
    paths = [os.path.abspath(trial.path) for trial in corpora.read_trials(one.key, one.audio_dir, need_labels=False)]
    for path in paths:
        if corpora.name_problem(path) or len(path.split()) > 1:
            raise UserError(
                f"{one.name}: {shown(path)}: expected a path without blanks and line breaks, for lines `PATH SCORE`"
            )
    return {f"{one.name}.txt": "".join(f"{path} {score!r}\n" for _, score, path in _trials(one, read, paths))}


def _benchmark(one, read):
    if not re.fullmatch(r"\w[\w.-]*", one.name, re.ASCII):
        raise UserError(f"{shown(one.name)}: expected the name of a dataset of SpeechAntiSpoofingBenchmarks")
    trials, (system,) = _trials(one, read), one.scores
    if blanks := [utt_id for utt_id, *_ in trials if len(utt_id.split()) > 1]:
        raise UserError(f"{one.name}: {shown(blanks[0])}: expected an id without blanks, for lines `UTT SCORE`")
    lines = "".join(f"{utt_id} {score!r}\n" for utt_id, score, _ in trials)
    entry = ENTRY.format(dataset=one.name, sha256=hashlib.sha256(lines.encode()).hexdigest())
    slug = re.sub("[^a-z0-9]+", "-", system.lower()).strip("-") or "system"
    return {
        f".eval_results/SpeechAntiSpoofingBenchmarks/{one.name}/scores.txt": lines,
        f"submissions/{one.name}/{slug}.yaml": entry,
    }
