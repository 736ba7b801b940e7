"""Where a step's targets come from: a teacher in the loop, or nothing; a bank offers the same calls."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from cskd_bench.config import MethodConfig, TeacherConfig
from cskd_bench.data.keys import ViewKeys
from cskd_bench.methods import objective_of
from cskd_bench.models.labeller import labelling_teacher
from cskd_bench.models.teachers import Teacher, teacher_identity
from cskd_bench.outputs import Targets, TeacherWidths


class TargetProvider(Protocol):
    """Gives the targets of mixed views, in two halves: what the host looks up, and what the device computes."""

    grid: tuple[int, int] | None  # the teacher's places, where the method needs them
    widths: TeacherWidths  # of the features that the method takes
    teacher: str  # model and hash of its weights, as a record names it; empty without a teacher
    note: str  # what a record should say about these targets
    labelling_seconds: float  # what they took before training, in a bank
    variant: str  # added to the method's name where these are not quite its own targets
    labels_from: Literal["none", "teacher", "bank"]

    def look_up(self, keys: ViewKeys, ratio: float) -> Targets:
        """Return what is known of views by their keys, on the host; UserError where it is damaged or missing."""
        ...

    def __call__(self, views: Tensor, known: Targets, ratio: float) -> Targets:
        """Return the targets of mixed views (B, 3, S, S) in [0, 1], on their device."""
        ...


class NoTargets:
    """For methods without a teacher."""

    grid: tuple[int, int] | None = None
    widths = TeacherWidths()
    teacher = ""
    note = ""
    labelling_seconds = 0.0
    variant = ""
    labels_from: Literal["none", "teacher", "bank"] = "none"

    def look_up(self, keys: ViewKeys, ratio: float) -> Targets:
        return Targets()

    def __call__(self, views: Tensor, known: Targets, ratio: float) -> Targets:
        return known


class TeacherTargets:
    """Runs the teacher on the very views that the student sees, in the precision in which a bank is labelled."""

    labelling_seconds = 0.0
    variant = ""
    labels_from: Literal["none", "teacher", "bank"] = "teacher"

    def __init__(self, teacher: Teacher, identity: str, method: MethodConfig) -> None:
        self._teacher = teacher
        self.teacher = identity
        self.note = teacher.note
        self._config = method
        self._method = objective_of(method)
        self.grid: tuple[int, int] | None = teacher.grid() if method.fusion else None
        self._pooled = "pooled" in method.teacher_features
        self._stages = method.stages()
        self.widths = TeacherWidths(teacher.pooled_width() if self._pooled else 0, teacher.map_widths(self._stages))

    def look_up(self, keys: ViewKeys, ratio: float) -> Targets:
        return Targets()

    def __call__(self, views: Tensor, known: Targets, ratio: float) -> Targets:
        output = self._teacher(views, self._pooled, self._stages)
        targets = self._method.targets(self._config, output, ratio)
        finite = output.global_logits.isfinite().all()
        if not self._teacher.global_is_mean:  # a mean is not finite where one of the responses is not
            finite = finite & output.dense.isfinite().all()
        return replace(targets, finite=finite)


def open_targets(
    method: MethodConfig,
    teacher: TeacherConfig,
    classes: Sequence[str],
    num_classes: int,
    device: torch.device,
    *,
    compiled: bool,
) -> TargetProvider:
    """Build on a device what gives a method its targets, a teacher where it needs one; UserError as build_teacher."""
    if not method.needs_teacher:
        return NoTargets()
    labelling = labelling_teacher(teacher, classes, num_classes, device, compiled=compiled)
    return TeacherTargets(labelling, teacher_identity(teacher), method)
