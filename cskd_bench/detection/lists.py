"""MMDetection's list of a split's images and objects, made once on the main rank and mapped into memory by all.

It is what `CocoDataset` makes of the annotation file, entry by entry, but for the folder of the images, which is put
in front when an entry is read. A file holds the pickled entries, where each of them ends (int64), how many there are
(int64) and the SHA-256 of all that.
"""

import hashlib
import io
import json
import mmap
import pickle
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from cskd_bench.detection.annotation_form import Entry
from cskd_bench.detection.annotations import CocoSplit, Content, hold_annotations
from cskd_bench.detection.facts import code_digest, digest_of
from cskd_bench.files import write_file
from cskd_bench.memory import without_collection

_TAIL: Final = 8 + 32  # bytes: how many entries, and the digest
_AT_ONCE: Final = 1 << 24  # bytes that are read for the digest at once


@dataclass(frozen=True)
class ListSettings:
    """What besides the annotation file decides which images and objects are listed."""

    classes: tuple[str, ...]
    filter_empty: bool = False  # whether images without an object of these classes are left out
    min_size: int = 0  # pixels of an image's shorter side


def shared_list(split: CocoSplit, settings: ListSettings, folder: Path) -> Path:
    """Return the file in `folder` with a split's list, made unless it is there and whole; UserError as for writing."""
    described = json.dumps(
        [digest_of(split.annotations), code_digest(), settings.classes, settings.filter_empty, settings.min_size]
    )
    path = folder / f"{hashlib.sha256(described.encode()).hexdigest()[:32]}.list"
    if not _is_whole(path):
        content = hold_annotations(split.annotations).content
        write_file(path, lambda temporary: _write(temporary, listed_images(content, settings)))
    return path


def map_list(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return a list's bytes, mapped into memory, and where each entry ends (n,); OSError or ValueError without one."""
    stored = np.memmap(path, np.uint8, "r")
    count = int.from_bytes(stored[-_TAIL : 8 - _TAIL].tobytes(), "little")
    ends = np.frombuffer(stored[-_TAIL - 8 * count : -_TAIL].tobytes(), np.int64)
    return stored[: len(stored) - _TAIL - 8 * count], ends


class _Plain(pickle.Unpickler):
    """Reads what an entry holds, and runs nothing: a work folder may have come from anywhere."""

    def find_class(self, module: str, name: str) -> Any:
        """Raise UnpicklingError: an entry has dicts, lists, texts and numbers alone."""
        raise pickle.UnpicklingError(f"an entry of a list with {module}.{name}")


def listed_entry(stored: np.ndarray, ends: np.ndarray, place: int) -> Any:
    """Return one entry of what `map_list` returned."""
    first = int(ends[place - 1]) if place else 0
    return _Plain(io.BytesIO(stored[first : int(ends[place])].tobytes())).load()


def listed_images(content: Content, settings: ListSettings) -> Iterator[dict[str, Any]]:
    """Yield the entries of mmdet's CocoDataset for a content that it can read; `img_path` is the file name alone."""
    chosen = set(settings.classes)
    labels = {
        number: label
        for label, number in enumerate(one["id"] for one in content["categories"] if one["name"] in chosen)
    }
    objects: dict[Any, list[Entry]] = defaultdict(list)
    for entry in content["annotations"]:
        objects[entry["image_id"]].append(entry)
    for image in {image["id"]: image for image in content["images"]}.values():
        found = objects.get(image["id"], [])
        if settings.filter_empty and not any(entry["category_id"] in labels for entry in found):
            continue
        if min(image["width"], image["height"]) < settings.min_size:
            continue
        yield {
            "img_path": image["file_name"],
            "img_id": image["id"],
            "seg_map_path": None,
            "height": image["height"],
            "width": image["width"],
            "instances": _instances(image, found, labels),
        }


def _instances(image: Entry, entries: Sequence[Entry], labels: dict[int, int]) -> list[dict[str, Any]]:
    """Return an image's objects as `CocoDataset.parse_data_info` does."""
    instances, width, height = [], image["width"], image["height"]
    for entry in entries:
        if entry.get("ignore", False):
            continue
        x, y, w, h = entry["bbox"]
        if entry["area"] <= 0 or w < 1 or h < 1 or entry["category_id"] not in labels:
            continue
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            continue
        instance = {
            "ignore_flag": 1 if entry.get("iscrowd", False) else 0,
            "bbox": [x, y, x + w, y + h],
            "bbox_label": labels[entry["category_id"]],
        }
        if entry.get("segmentation", None):
            instance["mask"] = entry["segmentation"]
        instances.append(instance)
    return instances


def _write(path: Path, entries: Iterator[dict[str, Any]]) -> None:
    digest, ends, end = hashlib.sha256(), list[int](), 0
    with path.open("wb") as file, without_collection():

        def add(part: bytes) -> None:
            file.write(part)
            digest.update(part)

        for entry in entries:
            stored = pickle.dumps(entry, protocol=4)
            add(stored)
            end += len(stored)
            ends.append(end)
        add(np.array(ends, np.int64).tobytes())
        add(len(ends).to_bytes(8, "little"))
        file.write(digest.digest())


def _is_whole(path: Path) -> bool:
    """Whether a file is a list as it was written."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stored:
            digest = hashlib.sha256()
            for first in range(0, len(stored) - 32, _AT_ONCE):
                digest.update(stored[first : min(first + _AT_ONCE, len(stored) - 32)])
            return stored[-32:] == digest.digest()
    except (OSError, ValueError):
        return False
