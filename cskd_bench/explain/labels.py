"""Label maps: which class teacher and student name at every place of one image."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from cskd_bench.data.mixing import resize_view
from cskd_bench.methods.parts import fuse
from cskd_bench.models.students import Student, pool_to_grid
from cskd_bench.models.teachers import Teacher

RATIOS: Final = (1.0, 0.5, 0.0)


@dataclass(frozen=True)
class LabelMap:
    """The class named at each of h x w places, and the probability it is given there."""

    labels: Tensor  # (h, w)
    probability: Tensor  # (h, w)


@dataclass(frozen=True)
class LabelMaps:
    """One image through student and teacher; H x W patches, h x w places."""

    predicted: int  # the student's answer for the whole image
    student: LabelMap  # (H, W)
    teacher: LabelMap | None  # (h, w), the dense response; None without a teacher
    fused: tuple[tuple[float, LabelMap], ...]  # for each ratio r, the map of r*D + (1-r)*G
    agreement: float | None  # share of places where the student's pooled patch label is the teacher's


@torch.no_grad()
def label_maps(student: Student, teacher: Teacher | None, views: Tensor, image_size: int) -> LabelMaps:
    """Compute the maps of one view (1, 3, S, S) in [0, 1]; each model shrinks it to its own resolution."""
    small = resize_view(views, image_size)
    logits = student.patch_map(small)
    predicted = int(student.predict(small).argmax(1))
    patches = _map(logits)
    if teacher is None:
        return LabelMaps(predicted, patches, None, (), None)
    response = teacher(views)
    local = _map(response.dense)
    fused = tuple((ratio, _map(fuse(response.dense, response.global_logits, ratio))) for ratio in RATIOS)
    pooled = _map(pool_to_grid(logits, (response.dense.shape[2], response.dense.shape[3])))
    agreement = float((pooled.labels == local.labels).float().mean())
    return LabelMaps(predicted, patches, local, fused, agreement)


def _map(logits: Tensor) -> LabelMap:
    probability, labels = logits[0].softmax(0).max(0)
    return LabelMap(labels, probability)
