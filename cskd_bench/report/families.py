"""Families of tests: a plan's primary contrasts first, then the rest of each table behind the plan's gate."""

import itertools
import statistics as standard
from collections.abc import Iterator, Sequence

from cskd_bench.report import statistics
from cskd_bench.report.contrasts import PlanResult, correct
from cskd_bench.report.plans import Contrast
from cskd_bench.report.tables import ContrastResult, Difference, Table, TableCell


def correct_tables(tables: Sequence[Table], answers: Sequence[PlanResult]) -> None:
    """Give every difference its corrected p-value, and every table its gate and its power note."""
    owners = {id(cell): table for table in tables for cell in table.cells.values()}
    for answer in answers:
        for result, cells in zip(answer.results, answer.cells, strict=True):
            if result.family == "primary" and cells:
                for cell in cells:
                    owners[id(cell)].primary = True
                _mark_primary(result, cells)
    for answer in answers:
        for result, contrast in zip(answer.results, answer.plan.contrasts, strict=True):
            if result.seeds < len(answer.plan.seeds) and contrast.minus is None:
                for table in tables:
                    _withhold(table, contrast)
    for table in tables:
        gates = [answer.gate for answer in answers if answer.has_gate and answer.plan.covers(table.student)]
        _correct_rest(table, max(gates, default=0.0))
        if gates:
            table.gate = "open" if max(gates) < statistics.LEVEL else "shut"
        if table.gate == "shut":  # bold would call the others worse, and no other difference counts as shown
            for cell in table.cells.values():
                cell.best = False
        table.power = _power(table)


def _mark_primary(result: ContrastResult, cells: Sequence[TableCell]) -> None:
    """Give a table's difference the answer of the primary contrast that it is; of two plans' the more cautious."""
    for cell, difference in _differences_of(cells):
        if result.adjusted is None:
            continue
        if difference.seeds != result.seeds:  # the table has seeds that the plan does not ask for
            continue
        if difference.primary and (difference.adjusted or 0.0) >= result.adjusted:
            continue
        difference.primary = True
        difference.holm = difference.adjusted = result.adjusted
        bounds = result.simultaneous
        difference.simultaneous = bounds if cell is cells[0] or bounds is None else (-bounds[1], -bounds[0])
        difference.detectable = result.detectable


def _withhold(table: Table, contrast: Contrast) -> None:
    """Leave a table's difference untested while its contrast waits for seeds, unless another plan answers it.

    Nothing of its column is bold then, as that would call the others worse.
    """
    if not contrast.first.student == contrast.second.student == table.student:
        return
    cells = list(table.cells.values())
    pairs = itertools.product(contrast.find(contrast.first, cells), contrast.find(contrast.second, cells))
    for first, second in pairs:
        for _, difference in _differences_of([first, second] if first.setting == second.setting else []):
            if difference.primary and difference.adjusted is not None:
                continue
            difference.primary = difference.primary or contrast.family == "primary"
            difference.interval = difference.bootstrap = difference.p_value = None
            for cell in cells:
                cell.best = cell.best and cell.setting != first.setting


def _differences_of(cells: Sequence[TableCell]) -> Iterator[tuple[TableCell, Difference]]:
    """Yield a cell and each of its differences from the other; none for a contrast of other than two cells."""
    if len(cells) != 2:
        return
    first, second = cells
    for cell, other in ((first, second), (second, first)):
        yield from ((cell, difference) for difference in cell.differences if difference.baseline == other.method)


def _correct_rest(table: Table, gate: float) -> None:
    """Correct all other tests of a table together; none holds unless the gate does.

    A difference that waits for the seeds of its plan counts in the family from the start.
    """
    rest = [item for cell in table.cells.values() for item in cell.differences if not item.primary]
    family = [item for item in rest if item.estimate.p_value() is not None]
    table.tests = len(family)
    level = statistics.LEVEL / max(len(family), 1)
    for item, holm in zip(family, correct([item.p_value for item in family]), strict=True):
        if holm is None:
            continue
        item.holm, item.adjusted = holm, max(holm, gate)
        item.simultaneous = item.estimate.interval(level)
        item.detectable = statistics.detectable(item.estimate, level)


def _power(table: Table) -> str:
    """Say which difference the exploratory tests of a table find four times in five."""
    differences = [item for cell in table.cells.values() for item in cell.differences if not item.primary]
    if not differences:
        return ""
    seen = [item for item in differences if item.detectable is not None]
    if not seen:
        if any(item.estimate.p_value() is not None for item in differences):
            return ""  # a plan waits for seeds
        return "No spread over seeds that two methods share was measured, so no difference can be tested."
    counts = sorted({item.seeds for item in seen})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    typical = standard.median(item.detectable or 0.0 for item in seen)
    return (
        f"Detectable with 80 % power and {seeds} seeds: {100 * typical:.1f} points (median of {len(seen)} tests, "
        "after correction). Smaller differences are usually missed."
    )


def tally(difference: Difference) -> int:
    """Return 0 for a win, 1 for a tie (not shown), 2 for a loss."""
    if not difference.significant:
        return 1
    return 0 if difference.mean > 0 else 2
