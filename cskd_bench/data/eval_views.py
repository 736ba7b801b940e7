"""Evaluation views: centre crops, decoded by workers that stay, or kept in memory after the first pass."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cskd_bench.data.loader import make_loader, next_item, start_loader
from cskd_bench.data.sources import Source
from cskd_bench.data.views import EvalView
from cskd_bench.launcher import place_of_process, ranks_on_this_machine
from cskd_bench.machine import available_memory


class EvalViews(Dataset[Tensor]):
    """Centre crops of the chosen indices: uint8 pixels (B, 3, S, S)."""

    def __init__(self, source: Source, view: EvalView) -> None:
        self._source = source
        self._view = view

    def __getitems__(self, indices: Sequence[int]) -> Tensor:
        return torch.stack([self._view(self._source.load(index)) for index in indices])


def eval_loader(
    source: Source, view: EvalView, indices: Sequence[int], *, batch_size: int, workers: int, pinned: bool = False
) -> Iterable[Tensor]:
    """Iterate once over the pixels (B, 3, S, S) of the given images, in order."""
    return batch_loader(EvalViews(source, view), cut_batches(indices, batch_size), workers=workers, pinned=pinned)


def cut_batches(indices: Sequence[int], batch_size: int) -> list[list[int]]:
    """Cut indices into batches, the last one smaller."""
    return [list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)]


def batch_loader(
    dataset: Dataset[Tensor],
    batches: Sequence[list[int]],
    *,
    workers: int,
    pinned: bool = False,
    persistent: bool = False,
) -> Iterable[Tensor]:
    """Iterate over batches of a data set that gives a list of indices as one tensor, in order.

    `persistent`: any number of times, by the same workers, which wait in between.
    """
    return make_loader(dataset, batches, workers=workers if batches else 0, pinned=pinned, persistent=persistent)


class SplitViews:
    """One rank's share of a split's evaluation views, every world-th image, for as many passes as there are.

    The first pass decodes. Where the share takes at most `most_bytes`, and half the memory that the machine has left
    holds those of all its ranks, it is kept as uint8, and later passes need neither images nor workers. Else the same
    workers decode in each pass, and wait in between.
    """

    def __init__(
        self,
        source: Source,
        view: EvalView,
        *,
        rank: int = 0,
        world: int = 1,
        batch_size: int,
        workers: int,
        pinned: bool = False,
        most_bytes: int = 0,
    ) -> None:
        self.source, self.batch_size = source, batch_size
        self.share = range(rank, len(source), world)
        self.turns = -(-len(source) // (world * batch_size))  # of a pass, on every rank
        self._views = EvalViews(source, view)
        self._workers, self._pinned, self._most_bytes = workers, pinned, most_bytes
        self._kept: Tensor | None = None  # (n, 3, S, S) uint8, filled by the first pass
        self._filled = 0
        self._few: dict[int, Tensor] = {}
        self._loader: Iterable[Tensor] | None = None
        self._batches: Iterator[Tensor] | None = None

    @property
    def is_kept(self) -> bool:
        """Whether no image is decoded any more."""
        return self._kept is not None and self._filled == len(self.share)

    def batch(self, turn: int, asked_to_stop: Callable[[], bool] = lambda: False) -> Tensor | None:
        """Return the pixels (B, 3, S, S), uint8, of one turn of a pass; turns come in order from 0.

        None where this rank has no image left. UserError for an image that cannot be read and for a worker that is
        gone; Interrupted where a stop is asked for and no batch comes.
        """
        if self._kept is not None and self.is_kept:
            kept = self._kept[turn * self.batch_size : (turn + 1) * self.batch_size]
            if not len(kept):
                return None
            return kept.pin_memory() if self._pinned else kept
        if turn == 0:
            self._start()
        assert self._batches is not None
        pixels = next_item(self._batches, self._workers, asked_to_stop)
        self._keep(turn, pixels)
        return pixels

    def pick(self, indices: np.ndarray) -> Tensor:
        """Return the pixels (n, 3, S, S), uint8, of a few images of the whole split, from memory where they are kept.

        UserError for an image that cannot be read.
        """
        return torch.stack([self._one(int(index)) for index in indices])

    def _one(self, index: int) -> Tensor:
        if self._kept is not None and self.is_kept and index in self.share:
            return self._kept[self.share.index(index)]
        if index in self._few:
            return self._few[index]
        pixels = self._views.__getitems__([index])[0]
        if self.is_kept:
            self._few[index] = pixels
        return pixels

    def _start(self) -> None:
        """Begin a pass that decodes."""
        self._filled = 0
        if self._batches is not None:  # the pass before was left: what is on its way belongs to it
            self._forget_workers()
        if self._loader is not None:
            try:
                self._batches = start_loader(self._loader)
                return
            except RuntimeError:  # a worker that waited was killed, or does not answer
                self._forget_workers()
        batches = cut_batches(self.share, self.batch_size)
        self._loader = batch_loader(self._views, batches, workers=self._workers, pinned=self._pinned, persistent=True)
        self._batches = start_loader(self._loader)

    def _keep(self, turn: int, pixels: Tensor | None) -> None:
        """Keep a turn's pixels where they fit; workers wait at the end of a pass, and end where all is kept."""
        if pixels is not None:
            if turn == 0 and self._kept is None and self._fits(pixels[0]):
                self._kept = torch.empty((len(self.share), *pixels.shape[1:]), dtype=pixels.dtype)
            start = turn * self.batch_size
            if self._kept is not None:
                self._kept[start : start + len(pixels)] = pixels
            self._filled = start + len(pixels)
        if turn + 1 == self.turns:
            self._batches = None
        if self.is_kept:
            self._forget_workers()

    def _fits(self, pixels: Tensor) -> bool:
        needed = len(self.share) * pixels.numel()
        if needed > self._most_bytes:
            return False
        left = available_memory()
        return left is None or 2 * needed * ranks_on_this_machine(place_of_process().world) <= left

    def _forget_workers(self) -> None:
        """Let the workers end: a loader ends them when nobody holds it."""
        self._loader = self._batches = None
