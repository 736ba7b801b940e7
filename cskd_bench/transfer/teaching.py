"""The teacher of a fine-tuning: what identities call it, who can learn from it, and the targets that it gives."""

from collections.abc import Sequence

import torch

from cskd_bench.compilation import resolve_compile
from cskd_bench.engine.targets import NoTargets, TargetProvider, open_targets
from cskd_bench.errors import UserError
from cskd_bench.models.teachers import teacher_identity, teacher_weights
from cskd_bench.task import TaskSpec


def fine_tunes(spec: TaskSpec, protocol: str) -> bool:
    """Whether a protocol of a task trains by its `finetune` settings."""
    return "finetune" in spec.identity(protocol)


def state_teacher(spec: TaskSpec, protocol: str) -> TaskSpec:
    """Return the task with its teacher called by the hash of its weights, as part of what names a score.

    A task whose protocol does not fine-tune stays as it is. UserError where the file of the weights is not there.
    """
    teacher = spec.finetune.teacher
    if teacher is None or not teacher.weights or not fine_tunes(spec, protocol):
        return spec
    path = teacher_weights(teacher)
    if not path.is_file():
        raise UserError(f"{path}: no such weights file (finetune.teacher.weights of task {spec.name})")
    known = teacher.known_as(teacher_identity(teacher))
    return spec.model_copy(update={"finetune": spec.finetune.model_copy(update={"teacher": known})})


def check_student(spec: TaskSpec, protocol: str, has_token: bool, whose: str) -> None:
    """UserError where the method of a fine-tuning trains a distillation token, and the student (`whose`) has none."""
    method = spec.finetune.method
    if method is None or method.heads == "class" or has_token or not fine_tunes(spec, protocol):
        return
    raise UserError(
        f"task {spec.name}: finetune.method {method.kind} trains a distillation token, and {whose} has none; take a "
        "student pretrained with one (method deit or cskd), or set finetune.method.kind=kd"
    )


def tuning_targets(spec: TaskSpec, protocol: str, classes: Sequence[str], device: torch.device) -> TargetProvider:
    """Build what a fine-tuning learns from beside the labels; UserError for a teacher that does not fit the task."""
    method, teacher = spec.finetune.method, spec.finetune.teacher
    if method is None or teacher is None or not fine_tunes(spec, protocol):
        return NoTargets()
    compiled = resolve_compile(spec.run, device).teacher
    try:
        return open_targets(method, teacher, classes, spec.data.num_classes, device, compiled=compiled)
    except UserError as error:
        about = f"{teacher.name} of {teacher.num_classes} classes at {teacher.image_size} px"
        raise UserError(f"task {spec.name}: no fine-tuning with {about}: {error}") from error
