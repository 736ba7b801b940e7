"""From what a cell is and what it came to, to its record: the one place where records are made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cskd_bench.cells.cell import Outcome
from cskd_bench.cells.results import write_pictures, write_predictions
from cskd_bench.device import device_name, gpu_hours, peak_memory
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.provenance import PACKAGES, now, versions
from cskd_bench.record import CheckpointRef, CodeRef, Cost, MethodRef, ModelRef, Record, TaskRef, write_record


@dataclass(frozen=True)
class Subject:
    """What a record is about, known before anything is computed."""

    id: str
    task: TaskRef
    protocol: str
    method: MethodRef
    model: ModelRef
    checkpoint: CheckpointRef
    seed: int
    recipe: str
    config: dict[str, Any]
    code: CodeRef  # as it was when the cell began: a long run outlives a checkout
    command: str


def keep(subject: Subject, outcome: Outcome, ranks: Ranks, records: Path) -> Record:
    """Write a cell's side files and record, and return the record; UserError where one of that id is there."""
    predictions = outcome.predictions
    record = Record(
        id=subject.id,
        created=now(),
        task=subject.task,
        protocol=subject.protocol,
        method=subject.method,
        model=subject.model,
        checkpoint=subject.checkpoint,
        seed=subject.seed,
        recipe=subject.recipe,
        config=subject.config | outcome.config,
        metrics=(predictions.metrics() if predictions else {}) | outcome.metrics,
        examples=len(predictions.label) if predictions else outcome.scored,
        per_example=write_predictions(records, subject.id, predictions),
        curve=tuple(outcome.curve),
        pictures=write_pictures(records, subject.id, outcome.pictures),
        code=subject.code,
        versions=versions((*PACKAGES, *outcome.packages)),
        device=device_name(ranks.device),
        command=subject.command,
        cost=Cost(
            seconds=outcome.seconds,
            images_per_second=outcome.images_per_second,
            gpu_hours=gpu_hours(outcome.seconds, ranks.world, ranks.device),
            peak_memory_bytes=outcome.peak_memory_bytes or peak_memory(ranks.device),
            labelling_seconds=outcome.labelling_seconds,
        ),
        note=outcome.note,
    )
    write_record(records, record)
    return record
