"""What a protocol is given and what it gives back."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cskd_bench.data.randomness import Stream, generator
from cskd_bench.data.sources import Source
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.evaluate import Predictions
from cskd_bench.models.checkpoints import Loaded
from cskd_bench.task import TaskSpec


@dataclass(frozen=True)
class Cell:
    """One task, protocol, checkpoint and seed, with its data opened."""

    spec: TaskSpec
    model: Loaded
    seed: int
    train: Source
    test: Source
    folder: Path  # for what the protocol keeps while it works
    ranks: Ranks
    workers: int


@dataclass(frozen=True)
class Outcome:
    """A protocol's result on the test split."""

    predictions: Predictions
    metrics: dict[str, float] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    images_per_second: float = 0.0
    peak_memory_bytes: int = 0


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split indices into (kept, held out): `fraction` of every class, at least one image each, is held out."""
    held: list[np.ndarray] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = generator(seed, Stream.SPLIT, index=int(label)).permutation(len(members))
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held.append(members[order[:count]])
    held_out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out
