"""A detection task's two splits, from its settings to files."""

import hashlib
from pathlib import Path
from typing import Final

from cskd_bench.config import DataConfig
from cskd_bench.data.sources import data_path
from cskd_bench.detection.annotations import CocoSplit, find_split
from cskd_bench.detection.digits import make_digits
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
    if (ours := train.classes()) != (theirs := test.classes()):
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
    found = hashlib.sha256(split.annotations.read_bytes())
    for name in sorted(image["file_name"] for image in split.read()["images"]):
        image = split.images / name
        found.update(name_bytes(f"\n{name} {image.stat().st_size if image.is_file() else 'missing'}"))
    return found.hexdigest()[:16]


def describe_splits(train: CocoSplit, test: CocoSplit) -> str:
    """Say how many images and classes there are."""
    ours, theirs = len(train.read()["images"]), len(test.read()["images"])
    return f"{ours:,} training and {theirs:,} test images, {len(test.classes())} classes"
