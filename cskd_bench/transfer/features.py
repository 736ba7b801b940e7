"""Frozen features of a data set, (n, D) float32 pre-logits of every image: computed once, then read from a cache."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cskd_bench.data.loader import eval_loader, next_item, start_loader
from cskd_bench.data.mixing import to_float
from cskd_bench.data.sources import Source, stamp
from cskd_bench.data.views import EvalView
from cskd_bench.device import exact_fp32, pins
from cskd_bench.files import write_file
from cskd_bench.schema import fingerprint
from cskd_bench.transfer.cell import ImageCell


def split_features(cell: ImageCell, source: Source) -> np.ndarray:
    """Return the pre-logits of a split under the task's evaluation view.

    The cache is keyed by checkpoint, data (with when its files were written) and view. Two processes may
    compute the same features; the file is written whole, so either's serves. A damaged one is set aside and
    computed again.
    """
    model, crop = cell.model, cell.spec.data.eval_crop
    key = {
        "checkpoint": [model.checkpoint.sha256, model.checkpoint.weights],
        "model": [model.model.name, model.student.heads],
        "data": [source.identity, stamp(source)],
        "view": [model.image_size, crop, "bicubic"],
    }
    path = cell.features / f"{fingerprint(key)}.npz"
    kept = _read(path, len(source)) if cell.ranks.is_main and path.exists() else None
    if cell.ranks.any(kept is not None):  # the main rank has them
        features: np.ndarray = cell.ranks.gather(kept)[0]
        return features
    features = _compute(cell, source, EvalView(model.image_size, crop))
    if cell.ranks.is_main:
        buffer = io.BytesIO()
        np.savez(buffer, features=features)
        write_file(path, buffer.getvalue())
    return features


def _read(path: Path, images: int) -> np.ndarray | None:
    try:
        with np.load(path, allow_pickle=False) as archive:
            features: np.ndarray = archive["features"]  # the archive's own CRC is checked on reading
        if features.ndim != 2 or len(features) != images or not np.isfinite(features).all():
            raise ValueError(f"holds an array of shape {features.shape} for {images} images")
    except Exception as error:  # a damaged zip fails in many ways; none runs code
        aside = path.with_suffix(f".corrupt-{os.getpid()}")
        path.replace(aside)
        print(f"{path}: damaged ({error}); set aside as {aside.name}, computing the features again", file=sys.stderr)
        return None
    return features


def _compute(cell: ImageCell, source: Source, view: EvalView) -> np.ndarray:
    """Each rank computes every world-th image; all ranks get the whole."""
    ranks, student = cell.ranks, cell.model.student.to(cell.ranks.device).eval()
    mine = range(ranks.rank, len(source), ranks.world)
    batches = start_loader(
        eval_loader(source, view, mine, batch_size=cell.batch_size, workers=cell.workers, pinned=pins(ranks.device))
    )

    def compute() -> Tensor | None:
        if (pixels := next_item(batches, cell.workers)) is None:  # another rank has one batch more
            return None
        features: Tensor = student.features(to_float(pixels.to(ranks.device, non_blocking=True)))
        return features.float().cpu()

    rounds = -(-len(source) // (ranks.world * cell.batch_size))
    with torch.no_grad(), exact_fp32():
        rows = [ranks.together(compute, stop=cell.stop.requested) for _ in range(rounds)]
    own = [row for row in rows if row is not None]
    parts = [part for part in ranks.gather(torch.cat(own).numpy() if own else None) if part is not None]
    features = np.empty((len(source), parts[0].shape[1]), np.float32)
    for rank, part in enumerate(parts):
        features[rank :: ranks.world] = part
    return features
