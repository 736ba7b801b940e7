"""What a task's splits must satisfy before a number is made from them."""

import hashlib
from collections.abc import Iterator

import numpy as np

from cskd_bench.data.sources import ContentSource, JoinedSource, Source
from cskd_bench.errors import UserError
from cskd_bench.task import TaskSpec
from cskd_bench.transfer.cell import open_split


def check_splits(spec: TaskSpec, train: Source, test: Source) -> str:
    """Return a note for the record; UserError for a wrong class count, other classes in test, or leaks."""
    where = f"task {spec.name}"
    present = len(np.unique(train.labels))
    if present != spec.data.num_classes:
        raise UserError(
            f"{where}: train has images of {present} classes, data.num_classes says {spec.data.num_classes}"
        )
    if list(test.classes) != list(train.classes[: len(test.classes)]):
        odd = sorted(set(test.classes) ^ set(train.classes))
        raise UserError(f"{where}: train and test have different classes, for example {', '.join(odd[:3])}")
    leaks = shared_images(train, test)
    if not leaks:
        return ""
    named = ", ".join(f"{ours} = {theirs}" for ours, theirs in leaks[:3]) + (", ..." if len(leaks) > 3 else "")
    what = f"{len(leaks)} images of test are also in train ({named})"
    if spec.data.splits == "own":
        raise UserError(f'{where}: {what}; remove them, or say data.splits = "published" if the split is not yours')
    return f"{what}: the published split, taken as it is"


def check_data(spec: TaskSpec) -> str:
    """Open a task's splits, check them, read the first image, and say how many there are."""
    test = open_split(spec.data, spec.data.test)
    test.load(0)
    if set(spec.protocols) <= {"evaluate"}:
        return f"{len(test):,} test images"
    train = open_split(spec.data, spec.data.train)
    note = check_splits(spec, train, test)
    return f"{len(train):,} training and {len(test):,} test images" + (f" ({note})" if note else "")


def shared_images(train: Source, test: Source) -> list[tuple[str, str]]:
    """Return (test image, train image) wherever the same stored bytes are in both (SHA-256).

    Only images whose stored size occurs in both splits are read. Sources that cannot give stored bytes
    are not searched.
    """
    stored_train, stored_test = _stored(train), _stored(test)
    if not stored_train or not stored_test:
        return []
    sizes_train, sizes_test = (np.concatenate([part.sizes for part in parts]) for parts in (stored_train, stored_test))
    sizes = np.intersect1d(sizes_train, sizes_test)
    known = dict(_digests(stored_train, sizes))
    return [(name, known[digest]) for digest, name in _digests(stored_test, sizes) if digest in known]


def _stored(source: Source) -> list[ContentSource]:
    parts = source.parts if isinstance(source, JoinedSource) else [source]
    return [part for part in parts if isinstance(part, ContentSource)]


def _digests(parts: list[ContentSource], sizes: np.ndarray) -> Iterator[tuple[bytes, str]]:
    for part in parts:
        for index in np.flatnonzero(np.isin(part.sizes, sizes)):
            yield hashlib.sha256(part.content(int(index))).digest(), part.name(int(index))
