"""Images of a task's splits that are stored alike: in train and in test, or in one split with two labels."""

import hashlib
from collections import defaultdict
from typing import Final

import numpy as np

from cskd_bench.data.sources import ContentSource, JoinedSource, Source
from cskd_bench.errors import UserError
from cskd_bench.task import TaskSpec

_END: Final = 512  # bytes of an image's end that are compared first
MOST: Final = 200_000  # images that are opened where a note, and no refusal, depends on it


class StoredImages:
    """The images of a split whose stored bytes can be searched, all parts as one.

    Stored alike are images of one size whose last bytes, and then whose SHA-256, agree: few are read whole.
    """

    def __init__(self, source: Source) -> None:
        parts = source.parts if isinstance(source, JoinedSource) else [source]
        self._parts = [part for part in parts if isinstance(part, ContentSource)]
        self._ends: dict[int, bytes] = {}
        self._digests: dict[int, bytes] = {}
        none = [np.zeros(0, np.int64)]
        self.sizes = np.concatenate([part.sizes for part in self._parts] or none)  # (n,) bytes of each image
        self.labels = np.concatenate([part.labels for part in self._parts] or none)  # (n,)
        self._starts = np.cumsum([0, *map(len, self._parts)])

    def of_sizes(self, sizes: np.ndarray) -> list[int]:
        """Return the indices of the images that are stored in one of these sizes."""
        return [int(index) for index in np.flatnonzero(np.isin(self.sizes, sizes))]

    def end(self, index: int) -> tuple[int, bytes]:
        """Return an image's size and a digest of its last bytes."""
        if index not in self._ends:
            part, place = self._find(index)
            ending = getattr(part, "ending", None)
            last = ending(place, _END) if ending else part.content(place)[-_END:]
            self._ends[index] = hashlib.sha256(last).digest()[:16]
        return int(self.sizes[index]), self._ends[index]

    def digest(self, index: int) -> bytes:
        """Return the SHA-256 of an image as it is stored."""
        if index not in self._digests:
            part, place = self._find(index)
            self._digests[index] = hashlib.sha256(part.content(place)).digest()
        return self._digests[index]

    def name(self, index: int) -> str:
        """Name image `index` to a person."""
        part, place = self._find(index)
        return part.name(place)

    def _find(self, index: int) -> tuple[ContentSource, int]:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._parts[number], index - int(self._starts[number])


def of_shared_sizes(train: StoredImages, test: StoredImages) -> tuple[list[int], list[int]]:
    """Return the indices of the images of train, and of test, whose stored size occurs in both splits."""
    sizes = np.intersect1d(train.sizes, test.sizes)
    return train.of_sizes(sizes), test.of_sizes(sizes)


def shared_images(train: StoredImages, test: StoredImages) -> list[tuple[str, str]]:
    """Return (test image, train image) wherever the same stored bytes are in both (SHA-256).

    Only images whose stored size occurs in both splits are opened. Sources that cannot give stored bytes
    are not searched.
    """
    theirs, ours = of_shared_sizes(train, test)
    ends = {test.end(index) for index in ours} & {train.end(index) for index in theirs}
    known = {train.digest(index): index for index in theirs if train.end(index) in ends}
    digests = {index: test.digest(index) for index in ours if test.end(index) in ends}
    found = [(index, known[digest]) for index, digest in digests.items() if digest in known]
    return [(test.name(ours), train.name(theirs)) for ours, theirs in found]


def perhaps_contradicting(images: StoredImages) -> list[int]:
    """Return the indices of images whose stored size images of another label have as well."""
    order = np.lexsort((images.labels, images.sizes))
    sizes, labels = images.sizes[order], images.labels[order]
    return images.of_sizes(sizes[1:][(sizes[1:] == sizes[:-1]) & (labels[1:] != labels[:-1])])


def contradicting_images(images: StoredImages, candidates: list[int]) -> list[tuple[str, str]]:
    """Return (image, earlier image) among the candidates wherever the same stored bytes have two labels."""
    labels = defaultdict[tuple[int, bytes], set[int]](set)
    for index in candidates:
        labels[images.end(index)].add(int(images.labels[index]))
    first: dict[bytes, int] = {}
    found = []
    for index in candidates:
        if len(labels[images.end(index)]) > 1:
            earlier = first.setdefault(images.digest(index), index)
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

    UserError as `note_leaks` for those of train; of test, one of the two counts as wrong. A very large split is not
    searched, which the note says.
    """
    candidates = perhaps_contradicting(images)
    if len(candidates) > MOST:
        return f"{split} was not searched for images with two labels: {len(candidates):,} would have to be opened"
    pairs = contradicting_images(images, candidates)
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
