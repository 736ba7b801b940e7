"""Where a step's targets come from: a teacher in the loop, or nothing; a bank offers the same call."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from cskd_bench.bank.labeller import labelling_precision
from cskd_bench.config import MethodConfig
from cskd_bench.data.mixing import ViewKey
from cskd_bench.engine.precision import autocast
from cskd_bench.methods import METHODS
from cskd_bench.models.teachers import Teacher
from cskd_bench.outputs import Targets, TeacherOutput


class TargetProvider(Protocol):
    """Gives the targets of mixed views (B, 3, S, S) in [0, 1], identified by their keys."""

    grid: tuple[int, int] | None  # the teacher's places, where the method needs them
    teacher: str  # model and hash of its weights, as a record names it; empty without a teacher
    note: str  # what a record should say about these targets
    labelling_seconds: float  # what they took before training, in a bank
    variant: str  # added to the method's name where these are not quite its own targets

    def __call__(self, views: Tensor, keys: Sequence[ViewKey], ratio: float) -> Targets: ...


class NoTargets:
    """For methods without a teacher."""

    grid: tuple[int, int] | None = None
    teacher = ""
    note = ""
    labelling_seconds = 0.0
    variant = ""

    def __call__(self, views: Tensor, keys: Sequence[ViewKey], ratio: float) -> Targets:
        return Targets()


class TeacherTargets:
    """Runs the teacher on the very views that the student sees, in the precision in which a bank is labelled."""

    note = ""
    labelling_seconds = 0.0
    variant = ""

    def __init__(self, teacher: Teacher, identity: str, method: MethodConfig, precision: str) -> None:
        self._teacher = teacher
        self.teacher = identity
        self._config = method
        self._method = METHODS[method.kind]
        self._precision = precision
        self.grid: tuple[int, int] | None = teacher.grid() if self._method.spatial else None

    def __call__(self, views: Tensor, keys: Sequence[ViewKey], ratio: float) -> Targets:
        with autocast(views.device, labelling_precision(views.device, self._precision)):
            output = self._teacher(views)
        dense = output.dense.float()
        mean = dense.flatten(2).mean(2)  # not finite where one of the responses is not
        targets = self._method.targets(self._config, TeacherOutput(dense, mean), ratio)
        return replace(targets, finite=mean.isfinite().all())
