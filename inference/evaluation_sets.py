"""What a call of eval.py scores: trials of one list or folder, or of every set of a table, and into which file."""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import corpora
from common.atomic import check_outputs, is_stream
from common.console import UserError, shown
from inference.partial_scores import PartialScores
from inference.results import errors_file


@dataclass
class EvaluationSet:
    """Trials that are scored into one file, and, once eval.py has planned them, how.

    out_flag: what to call the file in a message. source: the list that names the trials, None: the files of a folder.
    corpus: whose test length is the default, which default_of tells in words. name: "" where there is but one set.
    """

    trials: list[corpora.Trial]
    source: str | os.PathLike | None
    corpus: str
    default_of: str
    out: Path
    out_flag: str
    name: str = ""

    length: int | None = None  # samples of each utterance, None: all
    batches: list[list[int]] = field(default_factory=list)  # of indexes into `trials`
    problems: dict[int, str] = field(default_factory=dict)  # {index: why it is not scored} by its name alone
    partial: PartialScores | None = None
    todo: list[int] = field(default_factory=list)  # numbers of the batches that are this process's to score
    float32: dict[int, float] = field(default_factory=dict)  # {index: score} of some, to compare a --precision with

    @property
    def prefix(self) -> str:
        """What a line about this set begins with."""
        return f"{self.name}: " if self.name else ""


def read_evaluation_sets(
    table: str | os.PathLike, system: str | None, folder: str | os.PathLike
) -> list[EvaluationSet]:
    """The sets of a table as corpora.read_sets takes it, their audio located, in its order.

    system: the column whose cells name the score files; None: the only one, or, of a table without, NAME.txt in
    `folder`. Sets of one list and audio that go into one file are one: the subsets of a key, say.
    Raises UserError, naming the table and the set, for what cannot be read or found.
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
            # All that is wrong with the list has been said: this only asks of which corpus it is.
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
        raise UserError(f"{table}: expected --outputname and one of its columns of score files: {systems}")
    if system is not None and system not in row.scores:
        raise UserError(f"--outputname {system}: expected a column of score files in {table}, which has {systems}")
    if row.scores:
        return Path(row.scores[system or next(iter(row.scores))])
    if row.name in (".", "..") or "/" in row.name or corpora.name_problem(row.name):
        raise UserError(f"{table}: the column name: expected the name of a file, found {shown(row.name)}")
    return Path(folder, f"{row.name}.txt")


def can_be_reported(table: str | os.PathLike, sets: Sequence[EvaluationSet]) -> bool:
    """Whether EER_minDCF.py has all that it needs for a report on a table: labels, and a score file in every cell."""
    labels = {trial.label for each in sets for trial in each.trials}
    files = [path for row in corpora.read_sets(table) for path in row.scores.values()]
    return labels == {corpora.BONAFIDE, corpora.SPOOF} and bool(files) and all(map(os.path.isfile, files))


def check_files(
    sets: Sequence[EvaluationSet],
    inputs: Sequence[str | os.PathLike | None],
    world: int,
    more: Sequence[tuple[str, str | None]] = (),
) -> None:
    """Raise UserError where what will be written is read as well, or cannot be written.

    inputs: files that are read besides the sets' own. world: number of the processes, each with its partial scores.
    more: (flag, file) of what is written besides.
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
