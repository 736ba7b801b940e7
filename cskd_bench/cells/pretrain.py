"""Pretraining: build what a configuration describes, train it, leave a run folder and a record."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from cskd_bench.cells.cell import Outcome
from cskd_bench.cells.locks import run_lock
from cskd_bench.cells.milestones import Milestones
from cskd_bench.cells.pretraining_splits import check_pretraining_splits, note_shared, open_splits
from cskd_bench.cells.recording import Beginning, Subject, begin, keep
from cskd_bench.compilation import resolve_compile
from cskd_bench.config import PretrainConfig, method_label
from cskd_bench.data.copies import number_images
from cskd_bench.data.notes import folder_note, join_notes, tell_folder_note
from cskd_bench.data.sources import Source
from cskd_bench.device import enough_memory
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.job import Fit, Job
from cskd_bench.engine.provenance import command_line, difference
from cskd_bench.engine.targets import TargetProvider, open_targets
from cskd_bench.engine.training import fit
from cskd_bench.errors import UserError
from cskd_bench.files import make_folder, refuse_unwritable, sync, write_file
from cskd_bench.models.run_summary import RunSummary, is_finished, read_run, write_run
from cskd_bench.models.students import initial_student
from cskd_bench.models.teachers import is_another_teacher, teacher_identity
from cskd_bench.models.weights import plain_state, save_tensors
from cskd_bench.record import (
    CheckpointRef,
    MethodRef,
    ModelRef,
    Record,
    TaskRef,
    read_record,
    record_id,
    sha256_file,
)
from cskd_bench.schema import fingerprint
from cskd_bench.stopping import Stop, stop_signals


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
    folder, records = runs / config.name, results / "records"

    def finished() -> Record | None:
        return ranks.on_main(lambda: _finished_record(folder, config, records) if is_finished(folder) else None)

    with enough_memory(), stop_signals(stop) as asked:
        if record := finished():  # is read, and may lie where no lock can be made
            return record
        with run_lock(runs / "locks" / config.name, ranks, asked):
            return finished() or _pretrain(config, folder, records, ranks, targets, command, asked)


def _pretrain(
    config: PretrainConfig,
    folder: Path,
    records: Path,
    ranks: Ranks,
    targets: TargetProvider | None,
    command: str | None,
    stop: Stop,
) -> Record:
    beginning = begin(ranks)
    train, val = open_splits(config.data, ranks)
    job = ranks.together(lambda: _job(config, train, val, folder, ranks, targets))
    subject = _subject(config, job, beginning, command or command_line())
    ranks.on_main(lambda: _begin(job, records / f"{subject.id}.json"))
    milestones = Milestones(folder / "milestones", _summary(config, job, subject.method))
    result = fit(replace(job, keep_milestone=milestones.keep), ranks, stop)
    return ranks.on_main(lambda: _finish(job, result, config, subject, ranks, records))


def _job(
    config: PretrainConfig, train: Source, val: Source, folder: Path, ranks: Ranks, targets: TargetProvider | None
) -> Job:
    """Build on this rank what a configuration describes; `targets` replaces the teacher."""
    note = check_pretraining_splits(config.data, train, val)
    shared = note_shared(train, val) if ranks.is_main else ""  # opens images, which one rank need do
    identity = config.identity()
    identity["data"]["identity"] = f"{train.identity} {val.identity}"
    student = initial_student(config)
    if targets is None:
        targets = _teacher_targets(config, train.classes, ranks)
    if config.method.needs_teacher and config.teacher.weights:
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
        score_training=True,
        note=join_notes(note, shared),
    )


def _begin(job: Job, record: Path) -> None:
    """Make the run's folder; say what of the data is left out, and where its record is there already.

    What is odd about the labels is said, too. Only the same weights can stand beside such a record. UserError where
    the run or its record could not be written.
    """
    tell_folder_note(job.data, _folder_note(job))
    make_folder(job.folder)
    if job.note:
        print(job.note, file=sys.stderr)
    if record.exists():
        print(
            f"{record}: is there already; a run that ends with other weights will not replace it. "
            "Give another --results folder to keep both",
            file=sys.stderr,
        )
    else:
        refuse_unwritable(record.parent)


def _teacher_targets(config: PretrainConfig, classes: Sequence[str], ranks: Ranks) -> TargetProvider:
    compiled = resolve_compile(config.run, ranks.device).teacher
    num_classes = config.data.num_classes
    return open_targets(config.method, config.teacher, classes, num_classes, ranks.device, compiled=compiled)


def _subject(config: PretrainConfig, job: Job, beginning: Beginning, command: str) -> Subject:
    """Say what a run's record is about; the SHA-256 is filled in when its weights are on disk."""
    kind, data_name, targets = config.method.kind, config.data_name, job.targets
    return Subject(
        id=record_id(data_name, "pretrain", kind, config.student.name, f"s{config.seed}", job.identity),
        task=TaskRef(
            name=data_name,
            version=1,
            fingerprint=fingerprint(config.data.model_dump(mode="json", exclude={"root"})),
            metric="top1",
            group="pretraining",
        ),
        protocol="pretrain",
        method=MethodRef(
            kind=kind,
            label=method_label(config.method) + targets.variant,
            teacher=targets.teacher,
            config=config.method.model_dump(mode="json"),
        ),
        model=ModelRef(
            name=config.model_name,
            image_size=config.student.image_size,
            parameters=sum(parameter.numel() for parameter in job.student.parameters()),
        ),
        checkpoint=CheckpointRef(
            run=config.name,
            weights="raw",
            sha256="",
            pretrain_seed=config.seed,
            pretrain_recipe=config.recipe_fingerprint(),
            pretrain_data=data_name,
            pretrain_images=job.identity["data"]["identity"],
        ),
        seed=config.seed,
        recipe=config.recipe_fingerprint(),
        config={"name": config.name, "run": config.run.model_dump(mode="json"), **job.identity},
        beginning=beginning,
        command=command,
    )


def _outcome(job: Job, result: Fit) -> Outcome:
    last = result.curve[-1]
    outcome = Outcome(
        result.predictions,
        {name: last[name] for name in ("ema_top1", "train_top1") if name in last},
        result.curve,
        seconds=result.seconds + result.evaluation_seconds,
        evaluation_seconds=result.evaluation_seconds,
        images_per_second=result.images_per_second,
        started=result.started,
        resumptions=result.resumptions,
        labels_from=job.targets.labels_from,
        labelling_seconds=job.targets.labelling_seconds,
        tf32=job.targets.labels_from == "teacher" and job.teacher_precision == "tf32",
        note=join_notes(_folder_note(job), job.targets.note, job.note),
    )
    return outcome.of_images(number_images(job.val) if job.val else None)


def _folder_note(job: Job) -> str:
    return join_notes(*(folder_note(source) for source in (job.train, job.val) if source))


def _finish(job: Job, result: Fit, config: PretrainConfig, subject: Subject, ranks: Ranks, records: Path) -> Record:
    """Write final weights, then the record, then run.json, whose presence says that the run is finished.

    A record that is there already stays, with its side file; UserError where it is of other weights.
    """
    hashes, folder = {}, job.folder
    for name, module in (("model", result.student), ("ema", result.ema)):
        if module is not None:
            hashes[name] = _save_weights(module, folder / f"{name}.safetensors")
    sync(folder)
    checkpoint = subject.checkpoint.model_copy(update={"sha256": hashes["model"]})
    written = records / f"{subject.id}.json"
    if written.exists():
        record = _same_record(written, checkpoint)
    else:
        record = keep(replace(subject, checkpoint=checkpoint), _outcome(job, result), ranks, records)
    write_run(folder, _summary(config, job, record.method, hashes, record.id))
    sync(folder)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return record


def _summary(
    config: PretrainConfig, job: Job, method: MethodRef, hashes: dict[str, str] | None = None, record: str = ""
) -> RunSummary:
    images, classes = job.identity["data"]["identity"], tuple(job.train.classes)
    return RunSummary(
        config=config, identity=images, classes=classes, sha256=hashes or {}, record=record, method=method
    )


def _same_record(path: Path, checkpoint: CheckpointRef) -> Record:
    """Read the record of an earlier run of the same settings; UserError where its weights were others."""
    earlier = read_record(path)
    if earlier.checkpoint.sha256 != checkpoint.sha256:
        raise UserError(
            f"{path}: is the record of {earlier.checkpoint.run}, a run of the same settings that ended with other "
            "weights (another machine, device or library rounds otherwise), and stays. Start this run again with "
            "another --results folder: it resumes from its last checkpoint"
        )
    return earlier


def _save_weights(module: torch.nn.Module, path: Path) -> str:
    try:
        write_file(path, lambda file: save_tensors(file, plain_state(module)))
    except UserError as error:
        raise UserError(f"{error}; the last checkpoint is kept") from error
    return sha256_file(path)


def _finished_record(folder: Path, config: PretrainConfig, records: Path) -> Record:
    summary = read_run(folder)
    if changes := difference(summary.config.identity(), config.identity()):
        raise UserError(f"{folder}: holds a finished run of another recipe: {changes}; choose another name")
    if is_another_teacher(config.teacher, summary.method.teacher):
        was, now_is = summary.method.teacher, teacher_identity(config.teacher)
        raise UserError(f"{folder}: holds a finished run of teacher {was}, it is now {now_is}; choose another name")
    return read_record(records / f"{summary.record}.json")
