"""One pass of a frozen model over a split, kept in parts: what a killed process had finished is not computed again."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from cskd_bench.data.loader import batch_loader, cut_batches, next_item, start_loader
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

Compute = Callable[[Tensor], Tensor]  # views (B, 3, S, S) in [0, 1] -> (B, ...)


def scan_split(
    cell: ImageCell, source: Source, view: EvalView, compute: Compute, *, folder: Path, key: dict[str, Any], what: str
) -> np.ndarray:
    """Return what `compute` gives of every image, (n, ...) in the split's order, on every rank.

    Parts are kept under `folder` by a fingerprint of the checkpoint, the data (with when its files were written), the
    view, and `key`. Two processes may compute the same part; it is written whole, so either's serves. A damaged one
    is set aside and computed again. Interrupted when asked to stop; UserError for an image that cannot be read.
    """
    ranks, named = cell.ranks, {**name_scan(cell, source, view), **key}
    parts = Parts(folder, fingerprint(named), len(source), PART)
    missing = ranks.on_main(parts.missing)
    if missing:
        _compute_parts(cell, source, view, compute, parts, missing, what)
    rows: np.ndarray = ranks.on_main(parts.read)
    return rows


def name_scan(cell: ImageCell, source: Source, view: EvalView) -> dict[str, Any]:
    """Return what a model's outputs on a split depend on, but for which outputs they are."""
    model = cell.model
    return {
        "checkpoint": [model.checkpoint.sha256, model.checkpoint.weights],
        "model": model.model.name,
        "settings": cell.settings(),
        "data": [source.identity, stamp(source)],
        "view": [*view.settings],
    }


class _Scan:
    """A pass under way on this rank, which computes every world-th image of a part."""

    def __init__(self, cell: ImageCell, source: Source, view: EvalView, compute: Compute, missing: list[range]) -> None:
        ranks = cell.ranks
        self._cell, self._compute = cell, compute
        self._size = cell.batch_size * ranks.world
        shares = [cut_batches(part[ranks.rank :: ranks.world], cell.batch_size) for part in missing]
        batches = [batch for share in shares for batch in share]
        self._turns = {part: len(share) for part, share in zip(missing, shares, strict=True)}
        self._batches = start_loader(
            batch_loader(source, view, batches, workers=cell.workers, pinned=pins(ranks.device))
        )

    def turns(self, part: range) -> range:
        """Return one number for each batch of a part, as many on every rank."""
        return range(-(-len(part) // self._size))

    def next_rows(self, part: range, turn: int) -> np.ndarray | None:
        """Return the rows of this rank's next batch of a part; None where another rank has one batch more."""
        if turn >= self._turns[part] or (pixels := next_item(self._batches, self._cell.workers)) is None:
            return None
        rows = self._compute(to_float(pixels.to(self._cell.ranks.device, non_blocking=True)))
        return rows.cpu().numpy()


def _compute_parts(
    cell: ImageCell,
    source: Source,
    view: EvalView,
    compute: Compute,
    parts: Parts,
    missing: list[range],
    what: str,
) -> None:
    """Compute one missing part after the other; the main rank keeps each."""
    ranks, began, seen = cell.ranks, time.perf_counter(), 0
    scan = ranks.together(lambda: _Scan(cell, source, view, compute, missing))
    title = f"{cell.spec.name} {cell.protocol} {cell.model.checkpoint.run} s{cell.seed}: {what}"
    kept = len(source) - sum(map(len, missing))
    total = sum(len(scan.turns(part)) for part in missing)
    with torch.no_grad(), exact_fp32(), progress_bar(title, total, 0, ranks.is_main) as bar:
        for part in missing:
            found: list[np.ndarray] = []
            for turn in scan.turns(part):
                try:
                    rows = ranks.together(partial(scan.next_rows, part, turn), stop=cell.stop.requested)
                except Interrupted:
                    raise _stopped(what, kept, len(source)) from None
                if rows is not None:
                    found.append(rows)
                seen += len(part) // len(scan.turns(part))
                bar.advance(seen / max(time.perf_counter() - began, 1e-9), f"{len(source):,} images")
            everyone = ranks.gather(np.concatenate(found) if found else None)
            ranks.on_main(partial(_keep, parts, part, everyone))
            kept += len(part)


def _keep(parts: Parts, part: range, everyone: list[np.ndarray | None]) -> None:
    """Put what ranks have of every world-th image back in order, and keep it."""
    first = next(rows for rows in everyone if rows is not None)
    whole = np.empty((len(part), *first.shape[1:]), first.dtype)
    for rank, rows in enumerate(everyone):
        if rows is not None:
            whole[rank :: len(everyone)] = rows
    parts.put(part, whole)


def _stopped(what: str, kept: int, images: int) -> Interrupted:
    if not kept:
        return Interrupted(f"stopped before any {what} were kept; the same command starts again", kept=False)
    return Interrupted(f"stopped: {what} of {kept:,} of {images:,} images are kept; the same command goes on from them")
