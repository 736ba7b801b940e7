"""One downstream cell from checkpoint to record."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cskd_bench.device import device_name, gpu_hours, peak_memory
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.locks import alone
from cskd_bench.engine.provenance import code_ref, command_line, now, versions
from cskd_bench.engine.results import finished_record, write_predictions
from cskd_bench.errors import UserError
from cskd_bench.models.checkpoints import Loaded, load_checkpoint
from cskd_bench.record import Cost, Record, TaskRef, record_id, write_record
from cskd_bench.schema import fingerprint
from cskd_bench.task import TaskSpec
from cskd_bench.transfer import evaluate, finetune, knn, kshot, linear, lowlabel
from cskd_bench.transfer.cell import Cell, Outcome, open_split
from cskd_bench.transfer.checks import check_splits, check_whole

PROTOCOLS: dict[str, Callable[[Cell], Outcome]] = {
    "finetune": finetune.run,
    "linear": linear.run,
    "knn": knn.run,
    "kshot": kshot.run,
    "lowlabel": lowlabel.run,
    "evaluate": evaluate.run,
}


@dataclass(frozen=True)
class Plan:
    """One downstream cell before anything is computed."""

    spec: TaskSpec
    protocol: str
    seed: int
    model: Loaded
    recipe: dict[str, Any]
    name: str  # of its record
    written: Path  # where its record is, or will be


def plan(
    spec: TaskSpec,
    protocol: str,
    checkpoint: Path,
    seed: int,
    *,
    results: Path,
    model: str = "",
    weights: Literal["raw", "ema"] = "raw",
) -> Plan:
    """Load a cell's checkpoint and name its record; UserError for a protocol that the task has not."""
    _check_protocol(spec, protocol)
    loaded = load_checkpoint(checkpoint, model=model, weights=weights, image_size=spec.image_size)
    recipe = {"pretrain": loaded.checkpoint.pretrain_recipe, "protocol": protocol, "task": spec.identity()}
    identity = {**recipe, "pretrain": loaded.stated_recipe(), **loaded.weights_identity(), "seed": seed}
    name = record_id(spec.name, protocol, loaded.method.kind, loaded.checkpoint.run, f"s{seed}", identity)
    return Plan(spec, protocol, seed, loaded, recipe, name, results / "records" / f"{name}.json")


def transfer(
    spec: TaskSpec,
    protocol: str,
    checkpoint: Path,
    seed: int,
    *,
    results: Path,
    work: Path,
    ranks: Ranks,
    model: str = "",
    weights: Literal["raw", "ema"] = "raw",
    workers: int = 4,
    command: str | None = None,
) -> Record:
    """Run one protocol of a task on a checkpoint and write its record; a finished cell is not run again.

    `command` is what the record names instead of this process's own.

    Of two processes at the same cell, one waits and reads the other's record. UserError for data that the
    task cannot be scored on (missing, of other or too few classes, with test images in train), and for a
    finished cell whose images are others now.
    """
    cell_plan = ranks.together(
        lambda: plan(spec, protocol, checkpoint, seed, results=results, model=model, weights=weights)
    )
    ranks.same("cell", {"record": cell_plan.name})
    folder = work / cell_plan.name
    cell = Cell(spec, cell_plan.model, seed, folder, work / "features", ranks, workers)
    finished = ranks.on_main(lambda: _finished(cell_plan, cell))
    if finished is not None:
        return finished
    with alone(work / "locks" / cell_plan.name, ranks):
        finished = ranks.on_main(lambda: _finished(cell_plan, cell))
        if finished is not None:
            return finished
        note = ranks.together(lambda: _checked(spec, protocol, cell))
        ranks.on_main(lambda: folder.mkdir(parents=True, exist_ok=True))
        outcome = PROTOCOLS[protocol](cell)
        record = _record(cell_plan, cell, outcome, note)
        record = record.model_copy(update={"command": command or record.command})
        return ranks.on_main(lambda: _written(record, outcome, folder, results / "records"))


def _written(record: Record, outcome: Outcome, folder: Path, records: Path) -> Record:
    """Write a cell's predictions and record, and take its working folder away."""
    record = record.model_copy(update={"per_example": write_predictions(records, record.id, outcome.predictions)})
    write_record(records, record)
    shutil.rmtree(folder, ignore_errors=True)
    return record


def expand(
    specs: Sequence[TaskSpec], protocols: Sequence[str], seeds: Sequence[int]
) -> list[tuple[TaskSpec, str, int]]:
    """Return every (task, protocol, seed) in the order of running; no protocols: all of each task."""
    for spec in specs:
        for protocol in protocols:
            _check_protocol(spec, protocol)
    return [(spec, protocol, seed) for spec in specs for protocol in protocols or spec.protocols for seed in seeds]


def describe(cell_plan: Plan) -> str:
    """Say in one line what a cell will do, with its data opened: sizes, classes, and whether its record is there."""
    data = cell_plan.spec.data
    splits = [data.test] if cell_plan.protocol == "evaluate" else [data.train, data.test]
    try:
        sizes = ", ".join(f"{_short(split)} {len(open_split(data, split)):,} images" for split in splits)
    except UserError as error:
        sizes = f"data not ready: {error}"
    state = "done" if cell_plan.written.exists() else "to do"
    size = cell_plan.model.image_size
    return (
        f"{cell_plan.spec.name} {cell_plan.protocol} seed {cell_plan.seed}: {state}; {size} px, {sizes}, "
        f"{data.num_classes} classes, {cell_plan.spec.metric}; record {cell_plan.name}"
    )


def _short(split: str) -> str:
    parts = split.split("+")
    return split if len(parts) < 4 else f"{parts[0]} ... {parts[-1]} ({len(parts)} parts)"


def _check_protocol(spec: TaskSpec, protocol: str) -> None:
    if protocol not in spec.protocols:
        raise UserError(f"task {spec.name} has no protocol {protocol!r}; it has {', '.join(spec.protocols)}")


def _checked(spec: TaskSpec, protocol: str, cell: Cell) -> str:
    """Return a note for the record; UserError for splits that no number should be made from."""
    if protocol == "evaluate":
        check_whole(spec, "test", cell.test)
        return ""
    return check_splits(spec, cell.train, cell.test)


def _finished(plan: Plan, cell: Cell) -> Record | None:
    """Return the record of a cell that is finished, None for another."""
    if not plan.written.exists():
        return None
    try:
        images = _data_identity(plan, cell)
    except UserError:
        images = ""
    return finished_record(plan.written, images, plan.spec.data.root)


def _data_identity(plan: Plan, cell: Cell) -> str:
    splits = [cell.test] if plan.protocol == "evaluate" else [cell.train, cell.test]
    return " ".join(split.identity for split in splits)


def _record(plan: Plan, cell: Cell, outcome: Outcome, note: str) -> Record:
    spec, loaded, device = plan.spec, plan.model, cell.ranks.device
    data = {"identity": _data_identity(plan, cell)}
    return Record(
        id=plan.name,
        created=now(),
        task=TaskRef(
            name=spec.name,
            version=spec.version,
            fingerprint=spec.fingerprint(),
            metric=spec.metric,
            group=spec.group,
        ),
        protocol=plan.protocol,
        method=loaded.method,
        model=loaded.model,
        checkpoint=loaded.checkpoint,
        seed=plan.seed,
        recipe=fingerprint(plan.recipe),
        config={"task": spec.identity(), "data": data, "pretrain": loaded.pretrain_identity()},
        metrics=outcome.predictions.metrics() | outcome.metrics,
        examples=len(outcome.predictions.label),
        curve=tuple(outcome.curve),
        code=code_ref(),
        versions=versions(),
        device=device_name(device),
        command=command_line(),
        cost=Cost(
            seconds=outcome.seconds,
            images_per_second=outcome.images_per_second,
            gpu_hours=gpu_hours(outcome.seconds, cell.ranks.world, device),
            peak_memory_bytes=outcome.peak_memory_bytes or peak_memory(device),
        ),
        note=note,
    )
