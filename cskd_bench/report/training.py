"""What pretraining records hold of their last epoch, by method: described, not tested."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cskd_bench.record import Record
from cskd_bench.report.selection import Method, Setting
from cskd_bench.report.tables import Table, TableCell


@dataclass(frozen=True, slots=True)
class Quantity:
    """A column: its head with the unit, and how to read and write it."""

    head: str
    read: Callable[[Record], float | None]
    scale: int  # 100 for what is a fraction
    digits: int
    sign: str = ""  # "+": differences


def _last(name: str) -> Callable[[Record], float | None]:
    """Return what reads a quantity of the last epoch, None where the record has none."""

    def read(record: Record) -> float | None:
        found = record.curve[-1].get(name, math.nan) if record.curve else math.nan
        return found if math.isfinite(found) else None

    return read


def _train(record: Record) -> float | None:
    return record.metrics.get("train_top1", _last("train_top1")(record))


def _gap(record: Record) -> float | None:
    """Return what the raw weights score more on training images than on validation images."""
    train, top1 = _train(record), record.metrics.get("top1")
    return None if train is None or top1 is None or record.checkpoint.weights != "raw" else train - top1


QUANTITIES: Final = (
    Quantity("top-1 on training images, %", _train, 100, 2),
    Quantity("gap to top-1 on validation images, points", _gap, 100, 2, "+"),
    Quantity("patches of up to 64 validation images that name the image's label, %", _last("patch_top1"), 100, 1),
    Quantity("patches of logged batches that agree with the fused labels, %", _last("spatial_agreement"), 100, 1),
    Quantity("attention distance on up to 64 validation images, pixels", _last("attention_distance"), 1, 1),
)


def training_table(table: Table, setting: Setting) -> tuple[list[str], list[tuple[Method, list[str]]]]:
    """Return the heads and rows of a pretraining's quantities; those that no record has are left out."""
    cells = [(method, table.cells[method, setting]) for method in table.methods if (method, setting) in table.cells]
    columns = [(item, [_written(item, cell) for _, cell in cells]) for item in QUANTITIES]
    shown = [(item.head, column) for item, column in columns if any(text != "–" for text in column)]
    rows = [(method, [column[number] for _, column in shown]) for number, (method, _) in enumerate(cells)]
    return [head for head, _ in shown], rows if shown else []


def _written(item: Quantity, cell: TableCell) -> str:
    """Write a quantity over pretraining seeds, as scores are: `71.92 ± 0.53 (4)`."""
    by_seed = [
        [value for record in records if (value := item.read(record)) is not None] for records in cell.by_seed.values()
    ]
    values = [item.scale * statistics.fmean(found) for found in by_seed if found]
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):{item.sign}.{item.digits}f}".replace("-", "−")
    spread = f" ± {statistics.stdev(values):.{item.digits}f}" if len(values) > 1 else ""
    return f"{mean}{spread} ({len(values)})"
