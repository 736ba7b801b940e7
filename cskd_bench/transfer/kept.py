"""Fine-tuned students that stay: a run folder beside a record, which opens like any checkpoint."""

import contextlib
import shutil
from pathlib import Path

from cskd_bench.files import sync, write_file
from cskd_bench.models.loaded import count_parameters
from cskd_bench.models.run_summary import RUN_FILE, Blueprint, TunedSummary, Tuning, is_finished, write_run
from cskd_bench.models.students import Student
from cskd_bench.models.weights import plain_state, save_tensors
from cskd_bench.record import Record, sha256_file
from cskd_bench.schema import fingerprint
from cskd_bench.transfer.cell import ImageCell

WEIGHTS_FILE = "model.safetensors"


def keep_student(cell: ImageCell, student: Student) -> None:
    """Write a cell's fine-tuned student into its folder, weights first; UserError where it cannot be written."""
    weights = cell.folder / WEIGHTS_FILE
    write_file(weights, lambda file: save_tensors(file, plain_state(student)))
    write_run(cell.folder, _summary(cell, student, sha256_file(weights)))
    sync(cell.folder)


def kept_folder(record: Record, work: Path) -> Path | None:
    """Return the run folder of a record's fine-tuned student, None where it is not kept in `work`."""
    folder = work / record.id
    return folder if is_finished(folder) else None


def clear_folder(folder: Path) -> None:
    """Remove what a cell needed while it worked; a fine-tuned student stays, also one of an earlier run of the cell."""
    if not is_finished(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in (WEIGHTS_FILE, RUN_FILE):
            with contextlib.suppress(OSError):  # it is in nobody's way
                path.unlink()


def _summary(cell: ImageCell, student: Student, digest: str) -> TunedSummary:
    """Say how a fine-tuned student is built and what made it."""
    spec, begun = cell.spec, cell.model
    mean, std = ([float(value) for value in buffer.flatten()] for buffer in (student.mean, student.std))
    learnt = begun.checkpoint.pretrain_data or "external"
    return TunedSummary(
        tuning=Tuning(
            task=spec.name,
            fingerprint=spec.fingerprint(cell.protocol),
            record=cell.name,
            seed=cell.seed,
            recipe=fingerprint(cell.recipe),
            image_size=begun.image_size,
            data=f"{learnt} then {spec.name}",
            method=spec.finetune.method,
            teacher=cell.targets.teacher,
        ),
        blueprint=_blueprint(begun.blueprint, student),
        num_classes=spec.data.num_classes,
        classes=tuple(cell.train.classes),
        mean=tuple(mean),
        std=tuple(std),
        crop=spec.data.eval_crop,
        interpolation=spec.finetune.augment.interpolation,
        sha256={"model": digest},
        checkpoint=begun.checkpoint,
        method=begun.method,
        model=begun.model.model_copy(update={"parameters": count_parameters(student)}),
        config=begun.pretrain_config,
    )


def _blueprint(begun: Blueprint, student: Student) -> Blueprint:
    """Say how a fine-tuned student is built from the blueprint that it began with; a head that is dropped stays."""
    if student.heads == "class":
        return begun.model_copy(update={"dropped": begun.heads != "class"})
    return begun.model_copy(update={"heads": student.heads, "dropped": False})
