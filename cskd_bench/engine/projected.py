"""A student with what a feature method trains beside it, and batches that ranks share for losses over images."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, distributed, nn

from cskd_bench.config import MethodSettings
from cskd_bench.data.randomness import Stream, integer_seed
from cskd_bench.methods import objective_of
from cskd_bench.methods.projection import Projector, seeded
from cskd_bench.models.student_checks import check_features
from cskd_bench.outputs import StudentOutput, Targets, TeacherWidths


class ProjectedStudent(nn.Module):
    """A student and a projector in one forward: what DDP wraps, so that ranks average the gradients of both."""

    def __init__(self, student: Any, projector: Projector, pooled: bool, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.student, self.projector = student, projector
        self._pooled, self._blocks = pooled, blocks

    def forward(self, views: Tensor, grid: tuple[int, int] | None = None) -> StudentOutput:
        """Return the student's output with `projected`."""
        output: StudentOutput = self.student(views, grid, pooled=self._pooled, blocks=self._blocks)
        return replace(output, projected=self.projector(output))


def build_projector(method: MethodSettings, student: Any, teacher: TeacherWidths, seed: int) -> Projector | None:
    """Build what a method trains beside its student, on its device, from draws of its own; None for most methods.

    UserError for a student without what the projector takes.
    """
    make = objective_of(method).projector
    if make is None:
        return None
    check_features(student.model, method)
    width = int(student.model.embed_dim)
    projector = seeded(lambda: make(method, width, teacher), integer_seed(seed, Stream.PROJECTOR))
    return projector.to(next(student.parameters()).device)


def with_projector(student: Any, model: Any, projector: Projector | None, method: MethodSettings) -> Any:
    """Return the module that is trained; `model` is the student itself, or the compiled one."""
    if projector is None:
        return model
    blocks = method.blocks(len(student.model.blocks)) if "blocks" in method.student_features else ()
    return ProjectedStudent(model, projector, "pooled" in method.student_features, blocks)


class _GatherImages(torch.autograd.Function):
    """Every rank's rows of a tensor, in rank order; a row's gradient is the sum of what all ranks did with it."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, rank: int, world: int) -> Tensor:
        ctx.rank, ctx.images = rank, len(mine)
        parts = [torch.empty_like(mine) for _ in range(world)]
        distributed.all_gather(parts, mine.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Tensor, None, None]:
        whole = upstream[0].clone(memory_format=torch.contiguous_format)  # autograd may use the gradient elsewhere
        distributed.all_reduce(whole)
        first = ctx.rank * ctx.images
        return whole[first : first + ctx.images], None, None


def share_images(
    output: StudentOutput, targets: Targets, labels_BK: Tensor, rank: int, world: int
) -> tuple[StudentOutput, Targets, Tensor]:
    """Give every rank the images of all: each then computes the loss of the whole batch.

    The backward pass adds up what all ranks did with an image, and DDP divides by their number: the gradients are
    those of one process.
    """

    def gather(tensor: Tensor) -> Tensor:
        whole: Tensor = _GatherImages.apply(tensor, rank, world)  # type: ignore[no-untyped-call]
        return whole

    def maybe(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else gather(tensor)

    whole = StudentOutput(
        gather(output.class_logits),
        maybe(output.dist_logits),
        maybe(output.patch_logits),
        projected=tuple(map(gather, output.projected)),
    )
    features = tuple(map(gather, targets.features))
    shared = Targets(maybe(targets.global_target), maybe(targets.spatial_target), targets.finite, features)
    return whole, shared, gather(labels_BK)
