"""What a task's splits must satisfy before a number is made from them."""

import numpy as np

from cskd_bench.data.leaks import note_leaks
from cskd_bench.data.named import TimmSource
from cskd_bench.data.open import open_split
from cskd_bench.data.sources import JoinedSource, Source, unsliced
from cskd_bench.errors import UserError
from cskd_bench.task import TaskSpec


def check_whole(spec: TaskSpec, split: str, source: Source) -> None:
    """UserError where a split has not images of every class: a partly unpacked one is easier, and looks better."""
    present = len(np.unique(source.labels))
    if present != spec.data.num_classes:
        raise UserError(
            f"task {spec.name}: {split} has images of {present} classes, data.num_classes says {spec.data.num_classes}"
        )


def check_splits(spec: TaskSpec, train: Source, test: Source) -> str:
    """Return a note for the record; UserError for a wrong class count, other classes in test or val, or leaks."""
    where = f"task {spec.name}"
    check_whole(spec, "train", train)
    _check_same_classes(where, train, test, "test")
    if spec.data.val:
        _check_same_classes(where, train, open_split(spec.data, spec.data.val), "val")
    if same := count_same(train, test):
        raise UserError(
            f"{where}: data.train {spec.data.train!r} and data.test {spec.data.test!r} open the same "
            f"{same} images of {spec.data.dataset}; it has no further split of that name, or slices overlap"
        )
    return note_leaks(spec, train, test)


def check_data(spec: TaskSpec) -> str:
    """Open a task's splits, check them, read the first image, and say how many there are."""
    test = open_split(spec.data, spec.data.test)
    test.load(0)
    if set(spec.protocols) <= {"evaluate"}:
        check_whole(spec, "test", test)
        return f"{len(test):,} test images"
    train = open_split(spec.data, spec.data.train)
    note = check_splits(spec, train, test)
    return f"{len(train):,} training and {len(test):,} test images" + (f" ({note})" if note else "")


def _check_same_classes(where: str, train: Source, other: Source, split: str) -> None:
    """Names must agree one by one; classes that are numbers alone may end early in a small split."""
    numbered = all(name.isdecimal() for name in train.classes)
    expected = train.classes[: len(other.classes)] if numbered else train.classes
    if list(other.classes) != list(expected):
        odd = sorted(set(other.classes) ^ set(train.classes))
        raise UserError(f"{where}: train and {split} have different classes, for example {', '.join(odd[:3])}")


def _unsearched(source: Source) -> list[tuple[str, np.ndarray]]:
    """Return (content, indices) of parts whose stored bytes cannot be searched, whatever their split is called."""
    parts = [unsliced(part) for part in (source.parts if isinstance(source, JoinedSource) else [source])]
    return [(whole.content_identity, indices) for whole, indices in parts if isinstance(whole, TimmSource)]


def count_same(train: Source, test: Source) -> int:
    """Return how many images of data that cannot be searched are in both splits, by their place in that data."""
    pairs = ((ours, theirs) for ours in _unsearched(train) for theirs in _unsearched(test) if ours[0] == theirs[0])
    return sum(len(np.intersect1d(ours[1], theirs[1])) for ours, theirs in pairs)
