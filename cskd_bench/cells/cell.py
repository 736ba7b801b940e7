"""What a protocol is given, and what it gives back."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.evaluate import Predictions
from cskd_bench.errors import Interrupted, UserError
from cskd_bench.models.checkpoints import Loaded
from cskd_bench.record import record_id
from cskd_bench.stopping import Stop
from cskd_bench.task import TaskSpec
from cskd_bench.task_identity import transfer_recipe


@dataclass(frozen=True)
class Cell(ABC):
    """One task, protocol, checkpoint and seed; what depends on the kind of its images is left to subclasses."""

    spec: TaskSpec
    protocol: str
    seed: int
    model: Loaded
    work: Path  # for what several cells use, and for each cell's own folder
    ranks: Ranks
    workers: int
    stop: Stop
    keep_weights: bool = False  # whether a fine-tuned student stays in the cell's folder, as a run

    keeps_folder: ClassVar[bool] = False  # whether the folder stays when the record is written

    @abstractmethod
    def images(self) -> str:
        """Return the identity of the images that are learnt from and scored."""

    @abstractmethod
    def check(self) -> str:
        """Return a note for the record; UserError for data that no number should be made from."""

    @abstractmethod
    def describe_images(self) -> str:
        """Say in a few words what the images are: sizes and classes."""

    def folder_note(self) -> str:
        """Return a note on files that are left out, or used though others would not; empty where none is."""
        return ""

    def number_images(self) -> np.ndarray | None:
        """Number the images that are scored, (n,): equal numbers are the same image; None where all differ."""
        return None

    def settings(self) -> dict[str, Any]:
        """Return what decides the score and is neither in the task nor in the checkpoint."""
        return {}

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """All that records must share to be compared, seed and method apart."""
        pretrain, used = self.model.checkpoint.pretrain_recipe, self.spec.identity(self.protocol)
        return transfer_recipe(pretrain, self.protocol, used, self.settings())

    @cached_property
    def name(self) -> str:
        """The id of its record; it holds the whole task, also what the protocol does not use."""
        loaded = self.model
        identity = {
            **transfer_recipe(loaded.stated_recipe(), self.protocol, self.spec.identity(), self.settings()),
            **loaded.weights_identity(),
            "seed": self.seed,
        }
        run, seed = loaded.checkpoint.run, f"s{self.seed}"
        return record_id(self.spec.name, self.protocol, loaded.method.kind, run, seed, identity)

    @property
    def folder(self) -> Path:
        """Where the protocol keeps what it needs while it works."""
        return self.work / self.name

    def heed_stop(self, fault: UserError | None = None) -> None:
        """Interrupted, on every rank, where one was asked to stop; UserError, on every rank, where one has a fault."""
        if self.ranks.settle(fault, stop=self.stop.requested):
            if not self.stop.kept:
                raise Interrupted("stopped before anything was kept; the same command starts again", kept=False)
            raise Interrupted("stopped; the same command continues from what is kept")


@dataclass(frozen=True)
class Outcome:
    """What a cell came to: scores, and what they took. Scores are fractions."""

    predictions: Predictions | None = None  # of each image, where a class is predicted
    metrics: dict[str, float] = field(default_factory=dict)  # beside those of the predictions
    curve: list[dict[str, float]] = field(default_factory=list)  # one entry per epoch
    seconds: float = 0.0
    images_per_second: float = 0.0
    started: str = ""  # UTC, where that was an earlier process
    resumptions: int = 0  # from checkpoints
    labels_from: Literal["none", "teacher", "bank"] = "none"
    labelling_seconds: float = 0.0  # of the labels that were there before
    evaluation_seconds: float = 0.0  # in `seconds`, of the epochs' scores
    tf32: bool = False  # whether any operand may have been rounded to TF32
    scored: int = 0  # images, where nothing is predicted of each
    note: str = ""
    config: dict[str, Any] = field(default_factory=dict)  # what the record's configuration holds besides
    packages: tuple[str, ...] = ()  # whose versions decide the score besides
    pictures: dict[str, bytes] = field(default_factory=dict)  # JPEGs for the report, by the ending of their file

    def of_images(self, image: np.ndarray | None) -> "Outcome":
        """Return the same with predictions whose images are numbered (n,): equal numbers are the same image."""
        if self.predictions is None or image is None:
            return self
        assert len(image) == len(self.predictions.label)
        return replace(self, predictions=replace(self.predictions, image=image))

    def noted(self, note: str) -> "Outcome":
        """Return the same with another sentence for the reader before its own."""
        return replace(self, note="; ".join(filter(None, (note, self.note))))
