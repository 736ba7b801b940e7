"""What is wrong or odd in a COCO annotation file: the one list of checks that transfer and the doctor share."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cskd_bench.detection.annotation_form import AnnotationProblem, Entry, form_problems, named, problem, shown
from cskd_bench.detection.annotation_mending import mend
from cskd_bench.detection.annotations import CocoSplit, Content, broken_images, read_annotations
from cskd_bench.detection.box_corners import corner_boxes
from cskd_bench.detection.masks import mask_fault
from cskd_bench.errors import UserError


def examine(split: CocoSplit, content: Content, *, masks: bool | None) -> list[AnnotationProblem]:
    """Return every problem of a split's annotations that is known without decoding an image, refusals first.

    `masks` says whether a detector learns masks; None where no detector is known: then unusable ones are noted.
    """
    found = list(form_problems(split, content)) or list(_ids_given_twice(content)) or list(_unlisted(content))
    if not found:
        mended, notes = mend(content)
        found += [AnnotationProblem("note", note) for note in notes]
        corners = list(corner_boxes(content["annotations"], sizes_of(mended)))
        found += [*(corners or _boxes(mended)), *_objects(mended), *_categories(mended)]
        if masks is not False:
            found += _masks(mended, required=bool(masks))
    name = split.annotations.name
    told = [AnnotationProblem(one.severity, f"{name}: {one.sentence}") for one in found]
    return sorted(told, key=lambda one: one.severity == "note")


def check_coco(
    annotations: Path, images: Path, *, decode: bool = True, threads: int | None = None, masks: bool | None = None
) -> list[AnnotationProblem]:
    """Return everything that is wrong or odd in a split, refusals first; empty for a sound one.

    `decode=False` opens no image; `threads` decode them (all cores by default).
    """
    split = CocoSplit(annotations, images)
    try:
        content = read_annotations(annotations)
    except UserError as error:
        return [AnnotationProblem("refuse", str(error))]
    problems = examine(split, content, masks=masks)
    if not decode or any(one.severity == "refuse" for one in problems):  # images are compared with sound entries
        return problems
    broken = broken_images(content, images, threads)
    return [AnnotationProblem("refuse", f"{name}: {fault}") for name, fault in broken.items()] + problems


def refuse(problems: Iterable[AnnotationProblem]) -> list[str]:
    """Return the sentences of notes; UserError with the first refusal, where there is one."""
    problems = list(problems)
    refused = [one.sentence for one in problems if one.severity == "refuse"]
    if refused:
        more = f" ({len(refused) - 1} more: cskd-bench doctor lists all)" if refused[1:] else ""
        raise UserError(f"{refused[0]}{more}")
    return [one.sentence for one in problems]


def is_usable(entry: Entry, sizes: dict[Any, tuple[int, int]]) -> bool:
    """Whether MMDetection learns from an annotation: no crowd, a box of a pixel or more, in part inside its image."""
    width, height = entry["bbox"][2:]
    return bool(not entry["iscrowd"] and not entry.get("ignore") and min(width, height) >= 1 and _inside(entry, sizes))


def sizes_of(content: Content) -> dict[Any, tuple[int, int]]:
    """Return width and height of images by their ids."""
    return {image["id"]: (image["width"], image["height"]) for image in content["images"]}


def _inside(entry: Entry, sizes: dict[Any, tuple[int, int]]) -> bool:
    (x, y, width, height), (image_width, image_height) = entry["bbox"], sizes[entry["image_id"]]
    return bool(x < image_width and y < image_height and x + width > 0 and y + height > 0)


def _ids_given_twice(content: Content) -> Iterator[AnnotationProblem]:
    """Say which ids and names occur several times: what belongs to which is then not known."""
    merged = "were two files merged? give each an id of its own"
    for kind in ("images", "categories"):
        yield from problem(
            "refuse", f"ids of {kind} given twice", _twice(entry["id"] for entry in content[kind]), merged
        )
    ids = [entry["id"] for entry in content["annotations"] if entry.get("id") is not None]
    yield from problem("refuse", "ids of annotations given twice", _twice(map(_hashable, ids)), merged)
    files = _twice(_plain(image["file_name"]) for image in content["images"])
    yield from problem("refuse", "images listed twice", files, "give all objects of an image one image_id")
    names = _twice(category["name"] for category in content["categories"])
    yield from problem("refuse", "names of categories given twice", names, "rename one, or merge them")


def _twice(values: Iterable[Any]) -> list[str]:
    return [shown(value) for value, times in Counter(values).items() if times > 1]


def _hashable(value: Any) -> Any:
    return value if isinstance(value, int | float | str) else shown(value)


def _plain(name: str) -> str:
    """Return a file name without what changes nothing in a path; quick for the many that have none of it."""
    return Path(name).as_posix() if "./" in name or "//" in name else name


def _unlisted(content: Content) -> Iterator[AnnotationProblem]:
    """Say which annotations belong to images or categories that are not listed."""
    for key, kind in (("image_id", "images"), ("category_id", "categories")):
        listed = {entry["id"] for entry in content[kind]}
        faulty = [f"{named(entry)}, {entry[key]}" for entry in content["annotations"] if entry[key] not in listed]
        used = [entry[key] for entry in content["annotations"]]
        ranges = f"{kind} have {min(listed)} to {max(listed)}, annotations {min(used)} to {max(used)}" if used else ""
        yield from problem("refuse", f"annotations whose {key} is not listed", faulty, ranges)


def _boxes(content: Content) -> Iterator[AnnotationProblem]:
    sizes, entries = sizes_of(content), content["annotations"]
    odd = [entry for entry in entries if min(entry["bbox"][2:]) < 1 or _reaches_out(entry, sizes)]

    def those(faulty: Iterable[Entry]) -> list[str]:
        return [f"{named(one)}, {shown(one['bbox'])} in {'{} x {}'.format(*sizes[one['image_id']])}" for one in faulty]

    corner = "bbox is [x, y, width, height] in pixels, from the upper left corner"
    backwards = [entry for entry in odd if min(entry["bbox"][2:]) < 0]
    yield from problem("refuse", "boxes of negative width or height", those(backwards), corner)
    small = [entry for entry in odd if 0 <= min(entry["bbox"][2:]) < 1]
    said = "left out of training, and scored as objects"
    yield from problem("note", "boxes under a pixel wide or high", those(small), said)
    large = [entry for entry in odd if min(entry["bbox"][2:]) >= 1]
    outside = [entry for entry in large if not _inside(entry, sizes)]
    yield from problem("refuse", "boxes outside their image", those(outside), corner)
    reaching = [entry for entry in large if _inside(entry, sizes)]
    what = "boxes that reach outside their image by more than a pixel"
    yield from problem("note", what, those(reaching), "used as they are")
    ignored = [named(entry) for entry in entries if entry.get("ignore") and not entry["iscrowd"]]
    yield from problem("note", "annotations marked ignore", ignored, f"{said}: COCO knows iscrowd alone")


def _reaches_out(entry: Entry, sizes: dict[Any, tuple[int, int]]) -> bool:
    (x, y, width, height), (image_width, image_height) = entry["bbox"], sizes[entry["image_id"]]
    return bool(min(x, y) < -1 or x + width > image_width + 1 or y + height > image_height + 1)


def _objects(content: Content) -> Iterator[AnnotationProblem]:
    """Refuse a split without an object: there is nothing to learn, and its AP is not defined."""
    sizes, entries = sizes_of(content), content["annotations"]
    if any(is_usable(entry, sizes) for entry in entries):
        return
    if not entries:
        said = "it has no annotations; a withheld test set cannot be scored here"
    elif all(entry["iscrowd"] for entry in entries):
        said = "all are crowds (iscrowd = 1)"
    elif all(max(entry["bbox"]) <= 1 for entry in entries):
        said = "boxes are given as shares of their image; COCO's are in pixels"
    else:
        said = f"none of {len(entries):,} annotations is a box of a pixel or more that is no crowd and not ignored"
    yield AnnotationProblem("refuse", f"no object to learn from or to score: {said}")


def _categories(content: Content) -> Iterator[AnnotationProblem]:
    counts = Counter(entry["category_id"] for entry in content["annotations"] if not entry["iscrowd"])
    absent = [str(category["name"]) for category in content["categories"] if not counts[category["id"]]]
    if absent and len(absent) < len(content["categories"]):
        listed = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        yield AnnotationProblem(
            "note", f"categories without an object: {len(absent)} of {len(content['categories'])} ({listed})"
        )


def _masks(content: Content, *, required: bool) -> Iterator[AnnotationProblem]:
    """Say which objects have no mask that a detector can learn and pycocotools can score."""
    sizes, faulty = sizes_of(content), list[str]()
    for entry in content["annotations"]:
        width, height = sizes[entry["image_id"]]
        if fault := mask_fault(entry.get("segmentation"), height, width):
            faulty.append(f"{named(entry)}, {fault}")
    boxes = 'for boxes alone take --set detect.config="faster_rcnn_1x"'
    todo = boxes if required else f"a detector with masks refuses them; {boxes}"
    yield from problem("refuse" if required else "note", "annotations without a usable segmentation", faulty, todo)
