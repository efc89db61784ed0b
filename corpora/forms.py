"""Forms of trial lists: recognise the corpus from the first line, name the columns, and split the lines."""

import os
import re
from collections.abc import Iterator

from common.console import UserError, shown
from corpora.corpus import Corpus
from corpora.labels import WORDS
from corpora.records import CORPORA
from corpora.text import (
    FILE_NAMES,
    ID_NAMES,
    LABEL_NAMES,
    SEPARATORS,
    read_parquet,
    read_text,
    split_csv,
    split_open_ended,
    split_words,
)


def read_form(
    path: str | os.PathLike, corpus: str | None = None, bonafide: str | None = None
) -> tuple[str, list[str], Iterator]:
    """Read a list or key: (corpus, names of the columns, pieces of lines, see split_words).

    The columns of a trial's name, audio and label are renamed to utt_id, file and key, whatever the header calls them;
    "-" is an unused column. corpus: the name of its corpus; None: recognise it. bonafide: the label of bona fide
    trials, if the user gives it. Raises UserError, with file and line, for an unknown form.
    """
    if str(path).lower().endswith(".parquet"):
        titles, columns = read_parquet(path)
        corpus, names = _table(f"{path}", titles, corpus)
        return corpus, names, [(range(1, len(columns[0]) + 1), columns)]
    text = read_text(path)
    line = re.search(r"[^\n]*\S[^\n]*", text)
    if not line:
        raise UserError(f"{path}: expected one trial per line, found none")
    place, first = f"{path}:{text.count(chr(10), 0, line.start()) + 1}", line[0].rstrip().lstrip(" ")
    if corpus is None or CORPORA[corpus].header:
        for separator in SEPARATORS:
            titles = [title.strip().strip('"') for title in first.split(separator)]
            if any(title.lower() in ID_NAMES for title in titles):
                corpus, names = _table(place, titles, corpus)
                return corpus, names, split_csv(path, text, separator, names)
            if len(titles) == 2 and _is_label(titles[1], bonafide):
                names = ["utt_id", "key"]
                return "csv", names, split_csv(path, text, separator, names, header=False)
        words = first.lower().split()
        if not {*words}.isdisjoint(ID_NAMES) and not {*words}.isdisjoint(LABEL_NAMES):  # a header separated by blanks
            corpus, names = _table(place, first.split(), corpus)
            below = "\n" * text.count("\n", 0, line.end()) + text[line.end() :]  # keeps the line numbers
            return corpus, names, split_words(path, below, len(words), f"the {len(words)} columns {shown(first)}")
        if corpus:
            raise UserError(_no_header(place, first))
    values = first.split()
    corpus = corpus or _recognise(place, first, values)
    if corpus is None:  # two columns of the user's own
        if not _is_label(values[1], bonafide):
            raise UserError(_unknown(place, first, values))
        return "csv", ["utt_id", "key"], split_words(path, text, 2, "a name and a label, 2 columns")
    record = CORPORA[corpus]
    n, split = len(record.columns), split_open_ended if record.open_ended else split_words
    return corpus, list(record.columns), split(path, text, n, f"the {n} columns of {corpus} ({_columns(record)})")


def _table(place, titles, corpus):
    """(corpus, names of the columns) of a table with a header; a first column without a name is pandas' index."""
    names = [title.lower() for title in titles]
    if names[0] in ("", "unnamed: 0") and len(names) > 1:
        names[0] = "-"
    tables = {record.columns: name for name, record in CORPORA.items() if record.header and record.columns}
    own = tables.get(tuple(name for name in names if name != "-"))
    corpus = own or corpus or "csv"
    files = [name for name in names if name in FILE_NAMES]
    ids = [name for name in names if name in ID_NAMES and name not in FILE_NAMES]
    if files and not own:  # in a user's own table with a file column, `id` has no meaning
        ids = [name for name in ids if name == "utt_id"]
    labels = [name for name in names if name in LABEL_NAMES]
    for found, expected in ((files, FILE_NAMES), (ids, ID_NAMES), (labels, LABEL_NAMES)):
        if len(found) > 1:
            raise UserError(
                f"{place}: expected only one of the columns {'|'.join(expected)}, found {shown(','.join(titles))}"
            )
    if len(set(names)) != len(names):
        raise UserError(f"{place}: expected different column names, found {shown(','.join(titles))}")
    if not files and not ids:
        raise UserError(_no_header(place, ",".join(titles)))
    meanings = dict.fromkeys(files, "file" if ids else "utt_id") | dict.fromkeys(ids, "utt_id")
    meanings |= dict.fromkeys(labels, "key")
    return corpus, [meanings.get(name, name) for name in names]


def _is_label(word, bonafide):
    return bonafide is not None or word.lower() in WORDS or re.fullmatch(r"[01](\.0)?", word) is not None


def _recognise(place, first, values):
    """The corpus that matches the values of a first line; None for two columns that match no corpus.

    Corpora with `first_line` patterns take precedence. If several corpora match, it is an error.
    """
    records = _without_header()
    fits = [name for name, record in records.items() if _misfit(record, values) is None]
    particular = [name for name in fits if records[name].first_line]
    fits = particular or fits
    if len(values) == 1 and any(separator in first for separator in SEPARATORS):
        raise UserError(_no_header(place, first))  # "a,b" is not an id
    if len(fits) > 1:
        raise UserError(f"{place}: ambiguous, may be a list of {' or '.join(fits)}: {shown(first)}")
    if not fits and len(values) != 2:
        raise UserError(_unknown(place, first, values))
    return fits[0] if fits else None


def _without_header():
    return {name: record for name, record in CORPORA.items() if not record.header and not record.some_line}


def _columns(record: Corpus) -> str:
    return " ".join(record.columns) + (" ..." if record.open_ended else "")


def _misfit(record, values):
    """Why values do not match the lines of a corpus, as a relative clause for messages; None if they match."""
    n = len(record.columns)
    if record.open_ended and len(values) >= n - 1:
        values = [*values[: n - 1], " ".join(values[n - 1 :])]
    if len(values) != n:
        return f"which has {n} columns"
    line = dict(zip(record.columns, values))
    for column, pattern in record.first_line.items():
        if not re.fullmatch(pattern, line[column]):
            return f"whose {'last' if column == '-' else column} column matches {pattern}, found {shown(line[column])}"
    if line.get("key", record.spoof).lower() not in (record.bonafide, record.spoof):
        return f"whose label is {record.bonafide} or {record.spoof}, found {shown(line['key'])}"
    return None


def _no_header(place, first):
    return (
        f"{place}: expected a header with {'|'.join(ID_NAMES)} and {'|'.join(LABEL_NAMES)}, separated by commas, tabs, "
        f"semicolons or |, or a name and a label (bonafide, spoof ...), found {shown(first)}"
    )


def _unknown(place, first, values):
    records = _without_header()
    if any(separator in first for separator in SEPARATORS if separator != "\t"):
        return _no_header(place, first)
    forms = "; ".join(f"{corpus}: {_columns(record)}" for corpus, record in records.items())
    closest = min(
        records, key=lambda name: (abs(len(records[name].columns) - len(values)), bool(records[name].first_line))
    )
    return (
        f"{place}: expected the columns of a known corpus ({forms}), or a header with a column path, separated by "
        f"commas; found {len(values)} columns: {shown(' '.join(values))}; the closest corpus is {closest}, "
        f"{_misfit(records[closest], values)}"
    )
