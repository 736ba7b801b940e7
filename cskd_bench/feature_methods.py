"""Settings of methods that match the teacher's features, not its logits alone: VkD, SRD, locality guidance."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from cskd_bench.errors import UserError
from cskd_bench.method_config import MethodSettings


class VkD(MethodSettings):
    """Teacher features through a trained projection of the mean patch token; `srd` names SRD's settings of it.

    The projection P is trained beside the student and is no part of it: exports and predictions are without it.
    """

    equation = (
        "CE(class head, labels) + kl_weight T^2 KL(teacher / T || distillation head / T) "
        "+ feature_weight distance(P mean patch token, normalised pooled features of the teacher)"
    )
    source = "arXiv 2403.06213; SRD: arXiv 2303.11098"
    meanings: ClassVar[Mapping[str, str]] = {
        "temperature": "T; both sides' logits are divided by it",
        "kl_weight": "weight of the logits' term",
        "feature_weight": "weight of the features' term",
        "projector": "orthogonal: P has orthonormal columns; linear: any weights",
        "feature_norm": "layer: the teacher's by image; batch: both sides by channel, over the batch",
        "distance": "smooth_l1: mean over images and channels; logsum: log sum over channels of |correlation - 1|^4",
    }

    heads = "class+dist"
    teacher_features = ("pooled",)
    student_features = ("pooled",)

    kind: Literal["vkd"] = "vkd"
    temperature: PositiveFloat = 1.0
    kl_weight: NonNegativeFloat = 1.0
    feature_weight: NonNegativeFloat = 1.0
    projector: Literal["orthogonal", "linear"] = "orthogonal"
    feature_norm: Literal["layer", "batch"] = "layer"
    distance: Literal["smooth_l1", "logsum"] = "smooth_l1"

    @model_validator(mode="after")
    def _correlations_need_normalised_sides(self) -> "VkD":
        if self.distance == "logsum" and self.feature_norm != "batch":
            raise ValueError(
                'distance = "logsum" compares correlations over the batch; it needs feature_norm = "batch"'
            )
        return self

    @property
    def compares_images(self) -> bool:
        """Batch normalisation and correlations look at the whole batch."""
        return self.feature_norm == "batch"


class Locality(MethodSettings):
    """Patch tokens of chosen blocks, each through a 1 x 1 convolution, match maps of the teacher's stages.

    The convolutions are trained beside the student and are no part of it.
    """

    equation = (
        "CE(class head, labels) + feature_weight sum over pairs of mean (stage - convolution of block)^2, "
        "both resized to the larger"
    )
    source = "arXiv 2207.10026"
    meanings: ClassVar[Mapping[str, str]] = {
        "feature_weight": "weight of the features' term",
        "student_blocks": "blocks, from 0; none: the first, the middle and the last one",
        "teacher_stages": "stages as timm counts them, 0 is the stem; one for each block",
    }

    needs_logits = False
    teacher_features = ("maps",)
    student_features = ("blocks",)

    kind: Literal["locality"] = "locality"
    feature_weight: NonNegativeFloat = 2.5
    student_blocks: tuple[NonNegativeInt, ...] | None = None
    teacher_stages: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (2, 3, 4)

    @model_validator(mode="after")
    def _pairs(self) -> "Locality":
        blocks = 3 if self.student_blocks is None else len(self.student_blocks)
        if blocks != len(self.teacher_stages):
            raise ValueError(f"{blocks} student_blocks and {len(self.teacher_stages)} teacher_stages make no pairs")
        return self

    def stages(self) -> tuple[int, ...]:
        """Return the chosen stages."""
        return self.teacher_stages

    def blocks(self, depth: int) -> tuple[int, ...]:
        """Return the chosen blocks; UserError for one that a student of `depth` blocks does not have."""
        chosen = (0, depth // 2, depth - 1) if self.student_blocks is None else self.student_blocks
        if beyond := [block for block in chosen if block >= depth]:
            raise UserError(f"method.student_blocks: names block {beyond[0]}, the student has blocks 0 to {depth - 1}")
        return chosen
