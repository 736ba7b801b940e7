"""A method's settings, and what it declares that it needs; the rest of the package asks these, never a name.

A declaration is a class attribute or a property: it is no setting, so no dump and no fingerprint holds it.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

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

    equation: ClassVar[str] = ""  # its total loss, one line in plain text
    source: ClassVar[str] = ""  # where it was published
    meanings: ClassVar[Mapping[str, str]] = {}  # what its settings mean, beside descriptions of their fields

    needs_teacher: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = True  # of its teacher; False for a method that takes features alone
    heads: ClassVar[Heads] = "class"  # which of the student's heads inference averages
    hardness_keys: ClassVar[tuple[str, ...]] = ()  # its settings that turn to the teacher's logits when "soft"
    teacher_features: ClassVar[tuple[TeacherFeature, ...]] = ()  # what it takes of the teacher beside its logits
    student_features: ClassVar[tuple[StudentFeature, ...]] = ()  # what its projector takes of the student

    def full_equation(self) -> str:
        """Return the equation that holds under its settings."""
        return self.equation

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
    def needs_all_logits(self) -> bool:
        """Whether its loss reads every class's logit, so that the largest and the mass of the rest are not enough."""
        return False

    def stages(self) -> tuple[int, ...]:
        """Return the teacher's stages whose maps it takes, as timm counts them."""
        return ()

    def blocks(self, depth: int) -> tuple[int, ...]:
        """Return the blocks, from 0, that its projector takes of a student with `depth` blocks."""
        return ()

    @property
    def soft_temperature(self) -> float:
        """The temperature at which a bank keeps soft labels for it."""
        return 1.0

    def why_whole_batch(self, accumulate: int) -> str:
        """Say why a batch cannot be taken apart into micro-batches; empty where it can, or is not."""
        if accumulate == 1 or not self.compares_images:
            return ""
        return (
            f"run.accumulate {accumulate}: method {self.kind} compares the images of a batch with each other, which "
            "micro-batches would take apart; set it to 1, or use more ranks, which share their images"
        )

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

    equation = "CE(class head, labels)"
    source = "arXiv 2012.12877"

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

    replaced: ClassVar[tuple[str, ...]] = ("alpha", "temperature")  # what the table stands in the place of

    @model_validator(mode="after")
    def _one_of_the_two(self) -> "LogitMethod":
        stated = [key for key in self.replaced if key in self.model_fields_set]
        if self.loss is not None and stated:
            raise ValueError(
                f"{stated[0]} belongs to {self.kind} without a loss; "
                "with one, set loss.label_weight, loss.weight and loss.temperature"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_replaced(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = dump(self)
        return dumped if self.loss is None else {key: dumped[key] for key in dumped if key not in self.replaced}

    def full_equation(self) -> str:
        """Return that of its loss where it has one; L compares the teacher with the head that `heads` adds last."""
        if self.loss is None:
            return self.equation
        head = "distillation head" if "dist" in self.heads else "class head"
        return f"label_weight CE(class head, labels) + weight L; L, on the {head}: {self.loss.equation}"

    @property
    def compares_images(self) -> bool:
        """DIST compares the columns of a batch."""
        return self.loss is not None and self.loss.kind == "dist"

    @property
    def needs_all_logits(self) -> bool:
        """Standardised logits are divided by the deviation of all."""
        return self.loss is not None and self.loss.kind == "standardised"

    @property
    def soft_temperature(self) -> float:
        """The temperature of its loss."""
        return self.temperature if self.loss is None else self.loss.temperature


class PlainKD(LogitMethod):
    """Soft KL between class logits and global response; defaults of DeiT's soft distillation."""

    equation = "(1 - alpha) CE(class head, labels) + alpha T^2 KL(teacher / T || class head / T), mean over images"
    source = "arXiv 1503.02531"
    meanings: ClassVar[Mapping[str, str]] = {
        "alpha": "weight of the teacher's term; the labels have 1 - alpha",
        "temperature": "T; both sides' logits are divided by it",
        "loss": "a loss with its own weights, in the place of alpha and temperature",
    }

    kind: Literal["kd"] = "kd"
    alpha: Probability = 0.1
    temperature: PositiveFloat = 3.0

    @property
    def labels(self) -> Hardness:
        """Logits."""
        return "soft"


class DeiT(LogitMethod):
    """DeiT's distillation token."""

    equation = "(1 - alpha) CE(class head, labels) + alpha CE(distillation head, argmax of the teacher)"
    source = "arXiv 2012.12877"
    meanings: ClassVar[Mapping[str, str]] = {
        "alpha": "weight of the teacher's term; the labels have 1 - alpha",
        "global_loss": "hard: the teacher's argmax; soft: T^2 KL summed / (images x classes)",
        "temperature": "T of a soft loss",
        "loss": "a loss with its own weights, in the place of alpha, global_loss and temperature",
    }

    heads = "class+dist"
    hardness_keys = ("global_loss",)
    replaced = ("alpha", "global_loss", "temperature")

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

    equation = (
        "(1 - alpha) CE(class head, labels) + alpha CE(distillation head, argmax G) + spatial_weight mean over "
        "positions of CE(patch logits, argmax(r D + (1 - r) G)); D teacher's logits by position, G their mean, "
        "r from 1 to 0"
    )
    source = "arXiv 2307.08500"
    meanings: ClassVar[Mapping[str, str]] = {
        "alpha": "weight of the distillation token's term; the labels have 1 - alpha",
        "spatial_weight": "weight of the patch tokens' term",
        "decay": "how r falls over the epochs; local keeps 1, global keeps 0",
        "global_loss": "hard: argmax of G; soft: T^2 KL summed / (images x classes)",
        "spatial_loss": "hard: argmax of the fused response; soft: T^2 KL",
        "temperature": "T of soft losses",
        "spatial_reduction": "of a soft spatial loss; official: summed over places, mean: averaged",
    }

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
