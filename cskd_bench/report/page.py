"""One offline HTML page: tables written here, evidence embedded as packed JSON and drawn by page.js on demand."""

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from cskd_bench.report import words
from cskd_bench.report.anchors import cell_anchor, primary_anchor, table_anchor
from cskd_bench.report.evidence import Shared, Trained, colours_of, evidence, raw_cost, tally_order
from cskd_bench.report.forest import STYLE, forest_part
from cskd_bench.report.primary import (
    EXPLORATORY,
    GATES,
    NO_PLAN,
    NUMBERS,
    QUESTION,
    band,
    notes,
    numbers,
    opening,
    summary,
    told,
    verdict,
)
from cskd_bench.report.published import Match, Published
from cskd_bench.report.rows import MATCH_HEAD, PUBLISHED_HEAD, match_rows, published_rows
from cskd_bench.report.selection import BASELINES, Setting
from cskd_bench.report.tables import Comparison, ContrastResult, Difference, Table, TableCell
from cskd_bench.report.titles import titles

SCRIPTS: Final = ("page.js", "charts.js", "evidence.js", "links.js")
NOT_SHOWN: Final = {"○": "n.s."}  # in full where there is room for a word
HERE: Final = Path(__file__).resolve().parent


def page(folder: Path, comparison: Comparison, published: Sequence[Published], matches: Sequence[Match]) -> str:
    """Return the page. Names are escaped by the template, embedded JSON is packed by `packed`, and scripts are
    tied to their hash by a content security policy, which also forbids every network request.
    """
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    style = (HERE / "page.css").read_text("utf-8") + STYLE
    script = "".join((HERE / name).read_text("utf-8") for name in SCRIPTS)
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
    tables = [
        _table(number, table, title, shared, trained, chosen)
        for number, (table, title) in enumerate(zip(comparison.tables, titles(comparison.tables), strict=True))
    ]
    groups: dict[str, list[dict[str, Any]]] = {}
    for table in tables:
        groups.setdefault(table["group"], []).append(table)
    declared = [_contrast(result) for result in (*comparison.primary, *comparison.exploratory)]
    return environment.get_template("page.html.j2").render(
        groups=groups,
        facts=_facts(comparison),
        **_primary(comparison),
        legend=_unbroken(words.legend(comparison.tables)),
        baselines=baselines,
        labels=sorted({method.label for table in comparison.tables for method in table.methods}),
        matches=match_rows(matches),
        match_head=MATCH_HEAD,
        published=published_rows(published),
        published_head=PUBLISHED_HEAD,
        notes=comparison.notes,
        left_out=comparison.left_out,
        shared=packed({"sections": shared.texts, "primary": declared}),
        style=Markup(style),
        script=Markup(script),
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
    )


def _unbroken(text: str) -> str:
    """Keep a percent sign on the line of its number."""
    return text.replace(" %", "\u00a0%")


def packed(value: object) -> Markup:
    """Return JSON as gzip in base64, which no name can leave; the same value always gives the same text."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode())


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _facts(comparison: Comparison) -> list[str]:
    cells = [cell for table in comparison.tables for cell in table.cells.values()]
    facts = [
        (comparison.records, "record"),
        (len({cell.method for cell in cells}), "method"),
        (len({table.student.model for table in comparison.tables if not table.teaches}), "student"),
        (len({cell.setting.task for cell in cells}), "task"),
        (sum(table.tests for table in comparison.tables), "paired test"),
    ]
    return [words.count(number, noun) for number, noun in facts] + [f"{len(comparison.left_out):,} left out"]


def _primary(comparison: Comparison) -> dict[str, Any]:
    """Return what opens the page: the first plan's contrasts with their plot, and the others for below."""
    first, rest = opening(comparison.primary)
    shown = {"opening": first, "further": rest}
    return {
        "question": QUESTION,
        "summary": summary(comparison.primary),
        "plans": notes(comparison.primary),
        "declared_plans": notes(comparison.exploratory),
        "no_plan": NO_PLAN,
        "exploratory": EXPLORATORY if comparison.primary else "Exploratory: paired differences",
        "planned": bool(comparison.primary),
        "declared": [_contrast(result) for result in comparison.exploratory],
        "declared_plot": Markup(forest_part(comparison.exploratory, comparison.exploratory)),
        **{name: [_contrast(result) for result in results] for name, results in shown.items()},
        **{f"{name}_plot": Markup(forest_part(results, comparison.primary)) for name, results in shown.items()},
    }


def _contrast(result: ContrastResult) -> dict[str, Any]:
    """Return a contrast as its evidence shows it."""
    facts = [*zip(NUMBERS[:-1], numbers(result), strict=False), ("band of equivalence", band(result))]
    smallest = "" if result.detectable is None else f"{100 * result.detectable:.1f} points"
    facts += [("detectable with 80 % power", smallest), ("interval over", result.interval_kind), ("plan", result.note)]
    return {
        "anchor": primary_anchor(result),
        "kind": result.answer,
        "verdict": verdict(result),
        "told": told(result),
        "family": result.family,
        "facts": [fact for fact in facts if fact[1]],
    }


# ---------------------------------------------------------------- what the template writes


def _table(number: int, table: Table, title: str, shared: Shared, trained: Trained, reference: str) -> dict[str, Any]:
    costs = {method: words.cost(cost) for method, cost in table.costs.items()}
    shown = [key for key in ("images/s", "time", "GPU-hours", "memory") if any(cost[key] for cost in costs.values())]
    raw = {method: raw_cost(cost) for method, cost in table.costs.items()}
    colours = colours_of(table)
    rows = []
    for row, method in enumerate(table.methods):
        standing = table.standings[method]
        against = next((counts for base, counts in standing.tally.items() if base.kind == reference), None)
        cells = [
            _shown_cell(f"{number}-{row}-{column}", table, table.cells.get((method, setting)), reference)
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
        "anchor": table_anchor(table),
        "title": title,
        "recipe": table.student.pretrain_recipe,
        "tasks": _tasks(table),
        "columns": [_column(setting, table) for setting in table.settings],
        "rows": rows,
        "costs": shown,
        "tallied": any(standing.tally for standing in table.standings.values()),
        "ranked": any(standing.rank is not None for standing in table.standings.values()),
        "complete": table.complete,
        "cost_note": table.cost_note,
        "gate": GATES[table.gate],
        "compared": any(cell.differences for cell in table.cells.values()),
        "power": _unbroken(table.power),
        "tests": table.tests,
        "evidence": packed(evidence(table, title, shared, trained)),
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


def _shown_cell(name: str, table: Table, cell: TableCell | None, reference: str) -> dict[str, Any] | None:
    if cell is None:
        return None
    found = next((item for item in cell.differences if item.baseline.kind == reference), None)
    return {
        "id": name,
        "anchor": cell_anchor(table, cell),
        "value": cell.mean,
        "mean": f"{100 * cell.mean:.2f}",
        "deviation": "" if cell.deviation is None else f"{100 * cell.deviation:.2f}",
        "seeds": cell.seeds,
        "best": cell.best,
        "mark": words.mark(found) if found else "",
        "difference": _shown_difference(found) if found else "",
    }


def _shown_difference(item: Difference) -> str:
    """Write a difference as the small line below a score."""
    mark = words.mark(item)
    return f"{NOT_SHOWN.get(mark, mark)} {words.points(item.mean)}"
