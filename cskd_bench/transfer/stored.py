"""Images of a task's splits that are stored alike: in train and in test, or in one split with two labels."""

import hashlib
from collections.abc import Iterator

import numpy as np

from cskd_bench.data.sources import ContentSource, JoinedSource, Source


class StoredImages:
    """The images of a split whose stored bytes can be searched, all parts as one; each is read once at most."""

    def __init__(self, source: Source) -> None:
        parts = source.parts if isinstance(source, JoinedSource) else [source]
        self._parts = [part for part in parts if isinstance(part, ContentSource)]
        self._digests: dict[int, bytes] = {}
        none = [np.zeros(0, np.int64)]
        self.sizes = np.concatenate([part.sizes for part in self._parts] or none)  # (n,) bytes of each image
        self.labels = np.concatenate([part.labels for part in self._parts] or none)  # (n,)
        self._starts = np.cumsum([0, *map(len, self._parts)])

    def digests(self, sizes: np.ndarray) -> Iterator[tuple[int, bytes]]:
        """Yield (index, SHA-256) of the images that are stored in one of these sizes."""
        for index in map(int, np.flatnonzero(np.isin(self.sizes, sizes))):
            if index not in self._digests:
                part, place = self._find(index)
                self._digests[index] = hashlib.sha256(part.content(place)).digest()
            yield index, self._digests[index]

    def name(self, index: int) -> str:
        """Name image `index` to a person."""
        part, place = self._find(index)
        return part.name(place)

    def _find(self, index: int) -> tuple[ContentSource, int]:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._parts[number], index - int(self._starts[number])


def shared_images(train: StoredImages, test: StoredImages) -> list[tuple[str, str]]:
    """Return (test image, train image) wherever the same stored bytes are in both (SHA-256).

    Only images whose stored size occurs in both splits are read. Sources that cannot give stored bytes
    are not searched.
    """
    sizes = np.intersect1d(train.sizes, test.sizes)
    known = {digest: index for index, digest in train.digests(sizes)}
    found = [(index, known[digest]) for index, digest in test.digests(sizes) if digest in known]
    return [(test.name(ours), train.name(theirs)) for ours, theirs in found]


def contradicting_images(images: StoredImages) -> list[tuple[str, str]]:
    """Return (image, earlier image) of a split wherever the same stored bytes have two labels.

    Only images are read whose stored size images of another label have as well.
    """
    pairs = np.unique(np.stack([images.sizes, images.labels]), axis=1)
    sizes, labels = np.unique(pairs[0], return_counts=True)
    first: dict[bytes, int] = {}
    found = []
    for index, digest in images.digests(sizes[labels > 1]):
        earlier = first.setdefault(digest, index)
        if images.labels[earlier] != images.labels[index]:
            found.append((images.name(index), images.name(earlier)))
    return found
