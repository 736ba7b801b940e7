"""Images of test that are also in train: found by their stored bytes."""

import hashlib
from collections.abc import Iterator

import numpy as np

from cskd_bench.data.sources import ContentSource, JoinedSource, Source
from cskd_bench.errors import UserError
from cskd_bench.task import TaskSpec


def note_leaks(spec: TaskSpec, train: Source, test: Source) -> str:
    """Return a note on images of test that are also in train; UserError for such unless the split is published."""
    leaks = shared_images(train, test)
    if not leaks:
        return ""
    named = ", ".join(f"{ours} = {theirs}" for ours, theirs in leaks[:3]) + (", ..." if len(leaks) > 3 else "")
    what = f"{len(leaks)} images of test are also in train ({named})"
    if spec.data.splits == "own":
        raise UserError(
            f'task {spec.name}: {what}; remove them, or say data.splits = "published" if the split is not yours'
        )
    return f"{what}: the published split, taken as it is"


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
