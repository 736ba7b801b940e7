"""What models return. Shape suffixes: B images, K classes, N patch tokens, h x w teacher places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

Heads = Literal["class", "class+dist", "class+dist+patch"]
Features = Literal["cls", "cls+patch", "inference"]  # what a probe reads of a student


@dataclass(frozen=True)
class StudentOutput:
    """A student's logits on one batch; heads that the student lacks are None."""

    class_logits: Tensor  # (B, K) head(class token)
    dist_logits: Tensor | None = None  # (B, K) head_dist(distillation token)
    patch_logits: Tensor | None = None  # (B, K, h, w) head_dist(patch tokens pooled to h x w)
    pooled: Tensor | None = None  # (B, D) mean patch token after the final norm, where a method asks for it
    blocks: tuple[Tensor, ...] = ()  # (B, D, H, W) patch tokens out of chosen blocks, before the final norm
    projected: tuple[Tensor, ...] = ()  # what a projector made of these, as the method compares it

    def in_fp32(self) -> StudentOutput:
        """Take logits to fp32 for the losses; the many patch logits are taken there by their loss, a few at a time."""
        dist_logits = None if self.dist_logits is None else self.dist_logits.float()
        projected = tuple(features.float() for features in self.projected)
        return StudentOutput(self.class_logits.float(), dist_logits, self.patch_logits, projected=projected)


@dataclass(frozen=True)
class TeacherOutput:
    """A teacher's dense and global response on one batch, and the features that were asked for."""

    dense: Tensor  # (B, K, h, w)
    global_logits: Tensor  # (B, K), of a CNN the mean of dense over places, of a ViT its own logits
    pooled: Tensor | None = None  # (B, C), mean over places of the last feature map, of a ViT over its patch tokens
    maps: tuple[Tensor, ...] = ()  # (B, C_i, h_i, w_i) of each stage asked for


@dataclass(frozen=True)
class TeacherWidths:
    """Channels of the features that a method takes of its teacher; 0 and none where it takes none."""

    pooled: int = 0  # C
    maps: tuple[int, ...] = ()  # C_i of each stage


@dataclass(frozen=True)
class Targets:
    """What a method asks its student to match: class indices (hard) or logits (soft).

    Hard targets are long tensors of class indices, soft targets floating logits. They come
    from a teacher in the loop or, for the same view, from a bank.
    """

    global_target: Tensor | None = None  # (B,) hard or (B, K) soft
    spatial_target: Tensor | None = None  # (B, h, w) hard or (B, K, h, w) soft
    finite: Tensor | None = None  # (), whether the teacher's responses were; None where a bank has seen to it
    features: tuple[Tensor, ...] = ()  # the teacher's, in the order of the student's `projected`

    def to(self, move: Callable[[Tensor], Tensor]) -> Targets:
        """Return the same targets, each moved by `move`."""
        fields = (self.global_target, self.spatial_target, self.finite)
        global_target, spatial_target, finite = (None if field is None else move(field) for field in fields)
        return Targets(global_target, spatial_target, finite, tuple(map(move, self.features)))
