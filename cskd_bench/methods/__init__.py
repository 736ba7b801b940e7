"""Pretraining objectives: one file per method, and the dict that names them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cskd_bench.config import CSKD, DeiT, MethodSettings, PlainKD, Supervised
from cskd_bench.methods import cskd, deit, kd, supervised
from cskd_bench.methods.parts import fusion_ratio
from cskd_bench.outputs import Heads, StudentOutput, Targets, TeacherOutput


@dataclass(frozen=True)
class Objective:
    """A method: its settings, which declare what it needs, what it asks of the teacher, and its loss parts."""

    settings: type[MethodSettings]
    targets: Callable[[Any, TeacherOutput, float], Targets]
    losses: Callable[[Any, StudentOutput, Targets, Tensor], dict[str, Tensor]]

    @property
    def needs_teacher(self) -> bool:
        """Whether it asks anything of a teacher."""
        return self.settings.needs_teacher

    @property
    def heads(self) -> Heads:
        """Which of the student's heads inference averages."""
        return self.settings.heads


METHODS = {
    "supervised": Objective(Supervised, supervised.targets, supervised.losses),
    "kd": Objective(PlainKD, kd.targets, kd.losses),
    "deit": Objective(DeiT, deit.targets, deit.losses),
    "cskd": Objective(CSKD, cskd.targets, cskd.losses),
}


def ratio_at(config: MethodSettings, progress: float) -> float:
    """Return the fusion ratio of an epoch; methods without fusion have none and get 0."""
    return fusion_ratio(config.fusion, progress) if config.fusion else 0.0
