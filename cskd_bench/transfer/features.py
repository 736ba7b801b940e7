"""Frozen features of a data set: (n, D) float32 pre-logits of every image."""

import numpy as np
import torch

from cskd_bench.data.loader import eval_loader
from cskd_bench.data.mixing import to_float
from cskd_bench.data.sources import Source
from cskd_bench.data.views import EvalView
from cskd_bench.transfer.cell import Cell


def split_features(cell: Cell, source: Source) -> np.ndarray:
    """Return the pre-logits of a split under the task's evaluation view."""
    student = cell.model.student.to(cell.ranks.device).eval()
    view = EvalView(cell.model.image_size, cell.spec.data.eval_crop)
    batches = eval_loader(source, view, range(len(source)), batch_size=256, workers=cell.workers)
    with torch.no_grad():
        rows = [student.features(to_float(batch.pixels.to(cell.ranks.device))).float().cpu() for batch in batches]
    features: np.ndarray = torch.cat(rows).numpy()
    return features
