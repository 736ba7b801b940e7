"""Training objectives: one file per method, and the dict that names them; installed packages may add to it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cskd_bench.config import CSKD, DeiT, Locality, MethodSettings, PlainKD, Supervised, VkD
from cskd_bench.errors import UserError
from cskd_bench.methods import cskd, deit, kd, locality, supervised, vkd
from cskd_bench.methods.parts import fusion_ratio
from cskd_bench.methods.projection import Projector
from cskd_bench.outputs import Heads, StudentOutput, Targets, TeacherOutput, TeacherWidths
from cskd_bench.own_methods import own_method


@dataclass(frozen=True)
class Objective:
    """A method: its settings, which declare what it needs, what it asks of the teacher, and its loss parts.

    `losses` returns named scalars, of which `total` is minimised. `projector` is what a method trains beside the
    student, made for the width of its tokens and the teacher's; its output is `StudentOutput.projected`.
    """

    settings: type[MethodSettings]
    targets: Callable[[Any, TeacherOutput, float], Targets]
    losses: Callable[[Any, StudentOutput, Targets, Tensor], dict[str, Tensor]]
    projector: Callable[[Any, int, TeacherWidths], Projector] | None = None

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
    "vkd": Objective(VkD, vkd.targets, vkd.losses, vkd.projector),
    "locality": Objective(Locality, locality.targets, locality.losses, locality.projector),
}


def objective_of(method: MethodSettings) -> Objective:
    """Return the objective of a method's settings, ours or an installed package's; UserError where there is none."""
    found = METHODS.get(method.kind) or own_method(method.kind)
    if found is None:
        raise UserError(
            f"method {method.kind}: no installed package offers it under the entry point cskd_bench.methods"
        )
    objective: Objective = found
    return objective


def loss_parts(method: MethodSettings, output: StudentOutput, targets: Targets, labels_BK: Tensor) -> dict[str, Tensor]:
    """Return a method's losses; UserError where they are no scalars of torch, or `total` is not among them."""
    parts = objective_of(method).losses(method, output, targets, labels_BK)
    named = f"method {method.kind}: its losses"
    if not isinstance(parts, dict) or "total" not in parts:
        there = f"have {', '.join(map(repr, parts)) or 'nothing'}" if isinstance(parts, dict) else "are no dict"
        raise UserError(f"{named} {there}; return a dict of scalars with 'total', which is minimised")
    for name, part in parts.items():
        if not isinstance(part, Tensor) or part.ndim:
            given = f"a tensor of shape {tuple(part.shape)}" if isinstance(part, Tensor) else f"a {type(part).__name__}"
            raise UserError(f"{named}: {name!r} is {given}; it must be a scalar tensor, such as a mean over images")
    return parts


def ratio_at(config: MethodSettings, progress: float) -> float:
    """Return the fusion ratio of an epoch; methods without fusion have none and get 0."""
    return fusion_ratio(config.fusion, progress) if config.fusion else 0.0
