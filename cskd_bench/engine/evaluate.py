"""Evaluation that counts each image once, for any number of ranks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from cskd_bench.data.eval_views import SplitViews
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
    """Predict every image of a source once, as `evaluate_all` does; nothing is kept."""
    views = split_views(source, view, ranks, batch_size=batch_size, workers=workers)
    return evaluate_all([predict], views, ranks, precision=precision, stop=stop)[0]


def split_views(
    source: Source, view: EvalView, ranks: Ranks, *, batch_size: int, workers: int, most_bytes: int = 0
) -> SplitViews:
    """Return this rank's share of a split's views, for `evaluate_all`."""
    return SplitViews(
        source,
        view,
        rank=ranks.rank,
        world=ranks.world,
        batch_size=batch_size,
        workers=workers,
        pinned=pins(ranks.device),
        most_bytes=most_bytes,
    )


@torch.no_grad()
def evaluate_all(
    predict: Sequence[Callable[[Tensor], Tensor]],
    views: SplitViews,
    ranks: Ranks,
    *,
    precision: str = "fp32",
    stop: Callable[[], bool] = lambda: False,
) -> list[Predictions]:
    """Predict every image of a split once by each function: views (B, 3, S, S) in [0, 1] to logits (B, K).

    Interrupted where `stop` says so on any rank; UserError, on all of them, for an image that cannot be read.
    """
    source = views.source
    labels = torch.split(torch.from_numpy(source.labels[views.share.start :: ranks.world].copy()), views.batch_size)
    answers: list[list[tuple[Tensor, ...]]] = [[] for _ in predict]
    classes = [0 for _ in predict]
    for turn in range(views.turns):
        pixels = ranks.together(partial(views.batch, turn, stop), stop=stop())
        if pixels is None:  # another rank has one batch more
            continue
        for which, (answer, columns) in enumerate(_answer(predict, pixels, labels[turn], ranks.device, precision)):
            answers[which].append(answer)
            classes[which] = columns
    own = [tuple(torch.cat(kept).cpu().numpy() for kept in zip(*said, strict=True)) for said in answers]
    everyone = ranks.gather(list(zip(own, classes, strict=True)))
    return [_in_order(source, [parts[which] for parts in everyone]) for which in range(len(predict))]


def _answer(
    predict: Sequence[Callable[[Tensor], Tensor]], pixels: Tensor, labels: Tensor, device: torch.device, precision: str
) -> Iterator[tuple[tuple[Tensor, ...], int]]:
    """Yield each function's class, its probability and whether the label is among the first, (B,); and of how many."""
    views = to_float(pixels.to(device, non_blocking=True))
    for one in predict:
        with computing(device, precision):
            logits = one(views)
        probability, index = logits.float().softmax(1).max(1)
        yield (index, probability, _ahead_of(labels, logits) < TOP), logits.shape[1]


def _in_order(source: Source, parts: Sequence[tuple[tuple[np.ndarray, ...], int]]) -> Predictions:
    """Put together what each rank found of every world-th image, and of how many classes; () where it had none."""
    world = len(parts)
    result = Predictions(
        source.labels.copy(),
        np.empty(len(source), np.int64),
        np.empty(len(source), np.float32),
        in_top5=np.empty(len(source), np.bool_) if max(classes for _, classes in parts) > TOP else None,
    )
    for rank, (found, _) in enumerate(parts):
        if found:
            result.predicted[rank::world], result.confidence[rank::world], five = found
            if result.in_top5 is not None:
                result.in_top5[rank::world] = five
    return result


def _ahead_of(labels: Tensor, logits: Tensor) -> Tensor:
    """Return how many classes have a larger logit than the label's, (B,): logits (B, K); one that is NaN counts."""
    of_label = logits.gather(1, labels.to(logits.device)[:, None])
    return (~(logits <= of_label)).sum(1)
