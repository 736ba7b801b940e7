"""VkD (arXiv 2403.06213), and SRD (arXiv 2303.11098) as settings of it: projected features match the teacher's."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cskd_bench.config import VkD
from cskd_bench.methods.parts import label_loss, plain_kd_loss
from cskd_bench.methods.projection import PooledProjector, Projector
from cskd_bench.outputs import StudentOutput, Targets, TeacherOutput, TeacherWidths

_LAYER_NORM_EPS = 1e-5
_LOG_EPS = 1e-5


def targets(config: VkD, teacher: TeacherOutput, ratio: float) -> Targets:
    """Ask for the global response as logits (B, K) and the pooled features (B, C)."""
    assert teacher.pooled is not None
    return Targets(global_target=teacher.global_logits, features=(teacher.pooled,))


def projector(config: VkD, width: int, teacher: TeacherWidths) -> Projector:
    """Return P, from the `width` of the student's tokens to that of the teacher's pooled features."""
    return PooledProjector(width, teacher, config.projector == "orthogonal")


def losses(config: VkD, student: StudentOutput, targets: Targets, labels_BK: Tensor) -> dict[str, Tensor]:
    """Return `label`, `global`, `feature` and `total` = label + kl_weight*global + feature_weight*feature."""
    assert student.dist_logits is not None and targets.global_target is not None
    label = label_loss(student.class_logits, labels_BK)
    global_ = plain_kd_loss(student.dist_logits, targets.global_target, config.temperature)
    feature = feature_loss(config, student.projected[0], targets.features[0])
    total = label + config.kl_weight * global_ + config.feature_weight * feature
    return {"label": label, "global": global_, "feature": feature, "total": total}


def feature_loss(config: VkD, projected_BC: Tensor, pooled_BC: Tensor) -> Tensor:
    """Return the distance of P v from the teacher's normalised features: mean smooth L1 (beta 1), or logsum."""
    if config.feature_norm == "layer":
        pooled_BC = F.layer_norm(pooled_BC, pooled_BC.shape[1:], eps=_LAYER_NORM_EPS)
    else:
        projected_BC, pooled_BC = _normalise_channels(projected_BC), _normalise_channels(pooled_BC)
    if config.distance == "smooth_l1":
        return F.smooth_l1_loss(projected_BC, pooled_BC)
    correlation_C = (projected_BC * pooled_BC).mean(0)
    return ((correlation_C - 1).abs().pow(4).sum() + _LOG_EPS).log()


def _normalise_channels(features_BC: Tensor) -> Tensor:
    """Give each channel mean 0 and variance 1 over the batch; one that never varies becomes 0."""
    centred = features_BC - features_BC.mean(0)
    variance = centred.square().mean(0)
    varies = features_BC.amax(0) > features_BC.amin(0)  # a mean of equal numbers may round to another one
    return centred * torch.where(varies, variance, 1.0).rsqrt() * varies
