"""The report in a terminal: one row per task and protocol, one column per method."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from cskd_bench.report import words
from cskd_bench.report.primary import QUESTION, gate, summary, told, verdict
from cskd_bench.report.published import Match
from cskd_bench.report.rows import MATCH_HEAD, match_rows, one_line
from cskd_bench.report.selection import Method, Setting
from cskd_bench.report.tables import Comparison, Table, TableCell
from cskd_bench.report.titles import titles

SHOWN = 12  # left-out files that are named; the page names all
CELL_WIDTH = 20
COLOURS = {"↑": "green", "↓": "red"}
ANSWER_COLOURS = {"higher": "bold green", "lower": "bold red"}


def show(comparison: Comparison, matches: Sequence[Match], console: Console) -> None:
    """Print every table, ours beside published, and what was left out."""
    group = ""
    for table, title in zip(comparison.tables, titles(comparison.tables), strict=True):
        if table.group != group:
            group = table.group
            console.print(Text(f"\n{group.upper()}", style="bold"))
        _show_table(table, title, console)
    if not comparison.tables:
        console.print("No record can be shown yet.")
    if matches:
        console.print(
            _view("Ours and published", MATCH_HEAD, [[Text(one_line(t)) for t in row] for row in match_rows(matches)])
        )
    for note in comparison.notes:
        console.print(Text(f"Kept apart: {one_line(note)}", style="yellow"))
    if comparison.left_out:
        console.print(Text(f"\nLeft out ({len(comparison.left_out)}):", style="yellow"))
        for item in comparison.left_out[:SHOWN]:
            console.print(Text(f"  {one_line(item.name)}: {one_line(item.reason)}"))
        if len(comparison.left_out) > SHOWN:
            console.print(f"  and {len(comparison.left_out) - SHOWN} more; the page names all")
    if comparison.tables:
        console.print(Text(f"\n{words.legend(comparison.tables)}", style="dim"))
        show_answers(comparison, console)


def show_answers(comparison: Comparison, console: Console) -> None:
    """Print the question and one line for each primary contrast; `show` prints them last."""
    console.print(Text(f"\n{QUESTION}", style="bold"))
    for result in comparison.primary:
        line = Text(f"  {one_line(verdict(result))}: ", style=ANSWER_COLOURS.get(result.answer, "bold"))
        console.print(line.append(one_line(told(result)), style="not bold default"))
    if text := summary(comparison.primary):
        console.print(Text(f"  {text}", style="bold"))
    console.print(Text(f"  {gate(comparison)}", style="dim"))


def _show_table(table: Table, title: str, console: Console) -> None:
    """Print a table; methods that do not fit beside each other follow below."""
    labels = max(len(line) for setting in table.settings for line in _label(table, setting).plain.split("\n"))
    fitting = max(1, (console.width - min(labels, 32) - 4) // CELL_WIDTH)
    for start in range(0, len(table.methods), fitting):
        methods = table.methods[start : start + fitting]
        rows = [*_score_rows(table, methods), *_summary_rows(table, methods)]
        head = ["", *(words.method(method, table.methods) for method in methods)]
        console.print(_view(title, head, rows))
    for sentence in filter(None, (table.cost_note, table.power)):
        console.print(Text(one_line(sentence), style="dim"))


def _score_rows(table: Table, methods: Sequence[Method]) -> Iterator[list[Text]]:
    for setting in table.settings:
        cells = [table.cells.get((method, setting)) for method in methods]
        yield [_label(table, setting), *(_cell(cell, table) if cell else Text("–") for cell in cells)]


def _label(table: Table, setting: Setting) -> Text:
    return Text(f"{one_line(setting.task)}\n{one_line(words.column(setting, table.settings))}")


def _cell(cell: TableCell, table: Table) -> Text:
    text = Text(words.score(cell), style="bold" if cell.best else "")
    for item in cell.differences:
        baseline = one_line(words.method(item.baseline, table.methods))
        line = f"\n{words.mark(item)} {words.points(item.mean)} {baseline}"
        text.append(line, style=COLOURS.get(words.mark(item), "not bold dim"))
    return text


def _summary_rows(table: Table, methods: Sequence[Method]) -> Iterator[list[Text]]:
    ranks = [table.standings[method].rank for method in methods]
    if None not in ranks:
        yield [Text("average rank", style="dim"), *(Text(f"{rank:.2f}") for rank in ranks)]
    costs = [words.cost(table.costs[method]) for method in methods]
    for name in ("images/s", "time", "GPU-hours", "memory"):
        if any(cost[name] for cost in costs):
            yield [Text(name, style="dim"), *(Text(cost[name] or "–", style="dim") for cost in costs)]


def _view(title: str, head: Sequence[str], rows: Sequence[Sequence[Text]]) -> RichTable:
    view = RichTable(title=Text(one_line(title)), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for number, name in enumerate(head):
        view.add_column(Text(one_line(name)), justify="right" if number else "left")
    for row in rows:
        view.add_row(*row)
    return view
