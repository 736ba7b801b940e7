"""Cells and what their side files add: scores per test image, resampled test sets, calibration, classes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cskd_bench.record import Record
from cskd_bench.report import bootstrap, statistics
from cskd_bench.report.examples import Examples, read_examples, same_order
from cskd_bench.report.selection import LeftOut, Method, Setting, replicate_of
from cskd_bench.report.tables import TableCell


class ExampleScores:
    """Per-example scores of records, read once; a record whose side file is broken has none, and `broken` says why."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broken: dict[str, LeftOut] = {}  # by id
        self._read: dict[str, Examples] = {}

    def of(self, record: Record) -> Examples | None:
        """Return a record's examples, None without a usable side file."""
        if record.per_example is None or record.id in self.broken:
            return None
        if record.id not in self._read:
            try:
                self._read[record.id] = read_examples(self.folder, record)
            except ValueError as error:
                reason = f"shown, but not in tests over examples: {error}"
                self.broken[record.id] = LeftOut(f"{record.id}.json", reason)
                return None
        return self._read[record.id]

    def matrix(self, cell: TableCell) -> tuple[NDArray[np.float32], NDArray[np.integer[Any]]] | None:
        """Return scores (S, I) by image, in seed order, and the order of the examples, which pairs must agree in.

        None unless every record has examples, in one order. Copies of an image are averaged: they are no test images
        of their own.
        """
        known = {record.id: self.of(record) for record in cell.records}
        order = next((examples.order for examples in known.values() if examples is not None), None)
        rows = []
        for records in cell.by_seed.values():
            scores = []
            for record in records:
                examples = known[record.id]
                if examples is None or order is None or not same_order(order, examples.order):
                    return None
                scores.append(examples.scores_by_image(record.task.metric))
            rows.append(scores[0] if len(scores) == 1 else np.mean(scores, axis=0, dtype=np.float32))
        return None if order is None else (np.stack(rows), order)


def make_cell(method: Method, setting: Setting, records: list[Record]) -> TableCell:
    """Average a cell's records: first those of a pretraining seed, then the seeds; the interval is over seeds."""
    found: dict[int, list[Record]] = {}
    for record in records:
        found.setdefault(replicate_of(record), []).append(record)
    by_seed = dict(sorted(found.items()))
    scores = {seed: math.fsum(record.value for record in same) / len(same) for seed, same in by_seed.items()}
    estimate = statistics.over_seeds(list(scores.values()))
    interval = _of_shares(estimate.interval())
    kind = "seeds, on this test set" if interval else ""
    deviation = statistics.spread(list(scores.values()))
    return TableCell(method, setting, records, by_seed, scores, estimate.mean, deviation, interval, kind)


def _of_shares(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """Cut an interval to what a share can be: with two seeds it may reach beyond 0 and 100 %."""
    return None if interval is None else (max(interval[0], 0.0), min(interval[1], 1.0))


Matrices = dict[Method, tuple[NDArray[np.float32], NDArray[np.integer[Any]]]]


class ColumnProducts:
    """Sums of products of a column's scores, out of which any signed sum of its cells is estimated."""

    def __init__(self, matrices: Matrices) -> None:
        self._rows: dict[Method, tuple[int, int]] = {}  # the set of images that a method scored, its first row there
        orders: list[NDArray[np.integer[Any]]] = []
        sets: list[list[NDArray[np.float32]]] = []
        for method, (scores_SE, order) in matrices.items():
            number = next((n for n, known in enumerate(orders) if same_order(known, order)), len(orders))
            if number == len(orders):
                orders.append(order)
                sets.append([])
            self._rows[method] = number, sum(map(len, sets[number]))
            sets[number].append(scores_SE)
        self._products = [statistics.sum_products(np.concatenate(scores)) for scores in sets]

    def cross(self, terms: Sequence[tuple[TableCell, int]], seeds: Sequence[int]) -> statistics.EstimatedMean | None:
        """Estimate a signed sum of cells over seeds and images; None where they did not all score the same images."""
        rows = [self._rows[cell.method] for cell, _ in terms if cell.method in self._rows]
        if len(rows) < len(terms) or len({number for number, _ in rows}) > 1:
            return None
        products = self._products[rows[0][0]]
        signs_TS = np.zeros((len(seeds), len(products.sums_S)))
        for (cell, sign), (_, first) in zip(terms, rows, strict=True):
            known = list(cell.scores)
            signs_TS[range(len(seeds)), [first + known.index(seed) for seed in seeds]] += sign
        return products.combine(signs_TS).estimate()


Resampled = dict[Method, NDArray[np.floating[Any]]]


def resample(matrices: Matrices) -> Resampled:
    """Resample test sets for a whole column; models with as many examples meet the same test sets."""
    resampled: Resampled = {}
    for size in {scores_SE.shape[1] for scores_SE, _ in matrices.values()}:
        same = {method: scores_SE for method, (scores_SE, _) in matrices.items() if scores_SE.shape[1] == size}
        means_RS = bootstrap.bootstrap_examples(np.concatenate(list(same.values())))
        ends = np.cumsum([len(scores_SE) for scores_SE in same.values()])
        resampled.update(zip(same, np.split(means_RS, ends[:-1], axis=1), strict=True))
    return resampled


def describe_examples(
    cell: TableCell, products: ColumnProducts, means_RS: NDArray[np.floating[Any]], examples: ExampleScores
) -> None:
    """Add what a cell's predictions say: an interval over seeds and images, calibration, scores by class."""
    cell.bootstrap = bootstrap.bootstrap_interval(means_RS)
    estimate = products.cross([(cell, 1)], list(cell.scores))
    if estimate is not None and (interval := _of_shares(estimate.interval())) is not None:
        cell.interval, cell.interval_kind = interval, "seeds and test images"
    elif cell.seeds == 1:
        cell.interval, cell.interval_kind = cell.bootstrap, "test images only, one seed"
    known = [found for record in cell.records if (found := examples.of(record)) is not None]
    confidence = np.concatenate([found.confidence for found in known])
    cell.calibration = statistics.calibration(confidence, np.concatenate([found.correct for found in known]))
    classes = np.mean([statistics.per_class(found.label, found.correct) for found in known], axis=0)
    cell.per_class = tuple(classes.tolist())
