"""Fragment ids of the page: made from what a table, a cell or a contrast is, so that a link outlives its position."""

import hashlib
import json
from dataclasses import astuple

from cskd_bench.report.tables import ContrastResult, Table, TableCell


def table_anchor(table: Table) -> str:
    """Return the id of a table: `t-` and a hash of its group, student and recipe."""
    return _anchor("t", table.group, astuple(table.student))


def cell_anchor(table: Table, cell: TableCell) -> str:
    """Return the id of one cell's evidence: `c-` and a hash of its student, column and row."""
    return _anchor("c", astuple(table.student), astuple(cell.setting), astuple(cell.method))


def primary_anchor(result: ContrastResult) -> str:
    """Return the id of a primary contrast: `p-` and a hash of its plan and what it compares where."""
    return _anchor("p", result.plan, result.name, result.where)


def _anchor(kind: str, *identity: object) -> str:
    return f"{kind}-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]}"
