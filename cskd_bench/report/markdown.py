"""The report as GitHub-flavoured Markdown; names are escaped, so that none becomes markup."""

import re
from collections.abc import Iterator, Sequence

from cskd_bench.report import words
from cskd_bench.report.published import Match, Published
from cskd_bench.report.rows import (
    MATCH_HEAD,
    PUBLISHED_HEAD,
    Row,
    difference_rows,
    match_rows,
    one_line,
    published_rows,
    score_rows,
    standing_head,
    standing_rows,
)
from cskd_bench.report.selection import Method
from cskd_bench.report.tables import Comparison, Table


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
        parts.append("## Left out\n\n" + _markdown_table(["file or cell", "reason"], rows))
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
