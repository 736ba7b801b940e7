"""What the rows of a table took: shown only where all of their runs recorded it, on equal hardware."""

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from cskd_bench.record import Record
from cskd_bench.report.selection import Method, Setting
from cskd_bench.report.tables import TableCell, TableCost

NOTHING: Final = TableCost(0.0, 0.0, 0.0, 0, 0.0)
_RECORDED: Final[Mapping[str, Callable[[Record], bool]]] = {  # whether a record holds what a column shows
    "images/s": lambda record: record.cost.images_per_second > 0,
    "time": lambda record: record.cost.seconds > 0 and _labels_are_counted(record),
    "GPU-hours": lambda record: record.cost.gpu_hours > 0,
    "peak memory": lambda record: record.cost.peak_memory_bytes > 0,
}


def table_costs(methods: Sequence[Method], cells: Sequence[TableCell]) -> tuple[dict[Method, TableCost], str]:
    """Return what one run of each row takes, and a sentence where something is left out; 0 is not shown.

    Only columns that every row has are counted, each once: other protocols would take other times.
    """
    records = [record for cell in cells for record in cell.records]
    shared = _shared_columns(methods, cells)
    reason = _unlike(records, one_row=len(methods) == 1) or ("" if shared else "no column has all of its methods")
    if reason:
        return dict.fromkeys(methods, NOTHING), f"Costs are not shown: {reason}."
    held = {name: [recorded(record) for record in records] for name, recorded in _RECORDED.items()}
    shown = {name for name, found in held.items() if all(found)}
    missing = [name for name, found in held.items() if any(found) and name not in shown]
    costs = {
        method: _cost([cell.records for cell in cells if cell.method == method and cell.setting in shared], shown)
        for method in methods
    }
    return costs, f"Not every run recorded it, so it is not shown: {', '.join(missing)}." if missing else ""


def _shared_columns(methods: Sequence[Method], cells: Sequence[TableCell]) -> set[Setting]:
    return set.intersection(*({cell.setting for cell in cells if cell.method == method} for method in methods))


def _unlike(records: Sequence[Record], *, one_row: bool) -> str:
    """Say why what records took cannot be compared; a row alone need not say on what, but must be of one kind."""
    unknown = sum(not record.hardware.known for record in records)
    if unknown and not one_row:
        which = "the" if unknown == len(records) else f"{unknown} of the {len(records)}"
        return f"{which} records do not say on what hardware they were made"
    if len({(record.hardware.speed, record.device) for record in records}) > 1:
        return "the runs were made on different hardware"
    counted = {(record.protocol, record.cost.evaluation_seconds > 0) for record in records}
    if len(counted) > len({protocol for protocol, _ in counted}):  # an older release counted training alone
        return "some of the runs count their evaluations and some do not"
    return ""


def _labels_are_counted(record: Record) -> bool:
    return record.labels_from != "bank" or record.cost.labelling_seconds > 0


def _cost(columns: Sequence[Sequence[Record]], shown: Collection[str]) -> TableCost:
    """Average what is shown over the columns of a row, each of which is the mean of its records; memory is the peak."""

    def mean(quantity: Callable[[Record], float], name: str) -> float:
        means = [statistics.fmean(quantity(record) for record in records) for records in columns]
        return statistics.fmean(means) if name in shown else 0.0

    peaks = [record.cost.peak_memory_bytes for records in columns for record in records]
    return TableCost(
        seconds=mean(lambda record: record.cost.seconds, "time"),
        images_per_second=mean(lambda record: record.cost.images_per_second, "images/s"),
        gpu_hours=mean(lambda record: record.cost.gpu_hours, "GPU-hours"),
        peak_memory_bytes=max(peaks) if "peak memory" in shown else 0,
        labelling_seconds=mean(lambda record: record.cost.labelling_seconds, "time"),
    )
