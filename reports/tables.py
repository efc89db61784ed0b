"""Output of a report as text, csv, json and LaTeX, from one list of columns and one list of figures."""

import csv
import itertools
import json
import math
import re
import sys
from collections import namedtuple
from dataclasses import dataclass, field

from reports.exact import FEWEST_TRIALS
from reports.figures import NO_VALUE, Figure, Row

# A column in addition to the figures. key: name in csv and json; title: name in tables, None to omit it there; value:
# function of a figures.Row.
Column = namedtuple("Column", "key title value")
COLUMNS_LEFT = [
    Column("by", None, lambda row: row.condition.by),
    Column("name", "condition", lambda row: row.condition.name),
    Column("system", "system", lambda row: row.system),  # in tables only if there are several systems
]
EXACT = "exact bounds"
COLUMNS_RIGHT = [
    Column("n_bonafide", "bona fide", lambda row: len(row.condition.bonafide)),
    Column("n_spoof", "spoof", lambda row: len(row.condition.spoof)),
]


@dataclass(frozen=True)
class Report:
    """Content of a report.

    subset: of the key, "" without subsets; intervals: description of the method; calibrated: whether scores are
    log-likelihood ratios; checks: {system: counts of its score file}; rows: figures.Row, grouped by breakdown; figures:
    {key: Figure} of all rows; comparisons: see figures.compare; sets: {name: {corpus, subset, key}} of a report over
    several sets, see reports.sets.
    """

    corpus: str
    subset: str
    key: str
    intervals: str
    calibrated: bool
    checks: dict
    rows: list
    figures: dict
    comparisons: list
    sets: dict = field(default_factory=dict)

    @property
    def by_system(self) -> bool:
        """Whether tables have a column for the system: there are several."""
        return len({row.system for row in self.rows}) > 1

    def table_figures(self) -> list[Figure]:
        """The figures with a column in the tables."""
        return [figure for figure in self.figures.values() if not figure.pooled_only]

    def parts(self) -> list[list[Row]]:
        """Rows per breakdown. Attack groups, sets and conditions that exclude trials are listed with the pooled row."""
        with_pooled = dict.fromkeys(("group", "excluding", "set", "macro"), "pooled")
        bys = itertools.groupby(self.rows, key=lambda row: with_pooled.get(row.condition.by, row.condition.by))
        return [list(part) for _, part in bys]


def _shown(figure, value):
    if value is None or math.isnan(value):
        return "-"
    return figure.show(value) if figure.show else f"{figure.scale * value:.{figure.digits}f}"


def _interval(figure, value):
    return "" if math.isnan(value.low) else f"{_shown(figure, value.low)} to {_shown(figure, value.high)}"


def _bounds(figure, bounds):
    """Exact bounds of a figure as text, "" without bounds. bounds: see Row."""
    parts = [
        f"{b.rate.upper()} {_shown(figure, b.low)} to {_shown(figure, b.high)}" for b in bounds.get(figure.key, ())
    ]
    return ", ".join(parts)


def _layout(rows, figures, by_system, head, cells):
    """Lines of a table, lists of str, starting with the titles.

    head: maps a Figure to the titles of its columns; cells: maps a Figure, a Value and a Row to their contents.
    """
    left = [column for column in COLUMNS_LEFT if column.title and (by_system or column.key != "system")]

    def line(of_column, of_figure):
        figures_of_line = itertools.chain.from_iterable(map(of_figure, figures))
        return [*map(of_column, left), *figures_of_line, *map(of_column, COLUMNS_RIGHT)]

    lines = [line(lambda column: column.title, head)]
    for row in rows:
        lines.append(
            line(
                lambda column, row=row: str(column.value(row)),
                lambda figure, row=row: cells(figure, row.figures.get(figure.key, NO_VALUE), row),
            )
        )
    return lines


# ------------------------------------------------------------------------------------------------------------- text


def aligned(rows: list[list[str]]) -> list[str]:
    """Lines of a table from its cells; the first column is left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]).rstrip()
        for row in rows
    ]


def _print_text(report):
    rows, figures = report.rows, report.table_figures()
    pooled = next((row.condition for row in rows if row.condition.by == "pooled"), rows[0].condition)
    corpus = " ".join(filter(None, (report.corpus, report.subset)))
    print(f"{corpus}: {len(pooled.bonafide)} bona fide and {len(pooled.spoof)} spoofed trials")
    for name, one in report.sets.items():
        print(f"{name}: {' '.join(filter(None, (one['corpus'], one['subset'])))}, key: {one['key']}")
    if not report.sets:
        print(f"key: {report.key}")
    for name, check in report.checks.items():
        left_out = [
            f"{check[k]} {k.replace('_', ' ')}"
            for k in ("missing", "unknown", "duplicates", "not_finite")
            if check.get(k)
        ]
        system = f" ({name})" if len(report.checks) > 1 else ""
        under = f", and under {len(check['conditions'])} conditions" if "conditions" in check else ""
        print(f"scores: {check['path']}{system}{under}{', '.join(['', *left_out])}")
    print(report.intervals)
    for part in report.parts():
        print()
        if " x " in part[0].condition.by:
            _print_grids(part, [f for f in figures if not report.sets or any(f.key in row.figures for row in part)])
        else:
            print(*aligned(text_table(part, figures, report.by_system)), sep="\n")
    print()
    if report.sets:
        _print_pooled_only_of_sets(report)
    for row in rows:
        if row.condition.by == "pooled" and not report.sets:
            _print_pooled_only(row, report)
    if any(row.bounds for row in rows):
        print(
            f"{EXACT}: Clopper-Pearson, 95 %, of the rates at the figure's threshold, if no error was seen or, for the "
            f"EER, a class has fewer than {FEWEST_TRIALS} trials; these count as independent"
        )
    if not report.calibrated and "act_dcf" in report.figures:
        print("actDCF and Cllr take scores for natural log-likelihood ratios; see --calibrate")
    if report.comparisons:
        print(*["", *aligned(_comparison_lines(report))], sep="\n")


def text_table(rows: list[Row], figures: list[Figure], by_system: bool) -> list[list[str]]:
    """Table of one breakdown, rows of str: name, figures with their intervals, numbers of trials."""
    with_intervals = any(not math.isnan(value.low) for row in rows for value in row.figures.values())

    def head(figure):
        if not (with_intervals and figure.has_interval):
            return [figure.title]
        return [figure.title, "95 % interval", *[EXACT] * any(figure.key in row.bounds for row in rows)]

    def cells(figure, value, row):
        return [_shown(figure, value.value), _interval(figure, value), _bounds(figure, row.bounds)][: len(head(figure))]

    lines = _layout(rows, figures, by_system, head, cells)
    lines[0][0] = "" if rows[0].condition.by == "pooled" else rows[0].condition.by
    return lines


def _print_pooled_only(row, report):
    """Print the figures that exist for all trials only, one per line."""
    pooled_only = [figure for key in row.figures if (figure := report.figures[key]).pooled_only]
    values = [(figure, row.figures[figure.key]) for figure in pooled_only]
    lines = [
        [figure.title, _shown(figure, value.value), _interval(figure, value), _bounds(figure, row.bounds)]
        for figure, value in values
    ]
    head = ["all trials" + (f", {row.system}" if report.by_system else ""), ""]
    head += [title if any(line[i] for line in lines) else "" for i, title in ((2, "95 % interval"), (3, EXACT))]
    print(*aligned([head, *lines]), sep="\n")


def _print_pooled_only_of_sets(report):
    """Print these figures for every set, one column per figure, without intervals."""
    figures = [figure for figure in report.figures.values() if figure.pooled_only]
    lines = _layout(
        report.parts()[0],
        figures,
        report.by_system,
        lambda figure: [figure.title],
        lambda figure, value, _: [_shown(figure, value.value)],
    )
    lines[0][0] = "set"
    print(*aligned(lines), sep="\n")


def _comparison_lines(report, interval="{} to {}"):
    """Table of comparisons, rows of str: name, difference, interval, p; titles first."""
    lines = [["difference", "", "95 % interval", "p"]]
    for c in report.comparisons:
        figure = report.figures[c["figure"]]
        name = f"{figure.title}: {c['first']} - {c['second']}" + (f", {c['over']}" if "over" in c else "")
        difference, low, high = (_shown(figure, c[key]) for key in ("difference", "low", "high"))
        lines.append([name, difference, interval.format(low, high), shown_p(c["p"], c["p_least"])])
    return lines


def shown_p(p: float, least: float) -> str:
    """A p-value with at least three decimals; "< 0.002" if it is the smallest that the bootstrap can resolve."""
    digits = max(3, math.ceil(-math.log10(least)))
    if least < 1 and p <= least:
        return f"< {math.ceil(round(least * 10**digits, 6)) / 10**digits:.{digits}f}"
    return f"{p:.{digits}f}"


def _print_grids(rows, figures):
    """Print a grid per figure and system: values of the first column down, of the second across."""
    for system, figure in itertools.product(dict.fromkeys(row.system for row in rows), figures):
        cells = {row.condition.name: row.figures.get(figure.key) for row in rows if row.system == system}
        down, across = (list(dict.fromkeys(name.split(" / ")[i] for name in cells)) for i in (0, 1))
        lines = [[f"{figure.title}, {system}", *across]]
        for name in down:
            values = [cells.get(f"{name} / {other}") for other in across]
            lines.append([name, *(_shown(figure, value and value.value) for value in values)])
        print(*aligned(lines), "", sep="\n")
    counts = {row.condition.name: f"{len(row.condition.bonafide)}+{len(row.condition.spoof)}" for row in rows}
    counts = {f"{name} / {other}": "-" for name in down for other in across} | counts  # a set may lack some cells
    lines = [["bona fide+spoof", *across]]
    print(*aligned(lines + [[name, *(counts[f"{name} / {other}"] for other in across)] for name in down]), sep="\n")


# ------------------------------------------------------------------------------------------------- json, csv, LaTeX


def _print_json(report):
    def plain(value):
        interval = {} if math.isnan(value.low) else {"low": value.low, "high": value.high}
        return {"value": None if math.isnan(value.value) else value.value, **interval}

    rows = [
        {column.key: column.value(row) for column in COLUMNS_LEFT + COLUMNS_RIGHT}
        | {"figures": {key: plain(value) for key, value in row.figures.items()}}
        | ({"exact_bounds": {key: [b._asdict() for b in own] for key, own in row.bounds.items()}} if row.bounds else {})
        for row in report.rows
    ]
    content = {key: value for key, value in vars(report).items() if key != "figures" and (key != "sets" or value)}
    print(json.dumps({**content, "rows": rows}, indent=1))


def _print_csv(report):
    columns = COLUMNS_LEFT + COLUMNS_RIGHT
    writer = csv.writer(sys.stdout, lineterminator="\n")
    of_figures = [name for key in report.figures for name in (key, f"{key}_low", f"{key}_high")]
    rates = [(figure.key, i) for figure in report.figures.values() for i in range(len(figure.rates))]
    of_bounds = [f"{key}_{report.figures[key].rates[i]}_exact_{end}" for key, i in rates for end in ("low", "high")]
    writer.writerow([column.key for column in columns] + of_figures + of_bounds)
    for row in report.rows:
        values = [v for key in report.figures for v in row.figures.get(key, NO_VALUE)]
        of_figures = ["" if math.isnan(v) else repr(float(v)) for v in values]
        of_bounds = [row.bounds[key][i][-2:] if key in row.bounds else ("", "") for key, i in rates]
        writer.writerow([column.value(row) for column in columns] + of_figures + [*itertools.chain(*of_bounds)])


def _print_latex(report):
    """Print a LaTeX table in booktabs style, with intervals in brackets."""

    def escaped(text):
        special = {"\\": "backslash", "~": "asciitilde", "^": "asciicircum", "<": "less", ">": "greater"}
        special = {character: rf"\text{name}{{}}" for character, name in special.items()}
        return re.sub(r"[\\~^<>%_&#${}]", lambda found: special.get(found[0], "\\" + found[0]), text)

    def cells(figure, value, _):
        low_high = "" if math.isnan(value.low) else f" [{_shown(figure, value.low)}, {_shown(figure, value.high)}]"
        return [_shown(figure, value.value) + low_high]

    tables = [
        _layout(part, report.table_figures(), report.by_system, lambda figure: [figure.title], cells)
        for part in report.parts()
    ]
    n_left, n = 1 + report.by_system, len(tables[0][0])
    print(f"% \\usepackage{{booktabs}}; {escaped(report.intervals)}")
    print(f"\\begin{{tabular}}{{{'l' * n_left}{'r' * (n - n_left)}}}\n\\toprule")
    print(" & ".join(map(escaped, tables[0][0])), r"\\")
    for _, *lines in tables:
        print(r"\midrule")
        for i, line in enumerate(lines):
            if line[0] == "macro mean" and lines[i - 1][0] != line[0]:
                print(r"\midrule")
            print(" & ".join(map(escaped, line)), r"\\")
    print("\\bottomrule\n\\end{tabular}")
    if report.comparisons:
        head, *lines = _comparison_lines(report, "[{}, {}]")
        print("\n\\begin{tabular}{lrrr}\n\\toprule")
        print(" & ".join(map(escaped, head)), r"\\", "\n\\midrule", sep="")
        for line in lines:
            print(" & ".join(map(escaped, line)), r"\\")
        print("\\bottomrule\n\\end{tabular}")


FORMS = {"text": _print_text, "json": _print_json, "csv": _print_csv, "latex": _print_latex}
