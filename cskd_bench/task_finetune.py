"""Settings of fine-tuning in a downstream task."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, PrivateAttr, field_validator, model_validator

from cskd_bench.config import AugmentConfig, MethodConfig, OptimConfig, Probability, Recipe, Supervised, TeacherConfig


class FinetuneAugment(AugmentConfig):
    """Crops and flips alone, unless a task says more."""

    repeats: PositiveInt = 1
    erasing: Probability = 0.0
    mixup: NonNegativeFloat = 0.0
    cutmix: NonNegativeFloat = 0.0
    auto_augment: str = ""
    color_jitter: NonNegativeFloat = 0.0


class FinetuneOptim(OptimConfig):
    """AdamW at 5e-5 with one epoch of warm-up, down to zero."""

    lr: PositiveFloat = 5e-5
    min_lr: NonNegativeFloat = 0.0
    warmup_epochs: NonNegativeFloat = 1.0
    warmup_lr: NonNegativeFloat = 1e-7


class FinetuneTeacher(TeacherConfig):
    """The teacher of a fine-tuning; with a `weights` file it has the task's classes, unless `num_classes` is stated."""

    _identity: str = PrivateAttr("")

    def known_as(self, identity: str) -> "FinetuneTeacher":
        """Return the same teacher, which identities then call by its model and the hash of its weights."""
        teacher = self.model_copy()
        teacher._identity = identity
        return teacher

    @property
    def weights_identity(self) -> str:
        """What identities hold of its weights: model and hash, or the file's name where nobody has read it."""
        return self._identity or Path(self.weights).name


class FinetuneConfig(Recipe):
    """Fine-tune every weight; the distillation token's head and answer are kept or dropped, the token itself stays.

    With `method` the student learns from `teacher` as in pretraining with that method. Its heads then learn and answer,
    whatever heads the checkpoint answered with. Without it (or with "supervised") the mean of the checkpoint's heads
    learns the labels.

    `precision`: where nobody states it, a GPU with bf16 units fine-tunes in bf16. `drop_path` is the last block's rate
    of stochastic depth; None keeps the checkpoint's own. With `lr_grid` the learning rate is chosen among these, on
    `validation` of every class of train, by trainings of `lr_grid_epochs` (None: all epochs). A key that is left out of
    fingerprints at its default was not there in records without it.
    """

    epochs: PositiveInt = 20
    batch_size: PositiveInt = 64
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    augment: FinetuneAugment = FinetuneAugment()
    optim: FinetuneOptim = FinetuneOptim()
    distillation_token: Literal["keep", "drop"] = "keep"
    method: Annotated[MethodConfig | None, Field(exclude_if=lambda method: method is None)] = None
    teacher: Annotated[FinetuneTeacher | None, Field(exclude_if=lambda teacher: teacher is None)] = None
    train_fraction: float = Field(default=1.0, gt=0, le=1)
    drop_path: Annotated[float | None, Field(ge=0, lt=1, exclude_if=lambda rate: rate is None)] = None
    lr_grid: Annotated[tuple[PositiveFloat, ...], Field(exclude_if=lambda grid: not grid)] = ()
    lr_grid_epochs: Annotated[PositiveInt | None, Field(exclude_if=lambda epochs: epochs is None)] = None
    validation: Annotated[float, Field(gt=0, lt=1, exclude_if=lambda share: bool(share == 0.2))] = 0.2

    @field_validator("method")
    @classmethod
    def _supervised_is_none(cls, method: MethodConfig | None) -> MethodConfig | None:
        return None if isinstance(method, Supervised) else method

    @model_validator(mode="after")
    def _is_taught_as_it_can_be(self) -> "FinetuneConfig":
        method, needed = self.method, self.method is not None and self.method.needs_teacher
        if self.teacher is not None and not needed:
            raise ValueError("teacher: nothing is asked of it; state finetune.method.kind, or leave the teacher out")
        if method is None:
            return self
        if needed and self.teacher is None:
            raise ValueError(
                f"method {method.kind} needs a teacher of the task's classes; state finetune.teacher.name and "
                "finetune.teacher.weights"
            )
        if self.distillation_token == "drop" and method.heads != "class":
            raise ValueError(
                f'distillation_token = "drop": method {method.kind} trains the head of that token; leave the key out, '
                "or set finetune.method.kind=kd"
            )
        return self

    @model_validator(mode="after")
    def _grid_is_possible(self) -> "FinetuneConfig":
        if len(set(self.lr_grid)) < len(self.lr_grid):
            raise ValueError("lr_grid: the same learning rate stands twice")
        if self.lr_grid and self.lr_grid_epochs and self.optim.warmup_epochs > self.lr_grid_epochs:
            raise ValueError(
                f"optim.warmup_epochs {self.optim.warmup_epochs:g} is longer than lr_grid_epochs {self.lr_grid_epochs}"
            )
        return self

    def view_size(self, image_size: int) -> int:
        """Return the side in pixels of a view, for a student of `image_size` px; student and teacher shrink it."""
        return self.augment.view_size or max(image_size, self.teacher.image_size if self.teacher else 0)


def used_settings(finetune: dict[str, Any]) -> dict[str, Any]:
    """Return what fine-tuning uses of its dumped settings: either a grid and how to choose on it, or `optim.lr`."""
    if not finetune.get("lr_grid"):
        return {key: value for key, value in finetune.items() if key not in ("lr_grid_epochs", "validation")}
    return finetune | {"optim": {key: value for key, value in finetune["optim"].items() if key != "lr"}}
