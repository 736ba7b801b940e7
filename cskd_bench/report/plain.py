"""The report as Markdown, LaTeX, CSV and JSON. Every name is data: nothing in it can become markup or a formula."""

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from cskd_bench.report import words
from cskd_bench.report.compare import Cell, Comparison, Difference, Table
from cskd_bench.report.published import Match, Published
from cskd_bench.report.selection import Method

Row = list[str]


def one_line(text: str) -> str:
    """Return text without line breaks and control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


# ---------------------------------------------------------------- what the text formats share


def score_rows(table: Table, bold: str) -> Iterator[tuple[Method, Row]]:
    """Yield each method with its scores; `bold` wraps the best of a column, as in "**{}**"."""
    for method in table.methods:
        row = []
        for setting in table.settings:
            cell = table.cells.get((method, setting))
            text = words.score(cell) if cell else "–"
            row.append(bold.format(text) if cell and cell.best else text)
        yield method, row


def difference_rows(table: Table) -> Iterator[tuple[Method, Method, Row]]:
    """Yield each method and baseline with the paired differences over the columns."""
    for method in table.methods:
        for baseline in table.baselines:
            row = []
            for setting in table.settings:
                cell = table.cells.get((method, setting))
                found = [d for d in cell.differences if d.baseline == baseline] if cell else []
                row.append(words.difference(found[0]) if found else "–")
            if any(text != "–" for text in row):
                yield method, baseline, row


def standing_rows(table: Table) -> Iterator[tuple[Method, Row]]:
    """Yield each method with its average rank, its tally against each baseline, and its cost."""
    for method in table.methods:
        standing = table.standings[method]
        row = [f"{standing.rank:.2f}" if standing.rank is not None else "–"]
        row.extend(words.tally(standing.tally[base]) if base in standing.tally else "–" for base in table.baselines)
        row.extend(text or "–" for text in words.cost(table.costs[method]).values())
        yield method, row


def standing_head(table: Table) -> Row:
    """Return the column names of `standing_rows`."""
    return [
        f"average rank over {words.count(table.complete, 'column')}",
        *(f"against {words.method(base, table.methods)}" for base in table.baselines),
        "images/s",
        "time per run",
        "GPU-hours",
        "peak memory",
    ]


# ---------------------------------------------------------------- Markdown


def markdown_text(text: str) -> str:
    """Escape a name for Markdown, inside and outside of tables."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", text)
    return text.replace("://", ":\u200b//").replace("@", "&#64;").replace("www.", "www&#46;")


def _markdown_table(head: Sequence[str], rows: Iterator[Row] | list[Row]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(comparison: Comparison, published: Sequence[Published], matches: Sequence[Match]) -> str:
    """Return the whole report as GitHub-flavoured Markdown."""
    parts = ["# Leaderboard", f"{words.LEGEND}\n\n{words.count(comparison.records, 'record')}."]
    if comparison.verdicts:
        parts.append("\n".join(f"- {words.verdict(verdict)}" for verdict in comparison.verdicts))
    group = ""
    for table in comparison.tables:
        if table.group != group:
            group = table.group
            parts.append(f"## {group.capitalize()}")
        parts.append(f"### {markdown_text(words.title(table))}")
        parts.extend(_markdown_of(table))
    if not comparison.tables:
        parts.append("No record can be shown yet.")
    parts.extend(_markdown_published(published, matches))
    if comparison.notes:
        parts.append("## Notes\n\n" + "\n".join(f"- Kept apart: {markdown_text(note)}" for note in comparison.notes))
    if comparison.left_out:
        rows = [[markdown_text(item.name), markdown_text(item.reason)] for item in comparison.left_out]
        parts.append("## Left out\n\n" + _markdown_table(["file", "reason"], rows))
    return "\n\n".join(parts) + "\n"


def _markdown_of(table: Table) -> Iterator[str]:
    columns = [
        markdown_text(f"{setting.task} v{setting.version}, {words.column(setting, table.settings)}")
        for setting in table.settings
    ]

    def name(method: Method) -> str:
        return markdown_text(words.method(method, table.methods))

    yield _markdown_table(["method", *columns], [[name(m), *row] for m, row in score_rows(table, "**{}**")])
    differences = [[f"{name(m)} − {name(base)}", *row] for m, base, row in difference_rows(table)]
    if differences:
        yield _markdown_table(["paired difference", *columns], differences)
    head = [markdown_text(text) for text in standing_head(table)]
    yield _markdown_table(["method", *head], [[name(m), *row] for m, row in standing_rows(table)])
    if table.power:
        yield f"{table.power} Holm family: {table.tests} tests."


def _markdown_published(published: Sequence[Published], matches: Sequence[Match]) -> Iterator[str]:
    if matches:
        rows = [[markdown_text(text) for text in row] for row in match_rows(matches)]
        yield "## Ours and published\n\n" + _markdown_table(MATCH_HEAD, rows)
    if published:
        rows = [[markdown_text(text) for text in row] for row in published_rows(published)]
        yield "## Published, not measured here\n\n" + _markdown_table(PUBLISHED_HEAD, rows)


MATCH_HEAD: Final = ["task", "method", "student", "ours", "published", "tolerance", "agrees", "source"]
PUBLISHED_HEAD: Final = ["task", "method", "model", "metric", "published", "protocol", "source"]


def match_rows(matches: Sequence[Match]) -> list[Row]:
    """Return measured cells beside published scores."""
    verdict = {True: "yes", False: "no", None: "one seed: no tolerance"}
    return [
        [
            item.published.task,
            item.published.method,
            item.student,
            words.score(item.cell),
            f"{100 * item.published.value:.1f}",
            "" if item.tolerance is None else f"±{100 * item.tolerance:.2f}",
            verdict[item.agrees],
            f"{item.published.source}; {item.published.protocol}",
        ]
        for item in matches
    ]


def published_rows(published: Sequence[Published]) -> list[Row]:
    """Return the published scores."""
    return [
        [
            item.task,
            item.method,
            item.model,
            words.METRIC_WORDS.get(item.metric, item.metric),
            f"{100 * item.value:.1f}",
            item.protocol,
            item.source,
        ]
        for item in published
    ]


# ---------------------------------------------------------------- LaTeX

_LATEX: Final = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "[": "{[}",
    "]": "{]}",
    "`": r"\textasciigrave{}",
}


def latex_text(text: str) -> str:
    """Escape a name for LaTeX text."""
    return "".join(_LATEX.get(c, c) for c in one_line(text))


def _latex_tabular(head: Sequence[str], rows: Sequence[Row], caption: str) -> str:
    lines = [
        r"\begin{table*}",
        r"\small",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]
    return "\n".join(lines)


def latex(comparison: Comparison) -> str:
    """Return every table as booktabs LaTeX, ready for \\input."""
    parts = ["% Needs \\usepackage{booktabs}. " + one_line(words.LEGEND).replace("%", "percent")]
    for table in comparison.tables:
        columns = [latex_text(f"{setting.task}, {words.column(setting, table.settings)}") for setting in table.settings]
        scores = []
        for method in table.methods:
            row = [latex_text(words.method(method, table.methods))]
            for setting in table.settings:
                cell = table.cells.get((method, setting))
                text = latex_text(words.score(cell)) if cell else "--"
                row.append(rf"\textbf{{{text}}}" if cell and cell.best else text)
            scores.append(row)
        title = latex_text(f"{table.group}: {words.title(table)}")
        parts.append(_latex_tabular(["Method", *columns], scores, title))
        differences = [
            [
                f"{latex_text(words.method(m, table.methods))} $-$ {latex_text(words.method(base, table.methods))}",
                *map(latex_text, row),
            ]
            for m, base, row in difference_rows(table)
        ]
        if differences:
            caption = f"{title}, paired differences. {latex_text(table.power)}"
            parts.append(_latex_tabular(["Difference", *columns], differences, caption))
    return "\n\n".join(parts) + "\n"


# ---------------------------------------------------------------- CSV

CSV_HEAD: Final = [
    *("group", "student", "pretrain_data", "pretrain_recipe", "task", "version", "fingerprint", "protocol"),
    *("recipe", "image_size", "weights", "metric", "method", "teacher", "mean", "sd", "seeds", "low", "high"),
    *("baseline", "difference", "difference_low", "difference_high", "pairs", "p_value", "p_holm", "significant"),
]


def csv_text(text: str) -> str:
    """Make a name harmless in a spreadsheet: what could start a formula is quoted with an apostrophe."""
    text = one_line(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "'", "＝", "＋", "－", "＠")) else text


def csv_table(comparison: Comparison) -> str:
    """Return one line per cell and baseline, numbers as fractions in full precision."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for table in comparison.tables:
        for cell in table.cells.values():
            writer.writerows(_csv_rows(table, cell))
    return file.getvalue()


def _csv_rows(table: Table, cell: Cell) -> Iterator[list[object]]:
    student, setting, method = table.student, cell.setting, cell.method
    names = [setting.group, student.model, student.pretrain_data, student.pretrain_recipe, setting.task]
    more = [setting.fingerprint, setting.protocol, setting.recipe]
    start = [
        *map(csv_text, names),
        setting.version,
        *map(csv_text, more),
        setting.image_size,
        *map(csv_text, [setting.weights, setting.metric, method.label, method.teacher]),
        cell.mean,
        cell.deviation,
        cell.seeds,
        *(cell.interval or (None, None)),
    ]
    if not cell.differences:
        yield [*start, *[None] * 8]
    for item in cell.differences:
        low, high = item.interval or (None, None)
        name = csv_text(item.baseline.label)
        yield [*start, name, item.mean, low, high, item.seeds, item.p_value, item.adjusted, item.significant]


# ---------------------------------------------------------------- JSON


def plain_json(comparison: Comparison, published: Sequence[Published], matches: Sequence[Match]) -> str:
    """Return every number of the report as JSON; cells and differences name methods and settings by place."""
    data = {
        "records": comparison.records,
        "verdicts": [asdict(verdict) for verdict in comparison.verdicts],
        "tables": [_table_json(table) for table in comparison.tables],
        "published": [asdict(item) for item in published],
        "ours_and_published": [
            {
                "student": item.student,
                "method": item.cell.method.label,
                "published": asdict(item.published),
                "mean": item.cell.mean,
                "seeds": item.cell.seeds,
                "tolerance": item.tolerance,
                "agrees": item.agrees,
            }
            for item in matches
        ],
        "notes": comparison.notes,
        "left_out": [asdict(item) for item in comparison.left_out],
    }
    return json.dumps(data, allow_nan=False) + "\n"


def _table_json(table: Table) -> dict[str, Any]:
    return {
        "group": table.group,
        "student": asdict(table.student),
        "tests": table.tests,
        "power": table.power,
        "methods": [
            {
                "method": asdict(method),
                "average_rank": table.standings[method].rank,
                "win_tie_loss": {base.label: list(counts) for base, counts in table.standings[method].tally.items()},
                "cost": asdict(table.costs[method]),
            }
            for method in table.methods
        ],
        "settings": [asdict(setting) for setting in table.settings],
        "cells": [_cell_json(cell, table) for cell in table.cells.values()],
    }


def _cell_json(cell: Cell, table: Table) -> dict[str, Any]:
    return {
        "setting": table.settings.index(cell.setting),
        "method": table.methods.index(cell.method),
        "mean": cell.mean,
        "sd": cell.deviation,
        "seeds": cell.scores,
        "interval": cell.interval,
        "interval_covers": cell.interval_kind,
        "bootstrap": cell.bootstrap,
        "calibration_error": cell.calibration.error if cell.calibration else None,
        "per_class": [None if math.isnan(value) else value for value in cell.per_class],
        "best": cell.best,
        "records": [record.id for record in cell.records],
        "differences": [_difference_json(item, table) for item in cell.differences],
    }


def _difference_json(item: Difference, table: Table) -> dict[str, Any]:
    return {
        "baseline": table.methods.index(item.baseline),
        "mean": item.mean,
        "seeds": item.seeds,
        "interval": item.interval,
        "interval_covers": item.interval_kind,
        "p_value": item.p_value,
        "p_holm": item.adjusted,
        "significant": item.significant,
        "bootstrap": item.bootstrap,
        "detectable": item.detectable,
        "pairs": [
            {
                "seed": pair.seed,
                "difference": pair.difference,
                "only_this": pair.only_this,
                "only_baseline": pair.only_baseline,
                "mcnemar": pair.p_value,
            }
            for pair in item.pairs
        ],
    }
