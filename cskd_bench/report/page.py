"""One offline HTML page: tables written here, evidence embedded as JSON and drawn by page.js on demand."""

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from cskd_bench.record import Record, SideFile
from cskd_bench.report import words
from cskd_bench.report.compare import Cell, Comparison, Cost, Difference, Table
from cskd_bench.report.examples import read_side_file
from cskd_bench.report.plain import MATCH_HEAD, PUBLISHED_HEAD, match_rows, published_rows
from cskd_bench.report.published import Match, Published
from cskd_bench.report.selection import METHOD_ORDER, Method, Setting, Student

HERE: Final = Path(__file__).resolve().parent
PICTURES_PER_CELL: Final = 4
PICTURES_PER_PAGE: Final = 24
PICTURE_BYTES: Final = 1 << 20
CURVE_POINTS: Final = 300
NOBODY: Final = Method("", "", "")
IMAGE_TYPES: Final = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}

Trained = dict[tuple[Student, Method], Cost]  # what pretraining took, for the figures of score against cost


def page(folder: Path, comparison: Comparison, published: Sequence[Published], matches: Sequence[Match]) -> str:
    """Return the page. Names are escaped by the template, embedded JSON by `safe_json`, and scripts are
    tied to their hash by a content security policy, which also forbids every network request.
    """
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    style, script = (HERE / "page.css").read_text("utf-8"), (HERE / "page.js").read_text("utf-8")
    shared = Shared(folder)
    trained = {
        (table.student, method): cost
        for table in comparison.tables
        if table.group == "pretraining"
        for method, cost in table.costs.items()
    }
    tables = [_table(number, table, shared, trained) for number, table in enumerate(comparison.tables)]
    groups: dict[str, list[dict[str, Any]]] = {}
    for table in tables:
        groups.setdefault(table["group"], []).append(table)
    kinds = [base.kind for table in comparison.tables for base in table.baselines]
    return environment.get_template("page.html.j2").render(
        groups=groups,
        facts=_facts(comparison),
        verdicts=[
            {**asdict(verdict), "columns": verdict.columns, "mean": words.points(verdict.mean)}
            for verdict in comparison.verdicts
        ],
        legend=words.LEGEND,
        baselines=[kind for kind in ("supervised", "kd", "deit") if kind in kinds],
        labels=sorted({method.label for table in comparison.tables for method in table.methods}),
        matches=match_rows(matches),
        match_head=MATCH_HEAD,
        published=published_rows(published),
        published_head=PUBLISHED_HEAD,
        notes=comparison.notes,
        left_out=comparison.left_out,
        shared=safe_json({"sections": shared.texts}),
        style=Markup(style),
        script=Markup(script),
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
    )


def safe_json(value: object) -> Markup:
    """Return JSON that cannot end its <script> element or open a comment in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


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


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    cells = [cell for table in comparison.tables for cell in table.cells.values()]
    facts = [
        (comparison.records, "record"),
        (len({cell.method for cell in cells}), "method"),
        (len({table.student.model for table in comparison.tables if not table.teaches}), "student"),
        (len({cell.setting.task for cell in cells}), "task"),
        (sum(table.tests for table in comparison.tables), "paired test"),
    ]
    counted = [words.count(number, noun) for number, noun in facts] + [f"{len(comparison.left_out):,} left out"]
    return [(text.split(" ", 1)[0], text.split(" ", 1)[1]) for text in counted]


# ---------------------------------------------------------------- what the template writes


def _table(number: int, table: Table, shared: Shared, trained: Trained) -> dict[str, Any]:
    costs = {method: words.cost(cost) for method, cost in table.costs.items()}
    shown = [key for key in ("images/s", "time", "GPU-hours", "memory") if any(cost[key] for cost in costs.values())]
    raw = {method: _raw_cost(cost) for method, cost in table.costs.items()}
    colours = _colours(table)
    reference = table.baselines[-1] if table.baselines else NOBODY
    rows = []
    for row, method in enumerate(table.methods):
        standing = table.standings[method]
        cells = [
            _shown_cell(f"{number}-{row}-{column}", table.cells.get((method, setting)), reference)
            for column, setting in enumerate(table.settings)
        ]
        rows.append(
            {
                "name": words.method(method, table.methods),
                "label": method.label,
                "colour": colours[method],
                "teacher": method.teacher,
                "cells": cells,
                "rank": standing.rank,
                "tally": words.tally(standing.tally[reference]) if reference in standing.tally else "",
                "order": _tally_order(standing.tally.get(reference)),
                "costs": [(costs[method][key], raw[method][key]) for key in shown],
            }
        )
    return {
        "id": number,
        "group": table.group,
        "model": table.student.model,
        "teaches": table.teaches,
        "data": table.student.pretrain_data,
        "recipe": table.student.pretrain_recipe,
        "tasks": _tasks(table),
        "columns": [_column(setting, table) for setting in table.settings],
        "rows": rows,
        "costs": shown,
        "tallied": any(standing.tally for standing in table.standings.values()),
        "ranked": any(standing.rank is not None for standing in table.standings.values()),
        "complete": table.complete,
        "power": table.power,
        "tests": table.tests,
        "evidence": safe_json(_evidence(table, shared, trained)),
    }


def _tally_order(counts: tuple[int, int, int] | None) -> int | str:
    return "" if counts is None else counts[0] - counts[2]


def _colours(table: Table) -> dict[Method, str]:
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


def _raw_cost(cost: Cost) -> dict[str, float]:
    return {
        "images/s": cost.images_per_second,
        "time": cost.seconds,
        "GPU-hours": cost.gpu_hours,
        "memory": cost.peak_memory_bytes,
    }


def _tasks(table: Table) -> list[dict[str, Any]]:
    """Group neighbouring columns of one task under one heading."""
    groups: list[dict[str, Any]] = []
    for setting in table.settings:
        key = (setting.task, setting.version, setting.fingerprint)
        if not groups or groups[-1]["key"] != key:
            groups.append({"key": key, "name": setting.task, "version": setting.version, "columns": 0})
        groups[-1]["columns"] += 1
    return groups


def _column(setting: Setting, table: Table) -> dict[str, Any]:
    return {"task": setting.task, "name": words.column(setting, table.settings), "metric": words.metric(setting)}


def _shown_cell(name: str, cell: Cell | None, reference: Method) -> dict[str, Any] | None:
    if cell is None:
        return None
    found = next((item for item in cell.differences if item.baseline == reference), None)
    return {
        "id": name,
        "value": cell.mean,
        "mean": f"{100 * cell.mean:.2f}",
        "deviation": "" if cell.deviation is None else f"{100 * cell.deviation:.2f}",
        "seeds": cell.seeds,
        "best": cell.best,
        "mark": words.mark(found) if found else "",
        "difference": words.points(found.mean) if found else "",
    }


# ---------------------------------------------------------------- what page.js draws


def _evidence(table: Table, shared: Shared, trained: Trained) -> dict[str, Any]:
    place = {method: row for row, method in enumerate(table.methods)}
    columns = {setting: column for column, setting in enumerate(table.settings)}
    return {
        "title": words.title(table),
        "group": table.group,
        "pretraining_cost": any((table.student, method) in trained for method in table.methods),
        "methods": [
            {
                "name": words.method(method, table.methods),
                "kind": method.kind,
                "teacher": method.teacher,
                "colour": colour,
                "cost": _raw_cost(trained.get((table.student, method), table.costs[method])),
                "tallies": {
                    base.kind: [words.tally(counts), _tally_order(counts)]
                    for base, counts in table.standings[method].tally.items()
                },
            }
            for method, colour in _colours(table).items()
        ],
        "settings": [
            {
                "task": setting.task,
                "version": setting.version,
                "fingerprint": setting.fingerprint,
                "column": words.column(setting, table.settings),
                "protocol": words.protocol(setting),
                "metric": words.metric(setting),
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


def _cell(cell: Cell, place: dict[Any, int], shared: Shared) -> dict[str, Any]:
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


def _pictures(cell: Cell, shared: Shared) -> list[dict[str, str]]:
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
