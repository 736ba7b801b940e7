"""One pass of a frozen model over a split, kept in parts: what a killed process had finished is not computed again."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cskd_bench.cells.cell import Cell
from cskd_bench.data.decode import DECODING
from cskd_bench.data.eval_views import EvalViews, batch_loader, cut_batches
from cskd_bench.data.loader import next_item, start_loader
from cskd_bench.data.mixing import to_float
from cskd_bench.data.sources import Source, stamp
from cskd_bench.data.views import EvalView
from cskd_bench.device import exact_fp32, pins
from cskd_bench.engine.logs import progress_bar
from cskd_bench.errors import Interrupted
from cskd_bench.schema import fingerprint
from cskd_bench.transfer.cell import ImageCell
from cskd_bench.transfer.parts import Parts

PART: Final = 512  # images in a file


def scan_split(
    cell: ImageCell,
    source: Source,
    view: EvalView,
    compute: Callable[[Tensor], Tensor],
    *,
    folder: Path,
    key: dict[str, Any],
    what: str,
) -> np.ndarray:
    """Return what `compute` gives of every image's view (B, 3, S, S) in [0, 1]: (n, ...) in order, on every rank.

    Parts are kept under `folder` by a fingerprint of the checkpoint, the data (with when its files were written), the
    view, and `key`. Interrupted and UserError as `fill_parts` raises them.
    """
    model = cell.model
    named = {
        "checkpoint": [model.checkpoint.sha256, model.checkpoint.weights],
        "model": model.model.name,
        "settings": cell.settings(),
        "data": [source.identity, stamp(source)],
        "view": [*view.settings],
        "decoding": DECODING,
        **key,
    }

    def compute_pixels(pixels: Tensor) -> np.ndarray:
        rows: np.ndarray = compute(to_float(pixels.to(cell.ranks.device, non_blocking=True))).cpu().numpy()
        return rows

    parts = Parts(folder, fingerprint(named), len(source), PART)
    fill_parts(cell, parts, EvalViews(source, view), compute_pixels, what, batch_size=cell.batch_size)
    found: np.ndarray = cell.ranks.on_main(parts.read)
    return found


def fill_parts(
    cell: Cell,
    parts: Parts,
    dataset: Dataset[Tensor],
    compute: Callable[[Tensor], np.ndarray],
    what: str,
    *,
    batch_size: int,
) -> None:
    """Compute the parts that are missing, on all ranks together; of a part each takes every world-th image.

    The main rank keeps them, under a bar. Two processes may compute the same part; it is written whole, so either's
    serves. Interrupted when asked to stop; UserError for an image that cannot be read.
    """
    ranks, began, seen = cell.ranks, time.perf_counter(), 0
    missing = ranks.on_main(parts.missing)
    cell.stop.kept |= len(missing) < len(parts.ranges)
    if not missing:
        return
    scan = ranks.together(lambda: _Scan(cell, dataset, compute, missing, batch_size))
    images = sum(map(len, parts.ranges))
    kept = images - sum(map(len, missing))
    total = sum(len(scan.turns(part)) for part in missing)
    with torch.no_grad(), exact_fp32(), progress_bar(_title(cell, what), total, 0, ranks.is_main) as bar:
        for part in missing:
            found: list[np.ndarray] = []
            for turn in scan.turns(part):
                if ranks.settle(stop=cell.stop.requested):
                    raise _stopped(what, kept, images, anything=cell.stop.kept)
                rows = ranks.together(partial(scan.next_rows, part, turn))
                if rows is not None:
                    found.append(rows)
                seen += min(scan.size, len(part) - turn * scan.size)
                bar.advance(seen / max(time.perf_counter() - began, 1e-9), f"{images:,} images")
            everyone = ranks.gather(np.concatenate(found) if found else None)
            ranks.on_main(partial(_keep, parts, part, everyone))
            kept += len(part)
            cell.stop.kept = True


class _Scan:
    """A pass under way on this rank. `size` is how many images all ranks take at a time."""

    def __init__(
        self,
        cell: Cell,
        dataset: Dataset[Tensor],
        compute: Callable[[Tensor], np.ndarray],
        missing: list[range],
        batch_size: int,
    ) -> None:
        ranks = cell.ranks
        self.size = batch_size * ranks.world
        self._compute, self._cell = compute, cell
        shares = [cut_batches(part[ranks.rank :: ranks.world], batch_size) for part in missing]
        self._turns = {part: len(share) for part, share in zip(missing, shares, strict=True)}
        batches = [batch for share in shares for batch in share]
        loader = batch_loader(dataset, batches, workers=cell.workers, pinned=pins(ranks.device))
        self._batches = start_loader(loader)

    def turns(self, part: range) -> range:
        """Return one number for each batch of a part, as many on every rank."""
        return range(-(-len(part) // self.size))

    def next_rows(self, part: range, turn: int) -> np.ndarray | None:
        """Return the rows of this rank's next batch of a part; None where another rank has one batch more."""
        if turn >= self._turns[part]:
            return None
        batch = next_item(self._batches, self._cell.workers, lambda: self._cell.stop.requested)
        return None if batch is None else self._compute(batch)


def _title(cell: Cell, what: str) -> str:
    return f"{cell.spec.name} {cell.protocol} {cell.model.checkpoint.run} s{cell.seed}: {what}"


def _keep(parts: Parts, part: range, everyone: list[np.ndarray | None]) -> None:
    """Put what ranks have of every world-th image back in order, and keep it."""
    first = next(rows for rows in everyone if rows is not None)
    whole = np.empty((len(part), *first.shape[1:]), first.dtype)
    for rank, rows in enumerate(everyone):
        if rows is not None:
            whole[rank :: len(everyone)] = rows
    parts.put(part, whole)


def _stopped(what: str, kept: int, images: int, *, anything: bool) -> Interrupted:
    if not anything:
        return Interrupted(f"stopped before any {what} were kept; the same command starts again", kept=False)
    if not kept:
        return Interrupted(f"stopped before the {what}; the same command continues from what is kept")
    return Interrupted(f"stopped: {what} of {kept:,} of {images:,} images are kept; the same command continues")
