"""Masks of COCO annotations: polygons and run lengths, what is wrong with one, and how many pixels it has."""

from typing import Any, Final

import numpy as np

_POINTS: Final = 3  # the fewest that enclose anything
_OFFSET: Final = 48  # of the characters of compressed run lengths: 48 to 111, five bits each and one that says "more"
_LONGEST: Final = 6  # characters of a run length: 30 bits


def mask_fault(segmentation: Any, height: int, width: int) -> str:
    """Say why an object's `segmentation` is no mask of an image of that size; empty for a usable one."""
    if segmentation is None or segmentation in ("", [], {}, [[]]):
        return "no segmentation"
    if isinstance(segmentation, list):
        return _polygons_fault(segmentation, height, width)
    if isinstance(segmentation, dict):
        return _runs_fault(segmentation, height, width)
    return "neither a list of polygons nor run lengths"


def mask_area(segmentation: Any) -> float:
    """Return about how many pixels a usable mask has: by its polygons' outlines, or by its run lengths."""
    if isinstance(segmentation, dict):
        return float(sum((_runs(segmentation["counts"]) or [])[1::2]))
    return float(sum(_outline_area(np.asarray(polygon, float)) for polygon in segmentation if _encloses(polygon)))


def without_short_polygons(segmentation: Any) -> Any:
    """Return a mask without the polygons of fewer than three points that would break its reading; itself without such.

    pycocotools takes a first polygon of four numbers for a box, and one of none for nothing that it knows.
    """
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        return segmentation
    breaks = segmentation and (len(segmentation[0]) < 2 * _POINTS or any(len(polygon) < 4 for polygon in segmentation))
    usable = [polygon for polygon in segmentation if _encloses(polygon)]
    return usable if breaks and usable else segmentation


def _encloses(polygon: list[Any]) -> bool:
    return len(polygon) >= 2 * _POINTS


def _polygons_fault(polygons: list[Any], height: int, width: int) -> str:
    if not all(isinstance(polygon, list) for polygon in polygons):
        return "a flat list, where a list of polygons belongs"
    if not any(_encloses(polygon) for polygon in polygons):
        return "no polygon of three points or more"
    lowest, highest = np.full(2, np.inf), np.full(2, -np.inf)
    for polygon in polygons:
        if not polygon:
            continue
        try:
            numbers = np.asarray(polygon)
        except (ValueError, OverflowError):
            return "a polygon that is no flat list of numbers"
        if numbers.ndim != 1 or numbers.dtype.kind not in "iuf" or not np.isfinite(numbers).all():
            return "a polygon that is no flat list of finite numbers"
        if len(numbers) % 2:
            return "a polygon of an odd number of coordinates"
        points = numbers.reshape(-1, 2)
        lowest, highest = np.minimum(lowest, points.min(0)), np.maximum(highest, points.max(0))
    size = np.array([width, height])
    if (highest <= 0).any() or (lowest >= size).any():
        return "polygons outside the image"
    if (lowest < -size - 1).any() or (highest > 2 * size + 1).any():
        return "polygons that reach outside the image by more than its size"
    return ""


def _runs_fault(rle: dict[str, Any], height: int, width: int) -> str:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list) or not all(type(side) is int for side in size):
        return "run lengths without their size"
    if size != [height, width]:
        return f"run lengths of {size}, [height, width] of the image is {[height, width]}"
    if isinstance(counts, list) and not all(type(run) is int and run >= 0 for run in counts):
        return "run lengths that are no whole numbers from 0 on"
    runs = _runs(counts)
    if runs is None:
        return "no readable run lengths"
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        return f"run lengths that add up to other than height x width = {height * width}"
    return "" if sum(runs[1::2]) else "run lengths without a pixel of the object"


def _runs(counts: Any) -> list[int] | None:
    """Return run lengths, zeros first; None where they cannot be read."""
    if isinstance(counts, list):
        return counts
    if not isinstance(counts, str) or not counts.isascii() or not counts:
        return None
    codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - _OFFSET
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    starts = np.flatnonzero(np.concatenate([[True], codes[:-1] & 32 == 0]))
    lengths = np.diff(np.append(starts, len(codes)))
    if lengths.max() > _LONGEST:
        return None
    within = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & 31) << (5 * within), starts)
    last = codes[starts + lengths - 1]
    values = np.where(last & 16, values - (1 << (5 * lengths)), values)
    values[1::2] = np.cumsum(values[1::2])  # from the fourth on each is a difference to the one two before
    values[2::2] = np.cumsum(values[2::2])
    return values.tolist()  # type: ignore[no-any-return]


def _outline_area(polygon: np.ndarray) -> float:
    """Return the area that a polygon x1, y1, x2, y2, ... encloses."""
    x, y = polygon[: len(polygon) // 2 * 2].reshape(-1, 2).T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)
