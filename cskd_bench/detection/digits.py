"""Digits on a canvas: a detection data set with exact boxes and masks, made from scikit-learn's digits."""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from cskd_bench.data.randomness import Stream, generator
from cskd_bench.files import write_folder

CANVAS: Final = 96  # pixels
SIDES: Final = (20, 36)  # of a digit, pixels
DIGITS_PER_IMAGE: Final = (2, 5)
TRAIN_IMAGES: Final = 600
VAL_IMAGES: Final = 150
_THRESHOLD: Final = 64  # of 255: a pixel at least this bright belongs to its digit


def make_digits(folder: Path, *, seed: int = 0, train: int = TRAIN_IMAGES, val: int = VAL_IMAGES) -> Path:
    """Write the data set in COCO's format into `folder` unless it is there; the same seed gives the same bytes.

    Training and validation canvases hold different handwritten digits. Returns the folder.
    """
    if folder.exists():
        return folder
    glyphs, labels = load_digits(return_X_y=True)
    glyphs = (glyphs.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    held_out = np.arange(len(labels)) % 4 == 0
    with write_folder(folder, replace=False) as temporary:  # where another process is first, its bytes are the same
        for split, count, chosen in (("train", train, ~held_out), ("val", val, held_out)):
            _write_split(temporary, split, count, glyphs[chosen], labels[chosen], seed)
    return folder


def _write_split(folder: Path, split: str, count: int, glyphs: np.ndarray, labels: np.ndarray, seed: int) -> None:
    (folder / split).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        draw = generator(seed, Stream.SPLIT, epoch=split == "val", index=number)
        canvas, objects = _scatter(draw, glyphs, labels)
        name = f"{number:04d}.png"
        Image.fromarray(canvas).convert("RGB").save(folder / split / name)
        images.append({"id": number + 1, "file_name": name, "width": CANVAS, "height": CANVAS})
        for label, mask in objects:
            annotations.append(_annotation(len(annotations) + 1, number + 1, label, mask))
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": digit + 1, "name": str(digit)} for digit in range(10)],
    }
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")


def _scatter(
    draw: np.random.Generator, glyphs: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Return a canvas (S, S) uint8 and its digits as (label, mask (S, S) bool); digits never overlap."""
    canvas = draw.integers(0, 40, (CANVAS, CANVAS), dtype=np.uint8)
    taken = np.zeros((CANVAS, CANVAS), bool)
    objects = []
    for _ in range(draw.integers(*DIGITS_PER_IMAGE, endpoint=True)):
        chosen, side = int(draw.integers(len(labels))), int(draw.integers(*SIDES, endpoint=True))
        glyph = np.asarray(Image.fromarray(glyphs[chosen]).resize((side, side), Image.Resampling.BICUBIC))
        top, left = (int(place) for place in draw.integers(0, CANVAS - side, 2, endpoint=True))
        window = slice(top, top + side), slice(left, left + side)
        if taken[window].any():
            continue
        taken[window] = True
        canvas[window] = np.maximum(canvas[window], glyph)
        mask = np.zeros_like(taken)
        mask[window] = glyph >= _THRESHOLD
        objects.append((int(labels[chosen]), mask))
    return canvas, objects


def _annotation(identity: int, image: int, label: int, mask: np.ndarray) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    return {
        "id": identity,
        "image_id": image,
        "category_id": label + 1,
        "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
    }


def run_lengths(mask: np.ndarray) -> list[int]:
    """Return COCO's uncompressed run lengths of a mask (H, W): column by column, zeros first."""
    flat = np.concatenate([[False], mask.flatten(order="F")])
    starts = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], starts, [mask.size]])).tolist()  # type: ignore[no-any-return]
