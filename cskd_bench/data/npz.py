"""The arrays of an npz of encoded images, and whether they fit together."""

from pathlib import Path

import numpy as np

from cskd_bench.errors import UserError


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return an npz's jpeg, offsets and labels as they are stored; UserError where it is damaged, or lacks one."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive["jpeg"]), np.asarray(archive["offsets"]), np.asarray(archive["labels"])
    except Exception as error:  # a damaged zip fails in many ways; none runs code
        raise UserError(f"{path}: not an npz with jpeg, offsets and labels ({error})") from error


def image_starts(path: Path, offsets: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Return where each image begins, (n + 1,) int64; UserError where images are not one after another in the bytes."""
    if content.ndim != 1 or content.itemsize != 1:
        raise UserError(
            f"{path}, jpeg: {content.dtype} of shape {content.shape}; expected all images' bytes, (b,) uint8"
        )
    if offsets.ndim != 1 or offsets.dtype.kind not in "iuf":
        raise UserError(f"{path}, offsets: {offsets.dtype} of shape {offsets.shape}; expected (n + 1,) whole numbers")
    if len(offsets) < 2:
        raise UserError(f"{path}: no images in it")
    with np.errstate(invalid="ignore"):
        starts = offsets.astype(np.int64)
    falling = np.flatnonzero(np.diff(starts) <= 0)
    if len(falling):
        raise UserError(
            f"{path}, offsets: {len(falling)} of {len(starts) - 1} images have no bytes, the first is image "
            f"{falling[0]}; offsets must ascend"
        )
    if starts[0] < 0 or starts[-1] > len(content) or (starts != offsets).any():
        raise UserError(
            f"{path}, offsets: go from {offsets[0]} to {offsets[-1]}, jpeg has {len(content)} bytes; they must be "
            "whole numbers within them"
        )
    return starts
