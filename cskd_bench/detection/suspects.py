"""Which annotations need a closer look: those that whole columns of numbers do not show to be sound."""

from array import array
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from operator import itemgetter
from typing import Any, Final

import numpy as np

from cskd_bench.detection.annotation_form import LARGEST, Entry
from cskd_bench.detection.annotations import Content

_AT_ONCE: Final = 2_000  # annotations that stay in the processor's cache from one column to the next
_LARGEST_ID: Final = 2**53
_SHORTEST: Final = 6  # numbers of a polygon


def suspects(content: Content) -> Sequence[int]:
    """Return the places of the annotations that are not shown to be sound, in order.

    The others have what every check and every mending asks for: whole ids that are listed, a box of a pixel or more
    that lies in its image to a pixel, a flag, a possible area, and polygons that are a mask. All are returned where
    images or categories are not in order themselves.
    """
    entries, images, categories = content["annotations"], content["images"], content["categories"]
    if not _are_plain(images, "id", "width", "height") or not _are_plain(categories, "id"):
        return range(len(entries))
    sizes = np.array(sorted((one["id"], one["width"], one["height"]) for one in images), np.int64)
    listed = np.array(sorted(one["id"] for one in categories), np.int64)
    if len(np.unique(sizes[:, 0])) < len(sizes):
        return range(len(entries))
    found = [
        first + np.flatnonzero(~_sound(entries[first : first + _AT_ONCE], sizes, listed))
        for first in range(0, len(entries), _AT_ONCE)
    ]
    return [int(place) for place in np.concatenate(found)] if found else []


def _sound(entries: list[Entry], sizes: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """Return which entries (n,) are sound; `sizes` (m, 3) has id, width and height of images by their ids."""
    sound = np.array(["ignore" not in entry for entry in entries])
    whole = {key: _whole(entries, key, sound) for key in ("id", "image_id", "category_id", "iscrowd")}
    sound &= (whole["id"] > 0) & (whole["id"] <= _LARGEST_ID) & np.isin(whole["iscrowd"], (0, 1))
    sound &= np.isin(whole["category_id"], listed)
    at = np.minimum(np.searchsorted(sizes[:, 0], whole["image_id"]), len(sizes) - 1)
    sound &= sizes[at, 0] == whole["image_id"]
    size = sizes[at, 1:].astype(float)
    place, side = np.split(_boxes(entries, sound), 2, axis=1)
    corner = place + side
    inside = (place >= -1) & (corner <= size + 1) & (place < size) & (corner > 0)
    sound &= (inside & (side >= 1) & (side < LARGEST)).all(1)
    area = _numbers(_column(entries, "area"), sound)
    sound &= (area > 0) & (area <= (side + 2).prod(1)) & (area < LARGEST)
    _check_polygons(_column(entries, "segmentation"), size, sound)
    return sound


def _are_plain(entries: list[Entry], *keys: str) -> bool:
    """Whether all have whole numbers under these keys, sides above 0."""
    values: list[Any] = [entry.get(key) for key in keys for entry in entries]
    if set(map(type, values)) != {int} or max(map(abs, values)) > _LARGEST_ID:
        return False
    sides = values[len(entries) :]
    return not sides or (min(sides) > 0 and max(sides) < LARGEST)


def _column(entries: list[Entry], key: str) -> list[Any]:
    """Return the values of a key, None where it is missing."""
    try:
        return list(map(itemgetter(key), entries))
    except KeyError:
        return [entry.get(key) for entry in entries]


def _whole(entries: list[Entry], key: str, sound: np.ndarray) -> np.ndarray:
    """Return a column of whole numbers (n,), 0 where there is another value, which is marked in `sound`."""
    values = _column(entries, key)
    if set(map(type, values)) == {int}:
        with suppress(OverflowError):
            return np.array(values, np.int64)
    right = [type(value) is int and abs(value) <= _LARGEST_ID for value in values]
    sound &= np.array(right)
    return np.array([value if fits else 0 for value, fits in zip(values, right, strict=True)], np.int64)


def _numbers(values: list[Any], sound: np.ndarray) -> np.ndarray:
    """Return a column of numbers (n,), NaN where there is another value, which is marked in `sound`."""
    if set(map(type, values)) <= {int, float}:
        with suppress(OverflowError):
            return np.array(values, float)
    right = [type(value) is float or (type(value) is int and abs(value) < LARGEST) for value in values]
    sound &= np.array(right)
    return np.array([value if fits else np.nan for value, fits in zip(values, right, strict=True)], float)


def _boxes(entries: list[Entry], sound: np.ndarray) -> np.ndarray:
    """Return boxes (n, 4), NaN where there is none of four numbers, which is marked in `sound`."""
    boxes = _column(entries, "bbox")
    if set(map(type, boxes)) != {list} or set(map(len, boxes)) != {4}:
        boxes = [box if type(box) is list and len(box) == 4 else [None] * 4 for box in boxes]
    flat = list(chain.from_iterable(boxes))
    return _numbers(flat, np.ones(len(flat), bool)).reshape(-1, 4)


def _check_polygons(masks: list[Any], size: np.ndarray, sound: np.ndarray) -> None:
    """Mark in `sound` the masks that are not lists of polygons about their image of `size` (n, 2)."""
    places = [place for place, mask in enumerate(masks) if type(mask) is list and mask]
    try:
        points, first = _points([masks[place] for place in places])
    except (TypeError, ValueError, OverflowError):
        places = [place for place in places if _are_polygons(masks[place])]
        points, first = _points([masks[place] for place in places])
    fits = np.zeros(len(masks), bool)
    if places:
        lowest, highest = (
            np.stack([bound.reduceat(points[:, axis], first) for axis in (0, 1)], 1)
            for bound in (np.minimum, np.maximum)
        )
        bounds = size[places]
        near = (highest > 0) & (lowest < bounds) & (lowest >= -bounds - 1) & (highest <= 2 * bounds + 1)
        fits[places] = near.all(1)
        flags = np.flatnonzero((points == 0) | (points == 1)) // 2  # true and false would be among these
        for number in np.unique(np.searchsorted(first, flags, side="right") - 1).tolist():
            mask = masks[places[number]]
            fits[places[number]] &= bool not in set(map(type, chain.from_iterable(mask)))
    sound &= fits


def _points(masks: list[list[list[Any]]]) -> tuple[np.ndarray, np.ndarray]:
    """Return all points (n, 2) of masks and where each mask's begin; an error for what is no list of polygons."""
    polygons = list(chain.from_iterable(masks))
    if set(map(type, polygons)) - {list}:
        raise TypeError("polygons that are no lists")
    lengths = np.fromiter(map(len, polygons), np.int64, len(polygons))
    if (lengths < _SHORTEST).any() or (lengths % 2).any():
        raise ValueError("polygons of fewer than three points, or of half a point")
    numbers = array("d")
    deque(map(numbers.fromlist, polygons), maxlen=0)
    counts = np.fromiter(map(len, masks), np.int64, len(masks))
    before = np.concatenate([[0], np.cumsum(lengths)]) // 2
    return np.frombuffer(numbers).reshape(-1, 2) if numbers else np.zeros((0, 2)), before[np.cumsum(counts) - counts]


def _are_polygons(mask: list[Any]) -> bool:
    try:
        _points([mask])
    except (TypeError, ValueError, OverflowError):
        return False
    return True
