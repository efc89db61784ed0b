"""Conditions of a report: the sets of trials that each row of its tables is about."""

import csv
import itertools
import os
from collections import namedtuple

import numpy as np

from common.console import UserError
from corpora import BONAFIDE, SPOOF, TrialTable
from reports import ctrsvdd

# A set of trials: all that pass `filters`, {column: values}. bonafide, spoof: indices of its trials.
Condition = namedtuple("Condition", "by name filters bonafide spoof")
# Published texts that some corpus's record names: modules with the masks of their lines, and a function that prints.
PUBLISHED_REPORTS = {"ctrsvdd": ctrsvdd}


def _partition(table, columns):
    """The trials by the values of some columns: (values of each column, {tuple of values: indices}) for bona fide and
    spoofed trials. Where bona fide trials have no value, as of an attack, they pass every one of that column.
    """
    for column in columns:
        if column not in table.columns:
            raise UserError(f"--by {column}: {table.path} has no such column, but {', '.join(table.names) or 'none'}")
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
    """Every Condition of a report: pooled, groups of attacks, then breakdowns.

    table: of the trials reported on. by: lists of one column or two, ["none"] for no breakdown; None: those
    of its corpus's record, or of the published report that it names. groups: {name: attacks}, as of read_groups.
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
    """{group: set of attacks}, in the order of the file."""
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
                    raise UserError(f"{path}:{reader.line_num}: expected attack,group")
                groups.setdefault(row["group"], set()).add(row["attack"])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from error
    return groups
