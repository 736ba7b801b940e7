"""A detection cell: COCO-format splits, and the detector's configuration, completed for them and the student."""

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar
from weakref import finalize

from cskd_bench.cells.cell import Cell
from cskd_bench.data.notes import join_notes
from cskd_bench.detection import operators
from cskd_bench.detection.annotations import CocoSplit, let_go
from cskd_bench.detection.checks import check_splits
from cskd_bench.detection.facts import facts_of
from cskd_bench.detection.fitting import StudentFacts
from cskd_bench.detection.settings import comparable, complete
from cskd_bench.detection.splits import describe_splits, open_splits, splits_identity


@dataclass(frozen=True)
class DetectionCell(Cell):
    """A cell that trains a detector on `train` and reports `test`; its folder keeps the detector's weights."""

    keeps_folder: ClassVar[bool] = True

    @cached_property
    def _splits(self) -> tuple[CocoSplit, CocoSplit]:
        finalize(self, let_go)
        return open_splits(self.spec.data, self.work)

    @property
    def train(self) -> CocoSplit:
        """The split to learn from."""
        return self._splits[0]

    @property
    def test(self) -> CocoSplit:
        """The split that the record reports."""
        return self._splits[1]

    @cached_property
    def config(self) -> Any:
        """mmengine's configuration, without this machine's folders; UserError for missing packages and other ViTs."""
        operators.install()
        return complete(self.spec.detect, StudentFacts.of(self.model.student), facts_of(self.train).classes, self.seed)

    @cached_property
    def comparable(self) -> dict[str, Any]:
        """What of the configuration decides the score."""
        return comparable(self.config)

    def settings(self) -> dict[str, Any]:
        """Return the detector's configuration as its file and the task give it."""
        return {"config": self.comparable}

    def images(self) -> str:
        """Return the identity of both splits."""
        return splits_identity(self.train, self.test)

    @cached_property
    def _notes(self) -> list[str]:
        return check_splits(self.spec, self.train, self.test, self.config)

    def check(self) -> str:
        """Return what is odd in the annotations, and say it; UserError for what no detector can be trained on.

        The main rank alone looks.
        """
        if not self.ranks.is_main:
            return ""
        for note in self._notes:
            print(note, file=sys.stderr)
        return join_notes(*self._notes)

    def describe_images(self) -> str:
        """Say how many images and classes there are; UserError where they cannot be used."""
        _ = self._notes
        return describe_splits(self.train, self.test)
