"""The report as data: CSV, harmless in a spreadsheet, and JSON."""

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from cskd_bench.report import words
from cskd_bench.report.columns import flatten
from cskd_bench.report.published import Match, Published
from cskd_bench.report.rows import one_line
from cskd_bench.report.tables import Comparison, Difference, Table, TableCell
from cskd_bench.report.titles import titles

CSV_HEAD: Final = [
    *("group", "student", "pretrain_data", "pretrain_recipe", "task", "version", "fingerprint", "protocol"),
    *("recipe", "image_size", "weights", "metric", "method", "teacher", "mean", "sd", "seeds", "low", "high"),
    *("baseline", "difference", "difference_low", "difference_high", "pairs", "p_value", "p_corrected", "significant"),
    *("simultaneous_low", "simultaneous_high", "mark", "primary"),
]


def csv_text(text: str) -> str:
    """Make a name harmless in a spreadsheet: what could start a formula is quoted with an apostrophe."""
    text = one_line(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "'", "＝", "＋", "－", "＠")) else text


def csv_table(comparison: Comparison) -> str:
    """Return one line per cell and baseline, numbers as fractions in full precision."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for table in comparison.tables:
        for cell in table.cells.values():
            writer.writerows(_csv_rows(table, cell))
    return file.getvalue()


def _csv_rows(table: Table, cell: TableCell) -> Iterator[list[object]]:
    student, setting, method = table.student, cell.setting, cell.method
    names = [setting.group, student.model, student.pretrain_data, student.pretrain_recipe, setting.task]
    more = [setting.fingerprint, setting.protocol, setting.recipe]
    start = [
        *map(csv_text, names),
        setting.version,
        *map(csv_text, more),
        setting.image_size,
        *map(csv_text, [setting.weights, setting.metric, method.label, method.teacher]),
        cell.mean,
        cell.deviation,
        cell.seeds,
        *(cell.interval or (None, None)),
    ]
    if not cell.differences:
        yield [*start, *[None] * 12]
    for item in cell.differences:
        low, high = item.interval or (None, None)
        name = csv_text(item.baseline.label)
        tested = [item.mean, low, high, item.seeds, item.p_value, item.adjusted, item.significant]
        yield [*start, name, *tested, *(item.simultaneous or (None, None)), words.mark(item), item.primary]


def plain_json(comparison: Comparison, published: Sequence[Published], matches: Sequence[Match]) -> str:
    """Return every number of the report as JSON; cells and differences name methods and settings by place."""
    data = {
        "records": comparison.records,
        "primary": [asdict(result) for result in comparison.primary],
        "exploratory": [asdict(result) for result in comparison.exploratory],
        "gate_open": comparison.gate_open,
        "tables": [
            _table_json(table, title) for table, title in zip(comparison.tables, titles(comparison.tables), strict=True)
        ],
        "published": [asdict(item) for item in published],
        "ours_and_published": [
            {
                "student": item.student,
                "method": item.cell.method.label,
                "published": asdict(item.published),
                "mean": item.cell.mean,
                "seeds": item.cell.seeds,
                "tolerance": item.tolerance,
                "agrees": item.agrees,
            }
            for item in matches
        ],
        "notes": comparison.notes,
        "left_out": [asdict(item) for item in comparison.left_out],
    }
    return json.dumps(data, allow_nan=False) + "\n"


def _table_json(table: Table, title: str) -> dict[str, Any]:
    return {
        "group": table.group,
        "title": title,
        "primary": table.primary,
        "gate": table.gate,
        "student": asdict(table.student),
        "tests": table.tests,
        "power": table.power,
        "cost_note": table.cost_note,
        "methods": [
            {
                "method": asdict(method),
                "average_rank": table.standings[method].rank,
                "higher_open_lower": {
                    base.label: list(counts) for base, counts in table.standings[method].tally.items()
                },
                "cost": asdict(table.costs[method]),
            }
            for method in table.methods
        ],
        "settings": [asdict(setting) | {"content": flatten(setting.content)} for setting in table.settings],
        "cells": [_cell_json(cell, table) for cell in table.cells.values()],
    }


def _cell_json(cell: TableCell, table: Table) -> dict[str, Any]:
    return {
        "setting": table.settings.index(cell.setting),
        "method": table.methods.index(cell.method),
        "mean": cell.mean,
        "sd": cell.deviation,
        "seeds": cell.scores,
        "interval": cell.interval,
        "interval_covers": cell.interval_kind,
        "bootstrap": cell.bootstrap,
        "calibration_error": cell.calibration.error if cell.calibration else None,
        "per_class": [None if math.isnan(value) else value for value in cell.per_class],
        "best": cell.best,
        "records": [record.id for record in cell.records],
        "differences": [_difference_json(item, table) for item in cell.differences],
    }


def _difference_json(item: Difference, table: Table) -> dict[str, Any]:
    return {
        "baseline": table.methods.index(item.baseline),
        "mean": item.mean,
        "seeds": item.seeds,
        "interval": item.interval,
        "interval_covers": item.interval_kind,
        "p_value": item.p_value,
        "p_corrected": item.adjusted,
        "mark": words.mark(item),
        "significant": item.significant,
        "bootstrap": item.bootstrap,
        "detectable": item.detectable,
        "simultaneous": item.simultaneous,
        "primary": item.primary,
        "lead": item.is_lead,
        "pairs": [
            {
                "seed": pair.seed,
                "difference": pair.difference,
                "only_this": pair.only_this,
                "only_baseline": pair.only_baseline,
                "mcnemar": pair.p_value,
            }
            for pair in item.pairs
        ],
    }
