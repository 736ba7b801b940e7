"""Changes to valid tables, such as a record or a task, and their text in JSON and TOML."""

import copy
import json
import math
from typing import Any, Final

from fuzz.choices import Choices

MARK: Final = "<xfz onload=xfz>&\\input{xfz}%$#_^~|\n=xfz"  # would show in HTML, LaTeX, Markdown and spreadsheets
_DEEP, _LONG = "@@deep@@", "@@long@@"  # stand for what Python's own writers refuse
_ODD: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 2, 3, 255, 256, 65536, 2**31, 2**32 - 1, 2**53 + 1, 2**63, 2**64, -(2**63) - 1),
    *(0.0, -0.0, 0.5, 1.5, 1e-320, 1e308, -1e308, math.inf, -math.inf, math.nan),
    *("", " ", ".", "..", "../x", "/", "a/b", "a\0b", "\ud800", "\u202e", "é", "e\u0301", "1", "nan", "x" * 300),
    *(MARK, "{}", "[", "%s", "{0}", "__class__", "\r\n", "$(id)", _DEEP, _LONG),
    *([], {}, [None], [[]], {"": 0}, {"a": {"a": {}}}, [0] * 5, [1, "a"], ["a", "a"], {"kind": "cskd"}),
)


def change(document: Any, choices: Choices) -> Any:
    """Return a copy of a table with one to four changes: other values, missing and further keys, things swapped."""
    box = {"": copy.deepcopy(document)}
    for _ in range(1 + choices.below(4)):
        places = list(_places(box))
        container, key = places[choices.below(len(places))]
        match choices.below(8):
            case 0:
                del container[key]
            case 1 if isinstance(container, dict) and container is not box:
                container[choices.text()] = copy.deepcopy(choices.pick(_ODD))
            case 2:
                other, there = places[choices.below(len(places))]
                container[key] = copy.deepcopy(other[there])
            case 3:
                container[key] = choices.text()
            case 4:
                container[key] = choices.number()
            case 5 if isinstance(container[key], int | float | str | list):
                container[key] = _alter(container[key], choices)
            case _:
                container[key] = copy.deepcopy(choices.pick(_ODD))
        box = box or {"": None}
    return box.get("")


def _alter(value: Any, choices: Choices) -> Any:
    """Return a value that is close to another of its kind."""
    if isinstance(value, str):
        at = choices.below(len(value) + 1)
        return value[:at] + choices.text() + value[at:]
    if isinstance(value, list):
        return value + value if choices.below(2) else value[:-1]
    return choices.pick((-value, value + 1, value - 1, value * 2, value * 1e9, value / 2, str(value)))


def _places(container: Any) -> Any:
    """Yield every value of a table as the container and the key or index it is found by."""
    keys = list(container) if isinstance(container, dict) else range(len(container))
    for key in keys:
        yield container, key
        if isinstance(container[key], dict | list):
            yield from _places(container[key])


def as_json(document: Any) -> bytes:
    """Return a table as JSON, with NaN, halves of surrogate pairs, deep nesting and long numbers where it has them."""
    return _stand_ins(json.dumps(document, separators=(",", ":"))).encode()


def as_toml(document: Any) -> bytes:
    """Return a table as TOML, one line for each key at its top."""
    if not isinstance(document, dict):
        return _toml(document).encode()
    lines = [f"{json.dumps(str(key))} = {_toml(value)}\n" for key, value in document.items()]
    return _stand_ins("".join(lines)).encode()


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return '""' if value is None else json.dumps(value)


def _stand_ins(text: str) -> str:
    return text.replace(f'"{_DEEP}"', "[" * 3000 + "]" * 3000).replace(f'"{_LONG}"', "9" * 5000)
