"""Patch tokens and patch classes of a split's images: computed once, in parts that outlive a killed process."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cskd_bench.data.loader import leave_signals_to_the_main_process, next_item, start_loader
from cskd_bench.data.mixing import to_float
from cskd_bench.data.segmentation import SegmentationSplit, patch_classes
from cskd_bench.data.sources import PathSource
from cskd_bench.device import exact_fp32, pins
from cskd_bench.engine.logs import progress_bar
from cskd_bench.schema import fingerprint
from cskd_bench.transfer.parts import Parts
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
    }
    student = cell.student

    @torch.no_grad()
    def compute(pixels: Tensor) -> np.ndarray:
        with exact_fp32():
            tokens = patch_tokens(student, to_float(pixels.to(cell.ranks.device, non_blocking=True)))
        return tokens.to(torch.float16).cpu().numpy()

    parts = Parts(cell.features, fingerprint(key), len(images), PART)
    _keep(cell, parts, WholeImages(images, cell.size), compute, f"patch tokens of {split}")
    return parts


def keep_classes(cell: SegmentCell, split: str) -> np.ndarray:
    """Return the class of each patch of a split, (n, N) uint8, after every label map was looked at.

    UserError for a label map that does not fit its image or the task's classes.
    """
    source, classes = cell.splits[split], cell.spec.data.num_classes
    key = {"patch classes": 1, "data": [source.identity, source.stamp], "grid": cell.grid, "classes": classes}
    parts = Parts(cell.features, fingerprint(key), len(source), PART)
    _keep(cell, parts, PatchClasses(source, cell.grid, classes), np.asarray, f"labels of {split}")
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


def _keep(
    cell: SegmentCell, parts: Parts, dataset: Dataset[Tensor], compute: Callable[[Tensor], np.ndarray], title: str
) -> None:
    """Compute the parts that are missing: of each, every rank takes each world-th image, and the main rank writes."""
    ranks, size = cell.ranks, cell.batch_size
    missing: list[range] = ranks.on_main(parts.missing)
    shares = [part[ranks.rank :: ranks.world] for part in missing]
    mine = [[share[first : first + size] for first in range(0, len(share), size)] for share in shares]
    batches = start_loader(_loader(cell, dataset, [list(batch) for part in mine for batch in part]))
    rounds = [-(-len(part) // (ranks.world * size)) for part in missing]
    began, done = time.perf_counter(), 0
    with progress_bar(title, sum(rounds), 0, ranks.is_main and bool(missing)) as bar:
        for part, own, turns in zip(missing, mine, rounds, strict=True):
            rows = []
            for turn in range(turns):
                due = turn < len(own)  # else another rank has one batch more
                work = partial(_next, batches, cell.workers, compute, due=due)
                rows.append(ranks.together(work, stop=cell.stop.requested))
                done += min(ranks.world * size, len(part) - turn * ranks.world * size)
                bar.advance(done / (time.perf_counter() - began), "")
            _put(cell, parts, part, [row for row in rows if row is not None])
            cell.heed_stop()


def _next(batches: Any, workers: int, compute: Callable[[Tensor], np.ndarray], *, due: bool) -> np.ndarray | None:
    batch = next_item(batches, workers) if due else None
    return None if batch is None else compute(batch)


def _put(cell: SegmentCell, parts: Parts, part: range, rows: list[np.ndarray]) -> None:
    """Put the ranks' rows of one part in the order of its images, and keep them."""
    everyone = cell.ranks.gather(np.concatenate(rows) if rows else None)

    def write() -> None:
        whole = np.empty((len(part), *everyone[0].shape[1:]), everyone[0].dtype)
        for rank, found in enumerate(everyone):
            if found is not None:
                whole[rank :: cell.ranks.world] = found
        parts.put(part, whole)

    cell.ranks.on_main(write)


def _loader(cell: SegmentCell, dataset: Dataset[Tensor], batches: list[list[int]]) -> Any:
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=cell.workers if batches else 0,
        worker_init_fn=leave_signals_to_the_main_process,
        collate_fn=_identity,
        generator=torch.Generator(),  # the loader's own draw must not disturb the global one
        pin_memory=pins(cell.ranks.device),
    )


def _identity(batch: Any) -> Any:
    return batch
