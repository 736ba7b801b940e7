"""Copies among the records of a folder: a cell, side file, weights or predictions that another record had before."""

import hashlib
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cskd_bench.record import Record
from cskd_bench.report.examples import Examples
from cskd_bench.report.selection import method_of, replicate_of, setting_of, student_of

FEWEST_WRONG: Final = 10  # images that two models cannot by chance get wrong in the same way, one by one
FEWEST_CONFUSIONS: Final = 20  # pairs of classes that two models cannot by chance confuse equally often

Origin = dict[str, object]  # what one set of weights can be only one of


class Seen:
    """What earlier records of a folder were, each with the file that had it first."""

    def __init__(self) -> None:
        self._cells: dict[object, str] = {}
        self._side_files: dict[str, str] = {}
        self._origins: dict[tuple[str, str], tuple[Origin, str]] = {}
        self._tuned: dict[str, str] = {}  # by file: the file of the fine-tuning whose student was scored

    def repeats(self, file: str, record: Record, examples: Examples | None) -> Iterator[str]:
        """Say what a record has in common with an earlier one and should not have."""
        cell = (student_of(record), setting_of(record), method_of(record), replicate_of(record), record.seed)
        first = self._cells.setdefault(cell, file)
        if first != file:
            yield f"measures the same cell and seed as {first}"
        for name in {side.name for side in (record.per_example, *record.pictures) if side is not None}:
            first = self._side_files.setdefault(name, file)
            if first != file:
                yield f"its side file {name} is that of {first}"
        if record.checkpoint.pretrain_seed is None:
            return
        origin = _origin(record)
        if isinstance(tuned := record.config.get("finetuned"), dict):
            self._tuned[file] = f"{tuned.get('record')}.json"
        traces = {"weights": [record.checkpoint.sha256], "predictions": _traces(examples) if examples else []}
        for what, digests in traces.items():
            earlier = [self._origins.setdefault((what, digest), (origin, file)) for digest in digests if digest]
            others = ((other, first) for other, first in earlier if not self._is_tuning(first, file))
            copied = next(((other, first) for other, first in others if other != origin), None)
            if copied:
                other, first = copied
                part = next(part for part, value in origin.items() if other[part] != value)
                yield f"has the {what} of {first}, whose {part} is {other[part]}, not {origin[part]}"

    def _is_tuning(self, first: str, second: str) -> bool:
        """Whether one file is the record of the fine-tuning whose student the other scores: both may say the same."""
        return self._tuned.get(first) == second or self._tuned.get(second) == first


def _origin(record: Record) -> Origin:
    method, student = method_of(record), student_of(record)
    return {
        "pretraining seed": record.checkpoint.pretrain_seed,
        "method": " ".join(filter(None, (method.label, method.teacher))),
        "student": ", ".join(filter(None, (student.model, student.pretrain_data, student.pretrain_recipe))),
    }


def _traces(examples: Examples) -> list[str]:
    """Return digests that two models do not share: of what was said, in any order, and of the errors alone.

    Errors count where there are enough of them: image by image, and how often which class was taken for which. Where
    all is right, with equal confidence, nothing is told: any two perfect models say the same.
    """
    label, predicted = examples.label.astype(np.int64), examples.predicted.astype(np.int64)
    confidence = examples.confidence.astype(np.float16).view(np.uint16)
    wrong = label != predicted
    if not wrong.any() and len(np.unique(confidence)) == 1:
        return []
    order = np.lexsort((confidence, predicted, label))
    found = [_digest(label[order], predicted[order], confidence[order])]
    if np.count_nonzero(wrong) < FEWEST_WRONG or (predicted == predicted[0]).all():
        return found
    found.append(_digest(label, predicted))
    confused, counts = np.unique(np.stack([label[wrong], predicted[wrong]]), axis=1, return_counts=True)
    if len(counts) >= FEWEST_CONFUSIONS:
        found.append(_digest(np.bincount(label), confused, counts))
    return found


def _digest(*arrays: NDArray[np.integer]) -> str:
    digest = hashlib.sha256(str([array.shape for array in arrays]).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
    return digest.hexdigest()
