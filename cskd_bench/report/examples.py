"""Per-example side files: read, checked against their record, and turned into scores that average to its metric."""

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cskd_bench.record import Record, SideFile
from cskd_bench.report.npz import read_arrays

AGREEMENT = 1e-4  # a metric and its side file may differ by rounding, not by more

_DAMAGED = (KeyError, ValueError, TypeError, OSError, EOFError, MemoryError, NotImplementedError)
_DAMAGED_ARCHIVE = (zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Examples:
    """What one model said about every test image."""

    label: NDArray[np.integer[Any]]  # (E,)
    predicted: NDArray[np.integer[Any]]  # (E,)
    confidence: NDArray[np.floating[Any]]  # (E,)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each image is classified rightly."""
        return np.asarray(self.label == self.predicted, dtype=np.bool_)

    def scores(self, metric: str) -> NDArray[np.float32]:
        """Return one number per image whose mean is the metric (`top1` or `mean_per_class`)."""
        correct = self.correct.astype(np.float32)
        if metric != "mean_per_class":
            return correct
        count = np.bincount(self.label)
        weight = len(self.label) / (np.count_nonzero(count) * np.maximum(count, 1))
        return np.asarray(correct * weight[self.label], dtype=np.float32)


def side_file_path(folder: Path, side: SideFile) -> Path:
    """Return where a side file lies; ValueError if its name leaves the folder."""
    path = folder / side.name
    if side.name == path.name != ".." and not path.is_symlink():  # the usual case, without a look at every folder above
        return path
    if Path(side.name).is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
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
        examples = Examples(*read_arrays(content, ("label", "predicted", "confidence")))
    except (*_DAMAGED, *_DAMAGED_ARCHIVE) as error:
        raise ValueError(f"side file {record.per_example.name} is not a per-example file: {error}") from error
    _check(examples, record, record.per_example.name)
    return examples


def _check(examples: Examples, record: Record, name: str) -> None:
    label, predicted, confidence = examples.label, examples.predicted, examples.confidence
    if label.ndim != 1 or not label.shape == predicted.shape == confidence.shape:
        raise ValueError(f"side file {name} holds arrays of different lengths")
    if label.dtype.kind not in "iu" or predicted.dtype.kind not in "iu" or confidence.dtype.kind != "f":
        raise ValueError(f"side file {name} holds arrays of the wrong type")
    if not np.isfinite(confidence).all():
        raise ValueError(f"side file {name} holds a confidence that is not a number")
    if len(label) != record.examples or not len(label):
        raise ValueError(f"side file {name} holds {len(label)} examples, the record {record.examples}")
    if label.min() < 0 or label.max() > 1_000_000:
        raise ValueError(f"side file {name} holds impossible labels")
    score = float(examples.scores(record.task.metric).mean(dtype=np.float64))
    if record.task.metric in ("top1", "mean_per_class") and abs(score - record.value) > AGREEMENT:
        raise ValueError(f"side file {name} gives {record.task.metric} {score:.4f}, the record {record.value:.4f}")
