"""JSON that others wrote, read so that nothing of it is lost silently."""

import json
from collections import Counter
from typing import Any


def decode_json(stored: bytes) -> str:
    """Return the text of a JSON file in UTF-8, UTF-16 or UTF-32, as `json` tells them apart; ValueError for others."""
    return stored.decode(json.detect_encoding(stored), "surrogatepass")


def read_json(stored: bytes | str) -> Any:
    """Return what a JSON text says; ValueError for another text, and for a key that one object has twice.

    Of two values under one key, one would be lost. RecursionError for lists in lists without end.
    """
    return json.loads(stored, object_pairs_hook=_without_repeats)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"the key {twice!r} is given twice in one object")
    return found
