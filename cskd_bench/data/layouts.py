"""How well-known data sets lie in their folder, and where that folder is, whatever of it was named."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cskd_bench.errors import UserError
from cskd_bench.task import TaskData


@dataclass(frozen=True)
class PackedLayout:
    """What a data set's root holds when its authors' archives are unpacked as torchvision does it.

    `sign` is a folder below the root that tells it. The archives hold `inner` itself, or what lies in it (`bare`);
    `loose` files lie in `inner` beside them.
    """

    sign: str
    archives: tuple[str, ...] = ()
    bare: bool = False
    loose: tuple[str, ...] = ()

    @property
    def inner(self) -> str:
        """The folder right below the root."""
        return Path(self.sign).parts[0]


PACKED: Final[Mapping[str, PackedLayout]] = {
    "torch/cifar10": PackedLayout("cifar-10-batches-py", ("cifar-10-python.tar.gz",)),
    "torch/cifar100": PackedLayout("cifar-100-python", ("cifar-100-python.tar.gz",)),
    "torch/mnist": PackedLayout("MNIST/raw"),
    "torch/kmnist": PackedLayout("KMNIST/raw"),
    "torch/fashion_mnist": PackedLayout("FashionMNIST/raw"),
    "torchvision/flowers102": PackedLayout(
        "flowers-102/jpg", ("102flowers.tgz",), bare=True, loose=("imagelabels.mat", "setid.mat")
    ),
    "torchvision/oxford_pets": PackedLayout(
        "oxford-iiit-pet/images", ("images.tar.gz", "annotations.tar.gz"), bare=True
    ),
    "torchvision/dtd": PackedLayout("dtd/dtd/labels", ("dtd-r1.0.1.tar.gz",), bare=True),
    "torchvision/food101": PackedLayout("food-101/meta", ("food-101.tar.gz",)),
    "torchvision/fgvc_aircraft": PackedLayout("fgvc-aircraft-2013b/data", ("fgvc-aircraft-2013b.tar.gz",)),
    "torchvision/stanford_cars": PackedLayout("stanford_cars/devkit"),
}

_SIGNS: Final[Mapping[str, str]] = {  # of layouts with a place for each split
    "folder": "{split}",
    "flat": "{split}",
    "npz": "{split}.npz",
    "coco_list": "{split}.json",
    "coco": "annotations",
    "voc2007": "ImageSets/Main",
}


@dataclass(frozen=True)
class DataPlace:
    """A data set's root; `archives` are still to be unpacked into its layout where there are any."""

    root: Path
    archives: tuple[Path, ...] = ()


def own_name(data: TaskData) -> str:
    """Return the name of a task's own root, wherever another folder stands for it; empty where it has none."""
    return Path(data.stands_for or data.root).name


def find_root(data: TaskData, given: Path) -> DataPlace:
    """Find a data set's root from its archive, the root, a folder inside it or the folder above.

    Where nothing of the data set is found, the root is `given`, or the folder with the task's name in it. UserError
    for a path that is not there, for another file, and for class folders where the authors' layout is read.
    """
    layout = PACKED.get(data.dataset)
    if not given.exists():
        raise UserError(f"{given}: no such file or folder (--data-dir){_hint(data)}")
    if given.is_file() and (layout is None or given.name not in layout.archives):
        expected = f"the archive {' or '.join(layout.archives)}" if layout and layout.archives else "a folder"
        raise UserError(f"{given}: a file that is not read as {data.dataset}; expected {expected}{_hint(data)}")
    start = given.parent if given.is_file() else given
    named = start / own_name(data)
    if layout is None:
        return DataPlace(_root_of_splits(data, given, named))
    for root in (start, named, *_above(start, layout.sign)):
        if (root / layout.sign).is_dir():
            return DataPlace(root)
    for place in (start, named, start / layout.inner, named / layout.inner):
        if any((place / name).is_file() for name in layout.archives):
            root = place.parent if layout.bare and place.name == layout.inner else place
            return DataPlace(root, tuple(place / name for name in layout.archives))
    if copy := next((folder for folder in (start, named) if holds_class_folders(data, folder)), None):
        raise UserError(
            f"{copy}: holds class folders, not {layout.inner}/ as its authors pack it; read them with "
            "--set data.dataset=folder; the records then stand in a column of their own"
        )
    return DataPlace(named if named.is_dir() else given)


def holds(data: TaskData, given: Path) -> bool:
    """Whether a folder holds a task's data under the task's own name for it, or packed as its authors do it."""
    if own_name(data) and (given / own_name(data)).exists():
        return True
    if not own_name(data) and (sign := _SIGNS.get(data.dataset)):  # its splits lie beside other data sets
        return all((given / sign.format(split=split)).exists() for split in splits_of(data, scored_alone=True))
    layout = PACKED.get(data.dataset)
    return bool(
        layout and ((given / layout.sign).is_dir() or any((given / name).is_file() for name in layout.archives))
    )


def missing(data: TaskData, root: Path) -> str:
    """Say what of a packed data set is not in its root; empty where its folder is there, or its layout not known."""
    layout = PACKED.get(data.dataset)
    if layout is None or (root / layout.sign).is_dir():
        return ""
    archive = f", nor its archive {layout.archives[0]}," if layout.archives else ""
    return f"{root}: no {layout.sign}/ in it{archive} nor in a folder {own_name(data)}/"


def splits_of(data: TaskData, *, scored_alone: bool = False) -> tuple[str, ...]:
    """Return the single splits that a task names, or those that it scores, without corruptions: `train+val` is two."""
    named = data.test if scored_alone else "+".join(filter(None, (data.train, data.val, data.test)))
    return tuple(dict.fromkeys(part.partition("@")[0] for part in named.split("+")))


def holds_class_folders(data: TaskData, folder: Path) -> bool:
    """Whether a folder holds one of the task's splits as class folders."""
    for split in splits_of(data):
        place = folder / split
        if place.is_dir() and any(entry.is_dir() for entry in place.iterdir()):
            return True
    return False


def _root_of_splits(data: TaskData, given: Path, named: Path) -> Path:
    """Choose the folder with the test split: what was named, the task's folder in it, or the one above a split."""
    sign = _SIGNS.get(data.dataset)
    if sign is None:
        return given
    held = [sign.format(split=part) for part in splits_of(data, scored_alone=True)]
    every = [sign.format(split=part) for part in splits_of(data)]
    above = [root for part in every for root in _above(given, part)]
    if held[0] == "." and named.is_dir():  # the folder is the split itself: whatever is there would look like it
        return named
    for root in (given, named, *above):
        if (root / held[0]).exists():
            return root
    return named if named.is_dir() and not any((given / part).exists() for part in every) else given


def _above(given: Path, inside: str) -> Iterator[Path]:
    """Yield what lies above a folder that is `inside`, or a part of its way there."""
    parts = Path(inside).parts
    for depth in range(1, len(parts) + 1):
        if given.parts[-depth:] == parts[:depth]:
            yield given.parents[depth - 1]


def _hint(data: TaskData) -> str:
    return f"; to get the data: {data.by_hand}" if data.by_hand else ""
