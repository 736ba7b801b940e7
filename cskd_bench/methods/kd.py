"""Plain knowledge distillation: the class logits match the softened global response (arXiv 1503.02531)."""

from torch import Tensor

from cskd_bench.config import PlainKD
from cskd_bench.methods.logit_losses import weighed_losses
from cskd_bench.methods.parts import label_loss, plain_kd_loss
from cskd_bench.outputs import StudentOutput, Targets, TeacherOutput


def targets(config: PlainKD, teacher: TeacherOutput, ratio: float) -> Targets:
    """Ask for the global response as logits (B, K)."""
    return Targets(global_target=teacher.global_logits)


def losses(config: PlainKD, student: StudentOutput, targets: Targets, labels_BK: Tensor) -> dict[str, Tensor]:
    """Return `label`, `global` and `total` = (1-alpha)*label + alpha*global, or as the loss table weighs them."""
    assert targets.global_target is not None
    if config.loss is not None:
        return weighed_losses(config.loss, student.class_logits, student.class_logits, targets.global_target, labels_BK)
    label = label_loss(student.class_logits, labels_BK)
    global_ = plain_kd_loss(student.class_logits, targets.global_target, config.temperature)
    return {"label": label, "global": global_, "total": (1 - config.alpha) * label + config.alpha * global_}
