"""The gate: whether anything in a setting could tell methods apart, asked of runs without CSKD alone.

It is the gate that docs/evidence_small_data.md registered before its runs, with the same two numbers.
"""

from typing import Final

from cskd_bench.report.tables import Table, TableCell
from cskd_bench.report.teachers import same_teacher
from cskd_bench.schema import StrictModel

GAP: Final = 0.15  # top-1 on training images less top-1 on validation images, without a teacher
CONTROL: Final = 0.02  # top-1 of the positive control less that of no teacher
CONTROL_METHOD: Final = "kd-standardised"
NO_TEACHER: Final = "supervised"


class Gate(StrictModel):
    """What decides it; shares from 0 to 1, means over seeds. None: not measured."""

    validation: float | None = None  # top-1 without a teacher
    training: float | None = None  # the same students on their training images
    seeds: int = 0
    control: float | None = None  # paired by seed
    control_seeds: int = 0

    @property
    def gap(self) -> float | None:
        """How much better a student without a teacher is on its training images."""
        return None if self.validation is None or self.training is None else self.training - self.validation

    @property
    def is_open(self) -> bool | None:
        """Whether one of the two conditions holds; None without a score on training images and by no control.

        A control that was not run opens nothing.
        """
        if self.control is not None and self.control >= CONTROL:
            return True
        return None if self.gap is None else self.gap >= GAP


def find_cell(table: Table, label: str, teacher: str) -> TableCell | None:
    """Return the cell of a method in a pretraining table, with that teacher if it has one."""
    found = (
        cell
        for (method, _), cell in table.cells.items()
        if cell.setting.weights != "ema"
        and method.label == label
        and (label == NO_TEACHER or same_teacher(method.teacher, teacher))
    )
    return next(found, None)


def gate_of(table: Table, teacher: str) -> Gate:
    """Read the gate of a pretraining table, with the control of that teacher.

    Everything is None where nothing without a teacher was run.
    """
    alone, control = find_cell(table, NO_TEACHER, teacher), find_cell(table, CONTROL_METHOD, teacher)
    if alone is None:
        return Gate()
    shared = [seed for seed in alone.scores if control is not None and seed in control.scores]
    gains = [control.scores[seed] - alone.scores[seed] for seed in shared] if control is not None else []
    return Gate(
        validation=alone.mean,
        training=_training(alone),
        seeds=alone.seeds,
        control=sum(gains) / len(gains) if gains else None,
        control_seeds=len(gains),
    )


def _training(cell: TableCell) -> float | None:
    """Return the mean top-1 on training images; None where a seed's record lacks it, as older ones do."""
    found = [record.metrics.get("train_top1") for records in cell.by_seed.values() for record in records]
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known and len(known) == len(found) else None
