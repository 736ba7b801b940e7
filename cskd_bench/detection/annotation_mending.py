"""What in a COCO annotation file can be mended without a guess, so that pycocotools and MMDetection read it rightly."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from cskd_bench.detection.annotation_form import Entry, is_number, named, problem, shown
from cskd_bench.detection.annotations import Content
from cskd_bench.detection.masks import mask_area, mask_fault, without_short_polygons
from cskd_bench.detection.suspects import suspects

_LARGEST_ID: Final = 2**53  # pycocotools keeps ids as floating-point numbers
_NUMBERED: Final = {
    "images": ("id", "width", "height"),
    "annotations": ("image_id", "category_id"),
    "categories": ("id",),
}


def mend(content: Content, places: Sequence[int] | None = None) -> tuple[Content, list[str]]:
    """Return the content of a file whose form is sound as it can be used, and what was changed.

    Where nothing needs mending, that is the very content that was given. `places` are those of the annotations that
    are looked at, where they are known.
    """
    places = suspects(content) if places is None else places
    notes: list[str] = []
    for step in (_whole_numbers, _crowds, _polygons, _areas, _ids):
        content, told = step(content, places)
        notes += told
    return content, notes


def _changed(
    content: Content, places: Sequence[int], change: Callable[[Entry], Entry], what: str, done: str
) -> tuple[Content, list[str]]:
    """Change annotations, and say how many are others now; `change` returns the very entry that needs nothing."""
    before, faulty = content["annotations"], list[str]()
    after = list(before)
    for place in places:
        after[place] = change(before[place])
        if after[place] is not before[place]:
            faulty.append(named(before[place]))
    told = [one.sentence for one in problem("note", what, faulty, done)]
    return ({**content, "annotations": after} if faulty else content), told


def _whole_numbers(content: Content, places: Sequence[int]) -> tuple[Content, list[str]]:
    """Write 3.0 as 3 where a whole number belongs: pycocotools takes no other for the size of a mask."""
    mended, faulty = dict(content), list[str]()
    for kind, keys in _NUMBERED.items():
        entries = list(content[kind])
        for place in places if kind == "annotations" else range(len(entries)):
            entry = entries[place]
            if any(type(entry[key]) is float for key in keys):
                entries[place] = {**entry, **{key: int(entry[key]) for key in keys}}
                faulty.append(named(entry, kind))
        mended[kind] = entries
    told = [one.sentence for one in problem("note", "entries with ids or sizes such as 3.0", faulty, "read as 3")]
    return (mended if faulty else content), told


def _crowds(content: Content, places: Sequence[int]) -> tuple[Content, list[str]]:
    def flagged(entry: Entry) -> Entry:
        flag = entry.get("iscrowd")
        return entry if type(flag) is int else {**entry, "iscrowd": int(flag or 0)}

    what = "annotations whose iscrowd is not 0 or 1"
    return _changed(content, places, flagged, what, "taken as 1 for true, else as 0: no crowd")


def _polygons(content: Content, places: Sequence[int]) -> tuple[Content, list[str]]:
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}

    def cleaned(entry: Entry) -> Entry:
        mask = entry.get("segmentation")
        without = without_short_polygons(mask)
        if without is mask or mask_fault(without, *sizes[entry["image_id"]]):
            return entry
        return {**entry, "segmentation": without}

    return _changed(
        content, places, cleaned, "masks with polygons of fewer than three points", "those polygons are left out"
    )


def _areas(content: Content, places: Sequence[int]) -> tuple[Content, list[str]]:
    """Replace areas that cannot be: they decide which objects are small, medium and large, and which are trained on."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}

    def sized(entry: Entry) -> Entry:
        area, (width, height) = entry.get("area"), entry["bbox"][2:]
        if min(width, height) < 0:
            return entry  # refused
        if _is_possible(area, width, height):
            return entry
        mask = entry.get("segmentation")
        of_mask = 0.0 if mask_fault(mask, *sizes[entry["image_id"]]) else mask_area(mask)
        return {**entry, "area": of_mask or width * height}

    what = "annotations whose area is missing, not above 0, or larger than the box"
    return _changed(content, places, sized, what, "taken from the mask, or from the box without one")


def _is_possible(area: Any, width: float, height: float) -> bool:
    """Whether an object in a box can have that area; one of a box without any has none."""
    return is_number(area) and bool(0 <= area <= (width + 2) * (height + 2)) and (area > 0 or width * height == 0)


def _ids(content: Content, places: Sequence[int]) -> tuple[Content, list[str]]:
    """Number annotations anew where an id is none that pycocotools can use: to it, 0 means that nothing was found."""
    entries = content["annotations"]
    ids = (entries[place].get("id") for place in places)
    faulty = [shown(value) for value in ids if not _is_annotation_id(value)]
    if not faulty:
        return content, []
    numbered = [{**entry, "id": number} for number, entry in enumerate(entries, 1)]
    todo = f"all are numbered 1 to {len(entries)} instead; pycocotools takes id 0 for no object"
    told = [one.sentence for one in problem("note", "annotation ids that are not above 0", faulty, todo)]
    return {**content, "annotations": numbered}, told


def _is_annotation_id(value: Any) -> bool:
    return type(value) is int and 0 < value <= _LARGEST_ID
