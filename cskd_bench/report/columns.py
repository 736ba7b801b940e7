"""What sets columns of one task and protocol apart, in the words of their settings (`finetune.epochs 20`)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

DEEPEST: Final = 8  # tables within tables; settings of ours have 3
MOST_NAMED: Final = 3  # settings in a column's name
MOST_LISTED: Final = 6  # settings, and values of each, in a note
LONGEST: Final = 32  # characters of a value

Words = dict[str, str]  # dotted key, as `--set` takes it -> value


def flatten(settings: Mapping[str, Any]) -> Words:
    """Write nested settings as dotted keys with their values in words."""
    return dict(_walk(settings, "", DEEPEST))


def _walk(settings: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and depth:
            yield from _walk(value, f"{prefix}{key}.", depth - 1)
        else:
            yield f"{prefix}{key}", _word(value)


def _word(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case list() | tuple():
            return f"[{', '.join('...' if isinstance(item, list | dict) else _word(item) for item in value)}]"
        case dict():
            return "..."
        case _:
            return str(value) if value not in (None, "") else "none"


def differing(columns: Sequence[Words]) -> list[str]:
    """Return the keys whose values are not the same in all columns, in order; a column without any does not count."""
    known = [words for words in columns if words]
    keys = dict.fromkeys(key for words in known for key in words)
    return [key for key in keys if len({words.get(key) for words in known}) > 1]


def name_settings(words: Words, keys: Sequence[str]) -> list[str]:
    """Name a column by its values of some keys: `["finetune.epochs 20"]`; a key that it has not is left out."""
    named = [f"{key} {_cut(words[key])}" for key in keys[:MOST_NAMED] if key in words]
    more = sum(key in words for key in keys[MOST_NAMED:])
    return [*named, f"{more} more settings"] if more else named


def list_differences(columns: Sequence[Words]) -> str:
    """List what differs between columns: `finetune.epochs (20, 30), image_size (32, 64)`; empty where nothing does."""
    keys = differing(columns)
    listed = [f"{key} ({', '.join(_values(columns, key))})" for key in keys[:MOST_LISTED]]
    more = len(keys) - MOST_LISTED
    return ", ".join([*listed, f"{more} more settings"] if more > 0 else listed)


def _values(columns: Sequence[Words], key: str) -> list[str]:
    values = sorted({words[key] for words in columns if key in words}, key=lambda text: (len(text), text))
    return [*map(_cut, values[:MOST_LISTED]), *(["..."] if len(values) > MOST_LISTED else [])]


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
