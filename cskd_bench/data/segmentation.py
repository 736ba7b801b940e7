"""Images with a class for each pixel, from the layouts of several data sets: the one gate for label maps."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from cskd_bench.data.decode import read_stored, upright_size
from cskd_bench.data.folders import FolderNotes, images_in
from cskd_bench.data.notes import join_notes
from cskd_bench.data.png import grey_steps
from cskd_bench.data.slices import parse_slice
from cskd_bench.data.sources import PathSource, data_path, digest
from cskd_bench.errors import UserError
from cskd_bench.task import TaskData

IGNORED: Final = 255  # in every label map that is read: a pixel that does not count, whatever its file says
_UNKNOWN: Final = 254
_LOSSY: Final = ("JPEG", "MPO")
MOST_CLASSES: Final = 254
_CITYSCAPES: Final = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # label ids in order
_CITYSCAPES_IDS: Final = 34

Pairs = list[tuple[Path, Path]]  # image, label


class SegmentationSplit:
    """Images and their label maps, in order of their names; `values` (256,) maps stored labels to classes.

    `folder_note` says what of their folders is not read.
    """

    def __init__(self, pairs: Pairs, values: np.ndarray, folder_note: str = "") -> None:
        self.images = PathSource([image for image, _ in pairs], [0] * len(pairs), ["image"])
        self._labels = PathSource([label for _, label in pairs], [0] * len(pairs), ["label"])
        self._values = values
        self.folder_note = self.images.folder_note = folder_note
        self.identity = digest(f"{self.images.identity} {self._labels.identity} {digest(values.tobytes())}".encode())
        self.stamp = f"{self.images.stamp} {self._labels.stamp}"

    def __len__(self) -> int:
        return len(self.images)

    def label(self, index: int) -> np.ndarray:
        """Return the class of each pixel of an image, (H, W) uint8, IGNORED where it does not count.

        UserError for a file that is no label map, of another size than its image, or with a value that is no class.
        """
        path, image = self._labels.paths[index], self.images.paths[index]
        stored = _read_map(self._labels, index)
        content = self.images.content(index)
        try:
            width, height = upright_size(content)
        except ValueError as error:
            raise UserError(f"{image}: not a readable image ({error})") from error
        if stored.shape != (height, width):
            turned = (
                " once turned as its EXIF data say" if read_stored(content, lambda i: i.size) != (width, height) else ""
            )
            raise UserError(
                f"{path}: is {stored.shape[1]} x {stored.shape[0]}, its image {image} {width} x {height}{turned}"
            )
        known: np.ndarray = self._values[np.minimum(stored, 255)]
        wrong = (known == _UNKNOWN) | (stored > 255)
        if wrong.any():
            classes = np.unique(self._values[self._values < _UNKNOWN])
            raise UserError(
                f"{path}: a pixel has the value {stored[wrong].max()}, which is none of the {len(classes)} classes "
                "and not ignored; look at data.num_classes and segment.ignore_index"
            )
        return known


def open_segmentation(data: TaskData, split: str, ignore_index: int | None) -> SegmentationSplit:
    """Open a split, a slice of one (`train[::4]`), or several joined by `+`.

    `ignore_index` is the value of pixels that do not count in the layouts `segmentation` and `voc2012`; None: all
    values that are no class. UserError says what is missing, what was expected, and where to get it.
    """
    if data.dataset not in LAYOUTS:
        raise UserError(f"data.dataset: {data.dataset!r} has no label maps; use {', '.join(LAYOUTS)}")
    root, layout = data_path(data.root), LAYOUTS[data.dataset]
    try:
        pairs = [pair for part in split.split("+") for pair in _pairs(layout, root, part)]
        if not pairs:
            raise UserError(f"{root}, split {split!r}: no images in it")
        _refuse_lone(pairs)
    except UserError as error:
        hint = f"; to get the data: {data.by_hand}" if data.by_hand else ""
        raise UserError(f"{error}{hint}") from error
    folder_note = join_notes(*(_left_out(data.dataset, root, part) for part in split.split("+")))
    return SegmentationSplit(pairs, _class_of_values(data, ignore_index), folder_note)


def _pairs(layout: Callable[[Path, str], Pairs], root: Path, split: str) -> Pairs:
    name, part = parse_slice(split) or (split, slice(None))
    return layout(root, name)[part]


def _refuse_lone(pairs: Pairs) -> None:
    """UserError for an image without a label map, and for two images that would share one."""
    taken: dict[Path, Path] = {}
    for image, label in pairs:
        if not label.is_file():
            raise UserError(f"{image}: has no label map; expected {label}")
        if label in taken:
            raise UserError(
                f"{label}: would be the label map of both {taken[label].name} and {image.name}; give each "
                "image another name, without its ending, or remove one"
            )
        taken[label] = image


def classes_of_pixels(split: SegmentationSplit) -> np.ndarray:
    """Return the classes that any pixel of a split has, sorted, after every label map was looked at."""
    found: np.ndarray = np.unique(np.concatenate([np.unique(split.label(index)) for index in range(len(split))]))
    counts: np.ndarray = found[found != IGNORED]
    return counts


def refuse_single(where: str, found: np.ndarray) -> None:
    """UserError where `found`, the classes of a split's pixels, is a single one."""
    if len(found) == 1:
        raise UserError(
            f"{where}: all pixels that count are of the single class {found[0]}, so nothing can be learnt; "
            "a mask of 0 and 255 must be written as 0 and 1, since 255 does not count (segment.ignore_index)"
        )


def patch_classes(label: np.ndarray, grid: tuple[int, int], classes: int) -> np.ndarray:
    """Return the class of most pixels of each patch, (N,) uint8 row by row; IGNORED for a patch where none counts.

    A pixel belongs to the patch that its centre lies in. Of two classes with as many pixels the first is taken.
    """
    height, width = label.shape
    row = (2 * np.arange(height) + 1) * grid[0] // (2 * height)
    column = (2 * np.arange(width) + 1) * grid[1] // (2 * width)
    patch, counts = row[:, None] * grid[1] + column, label != IGNORED
    pixels = np.bincount(patch[counts] * classes + label[counts], minlength=grid[0] * grid[1] * classes)
    pixels = pixels.reshape(-1, classes)
    return np.where(pixels.any(1), pixels.argmax(1), IGNORED).astype(np.uint8)


def _read_map(labels: PathSource, index: int) -> np.ndarray:
    """Read a greyscale or palette image as integers (H, W): of a palette, its indices; it is not turned."""

    def to_integers(image: Image.Image) -> np.ndarray:
        if image.format in _LOSSY:
            raise ValueError(f"it is a {image.format}, which changes the values of pixels; write it as PNG")
        if image.mode not in ("L", "P", "1", "I", "I;16", "I;16B"):
            raise ValueError(f"its mode is {image.mode}; a label map is greyscale or has a palette")
        steps = grey_steps(content) if image.format == "PNG" else 1
        return np.asarray(image).astype(np.int64) // steps

    content = labels.content(index)
    try:
        return read_stored(content, to_integers)
    except ValueError as error:
        raise UserError(f"{labels.paths[index]}: not a readable label map ({error})") from error


def _class_of_values(data: TaskData, ignore_index: int | None) -> np.ndarray:
    """Return the class of each stored value, (256,) uint8."""
    values, classes = np.full(256, _UNKNOWN, np.uint8), data.num_classes
    if not 0 < classes <= MOST_CLASSES:
        raise UserError(f"data.num_classes: {classes}; segmentation knows 1 to {MOST_CLASSES} classes")
    if data.dataset == "ade20k":
        values[1 : classes + 1] = np.arange(classes)
        values[0] = IGNORED
    elif data.dataset == "cityscapes":
        if classes != len(_CITYSCAPES):
            raise UserError(f"data.num_classes: {classes}; cityscapes is scored on {len(_CITYSCAPES)} classes")
        values[:_CITYSCAPES_IDS] = values[255] = IGNORED
        values[list(_CITYSCAPES)] = np.arange(classes)
    elif ignore_index is None:
        values[:] = IGNORED
        values[:classes] = np.arange(classes)
    else:
        if ignore_index < classes or ignore_index > 255:
            raise UserError(f"segment.ignore_index: {ignore_index}; it must be above the classes, {classes} to 255")
        values[:classes] = np.arange(classes)
        values[ignore_index] = IGNORED
    return values


def _images_in(folder: Path) -> Sequence[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the data set's folder with --data-dir")
    return [folder / name for name, _, _ in images_in(folder, FolderNotes())]


def _left_out(layout: str, root: Path, split: str) -> str:
    """Say what is not read of a folder whose images are not listed; empty where they are."""
    folder_note, (split, _) = FolderNotes(), parse_slice(split) or (split, slice(None))
    if layout in ("segmentation", "ade20k"):
        images_in(root / "images" / split, folder_note)
    return folder_note.of(f"images/{split}")


def _own(root: Path, split: str) -> Pairs:
    return [(image, root / "labels" / split / f"{image.stem}.png") for image in _images_in(root / "images" / split)]


def _ade20k(root: Path, split: str) -> Pairs:
    images = _images_in(root / "images" / split)
    return [(image, root / "annotations" / split / f"{image.stem}.png") for image in images]


def _voc2012(root: Path, split: str) -> Pairs:
    listed = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    try:
        names = listed.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{listed}: cannot be read: {error}") from error
    return [(root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClass" / f"{name}.png") for name in names]


def _cityscapes(root: Path, split: str) -> Pairs:
    folder = root / "leftImg8bit" / split
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the data set's folder with --data-dir")
    pairs = []
    for image in sorted(folder.glob("*/*_leftImg8bit.png")):
        name = image.name.removesuffix("_leftImg8bit.png")
        pairs.append((image, root / "gtFine" / split / image.parent.name / f"{name}_gtFine_labelIds.png"))
    return pairs


LAYOUTS: Final[dict[str, Callable[[Path, str], Pairs]]] = {
    "segmentation": _own,
    "ade20k": _ade20k,
    "voc2012": _voc2012,
    "cityscapes": _cityscapes,
}
