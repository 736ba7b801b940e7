"""Per-example side files: read, checked against their record, and turned into scores that average to its metric."""

import hashlib
import zipfile
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cskd_bench.record import Record, SideFile
from cskd_bench.report.npz import read_arrays

AGREEMENT = 1e-6  # a metric and its side file may differ by rounding, not by an image
ACCURACIES = ("top1", "mean_per_class")  # metrics that a side file gives

LONGEST = 80  # characters of a name in an error

_DAMAGED = (KeyError, ValueError, TypeError, OSError, EOFError, MemoryError, NotImplementedError)
_DAMAGED_ARCHIVE = (zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Examples:
    """What one model said about every example of a test set: an image, or one of several copies of it."""

    label: NDArray[np.integer[Any]]  # (E,)
    predicted: NDArray[np.integer[Any]]  # (E,)
    confidence: NDArray[np.floating[Any]]  # (E,)
    image: NDArray[np.integer[Any]] | None = None  # (E,), 0 to I - 1 in order of appearance; None: E different images

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each example is classified rightly."""
        return np.asarray(self.label == self.predicted, dtype=np.bool_)

    @cached_property
    def order(self) -> NDArray[np.integer[Any]]:
        """What two models must agree in to be paired: labels (E,), or labels and images (2, E)."""
        return self.label if self.image is None else np.stack([self.label.astype(np.int64), self.image])

    @cached_property
    def copies_right(self) -> NDArray[np.integer[Any]] | NDArray[np.bool_]:
        """How many copies of each image are classified rightly, (I,); with one copy of each, whether it is."""
        return self.correct if self.image is None else np.bincount(self.image, self.correct).astype(np.int64)

    def scores(self, metric: str) -> NDArray[np.float32]:
        """Return one number per example whose mean is the metric (`top1` or `mean_per_class`)."""
        correct = self.correct.astype(np.float32)
        if metric != "mean_per_class":
            return correct
        count = np.bincount(self.label)
        weight = len(self.label) / (np.count_nonzero(count) * np.maximum(count, 1))
        return np.asarray(correct * weight[self.label], dtype=np.float32)

    def scores_by_image(self, metric: str) -> NDArray[np.float32]:
        """Return one number per image, (I,), whose mean is the metric: the mean over its copies, by their number."""
        scores = self.scores(metric)
        if self.image is None:
            return scores
        totals = np.bincount(self.image, scores)
        return np.asarray(totals * (len(totals) / len(scores)), dtype=np.float32)


def same_order(first: NDArray[np.integer[Any]], second: NDArray[np.integer[Any]]) -> bool:
    """Say whether two models scored the same images in the same order, by their `Examples.order`."""
    return first is second or np.array_equal(first, second)


def side_file_path(folder: Path, side: SideFile) -> Path:
    """Return where a side file lies; ValueError if that is not in the folder itself, where everyone sees it."""
    path = folder / side.name
    if side.name != Path(side.name).name or side.name.startswith("."):  # where no manifest would list it
        raise ValueError(f"side file {side.name!r} lies outside the records folder, or hidden in it")
    try:
        inside = not path.is_symlink() or path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:  # too long a name, a ring of links
        why = error.strerror if isinstance(error, OSError) else "its link leads back to itself"
        raise ValueError(f"side file {side.name[:LONGEST]} cannot be read: {why}") from error
    if not inside:
        raise ValueError(f"side file {side.name!r} lies outside the records folder")
    return path


def read_side_file(folder: Path, side: SideFile) -> bytes:
    """Return a side file's bytes; ValueError says whether it is missing or has changed."""
    path = side_file_path(folder, side)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"side file {side.name} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != side.sha256:
        raise ValueError(f"side file {side.name} has changed: its SHA-256 is not the recorded one")
    return content


def read_examples(folder: Path, record: Record) -> Examples:
    """Read the per-example file of a record; ValueError where it is missing, changed or contradicts the record."""
    if record.per_example is None:
        raise ValueError("the record names no per-example file")
    content = read_side_file(folder, record.per_example)
    try:
        label, predicted, confidence, image = read_arrays(content, ("label", "predicted", "confidence"), "image")
        if label is None or predicted is None or confidence is None:
            raise KeyError("label, predicted or confidence")
        examples = Examples(label, predicted, confidence, image)
    except (*_DAMAGED, *_DAMAGED_ARCHIVE) as error:
        raise ValueError(f"side file {record.per_example.name} is not a per-example file: {error}") from error
    _check(examples, record, record.per_example.name)
    image = _derived_images(record, examples.label) if examples.image is None else examples.image
    return replace(examples, image=_in_order_of_appearance(image))


def _derived_images(record: Record, label: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]] | None:
    """Number the images of an older record of a robustness task whose test parts have the same labels in one order.

    Releases before did not write the numbers. The parts of such a task are the same images under several corruptions.
    """
    task = record.config.get("task")
    data = task.get("data") if isinstance(task, dict) else None
    test = data.get("test") if isinstance(data, dict) else None
    parts = test.count("+") + 1 if isinstance(test, str) else 1
    if record.task.group != "robustness" or parts < 2 or len(label) % parts:
        return None
    by_part = label.reshape(parts, -1)
    return np.tile(np.arange(by_part.shape[1]), parts) if (by_part == by_part[0]).all() else None


def _in_order_of_appearance(image: NDArray[np.integer[Any]] | None) -> NDArray[np.integer[Any]] | None:
    """Return the same images numbered from 0 in the order of their first example; None where all are different."""
    if image is None:
        return None
    _, first, number = np.unique(image, return_index=True, return_inverse=True)
    if len(first) == len(image):
        return None
    return np.asarray(np.argsort(np.argsort(first))[number], dtype=np.int64)


def _check(examples: Examples, record: Record, name: str) -> None:
    label, predicted, confidence = examples.label, examples.predicted, examples.confidence
    if label.ndim != 1 or not label.shape == predicted.shape == confidence.shape:
        raise ValueError(f"side file {name} holds arrays of different lengths")
    if label.dtype.kind not in "iu" or predicted.dtype.kind not in "iu" or confidence.dtype.kind != "f":
        raise ValueError(f"side file {name} holds arrays of the wrong type")
    if examples.image is not None and (examples.image.dtype.kind not in "iu" or examples.image.shape != label.shape):
        raise ValueError(f"side file {name} holds numbers of images that are not one integer for each example")
    if not np.isfinite(confidence).all():
        raise ValueError(f"side file {name} holds a confidence that is not a number")
    if len(label) != record.examples or not len(label):
        raise ValueError(f"side file {name} holds {len(label)} examples, the record {record.examples}")
    if label.min() < 0 or label.max() > 1_000_000:
        raise ValueError(f"side file {name} holds impossible labels")
    for metric in (name for name in ACCURACIES if name in record.metrics):
        share = np.count_nonzero(examples.correct) / len(label)
        score = share if metric == "top1" else float(examples.scores(metric).mean(dtype=np.float64))
        if abs(score - record.metrics[metric]) > AGREEMENT:
            raise ValueError(f"side file {name} gives {metric} {score:.6f}, the record {record.metrics[metric]:.6f}")
