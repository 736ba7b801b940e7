"""A method's loss as a module, for your own training loops. Shapes: B images, K classes, h x w positions."""

from typing import Any, Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cskd_bench.config import CSKD, Decay, Hardness, MethodConfig, MethodSettings
from cskd_bench.errors import UserError
from cskd_bench.methods import loss_parts, objective_of, ratio_at
from cskd_bench.outputs import Heads, StudentOutput, Targets, TeacherOutput
from cskd_bench.schema import validate


class CSKDSettings(TypedDict, total=False):
    """The settings of `cskd_bench.config.CSKD`, by name; what is left out keeps the paper's value."""

    alpha: float
    spatial_weight: float
    decay: Decay
    global_loss: Hardness
    spatial_loss: Hardness
    temperature: float
    spatial_reduction: Literal["official", "mean"]


class CSKDLoss(nn.Module):
    """CSKD's loss, or another method's: it picks targets from the teacher, and returns the named parts of the loss.

    `CSKDLoss()` is the paper's, `CSKDLoss(alpha=0.3, decay="cosine")` changes settings of it, and
    `CSKDLoss(DeiT())` takes the configuration of another method. A loss of your own overrides `forward`, and
    `targets` where it needs other targets. UserError for settings that the method does not have.
    """

    def __init__(self, method: MethodConfig | None = None, **settings: Unpack[CSKDSettings]) -> None:
        super().__init__()
        if method is not None and settings:
            raise UserError("CSKDLoss: give a method's configuration or CSKD's settings, not both")
        if not isinstance(method, MethodSettings | None):
            raise UserError(f"CSKDLoss: method is {method!r}; give a configuration, such as cskd_bench.config.DeiT()")
        self.method: MethodConfig = method or validate(CSKD, dict(settings), "CSKDLoss")
        if features := self.method.teacher_features:
            raise UserError(
                f"CSKDLoss: {self.method.kind} needs the teacher's {' and '.join(features)}, not logits alone"
            )

    @property
    def heads(self) -> Heads:
        """Which of the student's heads are trained, and averaged at inference."""
        return self.method.heads

    @property
    def needs_teacher(self) -> bool:
        """Whether targets come from a teacher."""
        return self.method.needs_teacher

    def ratio_at(self, progress: float) -> float:
        """Return the fusion ratio r at progress t = epoch / epochs, 0 to 1; 0 for methods without fusion."""
        return ratio_at(self.method, progress)

    def targets(self, response: TeacherOutput, ratio: float) -> Targets:
        """Return what the student should match: class indices (hard) or logits (soft)."""
        return objective_of(self.method).targets(self.method, response, ratio)

    def forward(self, output: StudentOutput, targets: Targets, labels: Tensor) -> dict[str, Tensor]:
        """Return the named parts and their sum, `total`: scalars in fp32, or in fp64 of fp64 logits.

        `labels` are class indices (B,), or probabilities (B, K) as mixup makes them. UserError for other shapes.
        """
        soft = soft_labels(labels, output.class_logits)
        wanted = (("global_target", self.needs_teacher), ("spatial_target", "patch" in self.heads))
        if missing := [name for name, needed in wanted if needed and getattr(targets, name) is None]:
            raise UserError(f"targets: {' and '.join(missing)} missing, which method {self.method.kind} needs")
        return loss_parts(self.method, at_least_fp32(output), targets, soft)

    def extra_repr(self) -> str:
        """Show the method's settings in the module's description."""
        settings: dict[str, Any] = self.method.model_dump()
        return ", ".join(f"{name}={value!r}" for name, value in settings.items())


def at_least_fp32(output: StudentOutput) -> StudentOutput:
    """Take half-precision logits to fp32, as the training loop does; fp64 stays."""
    half = output.class_logits.element_size() < 4
    return output.in_fp32() if half else output


def soft_labels(labels: Tensor, logits: Tensor) -> Tensor:
    """Return labels (B,) or (B, K) as probabilities (B, K) for logits (B, K); UserError for other shapes or classes."""
    batch, classes = logits.shape
    if labels.is_floating_point() and labels.shape == (batch, classes):
        return labels
    if not labels.is_floating_point() and labels.shape == (batch,):
        try:
            return F.one_hot(labels.long(), classes).to(torch.promote_types(logits.dtype, torch.float32))
        except RuntimeError as error:  # on the CPU alone; elsewhere the device says so later
            raise UserError(
                f"labels: run from {labels.min()} to {labels.max()}; the student has {classes} classes, from 0"
            ) from error
    raise UserError(
        f"labels: are {tuple(labels.shape)} of {labels.dtype}; give class indices ({batch},), or probabilities "
        f"({batch}, {classes}) of floating type"
    )


def check_targets(targets: Targets, batch: int) -> None:
    """UserError for a loop's own targets that are not those of `batch` images, hard or soft (`Targets` has shapes)."""
    for name, target, dimensions in (("global", targets.global_target, 1), ("spatial", targets.spatial_target, 3)):
        if target is None:
            continue
        soft = target.is_floating_point()
        if target.ndim != dimensions + soft or len(target) != batch or not (soft or target.dtype == torch.int64):
            places = ", h, w" if name == "spatial" else ""
            raise UserError(
                f"targets: {name}_target is {tuple(target.shape)} of {target.dtype}; give class indices "
                f"({batch}{places or ','}) of int64, or logits ({batch}, K{places}) of floating type"
            )
