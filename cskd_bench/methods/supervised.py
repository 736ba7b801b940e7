"""DeiT without a teacher: labels alone."""

from torch import Tensor

from cskd_bench.config import Supervised
from cskd_bench.methods.parts import label_loss
from cskd_bench.outputs import StudentOutput, Targets, TeacherOutput


def targets(config: Supervised, teacher: TeacherOutput, ratio: float) -> Targets:
    """Nothing is asked of a teacher."""
    return Targets()


def losses(config: Supervised, student: StudentOutput, targets: Targets, labels_BK: Tensor) -> dict[str, Tensor]:
    """Return the parts `label` and `total`."""
    label = label_loss(student.class_logits, labels_BK)
    return {"label": label, "total": label}
