"""Boxes that are given as two corners, [x1, y1, x2, y2], where COCO has a corner, a width and a height."""

from collections.abc import Iterator
from typing import Any, Final

from cskd_bench.detection.annotation_form import AnnotationProblem, Entry, problem, shown

_FEWEST: Final = 3  # boxes that say anything about all
_LOOKED_AT: Final = 10_000  # boxes; more say no more
_NEAR: Final = 1.5  # pixels between a mask's edge and its box's


def corner_boxes(entries: list[Entry], sizes: dict[Any, tuple[int, int]]) -> Iterator[AnnotationProblem]:
    """Yield a refusal where all boxes of a split read as two corners inside their image, and more speaks for it.

    That is their polygons, or else that a third of them would leave the image as they stand while no area says so.
    """
    looked_at = entries[:_LOOKED_AT]
    if len(looked_at) < _FEWEST or not all(_are_corners(one["bbox"], sizes[one["image_id"]]) for one in looked_at):
        return
    outlined = [(one["bbox"], bounds) for one in looked_at if (bounds := _bounds(one.get("segmentation")))]
    if outlined:
        as_corners = sum(_near(box, bounds) for box, bounds in outlined)
        as_sizes = sum(_near(_to_corners(box), bounds) for box, bounds in outlined)
        speaks = as_corners > 0.9 * len(outlined) and as_sizes < 0.1 * len(outlined)
    else:
        leaving = sum(not _are_corners(_to_corners(one["bbox"]), sizes[one["image_id"]]) for one in looked_at)
        speaks = 3 * leaving >= len(looked_at) and not any(_has_area(one) for one in looked_at)
    if speaks:
        named = [shown(one["bbox"]) for one in entries]
        yield from problem("refuse", "boxes that are two corners", named, "write [x1, y1, x2 - x1, y2 - y1]")


def _are_corners(box: list[float], size: tuple[int, int]) -> bool:
    x, y, right, bottom = box
    return min(x, y) >= -1 and x < right <= size[0] + 1 and y < bottom <= size[1] + 1


def _to_corners(box: list[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y + height]


def _near(box: list[float], bounds: list[float]) -> bool:
    return all(abs(ours - theirs) <= _NEAR for ours, theirs in zip(box, bounds, strict=True))


def _has_area(entry: Entry) -> bool:
    """Whether an entry's area is that of its box as it stands."""
    area, (width, height) = entry.get("area"), entry["bbox"][2:]
    return type(area) in (int, float) and bool(abs(area - width * height) <= 0.01 * width * height)


def _bounds(segmentation: Any) -> list[float] | None:
    """Return the corners about all polygons of a mask; None for other masks."""
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        return None
    numbers = [value for polygon in segmentation for value in polygon[: len(polygon) // 2 * 2]]
    if not numbers or not all(type(value) in (int, float) for value in numbers):
        return None
    columns, rows = numbers[::2], numbers[1::2]
    return [min(columns), min(rows), max(columns), max(rows)]
