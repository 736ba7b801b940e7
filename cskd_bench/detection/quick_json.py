"""Large annotation files, read by msgspec, which is quicker, wherever it cannot say otherwise than `read_json`."""

from importlib.util import find_spec
from typing import Any, Final

LARGE: Final = 1 << 24  # bytes, below which nobody waits
_COLONS: Final = (b"\\u003a", b"\\u003A")  # as a string may write one


def read_quickly(stored: bytes) -> Any | None:
    """Return what a JSON text in UTF-8 says; None for a short text, without msgspec, and where `read_json` must look.

    That is where msgspec refuses the text, and where an object may have a key twice, of which it would keep the last.
    """
    if len(stored) < LARGE or find_spec("msgspec") is None or any(colon in stored for colon in _COLONS):
        return None
    import msgspec

    try:
        content = msgspec.json.decode(stored)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return content if _count_colons(content) == stored.count(b":") else None


def _count_colons(content: Any) -> int:
    """Count the colons in a text with this content: one after each key, and those within keys and strings.

    Lists of numbers, and lists of such lists, have none and are not looked into.
    """
    found, within = 0, [content]
    of_keys: dict[tuple[str, ...], int] = {}  # few kinds of objects, and many of each
    while within:
        value = within.pop()
        if type(value) is dict:
            keys = tuple(value)
            if keys not in of_keys:
                of_keys[keys] = len(keys) + sum(key.count(":") for key in keys)
            found += of_keys[keys]
            within += [inner for inner in value.values() if type(inner) in (str, dict, list)]
        elif type(value) is str:
            found += value.count(":")
        elif type(value) is list and value and type(value[0]) in (str, dict):
            within += value
    return found
