"""DeiT's distillation through a token of its own (arXiv 2012.12877)."""

from torch import Tensor

from cskd_bench.config import DeiT
from cskd_bench.methods.logit_losses import weighed_losses
from cskd_bench.methods.parts import global_loss, harden, label_loss
from cskd_bench.outputs import StudentOutput, Targets, TeacherOutput


def targets(config: DeiT, teacher: TeacherOutput, ratio: float) -> Targets:
    """Ask for the global response: its argmax (hard) or its logits (soft, and for a loss table)."""
    if config.loss is not None:
        return Targets(global_target=teacher.global_logits)
    return Targets(global_target=harden(teacher.global_logits, config.global_loss))


def losses(config: DeiT, student: StudentOutput, targets: Targets, labels_BK: Tensor) -> dict[str, Tensor]:
    """Return `label`, `global` and `total` = (1-alpha)*label + alpha*global, or as the loss table weighs them."""
    assert student.dist_logits is not None and targets.global_target is not None
    if config.loss is not None:
        return weighed_losses(config.loss, student.class_logits, student.dist_logits, targets.global_target, labels_BK)
    label = label_loss(student.class_logits, labels_BK)
    global_ = global_loss(student.dist_logits, targets.global_target, config.temperature)
    return {"label": label, "global": global_, "total": (1 - config.alpha) * label + config.alpha * global_}
