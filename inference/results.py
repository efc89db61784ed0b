"""Results of a scoring run: the score file, and the list of trials that have no score."""

import sys
from pathlib import Path

import corpora
from common.atomic import atomic_open, is_stream
from common.console import printable


def errors_file(out):
    """Where the trials of a score file are listed that have no score; the whole name, so that no two share one."""
    return Path(f"{out}.errors.tsv")


def write_results(out, trials, done):
    """Write scores in the order of the trials, and what has none into its errors_file. Returns the exit status."""
    scores, failures, silent = {}, {}, set()
    for batch_scores, batch_failures, batch_silent in done.values():
        scores |= batch_scores
        failures |= batch_failures
        silent |= set(batch_silent)
    errors = errors_file(out)
    # Whatever a name holds, a trial is one line with one tab.
    lines = [f"{printable(trials[index].utt_id)}\t{printable(why)}\n" for index, why in sorted(failures.items())]
    if is_stream(out):
        sys.stderr.writelines(lines)
    elif failures:
        with atomic_open(errors) as file:
            file.writelines(lines)
    else:
        errors.unlink(missing_ok=True)
    corpora.write_scores(out, {trials[index].utt_id: score for index, score in sorted(scores.items())})
    if silent:
        names = " ".join(printable(trials[index].utt_id) for index in sorted(silent)[:10])
        print(f"eval.py: warning: {len(silent)} trials hold nothing but zeros, first {names}", file=sys.stderr)
    if failures:
        where = "listed above" if is_stream(out) else f"see {errors}"
        print(f"eval.py: {len(failures)} of {len(trials)} trials have no score, {where}", file=sys.stderr)
    return 1 if failures else 0
