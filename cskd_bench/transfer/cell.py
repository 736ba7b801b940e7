"""What a protocol is given and what it gives back."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from cskd_bench.data.open import open_source
from cskd_bench.data.sources import Source
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.evaluate import Predictions
from cskd_bench.errors import UserError
from cskd_bench.models.checkpoints import Loaded
from cskd_bench.models.pieces import views_at_a_time
from cskd_bench.task import TaskData, TaskSpec


@dataclass(frozen=True)
class Cell:
    """One task, protocol, checkpoint and seed; its splits are opened when they are first used."""

    spec: TaskSpec
    model: Loaded
    seed: int
    folder: Path  # for what the protocol keeps while it works
    features: Path  # for features that other protocols and seeds use too
    ranks: Ranks
    workers: int

    @property
    def batch_size(self) -> int:
        """How many views of test, or of those whose features are kept, the model takes at a time."""
        return views_at_a_time(self.model.image_size) if self.ranks.device.type == "cpu" else 256

    @cached_property
    def train(self) -> Source:
        """The split to learn from; validation is carved out of it."""
        return open_split(self.spec.data, self.spec.data.train)

    @cached_property
    def test(self) -> Source:
        """The split that the record reports."""
        return open_split(self.spec.data, self.spec.data.test)


@dataclass(frozen=True)
class Outcome:
    """A protocol's result on the test split."""

    predictions: Predictions
    metrics: dict[str, float] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    images_per_second: float = 0.0
    peak_memory_bytes: int = 0


def open_split(data: TaskData, split: str) -> Source:
    """Open a split of a task; where that fails, the UserError also says how to get the data by hand."""
    try:
        return open_source(data, split)
    except UserError as error:
        hint = f"; to get the data: {data.by_hand}" if data.by_hand else ""
        raise UserError(f"{error}{hint}") from error


def from_probability(labels: np.ndarray, probability: np.ndarray, classes: np.ndarray) -> Predictions:
    """Take the most probable class of each image: probability (n, K), whose columns are `classes`."""
    chosen = probability.argmax(1)
    return Predictions(labels, classes[chosen].astype(np.int64), probability.max(1).astype(np.float32))
