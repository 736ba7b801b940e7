"""Images of a task's splits that are stored alike: in train and in test, or in one split with two labels."""

import hashlib
from collections.abc import Iterator

import numpy as np

from cskd_bench.data.sources import ContentSource, JoinedSource, Source
from cskd_bench.errors import UserError
from cskd_bench.task import TaskSpec


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


def note_leaks(spec: TaskSpec, train: Source, test: Source) -> str:
    """Return a note on images of test that are also in train; UserError for such unless the split is published."""
    return note_stored_leaks(spec, StoredImages(train), StoredImages(test))


def note_stored_leaks(spec: TaskSpec, train: StoredImages, test: StoredImages) -> str:
    """Return a note as `note_leaks`, of images that are searched for more than leaks."""
    leaks = shared_images(train, test)
    return _tell_pairs(spec, leaks, f"{len(leaks)} images of test are also in train") if leaks else ""


def note_contradictions(spec: TaskSpec, split: str, images: StoredImages) -> str:
    """Return a note on images of a split that are stored alike and have other labels.

    UserError as `note_leaks` for those of train; of test, one of the two counts as wrong.
    """
    pairs = contradicting_images(images)
    if not pairs:
        return ""
    what = f"{len(pairs)} images of {split} are stored twice, with two labels"
    return _tell_pairs(spec, pairs, what) if split == "train" else f"{what} ({_name_pairs(pairs)})"


def _tell_pairs(spec: TaskSpec, pairs: list[tuple[str, str]], what: str) -> str:
    named = f"{what} ({_name_pairs(pairs)})"
    if spec.data.splits == "own":
        raise UserError(
            f'task {spec.name}: {named}; remove them, or say data.splits = "published" if the split is not yours'
        )
    return f"{named}: the published split, taken as it is"


def _name_pairs(pairs: list[tuple[str, str]]) -> str:
    return ", ".join(f"{ours} = {theirs}" for ours, theirs in pairs[:3]) + (", ..." if len(pairs) > 3 else "")
