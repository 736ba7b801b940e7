"""Images that may have several classes each, from lists of one class each as PASCAL VOC 2007 packs them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from cskd_bench.config import DataConfig
from cskd_bench.data.sources import PathSource, data_path, digest
from cskd_bench.errors import UserError
from cskd_bench.names import name_bytes

LAYOUTS: Final = ("voc2007",)
LISTS: Final = "ImageSets/Main"  # below the root: <class>_<split>.txt with lines of an image's name and its value
_VALUES: Final = {"1": 1, "0": 0, "-1": -1}


class MultilabelSource(PathSource):
    """Images with a value for each class: `targets` (n, K) int8 is 1 where an image has the class, -1 where not.

    It is 0 where all objects of the class are difficult: the image counts neither way. `places` says in which line of
    the first class's list each image is named. The labels of a single class that other sources have are all 0 here.
    """

    def __init__(
        self, paths: Sequence[Path], targets: np.ndarray, classes: Sequence[str], places: Sequence[str]
    ) -> None:
        super().__init__(paths, np.zeros(len(paths), np.int64), classes)
        self.targets, self.places = targets, places
        named = f"{self.identity} {digest(targets.tobytes())} {digest(name_bytes(' '.join(classes)))}"
        self.identity = digest(named.encode())


def open_multilabel(data: DataConfig, split: str) -> MultilabelSource:
    """Open a split, or several joined by `+`; classes are in the order of their names.

    UserError names the list and the line: for a missing image, a value other than 1, 0 and -1, an image named twice, an
    empty list, and lists of one split that name other images. UserError also for another number of classes.
    """
    if data.dataset not in LAYOUTS:
        raise UserError(f"data.dataset: {data.dataset!r} has no lists of several classes; use {', '.join(LAYOUTS)}")
    parts = [_open_part(data, part) for part in split.split("+")]
    classes = parts[0].classes
    for part in parts[1:]:
        if part.classes != classes:
            raise UserError(f"{data_path(data.root) / LISTS}: the splits {split} have lists of different classes")
    paths = [path for part in parts for path in part.paths]
    places = [place for part in parts for place in part.places]
    refuse_twice(paths, places, {})
    return MultilabelSource(paths, np.concatenate([part.targets for part in parts]), classes, places)


def refuse_twice(paths: Sequence[Path], places: Sequence[str], known: dict[Path, str]) -> None:
    """UserError for an image that is among `known`, to which the others are added with where they are named."""
    for path, place in zip(paths, places, strict=True):
        if path in known:
            raise UserError(f"{place}: image {path.stem} is named before, in {known[path]}")
        known[path] = place


def _open_part(data: DataConfig, split: str) -> MultilabelSource:
    root = data_path(data.root)
    folder, ending = root / LISTS, f"_{split}.txt"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the data set's folder, which holds ImageSets, with --data-dir")
    lists = sorted(folder.glob(f"*{ending}"))
    if len(lists) != data.num_classes:
        raise UserError(f"{folder}: {len(lists)} lists CLASS{ending}, data.num_classes says {data.num_classes}")
    names, first = _read_list(lists[0])
    paths = [root / "JPEGImages" / f"{name}.jpg" for name in names]
    places = [f"{lists[0]}:{number}" for number in range(1, len(names) + 1)]
    for path, place in zip(paths, places, strict=True):
        if not path.is_file():
            raise UserError(f"{place}: image {path.stem} is missing, no file {path}")
    columns = [first]
    for path in lists[1:]:
        others, values = _read_list(path)
        _refuse_others(lists[0], names, path, others)
        columns.append(values)
    targets = np.asarray(columns, np.int8).T.copy()
    return MultilabelSource(paths, targets, [path.name.removesuffix(ending) for path in lists], places)


def _read_list(path: Path) -> tuple[list[str], list[int]]:
    """Return the names of images and their values for one class."""
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if not lines:
        raise UserError(f"{path}: is empty; expected lines of an image's name and 1, 0 or -1")
    names, values = list[str](), list[int]()
    for number, line in enumerate(lines, 1):
        words = line.split()
        if len(words) != 2 or words[1] not in _VALUES:
            raise UserError(f"{path}:{number}: {line.strip()!r}; expected an image's name and 1, 0 or -1")
        names.append(words[0])
        values.append(_VALUES[words[1]])
    return names, values


def _refuse_others(first: Path, names: list[str], path: Path, others: list[str]) -> None:
    """UserError at the first line where two lists of a split differ in images."""
    for number, (expected, found) in enumerate(zip(names, others, strict=False), 1):
        if expected != found:
            raise UserError(f"{path}:{number}: names image {found}, {first.name} names {expected} there")
    if len(names) != len(others):
        number = min(len(names), len(others)) + 1
        raise UserError(f"{path}:{number}: has {len(others)} images in all, {first.name} has {len(names)}")
