"""What every entry of a COCO annotation file must hold, and in which form; the sentences of problems."""

import json
import ntpath
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from cskd_bench.detection.annotations import CocoSplit, Content

Entry: TypeAlias = dict[str, Any]
LARGEST: Final = 2**31  # of a coordinate, in pixels: float32 and the run lengths of masks hold no more
_LARGEST_ID: Final = 2**63  # arrays hold whole numbers below it
_EXACT: Final = 2**53  # whole numbers up to it are exact as floating-point numbers
_LONGEST_NAME: Final = 255  # bytes of one part of a path


@dataclass(frozen=True)
class AnnotationProblem:
    """One kind of fault of a split: `refuse` stops a run before it computes anything, a `note` is told and recorded."""

    severity: Literal["refuse", "note"]
    sentence: str


def problem(
    severity: Literal["refuse", "note"], what: str, faulty: Sequence[str], todo: str = ""
) -> Iterator[AnnotationProblem]:
    """Yield one problem for all faulty entries, each named to a person; nothing where there are none."""
    if faulty:
        said = f"{what}: {len(faulty):,} (the first: {faulty[0]})"
        yield AnnotationProblem(severity, f"{said}; {todo}" if todo else said)


def shown(value: Any) -> str:
    """Return a value as JSON, short enough for a sentence."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def named(entry: Entry, kind: str = "annotations") -> str:
    """Name an entry to a person: an image by its file, a category by its name, an annotation by its id."""
    if kind == "images":
        return str(entry["file_name"])
    return repr(entry["name"]) if kind == "categories" else f"annotation {shown(entry.get('id'))}"


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that can be a coordinate."""
    return type(value) in (int, float) and abs(value) < LARGEST  # false of NaN


def is_id(value: Any) -> bool:
    """Whether a value is a whole number that arrays can hold; 3.0 is one."""
    if type(value) is int:
        return abs(value) < _LARGEST_ID
    return type(value) is float and value.is_integer() and abs(value) <= _EXACT


def _is_side(value: Any) -> bool:
    return is_id(value) and 0 < value < LARGEST


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(is_number(number) for number in value)


def _is_flag(value: Any) -> bool:
    return value is None or (type(value) in (bool, int, float) and value in (0, 1))


_FORM: Final[dict[str, dict[str, tuple[Callable[[Any], bool], str]]]] = {
    "images": {
        "id": (is_id, "a whole number below 2^63"),
        "width": (_is_side, "whole pixels"),
        "height": (_is_side, "whole pixels"),
    },
    "annotations": {
        "image_id": (is_id, "the whole number of an image"),
        "category_id": (is_id, "the whole number of a category"),
        "bbox": (_is_box, "[x, y, width, height], four finite numbers of pixels"),
        "iscrowd": (_is_flag, "0 or 1"),
    },
    "categories": {"id": (is_id, "a whole number below 2^63")},
}


def form_problems(content: Content, suspects: Sequence[Entry]) -> Iterator[AnnotationProblem]:
    """Say which keys are missing or of another form; of the annotations those of `suspects` are looked at."""
    for kind, keys in _FORM.items():
        for key, (is_sound, expected) in keys.items():
            faulty = [
                f"{named(entry, kind)}, {shown(entry[key]) if key in entry else 'none'}"
                for entry in (suspects if kind == "annotations" else content[kind])
                if not is_sound(entry.get(key))
            ]
            yield from problem("refuse", f"{kind} without a usable {key}", faulty, f"expected {expected}")


def name_problems(split: CocoSplit, names: Sequence[str]) -> Iterator[AnnotationProblem]:
    """Say which file names cannot be images of the split."""
    long = [name for name in names if "\0" in name or max(map(len, os.fsencode(name).split(b"/"))) > _LONGEST_NAME]
    yield from problem("refuse", "file names that no file can have", [shown(name) for name in long])
    folder = split.images.name
    todo = f"give file_name relative to {folder}/, with / between folders"
    absolute = [name for name in names if name.startswith("/") or ntpath.splitdrive(name)[0]]
    yield from problem("refuse", "file names that are absolute", absolute, todo)
    root, base = f"{os.path.normpath(split.annotations.parent.parent)}{os.sep}", str(split.images)
    leaving = [
        name
        for name in names
        if ".." in name and not os.path.normpath(f"{base}/{name}").startswith(root) and name not in absolute
    ]
    yield from problem("refuse", "file names that leave the data set's folder", leaving, todo)
    if long or absolute or leaving:
        return
    slashes = [name for name in names if "\\" in name and not (split.images / name).is_file()]
    yield from problem("refuse", "file names with backslashes", slashes, todo)
    if not slashes and not any((split.images / name).is_file() for name in names):
        yield from problem("refuse", f"no image is in {folder}/", names, _elsewhere(split, names[0]) or todo)


def _elsewhere(split: CocoSplit, name: str) -> str:
    """Say how names that begin with the folder's own, or with folders of another machine, should read."""
    if (split.images.parent / name).is_file():
        return f"leave the folder out: {shown(Path(name).relative_to(Path(name).parts[0]).as_posix())}"
    found = split.images / Path(name).name
    return f"leave the folders out: {shown(found.name)}" if found.is_file() else ""
