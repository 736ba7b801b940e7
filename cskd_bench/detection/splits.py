"""A detection task's two splits, from its settings to files."""

import hashlib
from pathlib import Path
from typing import Final

from cskd_bench.config import DataConfig
from cskd_bench.data.layouts import own_name
from cskd_bench.data.manifests import manifest_for_folder
from cskd_bench.data.sources import data_path
from cskd_bench.detection.annotations import CocoSplit, find_split, look_at
from cskd_bench.detection.digits import make_digits
from cskd_bench.detection.facts import facts_of
from cskd_bench.detection.label_maps import open_objects
from cskd_bench.errors import UserError
from cskd_bench.names import name_bytes
from cskd_bench.task import TaskData

COCO: Final = "coco"  # data.dataset of a folder in COCO's format


def is_coco(data: DataConfig) -> bool:
    """Whether a data set's labels are boxes in COCO's format, rather than one class an image."""
    return data.dataset == COCO


def is_made(data: DataConfig) -> bool:
    """Whether the images are made on the spot, and lie in no folder of a user's."""
    return data.dataset == "digits_detection"


def open_splits(data: TaskData, work: Path) -> tuple[CocoSplit, CocoSplit]:
    """Return train and test; the digits are made under `work`. UserError for missing data or other classes in test."""
    if data.dataset == "digits_detection":
        root = make_digits(work / "digits_detection")
    elif is_coco(data):
        root = data_path(data.root)
    elif data.objects:
        return open_objects(data, work)
    else:
        raise UserError(
            f"data.dataset: detection reads coco, digits_detection or label maps (data.objects), not {data.dataset}"
        )
    train, test = find_split(root, data.train), find_split(root, data.test)
    if train.annotations == test.annotations:
        raise UserError(f"{train.annotations}: data.train {data.train!r} and data.test {data.test!r} both open it")
    if (ours := facts_of(train).classes) != (theirs := facts_of(test).classes):
        raise UserError(f"{test.annotations}: {_difference(ours, theirs, train.annotations.name)}")
    return train, test


def _difference(ours: tuple[str, ...], theirs: tuple[str, ...], file: str) -> str:
    """Say how the categories of test differ from those of train, which `file` lists."""
    odd = sorted(set(ours) ^ set(theirs))
    if not odd:
        return f"its categories are in another order than those of {file}"
    return f"its categories are not those of {file}: only one of the files has {', '.join(map(repr, odd[:3]))}"


def splits_identity(train: CocoSplit, test: CocoSplit) -> str:
    """Name the content of both splits, as records keep it: annotations whole, images by name and size in bytes."""
    return " ".join(_identity(split) for split in (train, test))


def _identity(split: CocoSplit) -> str:
    with split.annotations.open("rb") as file:
        found = hashlib.file_digest(file, "sha256")
    for name in sorted(facts_of(split).names):
        image = look_at(split.images, name)
        found.update(name_bytes(f"\n{name} {'missing' if image is None else image.st_size}"))
    return found.hexdigest()[:16]


def is_published(data: TaskData, split: CocoSplit) -> bool:
    """Whether a split is one of a known data set, with as many images as its authors published."""
    known = manifest_for_folder(own_name(data)) if data.splits == "own" else None
    name = split.annotations.stem.removeprefix("instances_")
    return known is not None and known.splits.get(name) == len(facts_of(split).names)


def describe_splits(train: CocoSplit, test: CocoSplit) -> str:
    """Say how many images and classes there are."""
    ours, theirs = facts_of(train), facts_of(test)
    return f"{len(ours.names):,} training and {len(theirs.names):,} test images, {len(theirs.classes)} classes"
