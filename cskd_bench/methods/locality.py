"""Locality guidance (arXiv 2207.10026): patch tokens of chosen blocks match maps of the teacher's stages."""

from torch import Tensor
from torch.nn import functional as F

from cskd_bench.config import Locality
from cskd_bench.methods.parts import label_loss
from cskd_bench.methods.projection import MapProjector, Projector
from cskd_bench.outputs import StudentOutput, Targets, TeacherOutput, TeacherWidths


def targets(config: Locality, teacher: TeacherOutput, ratio: float) -> Targets:
    """Ask for the maps (B, C_i, h_i, w_i) of the chosen stages."""
    return Targets(features=teacher.maps)


def projector(config: Locality, width: int, teacher: TeacherWidths) -> Projector:
    """Return one projection for each pair of block and stage."""
    return MapProjector(width, teacher)


def losses(config: Locality, student: StudentOutput, targets: Targets, labels_BK: Tensor) -> dict[str, Tensor]:
    """Return `label`, `feature` and `total` = label + feature_weight*feature."""
    label = label_loss(student.class_logits, labels_BK)
    pairs = zip(student.projected, targets.features, strict=True)
    feature = sum((_distance(ours, theirs) for ours, theirs in pairs), start=label.new_zeros(()))
    return {"label": label, "feature": feature, "total": label + config.feature_weight * feature}


def _distance(projected: Tensor, theirs: Tensor) -> Tensor:
    """Return the mean squared distance of two maps, both resized (bilinear) to the larger size along each axis."""
    size = max(projected.shape[-2], theirs.shape[-2]), max(projected.shape[-1], theirs.shape[-1])
    return F.mse_loss(_resize(projected, size), _resize(theirs, size))


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return maps if maps.shape[-2:] == size else F.interpolate(maps, size, mode="bilinear", align_corners=False)
