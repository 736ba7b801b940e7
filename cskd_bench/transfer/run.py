"""One downstream cell from checkpoint to record."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from cskd_bench.data.sources import open_source
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.provenance import code_ref, command_line, device_name, now, peak_memory, versions
from cskd_bench.engine.results import write_predictions
from cskd_bench.errors import UserError
from cskd_bench.models.checkpoints import Loaded, load_checkpoint
from cskd_bench.record import Cost, Record, TaskRef, read_record, record_id, write_record
from cskd_bench.schema import fingerprint
from cskd_bench.task import TaskSpec
from cskd_bench.transfer import finetune, knn, linear
from cskd_bench.transfer.cell import Cell, Outcome

PROTOCOLS: dict[str, Callable[[Cell], Outcome]] = {"finetune": finetune.run, "linear": linear.run, "knn": knn.run}


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
) -> Record:
    """Run one protocol of a task on a checkpoint and write its record; a finished cell is not run again."""
    if protocol not in spec.protocols:
        raise UserError(f"task {spec.name} has no protocol {protocol!r}; it has {', '.join(spec.protocols)}")
    loaded = load_checkpoint(checkpoint, model=model, weights=weights, image_size=spec.image_size)
    recipe = {"pretrain": loaded.checkpoint.pretrain_recipe, "protocol": protocol, "task": spec.identity()}
    identity = {**recipe, "checkpoint": loaded.checkpoint.sha256, "seed": seed}
    name = record_id(spec.name, protocol, loaded.method.kind, loaded.checkpoint.run, f"s{seed}", identity)
    written = results / "records" / f"{name}.json"
    if written.exists():
        return read_record(written)
    folder = work / name
    cell = Cell(
        spec=spec,
        model=loaded,
        seed=seed,
        train=open_source(spec.data, spec.data.train),
        test=open_source(spec.data, spec.data.test),
        folder=folder,
        ranks=ranks,
        workers=workers,
    )
    folder.mkdir(parents=True, exist_ok=True)
    outcome = PROTOCOLS[protocol](cell)
    record = _record(name, cell, protocol, outcome, fingerprint(recipe), loaded)
    if ranks.is_main:
        side = write_predictions(results / "records", name, outcome.predictions)
        record = record.model_copy(update={"per_example": side})
        write_record(results / "records", record)
        shutil.rmtree(folder, ignore_errors=True)
    ranks.barrier()
    return record


def _record(name: str, cell: Cell, protocol: str, outcome: Outcome, recipe: str, loaded: Loaded) -> Record:
    spec, device = cell.spec, cell.ranks.device
    hours = outcome.seconds / 3600 * cell.ranks.world if device.type == "cuda" else 0.0
    return Record(
        id=name,
        created=now(),
        task=TaskRef(name=spec.name, version=spec.version, fingerprint=spec.fingerprint(), metric=spec.metric),
        protocol=protocol,
        method=loaded.method,
        model=loaded.model,
        checkpoint=loaded.checkpoint,
        seed=cell.seed,
        recipe=recipe,
        config={"task": spec.identity(), "pretrain": loaded.pretrain_config},
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
            gpu_hours=hours,
            peak_memory_bytes=outcome.peak_memory_bytes or peak_memory(device),
        ),
    )
