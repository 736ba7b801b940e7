"""Evaluation that counts each image once, for any number of ranks."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cskd_bench.data.loader import eval_loader, next_item, start_loader
from cskd_bench.data.mixing import to_float
from cskd_bench.data.sources import Source
from cskd_bench.data.views import EvalView
from cskd_bench.device import computing, pins
from cskd_bench.engine.distributed import Ranks


@dataclass(frozen=True)
class Predictions:
    """What a model said of each image of a split, in the split's order."""

    label: np.ndarray  # (n,) int64
    predicted: np.ndarray  # (n,) int64
    confidence: np.ndarray  # (n,) float32, softmax probability of the predicted class
    image: np.ndarray | None = None  # (n,) int64, equal numbers: the same underlying image; None: all different

    @property
    def top1(self) -> float:
        """Fraction of images whose predicted class is their label."""
        return float((self.label == self.predicted).mean())

    @property
    def mean_per_class(self) -> float:
        """Mean over the classes present of the per-class accuracy."""
        classes = np.unique(self.label)
        return float(np.mean([(self.predicted[self.label == c] == c).mean() for c in classes]))

    @property
    def ece(self) -> float:
        """Expected calibration error over 15 equal bins of confidence (arXiv 1706.04599)."""
        bins = np.clip((self.confidence * 15).astype(int), 0, 14)
        correct = self.label == self.predicted
        gaps = [
            abs(correct[bins == b].mean() - self.confidence[bins == b].mean()) * (bins == b).mean()
            for b in np.unique(bins)
        ]
        return float(sum(gaps))

    def metrics(self) -> dict[str, float]:
        """Return the classification metrics of a record."""
        return {"top1": self.top1, "mean_per_class": self.mean_per_class, "ece": self.ece}


@torch.no_grad()
def evaluate(
    predict: Callable[[Tensor], Tensor],
    source: Source,
    view: EvalView,
    ranks: Ranks,
    *,
    batch_size: int,
    workers: int,
    precision: str = "fp32",
    stop: Callable[[], bool] = lambda: False,
) -> Predictions:
    """Predict every image of a source once; `predict` maps views (B, 3, S, S) in [0, 1] to logits (B, K).

    Interrupted where `stop` says so on any rank; UserError, on all of them, for an image that cannot be read.
    """
    mine = range(ranks.rank, len(source), ranks.world)
    predicted, confidence = [], []
    loader = eval_loader(source, view, mine, batch_size=batch_size, workers=workers, pinned=pins(ranks.device))
    batches = start_loader(loader)
    for _ in range(-(-len(source) // (ranks.world * batch_size))):
        pixels = ranks.together(lambda: next_item(batches, workers), stop=stop())
        if pixels is None:  # another rank has one batch more
            continue
        with computing(ranks.device, precision):
            logits = predict(to_float(pixels.to(ranks.device, non_blocking=True)))
        probability, index = logits.float().softmax(1).max(1)
        predicted.append(index)
        confidence.append(probability)
    own = (torch.cat(predicted).cpu().numpy(), torch.cat(confidence).cpu().numpy()) if predicted else None
    everyone = ranks.gather(own)
    result = Predictions(source.labels.copy(), np.empty(len(source), np.int64), np.empty(len(source), np.float32))
    for rank, part in enumerate(everyone):
        if part is not None:
            result.predicted[rank :: ranks.world], result.confidence[rank :: ranks.world] = part
    return result
