"""What the training loop is given, and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cskd_bench.config import DataConfig, MethodConfig, Recipe, RunConfig
from cskd_bench.data.sources import Source
from cskd_bench.engine.evaluate import Predictions
from cskd_bench.engine.targets import TargetProvider


@dataclass(frozen=True)
class Job:
    """One training run, built: everything that the loop needs."""

    title: str
    student: Any  # module: (views, grid) -> StudentOutput, with predict(views) -> (B, K) logits
    method: MethodConfig
    targets: TargetProvider
    train: Source
    val: Source | None
    data: DataConfig
    recipe: Recipe
    run: RunConfig
    view_size: int
    image_size: int
    seed: int
    folder: Path
    identity: dict[str, Any]
    teacher_precision: str = "fp32"
    score_training: bool = False  # whether the last epoch's scores hold the accuracy on training images
    note: str = ""  # what a record should say of the labels
    keep_milestone: Callable[[int, Any, Any | None], None] | None = None  # given an epoch, the student and its average


@dataclass(frozen=True)
class Fit:
    """A finished run. `started` is when the first of its processes began, `resumptions` how often another went on.

    `seconds` are of training alone, of which `images_per_second` follows; those of evaluations come on top.
    """

    student: Any
    ema: Any | None
    curve: list[dict[str, float]]
    predictions: Predictions | None
    seconds: float
    images_per_second: float
    started: str
    resumptions: int
    evaluation_seconds: float = 0.0
