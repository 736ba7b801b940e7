"""A cell whose images may have several classes each: its splits, and whether a number may be made from them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cskd_bench.data.leaks import note_leaks
from cskd_bench.data.multilabel import MultilabelSource, open_multilabel, refuse_twice
from cskd_bench.data.sources import JoinedSource
from cskd_bench.errors import UserError
from cskd_bench.task import TaskSpec
from cskd_bench.transfer.cell import ImageCell

Splits = dict[str, MultilabelSource]


@dataclass(frozen=True)
class MultilabelCell(ImageCell):
    """A cell that learns from `train`, chooses on `val` where there is one, and reports `test`."""

    @cached_property
    def splits(self) -> Splits:
        """The splits that are read: train, test, and val where the task names one."""
        return open_splits(self.spec)

    @cached_property
    def train(self) -> MultilabelSource:
        """The split to learn from."""
        return self.splits["train"]

    @cached_property
    def test(self) -> MultilabelSource:
        """The split that the record reports."""
        return self.splits["test"]

    def images(self) -> str:
        """Return the identity of all splits, with their labels."""
        return " ".join(split.identity for split in self.splits.values())

    def number_images(self) -> np.ndarray | None:
        """Return None: no class is predicted of an image."""
        return None

    def check(self) -> str:
        """Return a note on images that are in both splits; UserError as `check_splits` raises it."""
        return check_splits(self.spec, self.splits)

    def describe_images(self) -> str:
        """Say their size, their number in each split, and their classes; UserError where they cannot be used."""
        self.check()
        return f"{self.model.image_size} px, {_describe(self.splits)}"


def open_splits(spec: TaskSpec) -> Splits:
    """Open the splits of a task by name; UserError for missing and malformed data, with how to get them."""
    data = spec.data
    wanted = {"train": data.train, "val": data.val, "test": data.test}
    try:
        return {name: open_multilabel(data, split) for name, split in wanted.items() if split}
    except UserError as error:
        hint = f"; to get the data: {data.by_hand}" if data.by_hand else ""
        raise UserError(f"{error}{hint}") from error


def check_splits(spec: TaskSpec, splits: Splits) -> str:
    """Return a note for the record on stored images that are in both splits.

    UserError for an image that two splits name, for splits with other classes, and for a class that cannot be learnt
    or scored: no image of train and val has it, or all that count have it, or none of test.
    """
    train, known = splits["train"], dict[Path, str]()
    for name, split in splits.items():
        if split.classes != train.classes:
            odd = sorted(set(split.classes) ^ set(train.classes))
            raise UserError(f"task {spec.name}: train and {name} have different classes: {', '.join(odd[:3])}")
        refuse_twice(split.paths, split.places, known)
    learnt = [split for name, split in splits.items() if name != "test"]
    targets = np.concatenate([split.targets for split in learnt])
    for label, name in enumerate(train.classes):
        if not {1, -1} <= set(targets[:, label].tolist()):
            raise UserError(f"task {spec.name}: class {name} needs images of train with it and without it")
        if not (splits["test"].targets[:, label] == 1).any():
            raise UserError(f"task {spec.name}: no image of test has class {name}, so it has no average precision")
    return note_leaks(spec, JoinedSource(learnt, [spec.data.train, spec.data.val][: len(learnt)]), splits["test"])


def look(spec: TaskSpec) -> str:
    """Open a task's splits, check them, read the first image, and say how many there are."""
    splits = open_splits(spec)
    note = check_splits(spec, splits)
    splits["test"].load(0)
    return _describe(splits) + (f" ({note})" if note else "")


def size(spec: TaskSpec, seed: int, work: Path) -> tuple[int, int]:
    """Return (0, images): features are computed, nothing is trained by steps."""
    return 0, sum(map(len, open_splits(spec).values()))


def _describe(splits: Splits) -> str:
    counts = ", ".join(f"{name} {len(split):,} images" for name, split in splits.items())
    return f"{counts}, {len(splits['train'].classes)} classes, several to an image"
