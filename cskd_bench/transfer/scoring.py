"""What is kept of each image while a split is scored, and what that comes to."""

import numpy as np
import torch
from torch import Tensor

from cskd_bench.engine.evaluate import TOP, Predictions


def first_classes(logits: Tensor) -> Tensor:
    """Map logits (B, K) to the probability of the first class, then the first five: (B, 6).

    They are float64: whole numbers below 2^53 are exact.
    """
    probability, index = logits.float().softmax(1).topk(min(TOP, logits.shape[1]))
    return torch.cat([probability[:, :1], index], 1).double()


def to_predictions(labels: np.ndarray, rows: np.ndarray, classes: int) -> Predictions:
    """Hold rows of `first_classes` (n, 6) to the labels (n,)."""
    first = rows[:, 1:].astype(np.int64)
    in_top5 = (first == labels[:, None]).any(1) if classes > TOP else None
    return Predictions(labels.copy(), first[:, 0], rows[:, 0].astype(np.float32), in_top5=in_top5)
