"""Data sets in the layout of their authors, read through torchvision or from their own lists of files."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cskd_bench.data.json_text import read_json
from cskd_bench.data.labels import refuse_twice_listed
from cskd_bench.data.listed import split_by_hash
from cskd_bench.data.sources import PathSource, digest
from cskd_bench.errors import UserError
from cskd_bench.names import name_bytes

_HIDDEN: Final = "labels that are withheld cannot be scored"


def torchvision_source(name: str, root: Path, split: str) -> PathSource:
    """Open a split of a torchvision data set that is on disk already; UserError where it is not, or not whole."""
    if name not in _TORCHVISION:
        raise UserError(f"torchvision/{name}: not supported; there are {', '.join(sorted(_TORCHVISION))}")
    try:
        return listed(_TORCHVISION[name](root, split), f"torchvision/{name}, split {split!r}, under {root}")
    except UserError:
        raise
    except Exception as error:  # the readers are torchvision's, and fail in many ways
        reason = (
            (str(error) or type(error).__name__).replace("You can use download=True to download it", "").strip(" .")
        )
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
    """Open the images that `split`.json lists with one category each (the layout of iNaturalist's competitions).

    UserError for an id that stands for two images or categories, an annotation of neither, and an image of two
    categories. An annotation that is there twice counts once, and images without one are left out; a note says both.
    """
    file = root / f"{split}.json"
    try:
        lists = read_json(file.read_bytes())
        categories = sorted(lists["categories"], key=lambda category: category["id"])
        names = [str(category["name"]) for category in categories]
        label = {category["id"]: index for index, category in enumerate(categories)}
        path = {image["id"]: root / image["file_name"] for image in lists["images"]}
        pairs = [(entry["image_id"], entry["category_id"]) for entry in lists["annotations"]]
        _refuse_loose_ids(file, lists, path, label, pairs)
        chosen = {image: label[category] for image, category in pairs}  # in their order
        paths, labels = [path[image] for image in chosen], list(chosen.values())
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file}: not a list of images, annotations and categories ({error!r})") from error
    if not paths:
        raise UserError(f"{file}: no images with an annotation among its {len(path)}; {_HIDDEN}")
    source = listed(PathSource(paths, labels, names), str(file))
    source.label_note = _describe_pairs(file, len(path), len(chosen), len(pairs))
    return source


def _refuse_loose_ids(
    file: Path, lists: Any, path: dict[Any, Path], label: dict[Any, int], pairs: list[tuple[Any, Any]]
) -> None:
    """UserError for ids that stand for two things or for none, and for an image of two categories."""
    for what, known in (("images", path), ("categories", label)):
        if len(known) < len(lists[what]):
            (repeated, times), *_ = Counter(entry["id"] for entry in lists[what]).most_common(1)
            raise UserError(f"{file}: {times} {what} have the id {repeated!r}; ids must be unique")
    for key, ids, known in (
        ("image_id", [image for image, _ in pairs], path),
        ("category_id", [category for _, category in pairs], label),
    ):
        if loose := [number for number in ids if number not in known]:
            what = "images" if known is path else "categories"
            raise UserError(
                f"{file}: {len(loose)} of {len(pairs)} annotations have a {key} that is none of its {len(known)} "
                f"{what} (the first is {loose[0]!r}); {_HIDDEN}"
            )
    several = [image for image, times in Counter(image for image, _ in set(pairs)).items() if times > 1]
    if several:
        raise UserError(
            f"{file}: {len(several)} images have annotations of several categories (the first is the image with id "
            f"{several[0]!r}); each image needs one category"
        )


def _describe_pairs(file: Path, images: int, annotated: int, annotations: int) -> str:
    """Say what of a list was left out: images without an annotation, and annotations that repeat another."""
    said = []
    if annotated < images:
        said.append(f"{images - annotated} of {images} images have no annotation and are left out")
    if annotated < annotations:
        said.append(f"{annotations - annotated} annotations repeat another and count once")
    return f"{file.name}: {', '.join(said)}" if said else ""


def listed(source: PathSource, where: str) -> PathSource:
    """Let labels and class names enter a source's identity: of listed images, folders do not say them.

    UserError, which says `where` the list is, for an image that is listed more than once.
    """
    refuse_twice_listed(where, source.paths, source.labels)
    labels = " ".join(map(str, source.labels.tolist()))
    source.identity = digest(name_bytes("\n".join([source.identity, labels, *source.classes])))
    return source
