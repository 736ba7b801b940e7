"""A method in one file: soft distillation, each image weighted by the teacher's probability of its label."""

from typing import Literal

from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn import functional as F

from cskd_bench.config import MethodSettings
from cskd_bench.methods import Objective
from cskd_bench.outputs import StudentOutput, Targets, TeacherOutput


class ConfidentKD(MethodSettings):
    """KL with the teacher, each image weighted by the probability that the teacher gives its label."""

    equation = "CE(class head, labels) + weight mean of p_teacher[label] KL(teacher || class head)"
    source = "an example"

    kind: Literal["confident_kd"] = "confident_kd"
    weight: NonNegativeFloat = 1.0

    def why_no_bank(self) -> str:
        return "an example keeps its teacher in the loop"


def targets(config: ConfidentKD, teacher: TeacherOutput, ratio: float) -> Targets:
    return Targets(global_target=teacher.global_logits)


def losses(config: ConfidentKD, student: StudentOutput, targets: Targets, labels_BK: Tensor) -> dict[str, Tensor]:
    label = F.cross_entropy(student.class_logits, labels_BK)
    teacher, ours = targets.global_target.log_softmax(1), student.class_logits.log_softmax(1)
    confidence = (teacher.exp() * labels_BK).sum(1)
    distance = F.kl_div(ours, teacher, reduction="none", log_target=True).sum(1)
    confident = (confidence * distance).mean()
    return {"label": label, "confident": confident, "total": label + config.weight * confident}


OBJECTIVE = Objective(ConfidentKD, targets, losses)
