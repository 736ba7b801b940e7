"""From selected records to tables: paired differences, Holm over each table, ranks, cost, power."""

import math
import re
import statistics as standard
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cskd_bench.record import Record
from cskd_bench.report import statistics
from cskd_bench.report.scores import ExampleScores, Matrices, Resampled, describe_examples, make_cell, resample
from cskd_bench.report.selection import (
    BASELINES,
    GROUP_ORDER,
    STUDIED,
    Method,
    Selection,
    Setting,
    TableStudent,
    method_order,
    setting_order,
)
from cskd_bench.report.tables import Comparison, Difference, Pair, Standing, Table, TableCell, TableCost, Verdict


def compare(folder: Path, selection: Selection) -> Comparison:
    """Compute every table from the selected records; side files are read from the same folder."""
    left_out = list(selection.left_out)
    examples = ExampleScores(folder, left_out)
    by_table: dict[tuple[str, TableStudent], list[TableCell]] = {}
    for (student, setting, method), records in selection.cells.items():
        by_table.setdefault((setting.group, student), []).append(make_cell(method, setting, records))
    teachers = {re.split("[@ ]", method.teacher)[0] for _, _, method in selection.cells}
    tables = [_table(key, cells, teachers, examples) for key, cells in by_table.items()]
    tables.sort(key=_table_order)
    count = sum(map(len, selection.cells.values()))
    return Comparison(
        tables, verdicts(tables), sorted(left_out, key=lambda item: (item.name, item.reason)), selection.notes, count
    )


def _table_order(table: Table) -> tuple[object, ...]:
    student = table.student
    group = GROUP_ORDER.index(table.group)
    return group, table.teaches, student.model, student.pretrain_data, student.pretrain_recipe


def _table(key: tuple[str, TableStudent], cells: list[TableCell], teachers: set[str], examples: ExampleScores) -> Table:
    group, student = key
    methods = sorted({cell.method for cell in cells}, key=method_order)
    settings = sorted({cell.setting for cell in cells}, key=setting_order)
    found = {(cell.method, cell.setting): cell for cell in cells}
    grid = {(m, s): found[m, s] for m in methods for s in settings if (m, s) in found}
    baselines = _baselines(methods)
    ablations = [method for method in methods if any(_ablates(method, plain) for plain in methods)]
    for setting in settings:
        column = [grid[method, setting] for method in methods if (method, setting) in grid]
        _mark_best(column)
        _compare_column(column, baselines + ablations, examples)
    differences = [difference for cell in grid.values() for difference in cell.differences]
    tests = _correct(differences)
    complete = [setting for setting in settings if all((method, setting) in grid for method in methods)]
    return Table(
        group=group,
        student=student,
        methods=methods,
        settings=settings,
        cells=grid,
        costs={method: _cost(cell.records for cell in cells if cell.method == method) for method in methods},
        standings=_standings(methods, complete, grid, baselines),
        baselines=baselines,
        ablations=ablations,
        tests=tests,
        complete=len(complete),
        power=_power(differences),
        teaches=student.model in teachers,
    )


def _baselines(methods: Sequence[Method]) -> list[Method]:
    """Return the plain supervised, kd and deit rows; a kind with only one row is that row, whatever its label."""
    found = []
    for kind in BASELINES:
        same = [method for method in methods if method.kind == kind]
        plain = [method for method in same if method.label == kind]
        found.extend(plain or (same if len(same) == 1 else []))
    return found


def _mark_best(column: list[TableCell]) -> None:
    if len(column) > 1:
        highest = max(cell.mean for cell in column)
        for cell in column:
            cell.best = cell.mean == highest


def _ablates(method: Method, plain: Method) -> bool:
    """Say whether a method is `plain` (no baseline) with other settings."""
    same = (method.kind, method.teacher) == (plain.label, plain.teacher)
    return same and method.label != plain.label and method.kind not in BASELINES


def _compare_column(column: list[TableCell], others: list[Method], examples: ExampleScores) -> None:
    """Add what the side files know to each cell, then its differences to the baselines and ablations among others."""
    matrices = {cell.method: found for cell in column if (found := examples.matrix(cell)) is not None}
    resampled = resample(matrices)
    for cell in column:
        if cell.method in matrices:
            describe_examples(cell, matrices[cell.method][0], resampled[cell.method], examples)
    spread = _spread_of_column(column)
    by_method = {cell.method: cell for cell in column}
    for cell in column:
        for other in others:
            if other in by_method and _is_compared(cell.method, other):
                difference = _difference(cell, by_method[other], spread, matrices, resampled, examples)
                cell.differences.extend([difference] if difference else [])
    examples.forget()


def _spread_of_column(column: list[TableCell]) -> tuple[float, int]:
    """Pool the spread over the methods with several seeds, on the seeds that all of these share."""
    repeated = [cell for cell in column if cell.seeds > 1]
    shared = sorted(set.intersection(*(set(cell.scores) for cell in repeated))) if repeated else []
    if len(repeated) < 2 or len(shared) < 2:
        return 0.0, 0
    return statistics.pooled_spread(np.array([[cell.scores[seed] for seed in shared] for cell in repeated]))


def _is_compared(method: Method, other: Method) -> bool:
    """Say whether `other` is an ablation of the method, or a baseline above it that has its teacher or none."""
    if other.kind not in BASELINES:
        return _ablates(other, method)
    return method_order(other) < method_order(method) and other.teacher in ("", method.teacher)


def _difference(
    cell: TableCell,
    baseline: TableCell,
    spread: tuple[float, int],
    matrices: Matrices,
    resampled: Resampled,
    examples: ExampleScores,
) -> Difference | None:
    seeds = [seed for seed in cell.scores if seed in baseline.scores]
    if not seeds:
        return None
    pairs = [_pair(seed, cell, baseline, examples) for seed in seeds]
    estimate = statistics.over_seeds([pair.difference for pair in pairs])
    kind = "seeds, on this test set"
    bootstrap = None
    if cell.method in matrices and baseline.method in matrices:
        (ours, label), (theirs, other_label) = matrices[cell.method], matrices[baseline.method]
        if np.array_equal(label, other_label):
            mine = [list(cell.scores).index(seed) for seed in seeds]
            yours = [list(baseline.scores).index(seed) for seed in seeds]
            paired = ours[mine].astype(np.float64) - theirs[yours]
            estimate, kind = statistics.over_seeds_and_examples(paired), "seeds and test images"
            means_RS = resampled[cell.method][:, mine] - resampled[baseline.method][:, yours]
            bootstrap = statistics.bootstrap_interval(means_RS)
    variance, freedom = spread
    estimate = estimate.pool(variance / len(seeds), freedom)
    return Difference(
        baseline=baseline.method,
        mean=math.fsum(pair.difference for pair in pairs) / len(pairs),
        seeds=len(seeds),
        interval=estimate.interval(),
        interval_kind=kind,
        p_value=estimate.p_value(),
        bootstrap=bootstrap,
        pairs=pairs,
        detectable=statistics.detectable(estimate),
    )


def _pair(seed: int, cell: TableCell, baseline: TableCell, examples: ExampleScores) -> Pair:
    """Compare one seed; McNemar needs exactly one record on each side and the same images in the same order."""
    pair = Pair(seed, cell.scores[seed] - baseline.scores[seed])
    ours, theirs = cell.by_seed[seed], baseline.by_seed[seed]
    if len(ours) != 1 or len(theirs) != 1:
        return pair
    first, second = examples.of(ours[0]), examples.of(theirs[0])
    if first is None or second is None or not np.array_equal(first.label, second.label):
        return pair
    pair.only_this = int(np.count_nonzero(first.correct & ~second.correct))
    pair.only_baseline = int(np.count_nonzero(second.correct & ~first.correct))
    pair.p_value = statistics.mcnemar(pair.only_this, pair.only_baseline)
    return pair


def _correct(differences: list[Difference]) -> int:
    """Correct all tests of one table together and return how many there are."""
    tested = [(difference, difference.p_value) for difference in differences if difference.p_value is not None]
    for (difference, _), adjusted in zip(tested, statistics.holm([p for _, p in tested]), strict=True):
        difference.adjusted = adjusted
    return len(tested)


def _cost(records_by_cell: Iterable[list[Record]]) -> TableCost:
    costs = [record.cost for records in records_by_cell for record in records]
    speeds = [cost.images_per_second for cost in costs if cost.images_per_second]
    return TableCost(
        seconds=standard.fmean(cost.seconds for cost in costs),
        images_per_second=standard.fmean(speeds) if speeds else 0.0,
        gpu_hours=standard.fmean(cost.gpu_hours for cost in costs),
        peak_memory_bytes=max(cost.peak_memory_bytes for cost in costs),
        labelling_seconds=standard.fmean(cost.labelling_seconds for cost in costs),
    )


def _standings(
    methods: list[Method],
    complete: list[Setting],
    grid: dict[tuple[Method, Setting], TableCell],
    baselines: list[Method],
) -> dict[Method, Standing]:
    ranks: dict[Method, list[float]] = {method: [] for method in methods}
    for setting in complete:
        for method, rank in zip(methods, statistics.ranks([grid[m, setting].mean for m in methods]), strict=True):
            ranks[method].append(rank)
    tallies: dict[Method, dict[Method, list[int]]] = {method: {} for method in methods}
    for (method, _), cell in grid.items():
        for difference in cell.differences:
            tally = tallies[method].setdefault(difference.baseline, [0, 0, 0])
            tally[outcome(difference)] += 1
    return {
        method: Standing(
            standard.fmean(ranks[method]) if len(complete) > 1 and len(methods) > 1 else None,
            {
                base: (wins, ties, losses)
                for base in baselines
                if base in tallies[method]
                for wins, ties, losses in [tallies[method][base]]
            },
        )
        for method in methods
    }


def outcome(difference: Difference) -> int:
    """Return 0 for a win, 1 for a tie (undecided), 2 for a loss."""
    if not difference.significant:
        return 1
    return 0 if difference.mean > 0 else 2


def verdicts(tables: Iterable[Table], seeds: int = 1) -> list[Verdict]:
    """Return the plain CSKD's verdicts: against each kind of baseline, then against each of its ablations.

    Only differences over at least so many `seeds` count.
    """
    found: dict[str, list[Difference]] = {kind: [] for kind in BASELINES}
    for table in tables:
        for cell in table.cells.values():
            for difference in cell.differences if cell.method.label == STUDIED else ():
                if difference.seeds < seeds:
                    continue
                other = difference.baseline
                found.setdefault(other.kind if other.kind in BASELINES else other.label, []).append(difference)
    told = []
    for name, differences in found.items():
        if differences:
            outcomes = [outcome(difference) for difference in differences]
            mean = standard.fmean(difference.mean for difference in differences)
            told.append(Verdict(STUDIED, name, outcomes.count(0), outcomes.count(1), outcomes.count(2), mean))
    return told


def _power(differences: list[Difference]) -> str:
    """Say what difference the measured spread lets these seeds see."""
    if not differences:
        return ""
    seen = [difference for difference in differences if difference.detectable is not None]
    if not seen:
        return "No spread over seeds that two methods share was measured, so no difference can be tested."
    counts = sorted({difference.seeds for difference in seen})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    typical = standard.median(difference.detectable or 0.0 for difference in seen)
    return (
        f"With {seeds} seeds a difference under {100 * typical:.1f} points cannot be seen "
        f"(median of {len(seen)} tests: found with 80 % probability at 5 %, before Holm's correction)."
    )
