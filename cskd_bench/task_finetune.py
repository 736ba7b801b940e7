"""Settings of fine-tuning in a downstream task."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from cskd_bench.config import AugmentConfig, OptimConfig, Probability, Recipe


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


class FinetuneConfig(Recipe):
    """Fine-tune every weight; the distillation token's head and answer are kept or dropped, the token itself stays.

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
    train_fraction: float = Field(default=1.0, gt=0, le=1)
    drop_path: Annotated[float | None, Field(ge=0, lt=1, exclude_if=lambda rate: rate is None)] = None
    lr_grid: Annotated[tuple[PositiveFloat, ...], Field(exclude_if=lambda grid: not grid)] = ()
    lr_grid_epochs: Annotated[PositiveInt | None, Field(exclude_if=lambda epochs: epochs is None)] = None
    validation: Annotated[float, Field(gt=0, lt=1, exclude_if=lambda share: bool(share == 0.2))] = 0.2

    @model_validator(mode="after")
    def _grid_is_possible(self) -> "FinetuneConfig":
        if len(set(self.lr_grid)) < len(self.lr_grid):
            raise ValueError("lr_grid: the same learning rate stands twice")
        if self.lr_grid and self.lr_grid_epochs and self.optim.warmup_epochs > self.lr_grid_epochs:
            raise ValueError(
                f"optim.warmup_epochs {self.optim.warmup_epochs:g} is longer than lr_grid_epochs {self.lr_grid_epochs}"
            )
        return self


def used_settings(finetune: dict[str, Any]) -> dict[str, Any]:
    """Return what fine-tuning uses of its dumped settings: either a grid and how to choose on it, or `optim.lr`."""
    if not finetune.get("lr_grid"):
        return {key: value for key, value in finetune.items() if key not in ("lr_grid_epochs", "validation")}
    return finetune | {"optim": {key: value for key, value in finetune["optim"].items() if key != "lr"}}
