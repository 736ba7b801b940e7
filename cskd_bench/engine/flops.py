"""FLOPs of a run's networks: torch's counter, 2 per multiply-add, on tensors without content."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from cskd_bench.config import PretrainConfig
from cskd_bench.engine.projected import build_projector, with_projector
from cskd_bench.engine.teacher_size import TeacherSize
from cskd_bench.methods import objective_of
from cskd_bench.models.students import build_student
from cskd_bench.outputs import TeacherWidths


@dataclass(frozen=True)
class RunFlops:
    """FLOPs of one view: the student forward, and with backward; the teacher; and of a batch, whatever its size."""

    forward: int
    step: int
    batch: int
    teacher: int

    def of_run(self, views: int, batches: int, *, from_bank: bool = False) -> int:
        """Return the FLOPs of a whole run, evaluation left out; from a bank without the teacher's."""
        return views * (self.step + (0 if from_bank else self.teacher)) + batches * self.batch


def run_flops(config: PretrainConfig) -> RunFlops:
    """Count the FLOPs of a run's student and teacher, without weights; UserError for a model that does not run."""
    method = objective_of(config.method)
    teacher = TeacherSize(config.teacher, config.recipe.precision, config.method) if method.needs_teacher else None
    grid = teacher.grid if teacher is not None and config.method.fusion else None
    with torch.device("meta"):
        student = build_student(config.student, config.data.num_classes, method.heads)
        projector = build_projector(config.method, student, teacher.widths if teacher else TeacherWidths(), config.seed)
    trained = with_projector(student, student, projector, config.method)
    return student_flops(trained, config.student.image_size, grid, teacher.flops if teacher else 0)


def alone_flops(config: PretrainConfig, image_size: int) -> RunFlops:
    """Count the FLOPs of a run's student by itself, at another resolution in pixels; UserError as for the run."""
    sized = config.student.model_copy(update={"image_size": image_size})
    with torch.device("meta"):
        student = build_student(sized, config.data.num_classes, objective_of(config.method).heads)
    return student_flops(student, image_size)


def student_flops(trained: Any, image_size: int, grid: tuple[int, int] | None = None, teacher: int = 0) -> RunFlops:
    """Count the FLOPs of a student on the meta device, from two and three views: one alone has no batch statistics."""
    (forward, step), (more, more_steps) = (_count(trained, image_size, grid, views) for views in (2, 3))
    return RunFlops(more - forward, more_steps - step, 3 * step - 2 * more_steps, teacher)


def _count(student: Any, image_size: int, grid: tuple[int, int] | None, images: int) -> tuple[int, int]:
    """Count the FLOPs of some images, forward alone and with backward."""
    views = torch.zeros(images, 3, image_size, image_size, device="meta")
    with FlopCounterMode(display=False) as counter:
        output = student(views, grid)
        forward = counter.get_total_flops()
        heads = (output.class_logits, output.dist_logits, output.patch_logits, *output.projected)
        torch.stack([head.sum() for head in heads if head is not None]).sum().backward()  # type: ignore[no-untyped-call]
    return forward, counter.get_total_flops()
