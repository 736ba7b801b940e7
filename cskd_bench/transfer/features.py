"""Frozen features of a data set, (n, D) float32 of every image: computed once, then read from a cache."""

import numpy as np
from torch import Tensor

from cskd_bench.data.sources import Source
from cskd_bench.data.views import EvalView
from cskd_bench.transfer.cell import ImageCell
from cskd_bench.transfer.scan import scan_split


def split_features(cell: ImageCell, source: Source) -> np.ndarray:
    """Return what the task's `features` reads of every image of a split, under the task's evaluation view.

    The cache is keyed by that definition and its version too. Heads enter it only where the definition depends on
    them: students that differ in heads alone share the rest.
    """
    spec, student = cell.spec, cell.model.student.to(cell.ranks.device).eval()
    heads = student.heads if spec.features == "inference" else "any"

    def compute(views: Tensor) -> Tensor:
        return student.features(views, spec.features).float()

    return scan_split(
        cell,
        source,
        EvalView(cell.model.image_size, spec.data.eval_crop),
        compute,
        folder=cell.features,
        key={"features": [spec.features, spec.features_version, heads]},
        what="features",
    )
