"""Patch tokens and patch classes of a split's images: computed once, in parts that outlive a killed process."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from cskd_bench.data.decode import DECODING
from cskd_bench.data.mixing import to_float
from cskd_bench.data.segmentation import SegmentationSplit, patch_classes
from cskd_bench.data.sources import PathSource
from cskd_bench.schema import fingerprint
from cskd_bench.transfer.parts import Parts
from cskd_bench.transfer.scan import fill_parts
from cskd_bench.transfer.segment_cell import SegmentCell, patch_tokens

PART: Final = 128  # images a file


def keep_tokens(cell: SegmentCell, split: str) -> Parts:
    """Compute what is missing of a split's patch tokens, (n, N, D) kept as fp16, and return where they are kept.

    They are keyed by checkpoint, images (with when they were written), size and the definition of the tokens. Ranks
    call this together; the main rank writes. Interrupted where one is asked to stop: whole parts are kept.
    """
    model, images = cell.model, cell.splits[split].images
    key = {
        "features": cell.spec.segment.features,
        "checkpoint": [model.checkpoint.sha256, model.checkpoint.weights],
        "model": model.model.name,
        "data": [images.identity, images.stamp],
        "view": [*cell.size, "whole", "bicubic"],
        "decoding": DECODING,
        **model.pixels,
    }
    student = cell.student

    def compute(pixels: Tensor) -> np.ndarray:
        tokens = patch_tokens(student, to_float(pixels.to(cell.ranks.device, non_blocking=True)))
        return tokens.to(torch.float16).cpu().numpy()

    parts = Parts(cell.features, fingerprint(key), len(images), PART)
    fill_parts(
        cell, parts, WholeImages(images, cell.size), compute, f"patch tokens of {split}", batch_size=cell.batch_size
    )
    return parts


def keep_classes(cell: SegmentCell, split: str) -> np.ndarray:
    """Return the class of each patch of a split, (n, N) uint8, after every label map was looked at.

    UserError for a label map that does not fit its image or the task's classes.
    """
    source, classes = cell.splits[split], cell.spec.data.num_classes
    data = {"data": [source.identity, source.stamp], "decoding": DECODING}
    key = {"patch classes": 2, **data, "grid": cell.grid, "classes": classes}
    parts = Parts(cell.features, fingerprint(key), len(source), PART)
    dataset = PatchClasses(source, cell.grid, classes)
    fill_parts(cell, parts, dataset, np.asarray, f"patch labels of {split}", batch_size=cell.batch_size)
    found: np.ndarray = cell.ranks.on_main(parts.read)
    return found


class WholeImages(Dataset[Tensor]):
    """Whole images, resized to (height, width) without regard to their sides: uint8 pixels (B, 3, H, W)."""

    def __init__(self, source: PathSource, size: tuple[int, int]) -> None:
        self._source, self._size = source, size

    def __getitems__(self, indices: Sequence[int]) -> Tensor:
        height, width = self._size
        views = [self._source.load(index).resize((width, height), Image.Resampling.BICUBIC) for index in indices]
        return torch.stack([torch.from_numpy(np.array(view)).permute(2, 0, 1) for view in views])


class PatchClasses(Dataset[Tensor]):
    """The class of each patch of the chosen images: (B, N) uint8."""

    def __init__(self, source: SegmentationSplit, grid: tuple[int, int], classes: int) -> None:
        self._source, self._grid, self._classes = source, grid, classes

    def __getitems__(self, indices: Sequence[int]) -> Tensor:
        maps = [patch_classes(self._source.label(index), self._grid, self._classes) for index in indices]
        return torch.from_numpy(np.stack(maps))
