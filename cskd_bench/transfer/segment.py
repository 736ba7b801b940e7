"""Segmentation by a linear head on frozen patch tokens: each patch's logits, upsampled to the label map."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cskd_bench.cells.cell import Outcome
from cskd_bench.data.notes import join_notes
from cskd_bench.data.randomness import Stream, generator
from cskd_bench.data.segmentation import IGNORED, classes_of_pixels, refuse_single
from cskd_bench.device import exact_fp32
from cskd_bench.engine.logs import progress_bar
from cskd_bench.errors import UserError
from cskd_bench.schema import fingerprint
from cskd_bench.transfer.linear import TorchLogisticRegression, doubt_choice
from cskd_bench.transfer.parts import Parts
from cskd_bench.transfer.segment_cell import NO_PIXEL, SegmentCell
from cskd_bench.transfer.segment_tokens import keep_classes, keep_tokens

HELD_OUT: Final = "the images of train that C is chosen on"
NEVER: Final = -1e9  # the logit of a class that no patch of train has


@dataclass(frozen=True)
class Head:
    """A linear head on patch tokens as they are: weight (K, D), bias (K,), float32; whether its fit converged."""

    weight: np.ndarray
    bias: np.ndarray
    converged: bool = True

    def to_row(self) -> np.ndarray:
        """Return all of it as one array, (K, D + 2)."""
        flags = np.full((len(self.bias), 1), float(self.converged), np.float32)
        return np.concatenate([self.weight, self.bias[:, None], flags], 1)

    @classmethod
    def from_row(cls, row: np.ndarray) -> "Head":
        """Return the head of such an array."""
        return cls(row[:, :-2], row[:, -2], bool(row[:, -1].all()))


@dataclass(frozen=True)
class Patches:
    """Labelled patches: tokens (n, D) float32, classes (n,), and which image each is of (n,)."""

    tokens: np.ndarray
    classes: np.ndarray
    image: np.ndarray

    def of(self, images: np.ndarray) -> "Patches":
        """Return those of some images."""
        chosen = np.isin(self.image, images)
        return Patches(self.tokens[chosen], self.classes[chosen], self.image[chosen])


def run(cell: SegmentCell) -> Outcome:
    """Choose C by mIoU on validation, report test once; the main rank fits and scores.

    Validation is the task's val split, or a share of train's images; with the latter the head is fitted again on all.
    """
    began = time.perf_counter()
    classes = {split: keep_classes(cell, split) for split in cell.splits}  # looks at every label map first
    config, carved = cell.spec.segment, "val" not in cell.splits
    every = np.arange(len(cell.splits["train"]))
    kept, held = split_images(len(every), config.validation if carved else 0.0, cell.seed)
    parts = {"train": classes["train"][kept]} | {split: classes[split] for split in classes if split != "train"}
    cell.ranks.together(lambda: refuse_unlabelled(cell, parts | ({HELD_OUT: classes["train"][held]} if carved else {})))
    cell.ranks.together(lambda: refuse_single_classes(cell, classes))
    tokens = {split: keep_tokens(cell, split) for split in cell.splits}
    where, images = ("train", held) if carved else ("val", np.arange(len(cell.splits["val"])))
    patches = cell.ranks.together(lambda: draw(cell, tokens["train"], classes["train"]) if cell.ranks.is_main else None)
    heads = _fit_grid(cell, patches, kept)
    scores = [miou(confusion) for confusion in score(cell, where, tokens[where], images, heads)]
    best = int(np.argmax(scores))
    head = _fit_on(cell, patches, every, config.c_grid[best]) if carved else heads[best]
    tested = np.arange(len(cell.splits["test"]))
    confusion = score(cell, "test", tokens["test"], tested, [head])[0]
    chosen = {"chosen_c": config.c_grid[best], "validation_miou": scores[best]}
    fits = [*heads, head] if carved else heads
    unconverged = sum(not fitted.converged for fitted in fits)
    doubts, doubt = doubt_choice("segment", config.c_grid, config.c_grid[best], config.max_iter, unconverged, len(fits))
    return Outcome(
        metrics=measures(confusion, config.names) | chosen | doubts,
        seconds=time.perf_counter() - began,
        scored=len(tested),
        note=join_notes(*_notes(cell, classes["train"], confusion), doubt),
    )


def refuse_unlabelled(cell: SegmentCell, classes: dict[str, np.ndarray]) -> None:
    """UserError for images of which no pixel counts: there is nothing to learn, to choose on or to score."""
    for what, found in classes.items():
        if not (found != IGNORED).any():
            raise UserError(NO_PIXEL.format(task=cell.spec.name, what=what, ignored=cell.spec.segment.ignore_index))


def refuse_single_classes(cell: SegmentCell, classes: dict[str, np.ndarray]) -> None:
    """UserError for a split whose pixels are all of one class; its label maps are read again where all patches are."""
    for split, found in classes.items():
        if len(np.unique(found[found != IGNORED])) == 1:
            refuse_single(f"task {cell.spec.name}, {split}", classes_of_pixels(cell.splits[split]))


def split_images(images: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split the images of train into (kept, held out), both sorted; at least one is held out where any is to be."""
    count = min(max(1, round(fraction * images)), images - 1) if fraction else 0
    order = generator(seed, Stream.SPLIT).permutation(images)
    return np.sort(order[count:]), np.sort(order[:count])


def draw(cell: SegmentCell, tokens: Parts, classes: np.ndarray) -> Patches:
    """Return all labelled patches of train, or `max_patches` of them that the seed draws: classes (n, N) uint8."""
    labelled, most = np.flatnonzero(classes != IGNORED), cell.spec.segment.max_patches
    if len(labelled) > most:
        order = generator(cell.seed, Stream.SPLIT, index=1).permutation(len(labelled))
        labelled = np.sort(labelled[order[:most]])
    image, patch = np.divmod(labelled, classes.shape[1])
    found = []
    for part in tokens.ranges:
        inside = (image >= part.start) & (image < part.stop)
        found.append(tokens.get(part)[image[inside] - part.start, patch[inside]].astype(np.float32))
    return Patches(np.concatenate(found), classes.reshape(-1)[labelled], image)


def fit(patches: Patches, classes: int, c: float, max_iter: int, device: torch.device) -> Head:
    """Fit multinomial logistic regression on standardised tokens, and return it for tokens as they are."""
    mean = patches.tokens.mean(0, dtype=np.float64).astype(np.float32)
    centred = patches.tokens - mean
    spread = np.sqrt(np.square(centred).mean(0, dtype=np.float64)).astype(np.float32)
    spread[spread == 0] = 1
    centred /= spread
    with exact_fp32():
        fitted = TorchLogisticRegression(c, max_iter, device).fit(centred, patches.classes)
    weight = fitted.weight_.detach().cpu().numpy() / spread
    converged = fitted.n_iter_ < max_iter
    head = Head(np.zeros((classes, len(mean)), np.float32), np.full(classes, NEVER, np.float32), converged)
    head.weight[fitted.classes_] = weight
    head.bias[fitted.classes_] = fitted.bias_.detach().cpu().numpy() - weight @ mean
    return head


def _fit_grid(cell: SegmentCell, patches: Patches | None, images: np.ndarray) -> list[Head]:
    """Fit one head for each C; each is kept as soon as it is there."""
    train, grid = cell.splits["train"], cell.spec.segment.c_grid
    key = {"data": [train.identity, train.stamp], "images": images.tolist()}
    parts = Parts(cell.folder, f"heads-{fingerprint(key)}", len(grid), 1)
    missing: list[range] = cell.ranks.on_main(parts.missing)
    title = f"{cell.spec.name} {cell.protocol} s{cell.seed}: heads on {len(images):,} images"
    with progress_bar(title, len(grid), len(grid) - len(missing), cell.ranks.is_main) as bar:
        for part in missing:
            row = _fit_on(cell, patches, images, grid[part.start]).to_row()[None]
            cell.ranks.on_main(partial(parts.put, part, row))
            bar.advance(0.0, f"C = {grid[part.start]:g}")
    return [Head.from_row(row) for row in cell.ranks.on_main(parts.read)]


def _fit_on(cell: SegmentCell, patches: Patches | None, images: np.ndarray, c: float) -> Head:
    """Fit on some images of train; only the main rank has patches."""
    cell.heed_stop()

    def work() -> Head:
        assert patches is not None
        config, classes = cell.spec.segment, cell.spec.data.num_classes
        return fit(patches.of(images), classes, c, config.max_iter, cell.ranks.device)

    return cell.ranks.on_main(work)


def score(cell: SegmentCell, split: str, tokens: Parts, images: np.ndarray, heads: list[Head]) -> list[np.ndarray]:
    """Return each head's confusion matrix (true, predicted), (K, K) pixels, summed over some images of a split."""
    classes, source = cell.spec.data.num_classes, cell.splits[split]
    totals = np.zeros((len(heads), classes, classes), np.int64)

    def count(part: range, chosen: np.ndarray) -> np.ndarray:
        found, rows = np.zeros_like(totals), tokens.get(part)
        for index in chosen:
            label = source.label(int(index))
            for number, head in enumerate(heads):
                answer = predict(head, rows[index - part.start], cell.grid, label.shape, cell.ranks.device)
                found[number] += count_pixels(label, answer, classes)
        return found

    for part in tokens.ranges:
        cell.heed_stop()
        chosen = images[(images >= part.start) & (images < part.stop)]
        if len(chosen):
            totals += cell.ranks.on_main(partial(count, part, chosen))
    return list(totals)


@torch.no_grad()
def predict(
    head: Head, tokens: np.ndarray, grid: tuple[int, int], shape: tuple[int, ...], device: torch.device
) -> np.ndarray:
    """Return the class of each pixel, (H, W) = `shape`: logits of tokens (N, D), upsampled bilinearly, the largest."""
    x = torch.as_tensor(tokens, device=device).float()
    with exact_fp32():
        logits: Tensor = torch.as_tensor(head.weight, device=device) @ x.T
    logits = logits + torch.as_tensor(head.bias, device=device)[:, None]
    maps = F.interpolate(logits.reshape(1, -1, *grid), size=shape, mode="bilinear", align_corners=False)
    answer: np.ndarray = maps[0].argmax(0).cpu().numpy()
    return answer


def count_pixels(label: np.ndarray, answer: np.ndarray, classes: int) -> np.ndarray:
    """Count the pixels of each (true, predicted) pair of classes, (K, K); ignored pixels do not count."""
    counts = label != IGNORED
    pairs = label[counts].astype(np.int64) * classes + answer[counts]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def ious(confusion: np.ndarray) -> np.ndarray:
    """Return intersection over union of each class, (K,); NaN for one that no pixel of the ground truth has."""
    inside, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore"):
        return np.where(true > 0, inside / (true + predicted - inside), np.nan)


def miou(confusion: np.ndarray) -> float:
    """Return the mean IoU over the classes of the ground truth; 0 where there is none."""
    return float(np.nanmean(ious(confusion))) if confusion.any() else 0.0


def measures(confusion: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Return mIoU, the share of pixels that are right, and the IoU of each class of the ground truth by its name."""
    each = ious(confusion)
    named = names or [str(number) for number in range(len(each))]
    found = {"miou": miou(confusion), "pixel_accuracy": float(confusion.trace() / max(1, confusion.sum()))}
    by_class = {f"iou_{name.replace(' ', '_')}": float(iou) for name, iou in zip(named, each, strict=True)}
    return found | {name: iou for name, iou in by_class.items() if not np.isnan(iou)}


def _notes(cell: SegmentCell, classes: np.ndarray, confusion: np.ndarray) -> list[str]:
    """Name the classes that no patch of train has, and so are never predicted, and those that test does not score."""
    known, names = range(cell.spec.data.num_classes), cell.spec.segment.names
    unlearnt = sorted(set(known) - set(np.unique(classes).tolist()))
    absent = {
        "no patch of train is mostly of": unlearnt,
        "no pixel of test is of": [number for number in known if not confusion[number].any()],
    }
    return [
        f"{what}: {', '.join(names[i] if names else str(i) for i in those)}" for what, those in absent.items() if those
    ]
