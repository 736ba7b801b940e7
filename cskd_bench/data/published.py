"""Data sets in the layout of their authors, read through torchvision or from their own lists of files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cskd_bench.data.listed import split_by_hash
from cskd_bench.data.sources import PathSource, digest
from cskd_bench.errors import UserError


def torchvision_source(name: str, root: Path, split: str) -> PathSource:
    """Open a split of a torchvision data set that is on disk already; UserError where it is not, or not whole."""
    if name not in _TORCHVISION:
        raise UserError(f"torchvision/{name}: not supported; there are {', '.join(sorted(_TORCHVISION))}")
    try:
        return listed(_TORCHVISION[name](root, split))
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        reason = str(error).replace("You can use download=True to download it", "").strip(" .")
        raise UserError(f"torchvision/{name}, split {split!r}, under {root}: {reason}") from error


def _flowers102(root: Path, split: str) -> PathSource:
    from torchvision.datasets import Flowers102

    data: Any = Flowers102(root, split)
    return PathSource(data._image_files, data._labels, [str(label) for label in range(102)])


def _stanford_cars(root: Path, split: str) -> PathSource:
    from torchvision.datasets import StanfordCars

    data: Any = StanfordCars(root, split)
    return PathSource([Path(path) for path, _ in data._samples], [label for _, label in data._samples], data.classes)


def _oxford_pets(root: Path, split: str) -> PathSource:
    from torchvision.datasets import OxfordIIITPet

    data: Any = OxfordIIITPet(root, split)
    return PathSource(data._images, data._labels, data.classes)


def _dtd(root: Path, split: str) -> PathSource:
    from torchvision.datasets import DTD

    data: Any = DTD(root, split)  # the first of its ten partitions
    return PathSource(data._image_files, data._labels, data.classes)


def _food101(root: Path, split: str) -> PathSource:
    from torchvision.datasets import Food101

    data: Any = Food101(root, split)
    return PathSource(data._image_files, data._labels, data.classes)


def _fgvc_aircraft(root: Path, split: str) -> PathSource:
    from torchvision.datasets import FGVCAircraft

    data: Any = FGVCAircraft(root, split)  # 100 variants
    return PathSource([Path(path) for path in data._image_files], data._labels, data.classes)


def _caltech101(root: Path, split: str) -> PathSource:
    from torchvision.datasets import Caltech101

    data: Any = Caltech101(root)  # its 101 categories, without the background
    folder = Path(data.root) / "101_ObjectCategories"
    paths = [
        folder / data.categories[label] / f"image_{number:04d}.jpg"
        for label, number in zip(data.y, data.index, strict=True)
    ]
    return split_by_hash(PathSource(paths, data.y, data.categories), split, count=30)


def _eurosat(root: Path, split: str) -> PathSource:
    from torchvision.datasets import EuroSAT

    data: Any = EuroSAT(root)
    paths = [Path(path) for path, _ in data.samples]
    return split_by_hash(PathSource(paths, data.targets, data.classes), split, share=0.6)


_TORCHVISION: dict[str, Callable[[Path, str], PathSource]] = {
    "flowers102": _flowers102,
    "stanford_cars": _stanford_cars,
    "oxford_pets": _oxford_pets,
    "dtd": _dtd,
    "food101": _food101,
    "fgvc_aircraft": _fgvc_aircraft,
    "caltech101": _caltech101,
    "eurosat": _eurosat,
}


def coco_list_source(root: Path, split: str) -> PathSource:
    """Open the images that `split`.json lists with one category each (the layout of iNaturalist's competitions)."""
    file = root / f"{split}.json"
    try:
        lists = json.loads(file.read_text(encoding="utf-8"))
        categories = sorted(lists["categories"], key=lambda category: category["id"])
        label = {category["id"]: index for index, category in enumerate(categories)}
        path = {image["id"]: root / image["file_name"] for image in lists["images"]}
        pairs = [(path[entry["image_id"]], label[entry["category_id"]]) for entry in lists["annotations"]]
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not a list of images, annotations and categories ({error!r})") from error
    names = [str(category["name"]) for category in categories]
    return listed(PathSource([p for p, _ in pairs], [c for _, c in pairs], names))


def listed(source: PathSource) -> PathSource:
    """Let labels and class names enter a source's identity: of listed images, folders do not say them."""
    labels = " ".join(map(str, source.labels.tolist()))
    source.identity = digest("\n".join([source.identity, labels, *source.classes]).encode())
    return source
