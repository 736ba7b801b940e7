"""Pretraining: build what a configuration describes, train it, leave a run folder and a record."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from cskd_bench.bank.labeller import labelling_teacher
from cskd_bench.config import PretrainConfig, method_label
from cskd_bench.data.open import open_source
from cskd_bench.data.randomness import Stream, integer_seed
from cskd_bench.data.sources import Source
from cskd_bench.device import device_name, enough_memory, gpu_hours
from cskd_bench.engine.checkpoint import sync, write_atomically
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.job import Fit, Job
from cskd_bench.engine.locks import alone
from cskd_bench.engine.provenance import code_ref, command_line, difference, now, versions
from cskd_bench.engine.results import write_predictions
from cskd_bench.engine.state import Stop, stop_signals
from cskd_bench.engine.targets import NoTargets, TargetProvider, TeacherTargets
from cskd_bench.engine.training import fit
from cskd_bench.errors import UserError
from cskd_bench.methods import METHODS
from cskd_bench.models.students import Student, build_student
from cskd_bench.models.teachers import is_another_teacher, teacher_identity
from cskd_bench.models.weights import plain_state
from cskd_bench.record import (
    CheckpointRef,
    Cost,
    MethodRef,
    ModelRef,
    Record,
    TaskRef,
    read_record,
    record_id,
    sha256_file,
    write_record,
)
from cskd_bench.schema import fingerprint


def pretrain(
    config: PretrainConfig,
    runs: Path,
    results: Path,
    ranks: Ranks,
    targets: TargetProvider | None = None,
    command: str | None = None,
    stop: Stop | None = None,
) -> Record:
    """Pretrain one student and return its record; a finished run is not trained again.

    `targets` replaces the teacher (a bank); `command` is what the record names instead of this process's own; `stop`
    is a request that may have come before.
    Of two processes at the same run, one waits and reads the other's record. Raises Interrupted when asked to
    stop, and UserError.
    """
    with enough_memory(), stop_signals(stop) as asked, alone(runs / "locks" / config.name, ranks, asked):
        return _pretrain(config, runs, results, ranks, targets, command, asked)


def _pretrain(
    config: PretrainConfig,
    runs: Path,
    results: Path,
    ranks: Ranks,
    targets: TargetProvider | None,
    command: str | None,
    stop: Stop,
) -> Record:
    finished = runs / config.name / "run.json"
    record = ranks.on_main(lambda: _finished_record(finished, config, results) if finished.exists() else None)
    if record is not None:
        return record
    code = code_ref()  # as it is now: a long run outlives a checkout
    job = ranks.together(lambda: _job(config, runs / config.name, ranks, targets))
    ranks.on_main(lambda: _begin(job, results / "records" / f"{_record_id(config, job.identity)}.json"))
    result = fit(job, ranks, stop)
    record = _record(config, result, job, ranks)
    record = record.model_copy(update={"command": command or record.command, "code": code})
    return ranks.on_main(lambda: _finish(job, result, config, record, results / "records"))


def _job(config: PretrainConfig, folder: Path, ranks: Ranks, targets: TargetProvider | None) -> Job:
    """Build on this rank what a configuration describes; `targets` replaces the teacher."""
    train = open_source(config.data, config.data.train)
    val = open_source(config.data, config.data.val)
    _check_classes(train, val)
    identity = config.identity()
    identity["data"]["identity"] = f"{train.identity} {val.identity}"
    student = initial_student(config)
    if targets is None:
        targets = _teacher_targets(config, train.classes, ranks)
    if METHODS[config.method.kind].needs_teacher and config.teacher.weights:
        identity["teacher"]["weights"] = targets.teacher
    if targets.variant:
        identity["variant"] = targets.variant
    return Job(
        title=config.name,
        student=student,
        method=config.method,
        targets=targets,
        train=train,
        val=val,
        data=config.data,
        recipe=config.recipe,
        run=config.run,
        view_size=config.view_size,
        image_size=config.student.image_size,
        seed=config.seed,
        folder=folder,
        identity=identity,
        teacher_precision=config.teacher.precision,
    )


def _begin(job: Job, record: Path) -> None:
    """Make the run's folder; say where its record is there already, so that only the same weights can stand beside it.

    UserError for a folder that cannot be made.
    """
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{job.folder}: cannot be made: {error.strerror}") from error
    if record.exists():
        print(
            f"{record}: is there already; a run that ends with other weights will not replace it. "
            "Give another --results folder to keep both",
            file=sys.stderr,
        )


def _check_classes(train: Source, val: Source) -> None:
    """Refuse validation classes that would be scored under the numbers of other training classes."""
    for number, (ours, theirs) in enumerate(zip(train.classes, val.classes, strict=False)):
        if ours != theirs:
            raise UserError(
                f"data.val: class {number} is {theirs!r}, in data.train {ours!r}; both need the same classes"
            )
    if len(val.classes) > len(train.classes):
        raise UserError(f"data.val: has {len(val.classes)} classes, data.train has {len(train.classes)}")


def _teacher_targets(config: PretrainConfig, classes: Sequence[str], ranks: Ranks) -> TargetProvider:
    if not METHODS[config.method.kind].needs_teacher:
        return NoTargets()
    compiled = config.run.compile != "none"
    teacher = labelling_teacher(config.teacher, classes, config.data.num_classes, ranks.device, compiled=compiled)
    return TeacherTargets(teacher, teacher_identity(config.teacher), config.method)


def initial_student(config: PretrainConfig) -> Student:
    """Build the student with the weights that the seed gives it."""
    torch.manual_seed(integer_seed(config.seed, Stream.MODEL))
    return build_student(config.student, config.data.num_classes, METHODS[config.method.kind].heads)


def _record_id(config: PretrainConfig, identity: dict[str, object]) -> str:
    return record_id(config.data_name, "pretrain", config.method.kind, config.student.name, f"s{config.seed}", identity)


def _record(config: PretrainConfig, result: Fit, job: Job, ranks: Ranks) -> Record:
    """Describe a finished run; the SHA-256 is filled in when its weights are on disk."""
    predictions, last, targets, identity = result.predictions, result.curve[-1], job.targets, job.identity
    assert predictions is not None
    metrics = predictions.metrics() | ({"ema_top1": last["ema_top1"]} if "ema_top1" in last else {})
    data_name = config.data_name
    return Record(
        id=_record_id(config, identity),
        created=now(),
        task=TaskRef(
            name=data_name,
            version=1,
            fingerprint=fingerprint(config.data.model_dump(mode="json", exclude={"root"})),
            metric="top1",
            group="pretraining",
        ),
        protocol="pretrain",
        method=MethodRef(
            kind=config.method.kind,
            label=method_label(config.method) + targets.variant,
            teacher=targets.teacher,
            config=config.method.model_dump(mode="json"),
        ),
        model=ModelRef(
            name=config.model_name,
            image_size=config.student.image_size,
            parameters=sum(parameter.numel() for parameter in result.student.parameters()),
        ),
        checkpoint=CheckpointRef(
            run=config.name,
            weights="raw",
            sha256="",
            pretrain_seed=config.seed,
            pretrain_recipe=config.recipe_fingerprint(),
            pretrain_data=data_name,
        ),
        seed=config.seed,
        recipe=config.recipe_fingerprint(),
        config={"name": config.name, "run": config.run.model_dump(mode="json"), **identity},
        metrics=metrics,
        examples=len(predictions.label),
        per_example=None,
        curve=tuple(result.curve),
        code=code_ref(),
        versions=versions(),
        device=device_name(ranks.device),
        command=command_line(),
        cost=Cost(
            seconds=result.seconds,
            images_per_second=result.images_per_second,
            gpu_hours=gpu_hours(result.seconds, ranks.world, ranks.device),
            peak_memory_bytes=result.peak_memory_bytes,
            labelling_seconds=targets.labelling_seconds,
        ),
        note=targets.note,
    )


def _finish(job: Job, result: Fit, config: PretrainConfig, record: Record, records: Path) -> Record:
    """Write final weights, then the record, then run.json, whose presence says that the run is finished.

    A record that is there already stays, with its side file; UserError where it is of other weights.
    """
    hashes, folder = {}, job.folder
    for name, module in (("model", result.student), ("ema", result.ema)):
        if module is not None:
            hashes[name] = _save_weights(module, folder / f"{name}.safetensors")
    sync(folder)
    record = record.model_copy(update={"checkpoint": record.checkpoint.model_copy(update={"sha256": hashes["model"]})})
    written = records / f"{record.id}.json"
    if written.exists():
        record = _same_record(written, record)
    else:
        record = record.model_copy(update={"per_example": write_predictions(records, record.id, result.predictions)})
        write_record(records, record)
    summary = {
        "config": config.model_dump(mode="json"),
        "identity": record.config["data"]["identity"],
        "classes": list(job.train.classes),
        "sha256": hashes,
        "record": record.id,
        "method": record.method.model_dump(mode="json"),
    }
    write_atomically(folder / "run.json", (json.dumps(summary, indent=1) + "\n").encode())
    sync(folder)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return record


def _same_record(path: Path, record: Record) -> Record:
    """Read the record of an earlier run of the same settings; UserError where its weights were others."""
    earlier = read_record(path)
    if earlier.checkpoint.sha256 != record.checkpoint.sha256:
        raise UserError(
            f"{path}: is the record of {earlier.checkpoint.run}, a run of the same settings that ended with other "
            "weights (another machine, device or library rounds otherwise), and stays. Start this run again with "
            "another --results folder: it goes on from its last checkpoint"
        )
    return earlier


def _save_weights(module: torch.nn.Module, path: Path) -> str:
    temporary = path.with_name(f".{path.name}")
    try:
        save_file(plain_state(module), temporary)
        sync(temporary)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error}); the last checkpoint is kept") from error
    return sha256_file(path)


def read_summary(path: Path) -> tuple[dict[str, Any], PretrainConfig]:
    """Read run.json of a finished run, and its configuration; UserError where this release cannot read it."""
    try:
        summary = json.loads(path.read_text())
        return summary, PretrainConfig.model_validate_json(json.dumps(summary["config"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged, or of another release: {error}") from error


def _finished_record(path: Path, config: PretrainConfig, results: Path) -> Record:
    summary, then = read_summary(path)
    if changes := difference(then.identity(), config.identity()):
        raise UserError(f"{path.parent}: holds a finished run of another recipe: {changes}; choose another name")
    if is_another_teacher(config.teacher, summary["method"]["teacher"]):
        was, now_is = summary["method"]["teacher"], teacher_identity(config.teacher)
        raise UserError(
            f"{path.parent}: holds a finished run of teacher {was}, it is now {now_is}; choose another name"
        )
    return read_record(results / "records" / f"{summary['record']}.json")
