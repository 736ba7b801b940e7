"""COCO-format data sets: where their files lie, what is wrong with them, which images can be used."""

import glob
import json
import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cskd_bench.data.decode import to_rgb
from cskd_bench.errors import UserError

_NUMBER = (int, float)
_NEEDED: dict[str, dict[str, type | tuple[type, ...]]] = {
    "images": {"id": int, "file_name": str, "width": _NUMBER, "height": _NUMBER},
    "annotations": {"id": int, "image_id": int, "category_id": int, "bbox": list, "area": _NUMBER, "iscrowd": int},
    "categories": {"id": int, "name": str},
}


@dataclass(frozen=True)
class CocoSplit:
    """One split: its annotation file and its folder of images."""

    annotations: Path
    images: Path

    def read(self) -> dict[str, Any]:
        """Return the annotation file's content; UserError where it is not COCO's."""
        return read_annotations(self.annotations)

    def classes(self) -> tuple[str, ...]:
        """Return the class names in the order of the annotation file."""
        return tuple(category["name"] for category in self.read()["categories"])


def find_split(root: Path, split: str) -> CocoSplit:
    """Find a split in a COCO-format folder.

    The annotations are annotations/instances_<split>.json, or the only file that
    annotations/instances_<split>*.json matches. The images lie in <split>/, in images/<split>/ or in
    images/, where <split> may also be the matched file's own ending (train2017). Raises UserError that says so.
    """
    exact = root / "annotations" / f"instances_{split}.json"
    found = [exact] if exact.is_file() else sorted((root / "annotations").glob(f"instances_{glob.escape(split)}*.json"))
    if len(found) != 1:
        several = f"; found {', '.join(path.name for path in found)}" if found else ""
        raise UserError(
            f"{root}: expected annotations/instances_{split}.json, or one file "
            f"annotations/instances_{split}*.json{several}; give the data set's folder with --data-dir"
        )
    ending = found[0].stem.removeprefix("instances_")
    folders = [root / ending, root / split, root / "images" / ending, root / "images" / split, root / "images"]
    for folder in folders:
        if folder.is_dir():
            return CocoSplit(found[0], folder)
    expected = ", ".join(dict.fromkeys(f"{folder.relative_to(root).as_posix()}/" for folder in folders))
    raise UserError(f"{root}: no folder with the images of {found[0].name}; expected one of {expected}")


def read_annotations(file: Path) -> dict[str, Any]:
    """Read a COCO annotation file; UserError names the file and what is missing."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{file}: not JSON: {error}") from error
    for name, keys in _NEEDED.items():
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list) or (name != "annotations" and not entries):
            raise UserError(f"{file}: not a COCO annotation file: no list of {name}")
        for entry in entries:
            for key, kinds in keys.items():
                if not isinstance(entry, dict) or not isinstance(entry.get(key), kinds):
                    raise UserError(f"{file}: an entry of {name} has no usable {key}: {json.dumps(entry)[:120]}")
    for entry in content["annotations"]:
        if not _is_box(entry["bbox"]):
            raise UserError(
                f"{file}: annotation {entry['id']} has bbox {entry['bbox']!r}; expected [x, y, width, height]"
            )
    return content  # type: ignore[no-any-return]


def check_coco(annotations: Path, images: Path, *, decode: bool = True, threads: int | None = None) -> list[str]:
    """Return a sentence for everything that is wrong with a split; empty for a sound one.

    `decode=False` does not open images; `threads` decode them (all cores by default).
    Looked for: unreadable annotations, missing, truncated or differently sized images, annotations of unknown
    images or categories, boxes that are empty or reach outside by more than a pixel, categories without an object.
    """
    try:
        content = read_annotations(annotations)
    except UserError as error:
        return [str(error)]
    broken = broken_images(content, images, threads) if decode else {}
    problems = [f"{name}: {problem}" for name, problem in broken.items()]
    return problems + [f"{annotations.name}: {problem}" for problem in _wrong_annotations(content)]


def broken_images(content: dict[str, Any], images: Path, threads: int | None = None) -> dict[str, str]:
    """Map the file names of images that cannot be used to the reason; every image is decoded, in threads."""
    entries = content["images"]
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        problems = list(pool.map(lambda entry: _image_problem(images / entry["file_name"], entry), entries))
    return {str(entry["file_name"]): problem for entry, problem in zip(entries, problems, strict=True) if problem}


def _image_problem(file: Path, entry: dict[str, Any]) -> str:
    if not file.is_file():
        return f"no such image in {file.parent.name}/"
    try:
        width, height = to_rgb(file.read_bytes()).size  # turned, as training turns it
    except (OSError, ValueError) as error:
        return f"cannot be decoded: {error}"
    if (width, height) != (entry["width"], entry["height"]):
        return f"is {width} x {height}, the annotations say {entry['width']} x {entry['height']}"
    return _opencv_problem(file, (width, height))


def _opencv_problem(file: Path, size: tuple[int, int]) -> str:
    """Say how training's decoder reads a file otherwise than Pillow; empty where both agree, and without OpenCV."""
    try:
        import cv2
    except ImportError:
        return ""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it says of a file is told in our words
    try:
        pixels = cv2.imread(str(file))
    except cv2.error:  # an image larger than it reads
        pixels = None
    if pixels is None:
        return "cannot be decoded by OpenCV, which training reads with"
    height, width = pixels.shape[:2]
    return "" if (width, height) == size else f"is {size[0]} x {size[1]}, OpenCV reads {width} x {height}"


def _wrong_annotations(content: dict[str, Any]) -> Iterable[str]:
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    for annotation in content["annotations"]:
        where = f"annotation {annotation['id']}"
        if annotation["image_id"] not in sizes:
            yield f"{where} belongs to image {annotation['image_id']}, which is not listed"
            continue
        if annotation["category_id"] not in names:
            yield f"{where} has category {annotation['category_id']}, which is not listed"
        x, y, width, height = annotation["bbox"]
        image_width, image_height = sizes[annotation["image_id"]]
        if width <= 0 or height <= 0:
            yield f"{where} has an empty box, {width} x {height}"
        elif min(x, y) < -1 or x + width > image_width + 1 or y + height > image_height + 1:
            yield f"{where} reaches outside its image of {image_width} x {image_height}: {annotation['bbox']}"
    counts = Counter(annotation["category_id"] for annotation in content["annotations"])
    for identity, name in names.items():
        if not counts[identity]:
            yield f"category {name!r} has no object"


def require_masks(split: CocoSplit) -> None:
    """Raise UserError where an object has no `segmentation`, which a detector with masks learns from."""
    lacking = [entry["id"] for entry in split.read()["annotations"] if not entry.get("segmentation")]
    if lacking:
        raise UserError(
            f"{split.annotations.name}: {len(lacking)} annotations have no segmentation (the first: {lacking[0]}); "
            'for boxes alone take --set detect.config="faster_rcnn_1x"'
        )


def _is_box(box: list[Any]) -> bool:
    return len(box) == 4 and all(isinstance(value, _NUMBER) for value in box)


def usable_split(split: CocoSplit, work: Path, *, skip: bool, cap: int) -> tuple[CocoSplit, list[str]]:
    """Return a split that training can read to its end, and what was left out of it.

    Broken images fail before the first epoch. With `skip` up to `cap` of them are left out, with their
    annotations: a reduced annotation file is written to `work`. Raises UserError that lists them.
    """
    content = split.read()
    broken = broken_images(content, split.images)
    if not broken:
        return split, []
    listed = [f"{name}: {problem}" for name, problem in broken.items()]
    shown = "; ".join(listed[:5]) + ("; ..." if len(listed) > 5 else "")
    if not skip:
        raise UserError(
            f"{split.annotations.name}: {len(broken)} of {len(content['images'])} images cannot be used: {shown}. "
            'Mend them, or leave them out with --set data.on_corrupt="skip"'
        )
    if len(broken) > cap:
        raise UserError(
            f"{split.annotations.name}: {len(broken)} images cannot be used, more than data.max_skipped = {cap}: "
            f"{shown}"
        )
    kept = {image["id"] for image in content["images"] if image["file_name"] not in broken}
    reduced = {
        **content,
        "images": [image for image in content["images"] if image["id"] in kept],
        "annotations": [entry for entry in content["annotations"] if entry["image_id"] in kept],
    }
    if not reduced["images"]:
        raise UserError(f"{split.annotations.name}: no image can be used: {shown}")
    work.mkdir(parents=True, exist_ok=True)
    file = work / f"usable_{split.annotations.name}"
    file.write_text(json.dumps(reduced), encoding="utf-8")
    return CocoSplit(file, split.images), listed
