"""Cumulative Spatial Knowledge Distillation (arXiv 2307.08500)."""

from torch import Tensor

from cskd_bench.config import CSKD
from cskd_bench.methods.parts import fuse, global_loss, harden, label_loss, spatial_loss
from cskd_bench.outputs import StudentOutput, Targets, TeacherOutput


def targets(config: CSKD, teacher: TeacherOutput, ratio: float) -> Targets:
    """Ask for the global response G and the fused response D' = r*D + (1-r)*G at every place."""
    fused = fuse(teacher.dense, teacher.global_logits, ratio)
    return Targets(harden(teacher.global_logits, config.global_loss), harden(fused, config.spatial_loss))


def losses(config: CSKD, student: StudentOutput, targets: Targets, labels_BK: Tensor) -> dict[str, Tensor]:
    """Return `label`, `global`, `spatial` and `total` = (1-alpha)*label + alpha*global + lambda*spatial."""
    assert student.dist_logits is not None and student.patch_logits is not None
    assert targets.global_target is not None and targets.spatial_target is not None
    label = label_loss(student.class_logits, labels_BK)
    global_ = global_loss(student.dist_logits, targets.global_target, config.temperature)
    spatial = spatial_loss(student.patch_logits, targets.spatial_target, config.temperature, config.spatial_reduction)
    total = (1 - config.alpha) * label + config.alpha * global_ + config.spatial_weight * spatial
    return {"label": label, "global": global_, "spatial": spatial, "total": total}
