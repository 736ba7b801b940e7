"""A method's settings, and what it declares that it needs; the rest of the package asks these, never a name.

A declaration is a class attribute or a property: it is no setting, so no dump and no fingerprint holds it.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from cskd_bench.errors import UserError
from cskd_bench.loss_config import LossConfig
from cskd_bench.outputs import Heads
from cskd_bench.schema import StrictModel

Probability = Annotated[float, Field(ge=0, le=1)]
Hardness = Literal["hard", "soft"]
Decay = Literal["linear", "quadratic", "cosine", "local", "global"]
TeacherFeature = Literal["pooled", "maps"]  # after its global pooling (B, C), or a stage's maps (B, C, h, w)
StudentFeature = Literal["pooled", "blocks"]  # its mean patch token (B, D), or patch tokens of blocks (B, D, H, W)


class MethodSettings(StrictModel):
    """The base of every method's settings."""

    kind: str

    needs_teacher: ClassVar[bool] = True
    heads: ClassVar[Heads] = "class"  # which of the student's heads inference averages
    hardness_keys: ClassVar[tuple[str, ...]] = ()  # its settings that turn to the teacher's logits when "soft"
    teacher_features: ClassVar[tuple[TeacherFeature, ...]] = ()  # what it takes of the teacher beside its logits
    student_features: ClassVar[tuple[StudentFeature, ...]] = ()  # what its projector takes of the student

    @property
    def fusion(self) -> Decay | None:
        """How the ratio of its fused responses falls; None for a method without targets at each position."""
        return None

    @property
    def labels(self) -> Hardness:
        """What it asks of a bank: class indices, or the logits of whole images."""
        return "hard"

    @property
    def compares_images(self) -> bool:
        """Whether its loss compares the images of a batch with each other: ranks then share what they have of it."""
        return False

    @property
    def soft_temperature(self) -> float:
        """The temperature at which a bank keeps soft labels for it."""
        return 1.0

    def why_no_bank(self) -> str:
        """Say why no bank can stand in for its teacher; empty where one can."""
        if not self.needs_teacher:
            return f"method {self.kind} asks nothing of a teacher; leave the bank out"
        if self.teacher_features:
            return f"a bank has no features; method {self.kind} needs the teacher in the loop"
        soft = [key for key in self.hardness_keys if getattr(self, key) == "soft"]
        return f'a bank has hard labels; method.{soft[0]} = "soft" needs the teacher in the loop' if soft else ""


class Supervised(MethodSettings):
    """DeiT without a teacher."""

    needs_teacher = False

    kind: Literal["supervised"] = "supervised"


class LogitMethod(MethodSettings):
    """The base of methods that match the teacher's logits by one head.

    Without a `loss` table it is DeiT's: (1 - alpha) * label + alpha * loss at `temperature`. A table brings its own
    weights and temperature.
    """

    alpha: Probability = 0.5
    temperature: PositiveFloat = 1.0
    loss: Annotated[LossConfig | None, Field(exclude_if=lambda loss: loss is None)] = None

    _replaced: ClassVar[tuple[str, ...]] = ("alpha", "temperature")  # what the table stands in the place of

    @model_validator(mode="after")
    def _one_of_the_two(self) -> "LogitMethod":
        stated = [key for key in self._replaced if key in self.model_fields_set]
        if self.loss is not None and stated:
            raise ValueError(
                f"{stated[0]} belongs to {self.kind} without a loss table; "
                "the table has label_weight, weight and temperature"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_replaced(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = dump(self)
        return dumped if self.loss is None else {key: dumped[key] for key in dumped if key not in self._replaced}

    @property
    def compares_images(self) -> bool:
        """DIST compares the columns of a batch."""
        return self.loss is not None and self.loss.kind == "dist"

    @property
    def soft_temperature(self) -> float:
        """The temperature of its loss."""
        return self.temperature if self.loss is None else self.loss.temperature


class PlainKD(LogitMethod):
    """Soft KL between class logits and global response; defaults of DeiT's soft distillation."""

    kind: Literal["kd"] = "kd"
    alpha: Probability = 0.1
    temperature: PositiveFloat = 3.0

    @property
    def labels(self) -> Hardness:
        """Logits."""
        return "soft"


class DeiT(LogitMethod):
    """DeiT's distillation token."""

    heads = "class+dist"
    hardness_keys = ("global_loss",)
    _replaced = ("alpha", "global_loss", "temperature")

    kind: Literal["deit"] = "deit"
    alpha: Probability = 0.5
    global_loss: Hardness = "hard"
    temperature: PositiveFloat = 1.0

    @property
    def labels(self) -> Hardness:
        """Logits for a loss table, class indices without one."""
        return "hard" if self.loss is None else "soft"


class CSKD(MethodSettings):
    """Cumulative spatial knowledge distillation (arXiv 2307.08500).

    The ablations are decays: `local` keeps r = 1 (no CKF), `global` keeps r = 0 (every patch
    token learns the global response).
    """

    heads = "class+dist+patch"
    hardness_keys = ("global_loss", "spatial_loss")

    kind: Literal["cskd"] = "cskd"
    alpha: Probability = 0.5
    spatial_weight: NonNegativeFloat = 1.0
    decay: Decay = "linear"
    global_loss: Hardness = "hard"
    spatial_loss: Hardness = "hard"
    temperature: PositiveFloat = 1.0
    spatial_reduction: Literal["official", "mean"] = "official"

    @property
    def fusion(self) -> Decay:
        """Its decay."""
        return self.decay


class VkD(MethodSettings):
    """Teacher features through an orthogonal projection (VkD, arXiv 2403.06213); the preset `srd` is SRD's variant.

    P projects the student's mean patch token to the width of the teacher's pooled features. It is trained beside the
    student and is no part of it. `feature_norm`: layer normalises the teacher's features by image, batch normalises
    both sides by channel over the batch. `logsum` is log sum over channels of |correlation - 1|^4 (arXiv 2303.11098).
    """

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
    """Locality guidance: projected patch tokens of chosen blocks match the teacher's maps (arXiv 2207.10026).

    `student_blocks` count from 0, None: the first, the middle and the last one; `teacher_stages` as timm counts them
    (0 is the stem). Both lists are of one length.
    """

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

    def blocks(self, depth: int) -> tuple[int, ...]:
        """Return the blocks to read of a student of `depth` blocks; UserError for one beyond them."""
        chosen = (0, depth // 2, depth - 1) if self.student_blocks is None else self.student_blocks
        if beyond := [block for block in chosen if block >= depth]:
            raise UserError(f"method.student_blocks: names block {beyond[0]}, the student has blocks 0 to {depth - 1}")
        return chosen
