"""Pretraining objectives: one file per method, and the dict that names them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cskd_bench.config import MethodConfig
from cskd_bench.methods import cskd, deit, kd, supervised
from cskd_bench.methods.parts import fusion_ratio
from cskd_bench.outputs import Heads, StudentOutput, Targets, TeacherOutput


@dataclass(frozen=True)
class Method:
    """An objective: what it needs, what it asks of the teacher, and its loss parts."""

    needs_teacher: bool
    heads: Heads  # which of the student's heads inference averages
    spatial: bool  # whether patch logits are matched with the dense response
    targets: Callable[[Any, TeacherOutput, float], Targets]
    losses: Callable[[Any, StudentOutput, Targets, Tensor], dict[str, Tensor]]


METHODS = {
    "supervised": Method(False, "class", False, supervised.targets, supervised.losses),
    "kd": Method(True, "class", False, kd.targets, kd.losses),
    "deit": Method(True, "class+dist", False, deit.targets, deit.losses),
    "cskd": Method(True, "class+dist+patch", True, cskd.targets, cskd.losses),
}


def ratio_at(config: MethodConfig, progress: float) -> float:
    """Return the fusion ratio of an epoch; methods without fusion have none and get 0."""
    return fusion_ratio(config.decay, progress) if config.kind == "cskd" else 0.0
