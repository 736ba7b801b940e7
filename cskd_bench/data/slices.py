"""Slices of splits, as users write them: `train[::4]` is every fourth image, `train[:1000]` the first thousand."""

import re
from typing import Final

_SLICE: Final = re.compile(r"(?P<split>.+)\[(?P<start>\d*):(?P<stop>\d*)(?::(?P<step>[1-9]\d*))?\]")


def parse_slice(split: str) -> tuple[str, slice] | None:
    """Return the split that a slice is cut from, and the slice; None for what is no slice."""
    found = _SLICE.fullmatch(split)
    if found is None:
        return None
    start, stop, step = (int(found[part]) if found[part] else None for part in ("start", "stop", "step"))
    return found["split"], slice(start, stop, step)
