"""From selected records to tables: cells, paired differences, families of tests, ranks, cost."""

import re
import statistics as standard
from collections.abc import Sequence
from pathlib import Path

from cskd_bench.report import statistics
from cskd_bench.report.contrasts import answer_plan
from cskd_bench.report.costs import table_costs
from cskd_bench.report.differences import baselines_of, is_ablation
from cskd_bench.report.families import correct_tables, tally
from cskd_bench.report.plans import RegisteredPlan
from cskd_bench.report.scores import ExampleScores, make_cell
from cskd_bench.report.selection import (
    GROUP_ORDER,
    Method,
    Selection,
    TableStudent,
    method_order,
    setting_order,
)
from cskd_bench.report.shared_columns import Column, compare_columns
from cskd_bench.report.tables import Comparison, Standing, Table, TableCell


def compare(folder: Path, selection: Selection, plans: Sequence[RegisteredPlan] = (), processes: int = 1) -> Comparison:
    """Compute every table and every contrast of the plans; side files are read from the records' folder.

    `processes`: how many may share the columns, where there are many examples. They are forked, which a process with
    threads of its own should not ask for.
    """
    examples = ExampleScores(folder)
    by_table: dict[tuple[str, TableStudent], list[TableCell]] = {}
    for (student, setting, method), records in selection.cells.items():
        by_table.setdefault((setting.group, student), []).append(make_cell(method, setting, records))
    teachers = {re.split("[@ ]", method.teacher)[0] for _, _, method in selection.cells}
    tables = [_table(key, cells, teachers) for key, cells in by_table.items()]
    compare_columns([column for table in tables for column in _columns(table)], examples, processes)
    of_student: dict[TableStudent, list[TableCell]] = {}
    for (_, student), cells in by_table.items():
        of_student.setdefault(student, []).extend(cells)
    answers = [answer_plan(plan, of_student, examples.matrix) for plan in plans]
    correct_tables(tables, answers)
    for table in tables:
        table.standings = _standings(table)
    tables.sort(key=_table_order)
    return Comparison(
        tables,
        sorted([*selection.left_out, *examples.broken.values()], key=lambda item: (item.name, item.reason)),
        selection.notes,
        records=sum(map(len, selection.cells.values())),
        primary=[result for answer in answers for result in answer.results if result.family == "primary"],
        exploratory=[result for answer in answers for result in answer.results if result.family == "exploratory"],
        gate_open=all(table.gate != "shut" for table in tables),
    )


def _table_order(table: Table) -> tuple[object, ...]:
    """Sort tables with a plan's primary contrasts before the others of their group."""
    student = table.student
    group = GROUP_ORDER.index(table.group)
    return group, table.teaches, not table.primary, student.model, student.pretrain_data, student.pretrain_recipe


def _columns(table: Table) -> list[Column]:
    """Return the columns of a table, its cells in the order of its rows."""
    others = table.baselines + table.ablations
    return [
        Column([table.cells[m, setting] for m in table.methods if (m, setting) in table.cells], others)
        for setting in table.settings
    ]


def _table(key: tuple[str, TableStudent], cells: list[TableCell], teachers: set[str]) -> Table:
    group, student = key
    methods = sorted({cell.method for cell in cells}, key=method_order)
    settings = sorted({cell.setting for cell in cells}, key=setting_order)
    found = {(cell.method, cell.setting): cell for cell in cells}
    grid = {(m, s): found[m, s] for m in methods for s in settings if (m, s) in found}
    baselines = baselines_of(methods)
    ablations = [method for method in methods if any(is_ablation(method, plain) for plain in methods)]
    complete = [setting for setting in settings if all((method, setting) in grid for method in methods)]
    costs, cost_note = table_costs(methods, cells)
    return Table(
        group=group,
        student=student,
        methods=methods,
        settings=settings,
        cells=grid,
        costs=costs,
        cost_note=cost_note,
        baselines=baselines,
        ablations=ablations,
        complete=len(complete),
        teaches=student.model in teachers,
    )


def _standings(table: Table) -> dict[Method, Standing]:
    """Rank the rows over the columns that all of them have, and count what they won, tied and lost."""
    grid, methods = table.cells, table.methods
    complete = [setting for setting in table.settings if all((method, setting) in grid for method in methods)]
    ranks: dict[Method, list[float]] = {method: [] for method in methods}
    for setting in complete:
        for method, rank in zip(methods, statistics.ranks([grid[m, setting].mean for m in methods]), strict=True):
            ranks[method].append(rank)
    tallies: dict[Method, dict[Method, list[int]]] = {method: {} for method in methods}
    for (method, _), cell in grid.items():
        for difference in cell.differences:
            tallies[method].setdefault(difference.baseline, [0, 0, 0])[tally(difference)] += 1
    return {
        method: Standing(
            standard.fmean(ranks[method]) if len(complete) > 1 and len(methods) > 1 else None,
            {
                base: (wins, ties, losses)
                for base in table.baselines
                if base in tallies[method]
                for wins, ties, losses in [tallies[method][base]]
            },
        )
        for method in methods
    }
