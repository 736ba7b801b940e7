"""From what a cell is and what it came to, to its record: the one place where records are made."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cskd_bench.cells.cell import Outcome
from cskd_bench.cells.hardware import hardware
from cskd_bench.cells.results import write_pictures, write_predictions
from cskd_bench.device import PeakMemory, device_name, gpu_hours
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.provenance import PACKAGES, code_ref, lock, now, versions
from cskd_bench.errors import UserError
from cskd_bench.record import CheckpointRef, CodeRef, Cost, MethodRef, ModelRef, Record, TaskRef, write_record
from cskd_bench.record_migration import command_words


@dataclass(frozen=True)
class Beginning:
    """The code as it was when a cell began, which a long run outlives; the time (UTC), and memory counted from then."""

    code: CodeRef
    started: str
    memory: PeakMemory


def begin(ranks: Ranks) -> Beginning:
    """Note what a record says of a cell's beginning; called before anything is built or computed for it."""
    return Beginning(code_ref(), now(), PeakMemory(ranks.device))


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
    beginning: Beginning
    command: str


def keep(subject: Subject, outcome: Outcome, ranks: Ranks, records: Path) -> Record:
    """Write a cell's side files and record, and return the record.

    UserError where one of that id is there, and, with nothing written, for a score that is missing or not finite.
    """
    predictions, beginning = outcome.predictions, subject.beginning
    metrics = (predictions.metrics() if predictions else {}) | outcome.metrics
    _refuse_unscored(subject, metrics)
    record = Record(
        id=subject.id,
        created=now(),
        started=min(filter(None, (outcome.started, beginning.started))),
        resumptions=outcome.resumptions,
        task=subject.task,
        protocol=subject.protocol,
        method=subject.method,
        model=subject.model,
        checkpoint=subject.checkpoint,
        seed=subject.seed,
        recipe=subject.recipe,
        config=subject.config | outcome.config,
        metrics=metrics,
        examples=len(predictions.label) if predictions else outcome.scored,
        per_example=write_predictions(records, subject.id, predictions),
        curve=tuple(outcome.curve),
        pictures=write_pictures(records, subject.id, outcome.pictures),
        code=beginning.code,
        versions=versions((*PACKAGES, *outcome.packages)),
        lock=lock(),
        device=device_name(ranks.device),
        hardware=hardware(ranks, tf32=outcome.tf32),
        command=subject.command,
        argv=tuple(command_words(subject.command)),
        labels_from=outcome.labels_from,
        cost=Cost(
            seconds=outcome.seconds,
            images_per_second=outcome.images_per_second,
            gpu_hours=gpu_hours(outcome.seconds, ranks.world, ranks.device),
            peak_memory_bytes=beginning.memory.bytes(),
            labelling_seconds=outcome.labelling_seconds,
            evaluation_seconds=outcome.evaluation_seconds,
        ),
        note=outcome.note,
    )
    write_record(records, record)
    return record


def _refuse_unscored(subject: Subject, metrics: dict[str, float]) -> None:
    """UserError for a record that no table could show, and that would stand in the way of a better one."""
    if subject.task.metric not in metrics:
        raise UserError(f"{subject.id}: gave no {subject.task.metric}, so no record is written")
    if odd := [name for name, value in metrics.items() if not math.isfinite(value)]:
        raise UserError(f"{subject.id}: gave a {odd[0]} of {metrics[odd[0]]}, so no record is written")
