"""One offline HTML page: tables written here, evidence embedded as JSON and drawn by page.js on demand."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from cskd_bench.report import words
from cskd_bench.report.evidence import Shared, Trained, colours_of, evidence, raw_cost, tally_order
from cskd_bench.report.published import Match, Published
from cskd_bench.report.rows import MATCH_HEAD, PUBLISHED_HEAD, match_rows, published_rows
from cskd_bench.report.selection import BASELINES, Setting
from cskd_bench.report.tables import Comparison, Table, TableCell

HERE: Final = Path(__file__).resolve().parent


def page(folder: Path, comparison: Comparison, published: Sequence[Published], matches: Sequence[Match]) -> str:
    """Return the page. Names are escaped by the template, embedded JSON by `safe_json`, and scripts are
    tied to their hash by a content security policy, which also forbids every network request.
    """
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    style = (HERE / "page.css").read_text("utf-8")
    script = "".join((HERE / name).read_text("utf-8") for name in ("page.js", "charts.js", "evidence.js"))
    shared = Shared(folder)
    trained = {
        (table.student, method): cost
        for table in comparison.tables
        if table.group == "pretraining"
        for method, cost in table.costs.items()
    }
    kinds = {base.kind for table in comparison.tables for base in table.baselines}
    baselines = [kind for kind in BASELINES if kind in kinds]
    chosen = baselines[-1] if baselines else ""  # what the page shows differences to until another is chosen
    tables = [_table(number, table, shared, trained, chosen) for number, table in enumerate(comparison.tables)]
    groups: dict[str, list[dict[str, Any]]] = {}
    for table in tables:
        groups.setdefault(table["group"], []).append(table)
    return environment.get_template("page.html.j2").render(
        groups=groups,
        facts=_facts(comparison),
        verdicts=[
            {**asdict(verdict), "comparisons": verdict.comparisons, "mean": words.points(verdict.mean)}
            for verdict in comparison.verdicts
        ],
        legend=_unbroken(words.LEGEND),
        baselines=baselines,
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


def _unbroken(text: str) -> str:
    """Keep a percent sign on the line of its number."""
    return text.replace(" %", "\u00a0%")


def safe_json(value: object) -> Markup:
    """Return JSON that cannot end its <script> element or open a comment in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


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


def _table(number: int, table: Table, shared: Shared, trained: Trained, reference: str) -> dict[str, Any]:
    costs = {method: words.cost(cost) for method, cost in table.costs.items()}
    shown = [key for key in ("images/s", "time", "GPU-hours", "memory") if any(cost[key] for cost in costs.values())]
    raw = {method: raw_cost(cost) for method, cost in table.costs.items()}
    colours = colours_of(table)
    rows = []
    for row, method in enumerate(table.methods):
        standing = table.standings[method]
        against = next((counts for base, counts in standing.tally.items() if base.kind == reference), None)
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
                "tally": words.tally(against) if against else "",
                "order": tally_order(against),
                "costs": [(costs[method][key], raw[method][key]) for key in shown],
            }
        )
    return {
        "id": number,
        "group": table.group,
        "model": table.student.model,
        "teaches": table.teaches,
        "data": words.pretraining(table) if table.student.pretrain_data else "",
        "recipe": table.student.pretrain_recipe,
        "tasks": _tasks(table),
        "columns": [_column(setting, table) for setting in table.settings],
        "rows": rows,
        "costs": shown,
        "tallied": any(standing.tally for standing in table.standings.values()),
        "ranked": any(standing.rank is not None for standing in table.standings.values()),
        "complete": table.complete,
        "power": _unbroken(table.power),
        "tests": table.tests,
        "evidence": safe_json(evidence(table, shared, trained)),
    }


def _tasks(table: Table) -> list[dict[str, Any]]:
    """Group neighbouring columns of one task under one heading."""
    groups: list[dict[str, Any]] = []
    for setting in table.settings:
        key = (setting.task, setting.version)
        if not groups or groups[-1]["key"] != key:
            groups.append({"key": key, "name": setting.task, "version": setting.version, "columns": 0})
        groups[-1]["columns"] += 1
    return groups


def _column(setting: Setting, table: Table) -> dict[str, Any]:
    return {"task": setting.task, "name": words.column(setting, table.settings), "metric": words.metric(setting)}


def _shown_cell(name: str, cell: TableCell | None, reference: str) -> dict[str, Any] | None:
    if cell is None:
        return None
    found = next((item for item in cell.differences if item.baseline.kind == reference), None)
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
