"""The report as GitHub-flavoured Markdown; names are escaped, so that none becomes markup."""

import re
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import quote

from cskd_bench.report import words
from cskd_bench.report.primary import DECLARED, EXPLORATORY, GATES, NO_PLAN, QUESTION, notes, summary, told, verdict
from cskd_bench.report.published import Match, Published
from cskd_bench.report.rows import (
    MATCH_HEAD,
    PUBLISHED_HEAD,
    Row,
    difference_rows,
    interval_rows,
    match_rows,
    one_line,
    published_rows,
    score_rows,
    standing_head,
    standing_rows,
)
from cskd_bench.report.selection import Method
from cskd_bench.report.tables import Comparison, ContrastResult, Table
from cskd_bench.report.titles import titles

SEEDS_OF_A_CLAIM: Final = 3  # of both methods, before a README repeats a difference
PLOT: Final = "primary.svg"


def markdown_text(text: str) -> str:
    """Escape a name for Markdown, inside and outside of tables."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", text)
    return text.replace("://", ":\u200b//").replace("@", "&#64;").replace("www.", "www&#46;")


def markdown_table(head: Sequence[str], rows: Iterator[Row] | list[Row]) -> str:
    """Return a table whose first column is aligned left, all others right; cells are Markdown already."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(comparison: Comparison, published: Sequence[Published], matches: Sequence[Match]) -> str:
    """Return the whole report as GitHub-flavoured Markdown; the figure of primary contrasts lies beside it."""
    parts = ["# Leaderboard", box(comparison.primary, PLOT), *plan_notes(comparison.primary)]
    parts.append(f"{words.legend(comparison.tables)}\n\n{words.count(comparison.records, 'record')}.")
    group = ""
    for table, title in zip(comparison.tables, titles(comparison.tables), strict=True):
        if table.group != group:
            group = table.group
            parts.append(f"## {group.capitalize()}")
        parts.append(f"### {markdown_text(title)}")
        parts.extend(_markdown_of(table, comparison))
    if not comparison.tables:
        parts.append("No record can be shown yet.")
    if comparison.exploratory:
        inside = "\n\n".join(["\n".join(answer_list(comparison.exploratory)), *plan_notes(comparison.exploratory)])
        parts.append(f"## Exploratory contrasts\n\n<details><summary>{DECLARED}</summary>\n\n{inside}\n\n</details>")
    parts.extend(_markdown_published(published, matches))
    if comparison.notes:
        parts.append("## Notes\n\n" + "\n".join(f"- Kept apart: {markdown_text(note)}" for note in comparison.notes))
    if comparison.left_out:
        rows = [[markdown_text(item.name), markdown_text(item.reason)] for item in comparison.left_out]
        parts.append("## Left out\n\n" + markdown_table(["file or cell", "reason"], rows))
    return "\n\n".join(parts) + "\n"


def excerpt(comparison: Comparison, plot: str = PLOT) -> str:
    """Return the primary contrasts for a README; without any, the score tables whose differences rest on enough seeds.

    `plot` is where the figure of the primary contrasts lies, seen from the README.
    """
    if comparison.primary:
        return box(comparison.primary, plot)
    tested = [
        f"### {table.group.capitalize()}: {markdown_text(title)}\n\n{score_table(table, column_names(table))}"
        for table, title in zip(comparison.tables, titles(comparison.tables), strict=True)
        if any(
            item.interval and item.seeds >= SEEDS_OF_A_CLAIM
            for cell in table.cells.values()
            for item in cell.differences
        )
    ]
    if not tested:
        return f"No difference is claimed yet: that takes {SEEDS_OF_A_CLAIM} pretraining seeds that two methods share."
    return "\n\n".join([box([], plot), *tested])


def box(primary: Sequence[ContrastResult], plot: str) -> str:
    """Return the primary contrasts as one quoted list; `plot` is the address of their figure, shown below."""
    lines = [f"> **{QUESTION}**", ">"]
    if not primary:
        return "\n".join([*lines, f"> {NO_PLAN}"])
    if text := summary(primary):
        lines += [f"> {text}", ">"]
    lines.extend(f"> {line}" for line in answer_list(primary))
    alt = "Primary contrasts: differences in points with 95 % and simultaneous intervals, equivalence band shaded"
    return "\n".join([*lines, "", f"![{alt}]({quote(plot)})"])


def answer_list(results: Sequence[ContrastResult]) -> list[str]:
    """Return the items of a list, one for each contrast's answer."""
    return [f"- **{markdown_text(verdict(result))}**: {markdown_text(told(result))}" for result in results]


def plan_notes(results: Sequence[ContrastResult]) -> list[str]:
    """Return what the plans of some contrasts say of them, each plan once."""
    return [markdown_text(note) for note in notes(results)]


def score_table(table: Table, names: Sequence[str]) -> str:
    """Return methods by columns, the columns under `names`."""
    rows, head = score_rows(table, "**{}**"), map(markdown_text, names)
    return markdown_table(["method", *head], [[method_name(table, method), *row] for method, row in rows])


def difference_table(table: Table, names: Sequence[str]) -> str:
    """Return paired differences by columns, the columns under `names`; empty where there are none."""
    rows = [
        [f"{method_name(table, method)} − {method_name(table, base)}", *row]
        for method, base, row in difference_rows(table)
    ]
    return markdown_table(["paired difference", *map(markdown_text, names)], rows) if rows else ""


def column_names(table: Table) -> list[str]:
    """Return what a table's columns are called."""
    return [
        f"{setting.task} v{setting.version}, {words.column(setting, table.settings, version=False)}"
        for setting in table.settings
    ]


def method_name(table: Table, method: Method) -> str:
    """Return the head of a table's row."""
    return markdown_text(words.method(method, table.methods))


def _markdown_of(table: Table, comparison: Comparison) -> Iterator[str]:
    yield score_table(table, column_names(table))
    if head := [markdown_text(text) for text in standing_head(table)]:
        yield markdown_table(["method", *head], [[method_name(table, m), *row] for m, row in standing_rows(table)])
    if table.cost_note:
        yield markdown_text(table.cost_note)
    found = list(_exploratory(table))
    if found and comparison.primary:
        yield f"<details><summary>{EXPLORATORY}</summary>\n\n{GATES[table.gate]}"
        yield from found
        yield "</details>"
    else:
        yield from found


def _exploratory(table: Table) -> Iterator[str]:
    """Yield the intervals and paired differences of a table."""
    intervals = [[method_name(table, method), *row] for method, row in interval_rows(table)]
    if intervals:
        yield markdown_table(["95 % interval of the mean", *map(markdown_text, column_names(table))], intervals)
    if differences := difference_table(table, column_names(table)):
        yield differences
    if table.power:
        yield f"{table.power} Holm family: {table.tests} tests."


def _markdown_published(published: Sequence[Published], matches: Sequence[Match]) -> Iterator[str]:
    if matches:
        rows = [[markdown_text(text) for text in row] for row in match_rows(matches)]
        yield "## Ours and published\n\n" + markdown_table(MATCH_HEAD, rows)
    if published:
        rows = [[markdown_text(text) for text in row] for row in published_rows(published)]
        yield "## Published, not measured here\n\n" + markdown_table(PUBLISHED_HEAD, rows)
