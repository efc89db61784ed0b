"""Conditions of a report: the set of trials behind each row of its tables."""

import csv
import itertools
import os
from collections import namedtuple

import numpy as np

from common.console import UserError
from corpora import BONAFIDE, SPOOF, TrialTable
from reports import ctrsvdd

# A set of trials. filters: {column: values}, which the trials have; bonafide, spoof: indices of the trials.
Condition = namedtuple("Condition", "by name filters bonafide spoof")
# {name in a corpus's record: module with `masks`, the trials of each published line, and `print_report`}
PUBLISHED_REPORTS = {"ctrsvdd": ctrsvdd}


def _partition(table, columns):
    """Group trials by the values of columns: (values of each column, bona fide groups, spoofed groups).

    Groups: {tuple of values: indices}. In a column without values for bona fide trials, such as attack, all bona fide
    trials belong to every value.
    """
    for column in columns:
        if column not in table.columns:
            have = ", ".join(table.names) or "none"
            raise UserError(f"--by {column}: {table.path} has no such column; its columns: {have}")
    values, parts = [], []
    described = {}
    for column in columns:
        codes, words = table.columns[column]
        of_bonafide = {words[code] for code in np.unique(codes[table.label == BONAFIDE])}
        described[column] = of_bonafide - {"-"}
        present = {words[code] for code in np.unique(codes)}
        values.append(table.in_order(column, present if described[column] else present - {"-"}))
    for label in (BONAFIDE, SPOOF):
        indices = np.flatnonzero(table.label == label)
        telling = [column for column in columns if label == SPOOF or described[column]]
        joint = np.zeros(len(indices), np.int64)
        for column in telling:
            codes, words = table.columns[column]
            joint = joint * len(words) + codes[indices]
        order = np.argsort(joint, kind="stable")
        present, first = np.unique(joint[order], return_index=True)
        groups = dict(zip(present.tolist(), np.split(indices[order], first[1:])))

        def part(*wanted, telling=telling, groups=groups):
            joint = 0
            for column, value in zip(columns, wanted):
                if column in telling:
                    words = table.columns[column].values
                    joint = joint * len(words) + words.index(value)
            return groups.get(joint, np.zeros(0, int))

        parts.append({wanted: part(*wanted) for wanted in itertools.product(*values)})
    return values, *parts


def conditions_of(
    table: TrialTable, by: list[list[str]] | None = None, groups: dict[str, set[str]] | None = None
) -> list[Condition]:
    """All Conditions of a report: pooled, groups of attacks, then breakdowns.

    table: the trials reported on. by: lists of one or two columns, ["none"] for no breakdown; None: the breakdowns of
    the corpus's record, or of the published report that it names. groups: {name: attacks}, see read_groups.
    """
    everything = [np.flatnonzero(table.label == label) for label in (BONAFIDE, SPOOF)]
    conditions = [Condition("pooled", "pooled", {}, *everything)]
    published = PUBLISHED_REPORTS.get(table.record.published_report)
    if published and by is None and (masks := published.masks(table)):
        for (column, name), mask in masks.items():
            conditions.append(Condition(column, name, {}, *(indices[mask[indices]] for indices in everything)))
        return conditions
    if groups:
        _, bonafide, spoof = _partition(table, ["attack"])
    for name, members in (groups or {}).items():
        present = [(attack,) for attack in members if (attack,) in spoof]
        if present:
            members_spoof = np.sort(np.concatenate([spoof[attack] for attack in present]))
            conditions.append(Condition("group", name, {"attack": members}, bonafide[present[0]], members_spoof))
    asked = by or [[name] for name in table.record.breakdowns if name in table.columns]
    for columns in asked:
        if columns == ["none"]:
            continue
        values, bonafide, spoof = _partition(table, columns)
        if by is None and len(values[0]) < 2:
            continue
        for wanted in itertools.product(*values):
            filters = {column: {value} for column, value in zip(columns, wanted)}
            name = " / ".join(value.replace(" / ", "/") for value in wanted)
            conditions.append(Condition(" x ".join(columns), name, filters, bonafide[wanted], spoof[wanted]))
    return conditions


def read_groups(path: str | os.PathLike) -> dict[str, set[str]]:
    """Read a table of attack,group: {group: set of attacks}, in the order of the file."""
    groups = {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != ["attack", "group"]:
                raise UserError(
                    f"{path}:1: expected the header attack,group, found {','.join(reader.fieldnames or [])}"
                )
            for row in reader:
                if not row["attack"] or not row["group"] or None in row:
                    raise UserError(f"{path}:{reader.line_num}: expected two values, attack,group")
                groups.setdefault(row["group"], set()).add(row["attack"])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from error
    return groups
