"""Which images of a joined split are one image several times: under several corruptions, say."""

from collections.abc import Iterator, Sequence

import numpy as np

from cskd_bench.data.corruptions import CorruptedSource
from cskd_bench.data.sources import JoinedSource, PathSource, Source


def number_images(source: Source, *, parts_alike: bool = False) -> np.ndarray | None:
    """Number the images of a split, (n,) int64: equal numbers are the same underlying image; None where all differ.

    Known to be the same are the images at one position of parts that corrupt the same split. `parts_alike`: the task
    says that its parts show the same images (a robustness task's do). Then also images of the same class folder and
    file name are, where all parts have the same names; of other formats those at the same position, where all parts
    have the same labels in the same order.
    """
    if not isinstance(source, JoinedSource):
        return None
    clean = [part.clean if isinstance(part, CorruptedSource) else part for part in source.parts]
    splits = [name.partition("@")[0] for name in source.names]
    numbers = (_by_content(clean) if parts_alike else None) or _by_split(splits, clean)
    image = np.concatenate(numbers)
    return image if len(np.unique(image)) < len(image) else None


def _by_split(splits: Sequence[str], parts: Sequence[Source]) -> list[np.ndarray]:
    """Give the same numbers to the parts that are the same split."""
    first: dict[str, int] = {}
    numbers, start = [], 0
    for split, part in zip(splits, parts, strict=True):
        if split not in first:
            first[split] = start
            start += len(part)
        numbers.append(first[split] + np.arange(len(part)))
    return numbers


def _by_content(parts: Sequence[Source]) -> list[np.ndarray] | None:
    """Number by file name, else by position; None where the parts have not all the same names, or labels."""
    paths = [part for part in parts if isinstance(part, PathSource)]
    if len(paths) == len(parts):
        return _by_name(paths)
    same = not paths and all(np.array_equal(part.labels, parts[0].labels) for part in parts)
    return [np.arange(len(part)) for part in parts] if same else None


def _by_name(parts: Sequence[PathSource]) -> list[np.ndarray] | None:
    number = {name: index for index, name in enumerate(_names(parts[0]))}
    if len(number) < len(parts[0]):
        return None  # two files of one name: which is which is not known
    numbers = []
    for part in parts:
        found = [number.get(name, -1) for name in _names(part)]
        if sorted(found) != list(range(len(number))):
            return None
        numbers.append(np.asarray(found, dtype=np.int64))
    return numbers


def _names(part: PathSource) -> Iterator[str]:
    return map(part.name, range(len(part)))
