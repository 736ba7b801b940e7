"""Every protocol: which kind of cell it works on, what it does, and how much there is to do."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cskd_bench.cells.cell import Cell, Outcome
from cskd_bench.data.open import open_split
from cskd_bench.detection import run as detection
from cskd_bench.detection.cell import DetectionCell
from cskd_bench.errors import UserError
from cskd_bench.record import Record
from cskd_bench.task import Protocol, TaskSpec
from cskd_bench.transfer import (
    evaluate,
    finetune,
    knn,
    kshot,
    linear,
    lowlabel,
    multilabel,
    multilabel_cell,
    segment,
    segment_cell,
)
from cskd_bench.transfer.cell import ImageCell, ScoringCell
from cskd_bench.transfer.checks import check_data
from cskd_bench.transfer.kept import kept_folder
from cskd_bench.transfer.size import describe_finetuning, size_of_finetuning

Size = Callable[[TaskSpec, int, Path], tuple[int, int]]  # task, seed, working folder -> steps, images


def size_of_probe(spec: TaskSpec, seed: int, work: Path) -> tuple[int, int]:
    """Return (0, images): features are computed, nothing is trained by steps."""
    return 0, sum(len(open_split(spec.data, split)) for split in (spec.data.train, spec.data.test))


def size_of_scoring(spec: TaskSpec, seed: int, work: Path) -> tuple[int, int]:
    """Return (0, images of test)."""
    return 0, len(open_split(spec.data, spec.data.test))


@dataclass(frozen=True)
class Procedure:
    """A protocol in code. `run` takes a cell of the kind `cell`; ranks call it together."""

    run: Callable[[Any], Outcome]
    cell: type[Cell] = ImageCell
    size: Size = size_of_probe
    look: Callable[[TaskSpec], str] = check_data  # what `tasks validate` says of the data
    keeps_weights: bool = False  # whether the trained student can stay as a run folder
    takes: Callable[[Any], str] | None = None  # says of a cell what it will take, beside its images
    imports: Callable[[], tuple[str, ...]] = tuple  # modules that its cells load, beside those of all transfers


PROTOCOLS: dict[Protocol, Procedure] = {
    "finetune": Procedure(finetune.run, size=size_of_finetuning, keeps_weights=True, takes=describe_finetuning),
    "linear": Procedure(linear.run),
    "knn": Procedure(knn.run),
    "kshot": Procedure(kshot.run),
    "lowlabel": Procedure(lowlabel.run),
    "detect": Procedure(detection.run, DetectionCell, detection.size, detection.look, imports=detection.imports),
    "segment": Procedure(segment.run, segment_cell.SegmentCell, segment_cell.size, segment_cell.look),
    "multilabel": Procedure(multilabel.run, multilabel_cell.MultilabelCell, multilabel_cell.size, multilabel_cell.look),
    "evaluate": Procedure(evaluate.run, ScoringCell, size_of_scoring),
}


def procedure(spec: TaskSpec, protocol: str) -> Procedure:
    """Return the code of one of a task's protocols; UserError for one that the task has not."""
    for name in spec.protocols:
        if name == protocol:
            return PROTOCOLS[name]
    raise UserError(f"task {spec.name} has no protocol {protocol!r}; it has {', '.join(spec.protocols)}")


def describe_size(cell: Cell) -> str:
    """Say in one line what a cell will take, or why that is not known; empty for a protocol that does not say it."""
    takes = procedure(cell.spec, cell.protocol).takes
    try:
        return f"  {takes(cell)}" if takes else ""
    except UserError as error:
        return f"  size not known: {error}"


def say_weights(record: Record, spec: TaskSpec, work: Path) -> str:
    """Say where a finished cell's trained student is, or that it was not kept; empty for a protocol that keeps none."""
    if not procedure(spec, record.protocol).keeps_weights:
        return ""
    folder = kept_folder(record, work)
    if folder is None:
        return f"  its weights were not kept in {work}; to train again, give another --results folder"
    return f"  weights: {folder} (a run folder for --checkpoint)"
