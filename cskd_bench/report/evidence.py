"""What page.js draws, as plain data: every cell with its records, differences, curves and pictures."""

import base64
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cskd_bench.record import Record, SideFile
from cskd_bench.report import words
from cskd_bench.report.examples import read_side_file
from cskd_bench.report.selection import METHOD_ORDER, Method, Setting, TableStudent
from cskd_bench.report.tables import Difference, Table, TableCell, TableCost

PICTURES_PER_CELL: Final = 4
PICTURES_PER_PAGE: Final = 24
PICTURE_BYTES: Final = 1 << 20
CURVE_POINTS: Final = 300
IMAGE_TYPES: Final = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}

Trained = dict[tuple[TableStudent, Method], TableCost]  # what pretraining took, for the figures of score against cost


class Shared:
    """Texts that many cells share (sections of a configuration, package versions), and the pictures left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.texts: list[str] = []
        self.pictures_left = PICTURES_PER_PAGE
        self._index: dict[str, int] = {}

    def text(self, value: object) -> int:
        """Return the number of a value's JSON text."""
        text = json.dumps(value)
        if text not in self._index:
            self._index[text] = len(self.texts)
            self.texts.append(text)
        return self._index[text]


def tally_order(counts: tuple[int, int, int] | None) -> int | str:
    """Return what a tally is sorted by: columns won less columns lost."""
    return "" if counts is None else counts[0] - counts[2]


def colours_of(table: Table) -> dict[Method, str]:
    """Give each plain method its own colour, and the others the spare ones in turn."""
    colours: dict[Method, str] = {}
    spare = 0
    for method in table.methods:
        if method.label in METHOD_ORDER and method.label not in colours.values():
            colours[method] = method.label
        else:
            colours[method] = f"more{spare % 4 + 1}"
            spare += 1
    return colours


def scored_curve(setting: Setting) -> str:
    """Name the curve of what the column scores: the metric, of the weights that were scored."""
    return f"ema_{setting.metric}" if setting.weights == "ema" else setting.metric


def raw_cost(cost: TableCost) -> dict[str, float]:
    """Return the numbers behind the words of `words.cost`, by the same names."""
    return {
        "images/s": cost.images_per_second,
        "time": cost.seconds,
        "GPU-hours": cost.gpu_hours,
        "memory": cost.peak_memory_bytes,
    }


def evidence(table: Table, title: str, shared: Shared, trained: Trained) -> dict[str, Any]:
    """Return what the page shows when a number is opened: its tests, records, costs and pictures."""
    place = {method: row for row, method in enumerate(table.methods)}
    columns = {setting: column for column, setting in enumerate(table.settings)}
    return {
        "title": title,
        "group": table.group,
        "pretraining_cost": any((table.student, method) in trained for method in table.methods),
        "methods": [
            {
                "name": words.method(method, table.methods),
                "kind": method.kind,
                "teacher": method.teacher,
                "colour": colour,
                "cost": raw_cost(trained.get((table.student, method), table.costs[method])),
                "tallies": {
                    base.kind: [words.tally(counts), tally_order(counts)]
                    for base, counts in table.standings[method].tally.items()
                },
            }
            for method, colour in colours_of(table).items()
        ],
        "settings": [
            {
                "task": setting.task,
                "version": setting.version,
                "fingerprint": setting.fingerprint,
                "column": words.column(setting, table.settings),
                "protocol": words.protocol(setting),
                "metric": words.metric(setting),
                "curve": scored_curve(setting),
                "recipe": setting.recipe,
                "image_size": setting.image_size,
                "weights": setting.weights,
            }
            for setting in table.settings
        ],
        "cells": {
            f"{place[method]}-{columns[setting]}": _cell(cell, place, shared)
            for (method, setting), cell in table.cells.items()
        },
    }


def _cell(cell: TableCell, place: dict[Any, int], shared: Shared) -> dict[str, Any]:
    first = cell.records[0]
    calibration = cell.calibration
    return {
        "mean": cell.mean,
        "sd": cell.deviation,
        "interval": cell.interval,
        "covers": cell.interval_kind,
        "bootstrap": cell.bootstrap,
        "calibration": calibration
        and {
            "error": calibration.error,
            "bins": _bins(calibration.share, calibration.confidence, calibration.accuracy),
        },
        "classes": [None if math.isnan(value) else round(value, 4) for value in cell.per_class],
        "differences": [_shown_difference(item, place) for item in cell.differences],
        "config": [[key, shared.text(value)] for key, value in first.config.items()],
        "records": [_record(record, first, shared) for record in cell.records],
        "pictures": _pictures(cell, shared),
    }


def _bins(share: Sequence[float], confidence: Sequence[float], accuracy: Sequence[float]) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in zip(share, confidence, accuracy, strict=True) if row[0]]


def _shown_difference(item: Difference, place: dict[Any, int]) -> dict[str, Any]:
    return {
        "row": place[item.baseline],
        "mean": item.mean,
        "seeds": item.seeds,
        "interval": item.interval,
        "simultaneous": item.simultaneous,
        "covers": item.interval_kind,
        "bootstrap": item.bootstrap,
        "p": item.p_value,
        "holm": item.adjusted,
        "mark": words.mark(item),
        "detectable": item.detectable,
        "pairs": [
            [pair.seed, pair.difference, pair.only_this, pair.only_baseline, pair.p_value] for pair in item.pairs
        ],
    }


def _record(record: Record, first: Record, shared: Shared) -> dict[str, Any]:
    """Return what the page shows of a record; its configuration only where it differs from the cell's first."""
    changed = {
        key: value for key, value in record.config.items() if record is not first and first.config.get(key) != value
    }
    cost = record.cost
    return {
        "id": record.id,
        "seed": record.seed,
        "pretrain_seed": record.checkpoint.pretrain_seed,
        "value": record.value,
        "examples": record.examples,
        "created": record.created,
        "commit": record.code.commit,
        "version": record.code.version,
        "dirty": record.code.dirty,
        "device": record.device,
        "command": record.command,
        "run": record.checkpoint.run,
        "sha256": record.checkpoint.sha256,
        "weights": record.checkpoint.weights,
        "parameters": record.model.parameters,
        "cost": [cost.seconds, cost.images_per_second, cost.gpu_hours, cost.peak_memory_bytes],
        "metrics": record.metrics,
        "versions": shared.text(record.versions),
        "changed": [[key, shared.text(value)] for key, value in changed.items()],
        "curve": _curve(record),
        "note": record.note,
    }


def _curve(record: Record) -> dict[str, list[float | None]]:
    """Return the learning curve by column, thinned to what a screen can show."""
    step = -(-len(record.curve) // CURVE_POINTS) or 1
    kept = [entry for number, entry in enumerate(record.curve) if number % step == 0 or number == len(record.curve) - 1]
    keys = sorted({key for entry in kept for key in entry})
    return {key: [_short(entry.get(key)) for entry in kept] for key in keys}


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _pictures(cell: TableCell, shared: Shared) -> list[dict[str, str]]:
    """Inline a handful of pictures; one that is missing, changed, too large or no image is left out."""
    found: list[dict[str, str]] = []
    for record in cell.records:
        for side in record.pictures:
            if len(found) == PICTURES_PER_CELL or not shared.pictures_left:
                return found
            source = _data_uri(shared.folder, side)
            if source:
                shared.pictures_left -= 1
                found.append({"name": side.name, "source": source})
    return found


def _data_uri(folder: Path, side: SideFile) -> str | None:
    try:
        content = read_side_file(folder, side)
    except ValueError:
        return None
    kind = next((kind for magic, kind in IMAGE_TYPES.items() if content.startswith(magic)), None)
    if kind is None or len(content) > PICTURE_BYTES:
        return None
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
