"""Evaluation sets of one eval.py call: the trials of a list, a folder or a table of sets, their conditions and
score files.
"""

import hashlib
import itertools
import json
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

import corpora
from augmentation.conditions import CLEAN, CONDITIONS, apply_condition, check_condition
from augmentation.noise import recordings
from common.atomic import check_outputs, is_stream
from common.console import UserError, shown
from inference.partial_scores import PartialScores
from inference.results import errors_file


@dataclass
class EvaluationSet:
    """Trials that are scored into one file, with their batches once eval.py has planned them.

    out_flag: name of the score file in messages. source: the list of the trials; None: the files of a folder. corpus:
    its test length is the default; default_of: its name in messages. name: "" if there is only one set. condition:
    applied to every recording; `noises`: its noise recordings.
    """

    trials: list[corpora.Trial]
    source: str | os.PathLike | None
    corpus: str
    default_of: str
    out: Path
    out_flag: str
    name: str = ""
    condition: str = CLEAN
    noises: Sequence[str] = ()

    length: int | None = None  # samples of each utterance, None: all
    batches: list[list[int]] = field(default_factory=list)  # of indexes into `trials`
    problems: dict[int, str] = field(default_factory=dict)  # {index: why it is not scored} by its name alone
    partial: PartialScores | None = None
    todo: list[int] = field(default_factory=list)  # numbers of the batches that are this process's to score
    float32: dict[int, float] = field(default_factory=dict)  # {index: score} of a few trials, to compare with

    @property
    def prefix(self) -> str:
        """Prefix of lines about this set."""
        return f"{self.name}: " if self.name else ""

    @property
    def change(self) -> Callable[[np.ndarray, int], np.ndarray] | None:
        """Apply the condition to a waveform (samples,) of the trial with this index; None without a condition."""
        if self.condition == CLEAN:
            return None
        return lambda x, index: apply_condition(self.condition, x, self.trials[index].utt_id, self.noises)

    def condition_facts(self) -> dict[str, object]:
        """Facts that scores under the condition depend on, in addition to those of `clean`; for run_facts."""
        if self.condition == CLEAN:
            return {}
        facts = {"--condition": self.condition}
        if CONDITIONS[self.condition].needs_noise:
            sizes = [(os.path.basename(path), os.path.getsize(path)) for path in self.noises]
            facts["--noise_dir"] = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()
        return facts


def read_evaluation_sets(
    table: str | os.PathLike, system: str | None, folder: str | os.PathLike
) -> list[EvaluationSet]:
    """Read the sets of a table (see corpora.read_sets) and locate their audio; in the order of the table.

    system: the column with the score files; None: the only such column, or NAME.txt in `folder` if there is none.
    Sets with the same list, audio and score file are merged, for example the subsets of a key.
    Raises UserError, naming the table and the set, if something cannot be read or found.
    """
    sets = {}
    for row in corpora.read_sets(table):
        where = f"{table}: {shown(row.name)}"
        out = _score_file(table, row, system, folder)
        place = os.path.realpath(out), row.key, row.audio_dir
        if place in sets:
            sets[place].name += f", {shown(row.name)}"
            continue
        try:
            trials = corpora.read_trials(row.key, row.audio_dir, need_labels=False)
            # Errors of the list have been reported already: this call only identifies its corpus.
            corpus = (
                "list" if os.path.isdir(row.key) else corpora.read_table(row.key, columns=(), need_labels=False).corpus
            )
        except UserError as error:
            raise UserError(f"{where}: {error}", error.details) from error
        default_of = corpus if corpora.CORPORA[corpus].track else "a list or folder"
        sets[place] = EvaluationSet(trials, row.key, corpus, default_of, out, f"{where}: scores", shown(row.name))
    return list(sets.values())


def _score_file(table, row, system, folder):
    systems = ", ".join(map(shown, row.scores)) or "none"
    if system is None and len(row.scores) > 1:
        raise UserError(f"{table}: has several columns of score files; expected --outputname with one of {systems}")
    if system is not None and system not in row.scores:
        raise UserError(f"--outputname {system}: expected a column of score files in {table}, which has {systems}")
    if row.scores:
        return Path(row.scores[system or next(iter(row.scores))])
    if row.name in (".", "..") or "/" in row.name or corpora.name_problem(row.name):
        raise UserError(f"{table}: the column name: expected the name of a file, found {shown(row.name)}")
    return Path(folder, f"{row.name}.txt")


def in_conditions(sets: Sequence[EvaluationSet], names: Sequence[str], noise_dir: str | None) -> list[EvaluationSet]:
    """Pair each set with each condition. A pair has its own score file, see corpora.condition_file.

    names: conditions, or ["all"]. noise_dir: folder of noise recordings, for the conditions that need them.
    Raises UserError for an unknown or repeated name, for a noise folder that is missing, unused or empty, and for a set
    that is written to a stream.
    """
    if names == ["all"]:
        names = [name for name, one in CONDITIONS.items() if noise_dir or not one.needs_noise]
    for name in names:
        check_condition(name)
        if names.count(name) > 1:
            raise UserError(f"--condition: expected each name once, found {name} twice")
    needs_noise = [name for name in names if CONDITIONS[name].needs_noise]
    if needs_noise and not noise_dir:
        raise UserError(f"--condition {needs_noise[0]}: expected --noise_dir with a folder of noise recordings")
    if noise_dir and not needs_noise:
        raise UserError(f"--noise_dir: expected a --condition that needs it, found {' '.join(names)}")
    try:
        noises = recordings(noise_dir) if noise_dir else []
    except UserError as error:
        raise UserError(f"--noise_dir {error}") from error
    under_each = []
    for each, name in itertools.product(sets, names):
        if name != CLEAN and is_stream(each.out):
            raise UserError(f"--condition {name}: expected {each.out_flag} to be a file, found {each.out}")
        out = each.out if name == CLEAN else corpora.condition_file(each.out, name)
        called = f"{each.name}, {name}" if each.name else name
        under_each.append(replace(each, out=out, name=called, condition=name, noises=noises))
    return under_each


def report_command(table: str | os.PathLike | None, sets: Sequence[EvaluationSet]) -> str | None:
    """Report command for a table, or for one list under conditions; None if labels or score files are missing."""
    conditions = [each.out for each in sets if each.condition == CLEAN] if len(sets) > 1 else []
    if not table and not conditions or table and any(each.condition != CLEAN for each in sets):
        return None
    labels = {trial.label for each in sets for trial in each.trials}
    files = [path for row in corpora.read_sets(table) for path in row.scores.values()] if table else conditions
    if labels != {corpora.BONAFIDE, corpora.SPOOF} or not files or not all(map(os.path.isfile, files)):
        return None
    flags = ["--sets", table] if table else ["--labels_file", sets[0].source, "--conditions", *conditions]
    return shlex.join(["python", "EER_minDCF.py", *map(str, flags)])


def check_files(
    sets: Sequence[EvaluationSet],
    inputs: Sequence[str | os.PathLike | None],
    world: int,
    more: Sequence[tuple[str, str | None]] = (),
) -> None:
    """Raise UserError if an output file is also an input, or cannot be written.

    inputs: further files that are read. world: number of processes, each with its own partial scores. more: further
    outputs, (flag, file).
    """
    outputs = [*more]
    for each in sets:
        outputs.append((each.out_flag, each.out))
        if not is_stream(each.out):
            outputs.append((f"{each.out_flag}: list of errors", errors_file(each.out)))
            real = os.path.realpath(each.out)
            outputs += [(f"{each.out_flag}: partial scores", f"{real}.partial-{rank}") for rank in range(world)]
    read = (path for each in sets for path in [each.source, *(trial.path for trial in each.trials)])
    check_outputs(outputs, itertools.chain(inputs, read))
