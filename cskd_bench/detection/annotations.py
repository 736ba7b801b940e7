"""COCO-format data sets: where their files lie, how they are read, which images can be decoded."""

import gc
import glob
import hashlib
import json
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from cskd_bench.data.decode import to_rgb
from cskd_bench.data.index import SETTLED
from cskd_bench.data.json_text import decode_json, read_json
from cskd_bench.detection.quick_json import read_quickly
from cskd_bench.errors import UserError
from cskd_bench.memory import without_collection

Content: TypeAlias = dict[str, Any]  # of an annotation file: lists of images, annotations, categories
Stamp: TypeAlias = tuple[int, int]  # size and time of change, ns
_GZIP: Final = b"\x1f\x8b"
_held: dict[Path, tuple[Stamp | None, "StoredAnnotations"]] = {}


@dataclass(frozen=True)
class CocoSplit:
    """One split: its annotation file and its folder of images."""

    annotations: Path
    images: Path

    def read(self) -> Content:
        """Return the annotation file's content, to be left as it is; UserError where it is not COCO's."""
        return hold_annotations(self.annotations).content


@dataclass(frozen=True)
class StoredAnnotations:
    """An annotation file as it was read; `is_ascii` says whether all of its bytes are plain ASCII."""

    content: Content
    sha256: str
    is_ascii: bool


def find_split(root: Path, split: str) -> CocoSplit:
    """Find a split in a COCO-format folder.

    The annotations are annotations/instances_<split>.json, or the only file that
    annotations/instances_<split>*.json matches. The images lie in <split>/, in images/<split>/ or in
    images/, where <split> may also be the matched file's own ending (train2017). Raises UserError that says so.
    """
    exact = root / "annotations" / f"instances_{split}.json"
    found = [exact] if exact.is_file() else sorted((root / "annotations").glob(f"instances_{glob.escape(split)}*.json"))
    if len(found) != 1:
        several = f"; found {', '.join(path.name for path in found)}" if found else ""
        raise UserError(
            f"{root}: expected annotations/instances_{split}.json, or one file "
            f"annotations/instances_{split}*.json{several}; give the data set's folder with --data-dir"
        )
    ending = found[0].stem.removeprefix("instances_")
    folders = [root / ending, root / split, root / "images" / ending, root / "images" / split, root / "images"]
    for folder in folders:
        if folder.is_dir():
            return CocoSplit(found[0], folder)
    expected = ", ".join(dict.fromkeys(f"{folder.relative_to(root).as_posix()}/" for folder in folders))
    raise UserError(f"{root}: no folder with the images of {found[0].name}; expected one of {expected}")


def hold_annotations(file: Path) -> StoredAnnotations:
    """Read an annotation file, and hold it for whoever asks next, until `let_go`; UserError where it is not COCO's.

    A file that has only just changed may change again unseen, and is not held.
    """
    stamp = stamp_of(file)
    known = _held.get(file)
    if known is None or stamp is None or known[0] != stamp:
        known = stamp, _load(file)
        if stamp is not None:
            _held[file] = known
    return known[1]


def stamp_of(file: Path) -> Stamp | None:
    """Return an annotation file's size and time; None where they do not tell whether it will be the same."""
    began = time.time_ns()
    try:
        found = file.stat()
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns) if found.st_mtime_ns <= began - int(SETTLED * 1e9) else None


def let_go() -> None:
    """Free what is held of annotation files: gigabytes of a large one."""
    _held.clear()
    gc.unfreeze()


def read_annotations(file: Path) -> Content:
    """Read a COCO annotation file as far as names go; UserError where it is not JSON, or not COCO's.

    What its entries hold is looked at by annotation_checks.
    """
    return _load(file).content


def _load(file: Path) -> StoredAnnotations:
    try:
        stored = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    if stored.startswith(_GZIP):
        raise UserError(f"{file}: is compressed with gzip; unpack it, as with gunzip")
    sha256, is_ascii = hashlib.sha256(stored).hexdigest(), stored.isascii()
    with without_collection():
        content = read_quickly(stored)
        if content is None:
            try:
                text = decode_json(stored)
            except ValueError as error:
                raise _not_json(file, error) from error
            del stored  # hundreds of megabytes of a large file, beside the text
            content = _parse(file, text)
        gc.freeze()  # a collection would visit every number of it
    return StoredAnnotations(_checked(file, content), sha256, is_ascii)


def _not_json(file: Path, error: ValueError) -> UserError:
    return UserError(f"{file}: not JSON that can be read: {error}")


def _parse(file: Path, text: str) -> Any:
    try:
        return read_json(text)
    except ValueError as error:
        raise _not_json(file, error) from error
    except RecursionError as error:
        raise UserError(f"{file}: not a COCO annotation file: lists in lists in lists, too deep to read") from error


def _checked(file: Path, content: Any) -> Content:
    for name, key in (("images", "file_name"), ("annotations", ""), ("categories", "name")):
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list) or (name != "annotations" and not entries):
            raise UserError(f"{file}: not a COCO annotation file: no list of {name}")
        for entry in entries:
            if not isinstance(entry, dict) or (key and not _is_text(entry.get(key), key)):
                raise UserError(f"{file}: an entry of {name} has no usable {key or 'keys'}: {json.dumps(entry)[:120]}")
    return content  # type: ignore[no-any-return]


def _is_text(value: Any, key: str) -> bool:
    """Whether a value is a text that can be written down; a file name may hold bytes that are no UTF-8."""
    try:
        return isinstance(value, str) and bool(
            value.encode(errors="surrogateescape" if key == "file_name" else "strict")
        )
    except UnicodeEncodeError:
        return False


def look_at(folder: Path, name: str) -> os.stat_result | None:
    """Return what the system says of an image file; None where there is none."""
    try:
        found = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 - a Path takes longer than the look
    except (OSError, ValueError):
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def broken_images(content: Content, images: Path, threads: int | None = None) -> dict[str, str]:
    """Map the file names of images that cannot be used to the reason; every image is decoded, in threads."""
    entries = content["images"]
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        problems = list(pool.map(lambda entry: _image_problem(images / entry["file_name"], entry), entries))
    return {str(entry["file_name"]): problem for entry, problem in zip(entries, problems, strict=True) if problem}


def _image_problem(file: Path, entry: dict[str, Any]) -> str:
    if not file.is_file():
        return f"no such image in {file.parent.name}/"
    try:
        width, height = to_rgb(file.read_bytes()).size  # turned, as training turns it
    except (OSError, ValueError) as error:
        return f"cannot be decoded: {error}"
    if (width, height) != (entry["width"], entry["height"]):
        return f"is {width} x {height}, the annotations say {entry['width']} x {entry['height']}"
    return _opencv_problem(file, (width, height))


def _opencv_problem(file: Path, size: tuple[int, int]) -> str:
    """Say how training's decoder reads a file otherwise than Pillow; empty where both agree, and without OpenCV."""
    try:
        import cv2
    except ImportError:
        return ""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it says of a file is told in our words
    try:
        pixels = cv2.imread(str(file))
    except cv2.error:  # an image larger than it reads
        pixels = None
    if pixels is None:
        return "cannot be decoded by OpenCV, which training reads with"
    height, width = pixels.shape[:2]
    return "" if (width, height) == size else f"is {size[0]} x {size[1]}, OpenCV reads {width} x {height}"
