"""The differences of one column: each method against the baselines and ablations beside it, paired by seed."""

import math
from collections.abc import Sequence

import numpy as np

from cskd_bench.report import bootstrap, statistics
from cskd_bench.report.contrasts import estimate_contrast
from cskd_bench.report.examples import same_order
from cskd_bench.report.scores import ColumnProducts, ExampleScores, Resampled, describe_examples, resample
from cskd_bench.report.selection import BASELINES, Method, method_order
from cskd_bench.report.tables import Difference, Pair, TableCell


def baselines_of(methods: Sequence[Method]) -> list[Method]:
    """Return the plain supervised, kd and deit rows; a kind with only one row is that row, whatever its label."""
    found = []
    for kind in BASELINES:
        same = [method for method in methods if method.kind == kind]
        plain = [method for method in same if method.label == kind]
        found.extend(plain or (same if len(same) == 1 else []))
    return found


def is_ablation(method: Method, plain: Method) -> bool:
    """Say whether a method is `plain` (no baseline) with other settings."""
    same = (method.kind, method.teacher) == (plain.label, plain.teacher)
    return same and method.label != plain.label and method.kind not in BASELINES


def compare_column(column: list[TableCell], others: list[Method], examples: ExampleScores) -> None:
    """Add what the side files know to each cell, then its differences to the baselines and ablations among others."""
    matrices = {cell.method: found for cell in column if (found := examples.matrix(cell)) is not None}
    resampled, products = resample(matrices), ColumnProducts(matrices)
    for cell in column:
        if cell.method in matrices:
            describe_examples(cell, products, resampled[cell.method], examples)
    _mark_best(column, products)
    by_method = {cell.method: cell for cell in column}
    for cell in column:
        for other in others:
            if other in by_method and _is_compared(cell.method, other):
                difference = _difference(cell, by_method[other], products, resampled, examples)
                cell.differences.extend([difference] if difference else [])


def _is_compared(method: Method, other: Method) -> bool:
    """Say whether `other` is an ablation of the method, or a baseline above it that has its teacher or none."""
    if other.kind not in BASELINES:
        return is_ablation(other, method)
    return method_order(other) < method_order(method) and other.teacher in ("", method.teacher)


def _mark_best(column: list[TableCell], products: ColumnProducts) -> None:
    """Mark the methods that are not shown to be worse than the best of a column; none where nothing is shown.

    Which method is the best is seen in the same data, so each test is corrected for all pairs of the column.
    """
    best, *others = sorted(column, key=lambda cell: -cell.mean)
    level = statistics.LEVEL / max(math.comb(len(column), 2), 1)

    def is_worse(cell: TableCell) -> bool:
        found = estimate_contrast([(best, 1), (cell, -1)], products.cross)
        p_value = found.estimate.p_value() if found and found.estimate.mean > 0 else None
        return p_value is not None and p_value < level

    worse = {cell.method for cell in others if is_worse(cell)}
    for cell in column if worse else ():
        cell.best = cell.method not in worse


def _difference(
    cell: TableCell, baseline: TableCell, products: ColumnProducts, resampled: Resampled, examples: ExampleScores
) -> Difference | None:
    found = estimate_contrast([(cell, 1), (baseline, -1)], products.cross)
    if found is None:
        return None
    interval = None
    if found.crossed:
        mine = [list(cell.scores).index(seed) for seed in found.seeds]
        yours = [list(baseline.scores).index(seed) for seed in found.seeds]
        interval = bootstrap.bootstrap_interval(resampled[cell.method][:, mine] - resampled[baseline.method][:, yours])
    return Difference(
        baseline=baseline.method,
        mean=math.fsum(found.by_seed) / len(found.by_seed),
        seeds=len(found.seeds),
        interval=found.estimate.interval(),
        interval_kind=found.kind,
        p_value=found.estimate.p_value(),
        bootstrap=interval,
        pairs=[_pair(seed, cell, baseline, examples) for seed in found.seeds],
        estimate=found.estimate,
    )


def _pair(seed: int, cell: TableCell, baseline: TableCell, examples: ExampleScores) -> Pair:
    """Compare one seed; McNemar needs exactly one record on each side and the same images in the same order.

    An image counts for the model that gets more of its copies right.
    """
    pair = Pair(seed, cell.scores[seed] - baseline.scores[seed])
    ours, theirs = cell.by_seed[seed], baseline.by_seed[seed]
    if len(ours) != 1 or len(theirs) != 1:
        return pair
    first, second = examples.of(ours[0]), examples.of(theirs[0])
    if first is None or second is None or not same_order(first.order, second.order):
        return pair
    ours_right, theirs_right = first.copies_right, second.copies_right
    pair.only_this = int(np.count_nonzero(ours_right > theirs_right))
    pair.only_baseline = int(np.count_nonzero(ours_right < theirs_right))
    pair.p_value = statistics.mcnemar(pair.only_this, pair.only_baseline)
    return pair
