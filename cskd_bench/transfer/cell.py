"""Cells whose images have one class each: what is learnt from, what is scored, and whether that may be."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from cskd_bench.cells.cell import Cell
from cskd_bench.data.copies import number_images
from cskd_bench.data.notes import folder_note, join_notes
from cskd_bench.data.open import open_split
from cskd_bench.data.sources import Source, choose_images
from cskd_bench.data.views import EvalView
from cskd_bench.engine.evaluate import Predictions
from cskd_bench.engine.targets import TargetProvider
from cskd_bench.errors import UserError
from cskd_bench.models.pieces import views_at_a_time
from cskd_bench.schema import fingerprint
from cskd_bench.transfer.checks import check_scored_alone, check_splits
from cskd_bench.transfer.subsets import even_draw, plain_draw
from cskd_bench.transfer.teaching import tuning_targets

PREPROCESSING: Final = "preprocessing"  # the key of what a user changed, in settings and records
RESAMPLING: Final = "bicubic"  # of images that are scored as pretrained


@dataclass(frozen=True)
class ImageCell(Cell):
    """A cell that learns from `train` and reports `test`; splits are opened when they are first used."""

    limit: int = 0  # images drawn of each split, for a quick look; 0: all

    @property
    def batch_size(self) -> int:
        """How many views of test, or of those whose features are kept, the model takes at a time."""
        if "eval_batch_size" in self.spec.run.model_fields_set:
            return self.spec.run.eval_batch_size
        return views_at_a_time(self.model.image_size) if self.ranks.device.type == "cpu" else 256

    @property
    def features(self) -> Path:
        """The folder of features, which other protocols and seeds use too; another mean or std has its own."""
        changed = self.model.pixels | self._changed()
        return self.work / "features" / fingerprint(changed) if changed else self.work / "features"

    def settings(self) -> dict[str, Any]:
        """Return the preprocessing that is neither the checkpoint's nor the task's; empty where there is none."""
        changed = self._changed()
        return ({PREPROCESSING: changed} if changed else {}) | ({"limit": self.limit} if self.limit else {})

    def _changed(self) -> dict[str, Any]:
        return self.model.preprocessing.changes()

    @cached_property
    def train(self) -> Source:
        """The split to learn from; validation is carved out of it."""
        source = open_split(self.spec.data, self.spec.data.train)
        return choose_images(source, even_draw(source.labels, self.limit)) if self.limit else source

    @cached_property
    def test(self) -> Source:
        """The split that the record reports."""
        source = open_split(self.spec.data, self.spec.data.test)
        return choose_images(source, plain_draw(len(source), self.limit)) if self.limit else source

    @cached_property
    def targets(self) -> TargetProvider:
        """What fine-tuning learns from beside the labels; UserError for a teacher that does not fit the task."""
        return tuning_targets(self.spec, self.protocol, self.train.classes, self.ranks.device)

    def check_teacher(self) -> None:
        """UserError for a teacher that does not fit the task; images that are not there are told elsewhere."""
        try:
            _ = self.train
        except UserError:
            return
        _ = self.targets

    def images(self) -> str:
        """Return the identity of both splits."""
        return f"{self.train.identity} {self.test.identity}"

    def folder_note(self) -> str:
        """Return a note on what of the folders of both splits is not read, or read though others would not."""
        trains = self.protocol in ("finetune", "lowlabel") and self.spec.data.val
        val = [open_split(self.spec.data, self.spec.data.val)] if trains else []
        return join_notes(*map(folder_note, (self.train, self.test, *val)))

    def number_images(self) -> np.ndarray | None:
        """Number the images of test; the parts of a robustness task show the same images."""
        return number_images(self.test, parts_alike=self.spec.group == "robustness")

    def check(self) -> str:
        """Return a note on images that are in both splits; UserError as `check_splits` and `targets` raise it."""
        asked = self.spec.model_copy(update={"protocols": (self.protocol,)})
        note = check_splits(asked, self.train, self.test)
        _ = self.targets
        return note

    def describe_images(self) -> str:
        """Say their size, their number in each split, and their classes; or why they are not there."""
        data = self.spec.data
        try:
            sizes = ", ".join(f"{_shorten(split)} {len(open_split(data, split)):,} images" for split in self._splits())
        except UserError as error:
            sizes = f"data not ready: {error}"
        return f"{self.model.image_size} px, {sizes}, {data.num_classes} classes"

    def _splits(self) -> list[str]:
        return [self.spec.data.train, self.spec.data.test]


@dataclass(frozen=True)
class ScoringCell(ImageCell):
    """A cell that learns nothing and reports `test`."""

    @property
    def view(self) -> EvalView:
        """How an image of test is seen: as the task says, or as the user said instead."""
        asked = self.model.preprocessing
        crop = self.spec.data.eval_crop if asked.crop is None else asked.crop
        return EvalView(self.model.image_size, float(crop), asked.interpolation or RESAMPLING)

    def _changed(self) -> dict[str, Any]:
        """Return what is changed, without a crop and a resampling that are the task's anyway."""
        usual = {"crop": self.spec.data.eval_crop, "interpolation": RESAMPLING}
        return {key: value for key, value in super()._changed().items() if usual.get(key) != value}

    def images(self) -> str:
        """Return the identity of test."""
        return self.test.identity

    def folder_note(self) -> str:
        """Return the same of test alone."""
        return folder_note(self.test)

    def check(self) -> str:
        """UserError for a checkpoint without a head, and where test has not images of every class."""
        if self.model.num_classes == 0:
            raise UserError(
                f"the checkpoint {self.model.checkpoint.run} has no head to score ({self.model.no_head}); "
                "give one with its classifier, or choose a protocol that trains one"
            )
        return check_scored_alone(self.spec, self.test)

    def _splits(self) -> list[str]:
        return [self.spec.data.test]


def from_probability(labels: np.ndarray, probability: np.ndarray, classes: np.ndarray) -> Predictions:
    """Take the most probable class of each image: probability (n, K), whose columns are `classes`."""
    chosen = probability.argmax(1)
    return Predictions(labels, classes[chosen].astype(np.int64), probability.max(1).astype(np.float32))


def _shorten(split: str) -> str:
    parts = split.split("+")
    return split if len(parts) < 4 else f"{parts[0]} ... {parts[-1]} ({len(parts)} parts)"
