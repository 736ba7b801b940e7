"""The report in a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from cskd_bench.report import words
from cskd_bench.report.compare import Comparison, Table
from cskd_bench.report.plain import (
    MATCH_HEAD,
    difference_rows,
    match_rows,
    one_line,
    score_rows,
    standing_head,
    standing_rows,
)
from cskd_bench.report.published import Match
from cskd_bench.report.selection import Method

SHOWN = 12  # left-out files that are named; the page names all


def show(comparison: Comparison, matches: Sequence[Match], console: Console) -> None:
    """Print every table, ours beside published, and what was left out."""
    group = ""
    for table in comparison.tables:
        if table.group != group:
            group = table.group
            console.print(Text(f"\n{group.upper()}", style="bold"))
        _show_table(table, console)
    if not comparison.tables:
        console.print("No record can be shown yet.")
    if matches:
        _print(console, "Ours and published", MATCH_HEAD, match_rows(matches))
    for note in comparison.notes:
        console.print(Text(f"Kept apart: {one_line(note)}", style="yellow"))
    if comparison.left_out:
        console.print(Text(f"\nLeft out ({len(comparison.left_out)}):", style="yellow"))
        for item in comparison.left_out[:SHOWN]:
            console.print(Text(f"  {one_line(item.name)}: {one_line(item.reason)}"))
        if len(comparison.left_out) > SHOWN:
            console.print(f"  and {len(comparison.left_out) - SHOWN} more; the page names all")
    if comparison.tables:
        console.print(Text(f"\n{words.LEGEND}", style="dim"))


def _show_table(table: Table, console: Console) -> None:
    columns = [f"{setting.task}\n{words.column(setting, table.settings)}" for setting in table.settings]

    def name(method: Method) -> str:
        return words.method(method, table.methods)

    scores = [[name(method), *row] for method, row in score_rows(table, "{} *")]
    _print(console, f"{words.title(table)}  (* best)", ["method", *columns], scores)
    differences = [[f"{name(method)} − {name(base)}", *row] for method, base, row in difference_rows(table)]
    if differences:
        _print(console, "Paired differences, points", ["difference", *columns], differences)
    standings = [[name(method), *row] for method, row in standing_rows(table)]
    _print(console, "Rank (win/tie/loss) and cost", ["method", *standing_head(table)], standings)
    if table.power:
        console.print(Text(table.power))


def _print(console: Console, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    view = RichTable(title=Text(one_line(title)), title_justify="left", title_style="bold", header_style="bold")
    for number, column in enumerate(head):
        lines = "\n".join(map(one_line, column.split("\n")))
        view.add_column(Text(lines), justify="right" if number else "left")
    for row in rows:
        view.add_row(*(Text(one_line(text), style="bold" if text.endswith(" *") else "") for text in row))
    console.print(view)
