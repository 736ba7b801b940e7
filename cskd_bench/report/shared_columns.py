"""The columns of all tables, each compared by itself: in this process, or shared with others."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from threadpoolctl import threadpool_limits

from cskd_bench.report.differences import compare_column
from cskd_bench.report.processes import share
from cskd_bench.report.scores import ExampleScores
from cskd_bench.report.selection import LeftOut, Method
from cskd_bench.report.tables import TableCell

WORTH_SHARING: Final = 5_000_000  # scored examples; with fewer, processes gain less than a second
FOUND: Final = ("interval", "interval_kind", "bootstrap", "calibration", "per_class", "differences", "best")

Findings = list[tuple[Any, ...]]  # for each cell the values of FOUND


@dataclass(frozen=True, slots=True)
class Column:
    """The cells of one setting of a table, and the table's baselines and ablations."""

    cells: list[TableCell]
    others: list[Method]

    @property
    def examples(self) -> int:
        """How many examples the side files of its records hold."""
        return sum(record.examples for cell in self.cells for record in cell.records if record.per_example)


def compare_columns(columns: Sequence[Column], examples: ExampleScores, processes: int = 1) -> None:
    """Add to all cells what the side files know, and their differences, in up to `processes` processes.

    Every number is the same with any number of processes: each column is computed by one thread, whose sums have one
    order. More threads would only get into each other's way.
    """
    sizes = [column.examples for column in columns]

    def compare_one(number: int) -> tuple[Findings, dict[str, LeftOut]]:
        return _compare(columns[number], examples.folder)

    with threadpool_limits(1, user_api="blas"):
        found = share(compare_one, sizes, processes if sum(sizes) >= WORTH_SHARING else 1)
    for column, (findings, broken) in zip(columns, found, strict=True):
        examples.broken.update(broken)
        for cell, values in zip(column.cells, findings, strict=True):
            for name, value in zip(FOUND, values, strict=True):
                setattr(cell, name, value)


def _compare(column: Column, folder: Path) -> tuple[Findings, dict[str, LeftOut]]:
    """Compare one column and return what that added to its cells, and which records have broken side files."""
    examples = ExampleScores(folder)
    compare_column(column.cells, column.others, examples)
    return [tuple(getattr(cell, name) for name in FOUND) for cell in column.cells], examples.broken
