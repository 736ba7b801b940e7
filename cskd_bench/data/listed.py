"""Data sets whose authors list each split's images in text files, and splits that this project draws by hash."""

import hashlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cskd_bench.data.sources import PathSource
from cskd_bench.errors import UserError


def cub200_source(root: Path, split: str) -> PathSource:
    """Open CUB-200-2011's `train` or `test` by its own lists of files, classes and halves."""
    names = dict(_lines(root / "images.txt"))
    classes = dict(_lines(root / "classes.txt"))
    labels = dict(_lines(root / "image_class_labels.txt"))
    in_train = dict(_lines(root / "train_test_split.txt"))
    if split not in ("train", "test"):
        raise UserError(f"{root}: no split {split!r}; there are train and test")
    try:
        wanted = [image for image in names if (in_train[image] == "1") == (split == "train")]
        numbers = [int(labels[image]) - 1 for image in wanted]
    except (KeyError, ValueError) as error:
        raise UserError(f"{root}: images.txt and the files beside it do not list the same images ({error})") from error
    return PathSource([root / "images" / names[image] for image in wanted], numbers, list(classes.values()))


def sun397_source(root: Path, split: str) -> PathSource:
    """Open one of SUN397's published lists, such as `Training_01`: lines like `/a/abbey/sun_aaaenaz.jpg`."""
    listed, named = root / f"{split}.txt", root / "ClassName.txt"
    classes, paths = _words(named), [line.lstrip("/") for line in _words(listed)]
    number = {name.lstrip("/"): label for label, name in enumerate(classes)}
    unknown = [path for path in paths if str(Path(path).parent) not in number]
    if unknown:
        raise UserError(f"{listed}: {unknown[0]} is of none of the {len(classes)} classes of {named}")
    labels = [number[str(Path(path).parent)] for path in paths]
    return PathSource([root / "SUN397" / path for path in paths], labels, [name.strip("/") for name in classes])


def split_by_hash(source: PathSource, split: str, *, count: int = 0, share: float = 0.0) -> PathSource:
    """Return `train` or `test` of a data set without a published split.

    Each class's images are put in the order of the SHA-256 of `folder/name`; the first `count`, or that `share` of them
    (rounded), are train, and the others test. ValueError for another name of a split.
    """
    if split not in ("train", "test"):
        raise ValueError(f"no split {split!r}; there are train and test")
    members = defaultdict(list)
    for index, label in enumerate(source.labels.tolist()):
        members[label].append(index)
    chosen = []
    for indices in members.values():
        indices.sort(key=lambda index: hashlib.sha256(source.name(index).encode()).digest())
        first = count or round(share * len(indices))
        chosen += indices[:first] if split == "train" else indices[first:]
    chosen.sort()
    return PathSource([source.paths[i] for i in chosen], source.labels[chosen], source.classes)


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error


def _lines(file: Path) -> list[tuple[str, str]]:
    """Return the (number, word) of each line."""
    words = _words(file)
    return list(zip(words[::2], words[1::2], strict=False))


LISTED: Final[dict[str, Callable[[Path, str], PathSource]]] = {"cub200": cub200_source, "sun397": sun397_source}
