"""One detection cell from checkpoint to record: MMEngine's Runner trains, CocoMetric scores."""

import contextlib
import copy
import io
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cskd_bench.detection import operators
from cskd_bench.detection.annotations import CocoSplit, require_masks, usable_split
from cskd_bench.detection.pictures import write_pictures
from cskd_bench.detection.score import average_precision
from cskd_bench.detection.settings import StudentFacts, comparable, complete, has_masks, place
from cskd_bench.detection.splits import describe_splits, open_splits, splits_identity
from cskd_bench.device import device_name, gpu_hours, peak_memory
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.locks import alone
from cskd_bench.engine.provenance import (
    DETECTION_PACKAGES,
    PACKAGES,
    code_ref,
    command_line,
    now,
    versions,
)
from cskd_bench.engine.results import finished_record
from cskd_bench.errors import UserError
from cskd_bench.models.checkpoints import Loaded, load_checkpoint
from cskd_bench.record import Cost, Record, TaskRef, record_id, write_record
from cskd_bench.schema import fingerprint
from cskd_bench.task import TaskSpec


@dataclass(frozen=True)
class Plan:
    """One detection cell before anything is computed."""

    spec: TaskSpec
    seed: int
    model: Loaded
    train: CocoSplit
    test: CocoSplit
    config: Any  # mmengine's
    recipe: dict[str, Any]
    name: str  # of its record
    written: Path  # where its record is, or will be


def run_detection(
    spec: TaskSpec,
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
    """Train and score a detector on a checkpoint and write its record; a finished cell is not run again.

    `command` is what the record names instead of this process's own.
    An interrupted run goes on from its last whole epoch, as if it had not been interrupted. Raises UserError
    for missing packages, a checkpoint that is no plain ViT, and data that cannot be read.
    """
    cell = plan(spec, checkpoint, seed, results=results, work=work, ranks=ranks, model=model, weights=weights)
    if ranks.any(cell.written.exists()):
        return _finished(cell, ranks)
    with alone(work / "locks" / cell.name, ranks):
        if ranks.any(cell.written.exists()):
            return _finished(cell, ranks)
        return _run(cell, results, work / cell.name, ranks, workers, command)


def plan(
    spec: TaskSpec,
    checkpoint: Path,
    seed: int,
    *,
    results: Path,
    work: Path,
    ranks: Ranks,
    model: str = "",
    weights: Literal["raw", "ema"] = "raw",
) -> Plan:
    """Load a cell's checkpoint, open its splits, complete its configuration and name its record.

    UserError for missing packages or data, and for a checkpoint that is no plain ViT.
    """
    operators.install()
    loaded = load_checkpoint(checkpoint, model=model, weights=weights)
    facts = StudentFacts.of(loaded.student)
    train, test = ranks.on_main(lambda: open_splits(spec.data, work))
    config = complete(spec.detect, facts, train.classes(), seed)
    if has_masks(config):
        require_masks(train)
        require_masks(test)
    recipe = {
        "pretrain": loaded.checkpoint.pretrain_recipe,
        "protocol": "detect",
        "task": spec.identity(),
        "config": comparable(config),
    }
    identity = {**recipe, "pretrain": loaded.stated_recipe(), **loaded.weights_identity(), "seed": seed}
    name = record_id(spec.name, "detect", loaded.method.kind, loaded.checkpoint.run, f"s{seed}", identity)
    return Plan(spec, seed, loaded, train, test, config, recipe, name, results / "records" / f"{name}.json")


def describe(cell: Plan) -> str:
    """Say in one line what a cell will do, and whether its record is there."""
    state = "done" if cell.written.exists() else "to do"
    return (
        f"{cell.spec.name} detect seed {cell.seed}: {state}; {describe_splits(cell.train, cell.test)}, "
        f"{cell.spec.metric}; record {cell.name}"
    )


def _finished(cell: Plan, ranks: Ranks) -> Record:
    root = cell.spec.data.root or cell.spec.data.dataset
    return ranks.on_main(lambda: finished_record(cell.written, splits_identity(cell.train, cell.test), root))


def _run(cell: Plan, results: Path, folder: Path, ranks: Ranks, workers: int, command: str | None) -> Record:
    spec, config, loaded, name = cell.spec, cell.config, cell.model, cell.name
    images = ranks.on_main(lambda: splits_identity(cell.train, cell.test))  # as training begins
    skip, cap = spec.data.on_corrupt == "skip", spec.data.max_skipped
    (train, left_out), (test, unscored) = ranks.on_main(
        lambda: tuple(usable_split(split, folder, skip=skip, cap=cap) for split in (cell.train, cell.test))
    )
    place(config, train, test, folder, ranks=ranks, workers=workers, precision=spec.detect.precision)
    runner = _built(spec, config, loaded, ranks)
    began, first_epoch = time.perf_counter(), _epochs_done(folder)
    epochs_here = config.train_cfg.max_epochs - first_epoch
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its tables at every evaluation
        runner.train()  # scores after the last epoch
        if not epochs_here:
            runner.val()
    seconds = time.perf_counter() - began
    cost = Cost(
        seconds=seconds,
        images_per_second=len(runner.train_dataloader.dataset) * epochs_here / seconds,
        gpu_hours=gpu_hours(seconds, ranks.world, ranks.device),
        peak_memory_bytes=peak_memory(ranks.device),
    )

    def finish() -> Record:
        metrics: dict[str, float] = {}
        for kind in ("bbox", "segm") if has_masks(config) else ("bbox",):
            metrics |= average_precision(test.annotations, folder / f"predictions.{kind}.json", kind)
        boxes = folder / "predictions.bbox.json"
        record = Record(
            id=name,
            created=now(),
            task=TaskRef(
                name=spec.name,
                version=spec.version,
                fingerprint=spec.fingerprint(),
                metric=spec.metric,
                group=spec.group,
            ),
            protocol="detect",
            method=loaded.method,
            model=loaded.model,
            checkpoint=loaded.checkpoint,
            seed=cell.seed,
            recipe=fingerprint(cell.recipe),
            config={
                "task": spec.identity(),
                "data": {"identity": images},
                "pretrain": loaded.pretrain_identity(),
                "mmengine": cell.recipe["config"],
            },
            metrics=metrics,
            examples=len(runner.val_dataloader.dataset),
            curve=_curve(folder),
            pictures=write_pictures(results / "records", name, test, boxes, spec.detect.pictures),
            code=code_ref(),
            versions=versions((*PACKAGES, *DETECTION_PACKAGES)),
            device=device_name(ranks.device),
            command=command or command_line(),
            cost=cost,
            note=_note(spec, ranks, len(runner.val_dataloader.dataset), left_out, unscored, first_epoch),
        )
        write_record(results / "records", record)
        return record

    return ranks.on_main(finish)


def _built(spec: TaskSpec, config: Any, loaded: Loaded, ranks: Ranks) -> Any:
    """Build the Runner; UserError where a configuration of the user's own says what MMDetection does not know."""
    if not spec.detect.config.endswith(".py"):
        return build_runner(config, loaded, ranks)
    try:
        runner = build_runner(config, loaded, ranks)
        _ = runner.train_loop, runner.val_loop  # built when first asked for, data and metrics with them
        return runner
    except (TypeError, KeyError, ValueError, AttributeError, AssertionError) as error:
        raise UserError(f"{spec.detect.config}: MMDetection cannot build it: {error}") from error


def build_runner(config: Any, loaded: Loaded, ranks: Ranks) -> Any:
    """Build mmengine's Runner around a detector whose backbone is the loaded student."""
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.runner import Runner

    from cskd_bench.detection import components

    register_all_modules(init_default_scope=True)
    components.register()
    components.seed_everything(config.randomness.seed)
    described = copy.deepcopy(config.model)
    described.backbone.vit = loaded.student.model  # not in the configuration, which mmengine writes down as text
    detector = MODELS.build(described)
    return Runner(
        model=detector,
        work_dir=config.work_dir,
        train_dataloader=config.train_dataloader,
        val_dataloader=config.val_dataloader,
        train_cfg=config.train_cfg,
        val_cfg=config.val_cfg,
        optim_wrapper=config.optim_wrapper,
        param_scheduler=config.param_scheduler,
        val_evaluator=config.val_evaluator,
        default_hooks=config.default_hooks,
        custom_hooks=config.custom_hooks,
        resume=config.resume,
        launcher="pytorch" if ranks.world > 1 else "none",
        env_cfg=config.env_cfg,
        log_level=config.log_level,
        randomness=config.randomness,
        experiment_name=Path(config.work_dir).name,
        default_scope="mmdet",
        cfg=config,
    )


def _epochs_done(folder: Path) -> int:
    """Return how many epochs earlier processes have finished."""
    pointer = folder / "last_checkpoint"
    if not pointer.exists():
        return 0
    return int(Path(pointer.read_text().strip()).stem.removeprefix("epoch_"))


def _curve(folder: Path) -> tuple[dict[str, float], ...]:
    """Return one entry per epoch: mean training loss and, where it was scored, box AP."""
    noted = json.loads((folder / "curve.json").read_text())
    return tuple(noted[epoch] for epoch in sorted(noted, key=int))


def _note(
    spec: TaskSpec, ranks: Ranks, scored: int, left_out: list[str], unscored: list[str], resumed_from: int
) -> str:
    """Return what a reader must know beside the score; the description says where a task is only a smoke test."""
    parts = [f"{spec.description or spec.name}, scored on {scored} images"]
    if left_out or unscored:
        parts.append(f"{len(left_out)} training and {len(unscored)} validation images left out as unreadable")
    if spec.detect.precision != "fp32" and ranks.device.type != "cuda":
        parts.append("computed in fp32: no CUDA device")
    if resumed_from:
        parts.append(f"resumed after epoch {resumed_from}; seconds count from there")
    return "; ".join(parts)
