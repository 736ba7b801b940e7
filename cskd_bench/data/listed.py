"""Data sets whose authors list each split's images in text files, and splits that this project draws by hash."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from cskd_bench.data.sources import PathSource
from cskd_bench.errors import UserError
from cskd_bench.names import name_bytes


def cub200_source(root: Path, split: str) -> PathSource:
    """Open CUB-200-2011's `train` or `test` by its own lists of files, classes and halves."""
    names, classes = _table(root / "images.txt"), _table(root / "classes.txt")
    labels, halves = _table(root / "image_class_labels.txt"), _table(root / "train_test_split.txt")
    if split not in ("train", "test"):
        raise UserError(f"{root}: no split {split!r}; there are train and test")
    if not names.keys() == labels.keys() == halves.keys():
        odd = sorted(names.keys() ^ labels.keys() | names.keys() ^ halves.keys())
        raise UserError(
            f"{root}: images.txt and the other lists do not name the same images: {len(odd)} are not in all of "
            f"them (the first is {odd[0]})"
        )
    number = {name: label for label, name in enumerate(classes)}
    _refuse_others(root / "image_class_labels.txt", labels, number)
    _refuse_others(root / "train_test_split.txt", halves, ("0", "1"))
    wanted = [image for image in names if (halves[image] == "1") == (split == "train")]
    numbers = [number[labels[image]] for image in wanted]
    return PathSource([root / "images" / names[image] for image in wanted], numbers, list(classes.values()))


def sun397_source(root: Path, split: str) -> PathSource:
    """Open one of SUN397's published lists, such as `Training_01`: lines like `/a/abbey/sun_aaaenaz.jpg`."""
    listed, named = root / f"{split}.txt", root / "ClassName.txt"
    classes, paths = _words(named), [line.lstrip("/") for line in _words(listed)]
    number = {name.lstrip("/"): label for label, name in enumerate(classes)}
    if len(number) < len(classes):
        raise UserError(f"{named}: {len(classes) - len(number)} classes are named more than once")
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
        indices.sort(key=lambda index: hashlib.sha256(name_bytes(source.name(index))).digest())
        first = count or round(share * len(indices))
        chosen += indices[:first] if split == "train" else indices[first:]
    chosen.sort()
    return PathSource([source.paths[i] for i in chosen], source.labels[chosen], source.classes)


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").split()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{file}: cannot be read ({error})") from error


def _table(file: Path) -> dict[str, str]:
    """Return the word of each number; UserError for lines without one, and for a number that is there twice."""
    words = _words(file)
    table = dict(zip(words[::2], words[1::2], strict=False))
    if len(words) % 2:
        raise UserError(f"{file}: {words[-1]!r} is alone at its end; expected lines of a number and a word")
    if 2 * len(table) < len(words):
        (repeated, times), *_ = Counter(words[::2]).most_common(1)
        raise UserError(f"{file}: number {repeated} is listed {times} times; each must be listed once")
    return table


def _refuse_others(file: Path, found: dict[str, str], known: Collection[str]) -> None:
    """UserError for images whose word is none of those that are known."""
    if odd := [image for image, word in found.items() if word not in known]:
        raise UserError(
            f"{file}: {len(odd)} of {len(found)} images have a value that is none of the {len(known)} known ones (the "
            f"first is image {odd[0]} with {found[odd[0]]!r})"
        )


LISTED: Final[dict[str, Callable[[Path, str], PathSource]]] = {"cub200": cub200_source, "sun397": sun397_source}
