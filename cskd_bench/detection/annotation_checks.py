"""What is wrong or odd in a COCO annotation file: the one list of checks that transfer and the doctor share."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cskd_bench.detection.annotation_form import (
    AnnotationProblem,
    Entry,
    form_problems,
    name_problems,
    named,
    problem,
    shown,
)
from cskd_bench.detection.annotation_mending import mend
from cskd_bench.detection.annotations import CocoSplit, Content
from cskd_bench.detection.box_corners import corner_boxes
from cskd_bench.detection.masks import mask_fault
from cskd_bench.detection.suspects import suspects
from cskd_bench.errors import UserError


@dataclass(frozen=True)
class Examined:
    """What is known of a content without its images: problems in their order, and what can be learnt from it."""

    form: list[AnnotationProblem]  # that leave nothing else to look at
    others: list[AnnotationProblem]
    masks: dict[bool | None, list[AnnotationProblem]]  # by whether a detector learns masks; None: not known
    is_mended: bool  # whether what is used is another content
    largest_side: int  # pixels of the shorter side, of all images with an object to learn from; 0 where there is none


def examine(content: Content, places: Sequence[int] | None = None) -> Examined:
    """Return every problem of a content that is known without its images.

    `places` are those of the annotations that are looked at one by one; those that `suspects` finds by default.
    """
    places = suspects(content) if places is None else places
    odd = [content["annotations"][place] for place in places]
    form = list(form_problems(content, odd))
    later = [] if form else list(_ids_given_twice(content)) or list(_unlisted(content, odd))
    if form or later:
        return Examined(form, later, {}, False, 0)
    mended, notes = mend(content, places)
    odd = [mended["annotations"][place] for place in places]
    found = [AnnotationProblem("note", note) for note in notes]
    corners = list(corner_boxes(content["annotations"], sizes_of(mended)))
    found += [*(corners or _boxes(mended, odd)), *_objects(mended), *_categories(mended)]
    return Examined([], found, _masks(mended, odd), mended is not content, _largest_side(mended, places))


def told(split: CocoSplit, names: Sequence[str], examined: Examined, *, masks: bool | None) -> list[AnnotationProblem]:
    """Return every problem of a split that is known without decoding an image, refusals first; `names` are its images'.

    `masks` says whether a detector learns masks; None where no detector is known: then unusable ones are noted.
    """
    found = [*examined.form, *name_problems(split, names)]
    found = found or [*examined.others, *examined.masks.get(masks, [])]
    name = split.annotations.name
    said = [AnnotationProblem(one.severity, f"{name}: {one.sentence}") for one in found]
    return sorted(said, key=lambda one: one.severity == "note")


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
    merged = "were two files merged? give each another id"
    for kind in ("images", "categories"):
        yield from problem(
            "refuse", f"ids of {kind} given twice", _twice(entry["id"] for entry in content[kind]), merged
        )
    ids = [entry["id"] for entry in content["annotations"] if entry.get("id") is not None]
    if set(map(type, ids)) - {int} or len(set(ids)) < len(ids):
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


def _unlisted(content: Content, suspects: Sequence[Entry]) -> Iterator[AnnotationProblem]:
    """Say which annotations belong to images or categories that are not listed."""
    for key, kind in (("image_id", "images"), ("category_id", "categories")):
        listed = {entry["id"] for entry in content[kind]}
        faulty = [f"{named(entry)}, {entry[key]}" for entry in suspects if entry[key] not in listed]
        used = [entry[key] for entry in content["annotations"]] if faulty else []
        ranges = f"{kind} have {min(listed)} to {max(listed)}, annotations {min(used)} to {max(used)}" if used else ""
        yield from problem("refuse", f"annotations whose {key} is not listed", faulty, ranges)


def _boxes(content: Content, entries: Sequence[Entry]) -> Iterator[AnnotationProblem]:
    sizes = sizes_of(content)
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


def _masks(content: Content, entries: Sequence[Entry]) -> dict[bool | None, list[AnnotationProblem]]:
    """Say which objects have no mask that a detector can learn and pycocotools can score."""
    sizes, faulty = sizes_of(content), list[str]()
    for entry in entries:
        width, height = sizes[entry["image_id"]]
        if fault := mask_fault(entry.get("segmentation"), height, width):
            faulty.append(f"{named(entry)}, {fault}")
    what, boxes = (
        "annotations without a usable segmentation",
        'for boxes alone take --set detect.config="faster_rcnn_1x"',
    )
    return {
        True: list(problem("refuse", what, faulty, boxes)),
        None: list(problem("note", what, faulty, f"a detector with masks refuses them; {boxes}")),
        False: [],
    }


def _largest_side(content: Content, places: Sequence[int]) -> int:
    """Return the largest of the images' shorter sides, of those with a usable object; 0 where there is none."""
    sizes, odd = sizes_of(content), set(places)
    learnt = {
        entry["image_id"]
        for place, entry in enumerate(content["annotations"])
        if not entry["iscrowd"] and (place not in odd or is_usable(entry, sizes))
    }
    return max((min(sizes[image]) for image in learnt), default=0)
