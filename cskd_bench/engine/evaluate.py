"""Evaluation that counts each image once, for any number of ranks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from cskd_bench.data.loader import eval_loader, next_item, start_loader
from cskd_bench.data.mixing import to_float
from cskd_bench.data.sources import Source
from cskd_bench.data.views import EvalView
from cskd_bench.device import computing, pins
from cskd_bench.engine.distributed import Ranks

TOP: Final = 5  # of more classes than that, whether the label is among the first five is noted


@dataclass(frozen=True)
class Predictions:
    """What a model said of each image of a split, in the split's order."""

    label: np.ndarray  # (n,) int64
    predicted: np.ndarray  # (n,) int64
    confidence: np.ndarray  # (n,) float32, softmax probability of the predicted class
    image: np.ndarray | None = None  # (n,) int64, equal numbers: the same underlying image; None: all different
    in_top5: np.ndarray | None = None  # (n,) bool, whether the label is among the five first classes; None: not known

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
        top5 = {} if self.in_top5 is None else {"top5": float(self.in_top5.mean())}
        return {"top1": self.top1, "mean_per_class": self.mean_per_class, "ece": self.ece, **top5}


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
    labels = torch.split(torch.from_numpy(source.labels[mine.start :: mine.step].copy()), batch_size)
    predicted: list[Tensor] = []
    confidence: list[Tensor] = []
    among_five: list[Tensor] = []
    loader = eval_loader(source, view, mine, batch_size=batch_size, workers=workers, pinned=pins(ranks.device))
    batches = start_loader(loader)
    for _ in range(-(-len(source) // (ranks.world * batch_size))):
        pixels = ranks.together(lambda: next_item(batches, workers, stop), stop=stop())
        if pixels is None:  # another rank has one batch more
            continue
        with computing(ranks.device, precision):
            logits = predict(to_float(pixels.to(ranks.device, non_blocking=True)))
        probability, index = logits.float().softmax(1).max(1)
        among_five.append(_ahead_of(labels[len(predicted)], logits) < TOP)
        predicted.append(index)
        confidence.append(probability)
    own = tuple(torch.cat(kept).cpu().numpy() for kept in (predicted, confidence, among_five)) if predicted else None
    everyone = ranks.gather((own, logits.shape[1]) if own else None)
    classes = next(part[1] for part in everyone if part is not None)
    result = Predictions(
        source.labels.copy(),
        np.empty(len(source), np.int64),
        np.empty(len(source), np.float32),
        in_top5=np.empty(len(source), np.bool_) if classes > TOP else None,
    )
    for rank, part in enumerate(everyone):
        if part is not None:
            result.predicted[rank :: ranks.world], result.confidence[rank :: ranks.world], five = part[0]
            if result.in_top5 is not None:
                result.in_top5[rank :: ranks.world] = five
    return result


def _ahead_of(labels: Tensor, logits: Tensor) -> Tensor:
    """Return how many classes have a larger logit than the label's, (B,): logits (B, K); one that is NaN counts."""
    of_label = logits.gather(1, labels.to(logits.device)[:, None])
    return (~(logits <= of_label)).sum(1)
