"""Evaluation without training: the checkpoint's own head, restricted to the task's classes."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import Field, TypeAdapter
from timm.data import ImageNetInfo
from torch import Tensor

from cskd_bench.cells.cell import Outcome
from cskd_bench.data.sources import JoinedSource, PathSource, Source, data_path
from cskd_bench.engine.evaluate import Predictions
from cskd_bench.errors import UserError
from cskd_bench.models.checkpoints import Loaded
from cskd_bench.transfer.cell import ScoringCell
from cskd_bench.transfer.robustness import mean_corruption_error
from cskd_bench.transfer.scan import scan_split
from cskd_bench.transfer.scoring import first_classes, to_predictions

_REAL: Final = TypeAdapter(list[list[Annotated[int, Field(ge=0, lt=1000)]]])


def run(cell: ScoringCell) -> Outcome:
    """Score every image of test once; of several parts (`a/1+a/2+b/1`, `val@a/1+val@b/1`) also each by name (a, b)."""
    began = time.perf_counter()
    spec, student = cell.spec, cell.model.student.to(cell.ranks.device).eval()
    columns = class_columns(cell.test.classes, cell.model)

    def predict(views: Tensor) -> Tensor:
        return first_classes(student.predict(views)[:, columns])

    rows = scan_split(
        cell,
        cell.test,
        cell.view,
        predict,
        folder=cell.folder,
        key={"heads": student.heads, "columns": columns},
        what="predictions",
    )
    predictions = to_predictions(cell.test.labels, rows, len(columns))
    metrics = _by_part(spec.data.test.split("+"), cell.test, predictions)
    if spec.evaluate.real_labels:
        predictions = with_real_labels(predictions, cell.test, data_path(spec.data.root) / spec.evaluate.real_labels)
    return Outcome(predictions, metrics, seconds=time.perf_counter() - began)


def class_columns(wanted: Sequence[str], model: Loaded) -> list[int]:
    """Find the model's output for each of a data set's classes.

    Classes are matched by name; a model of 1,000 classes without names has ImageNet-1k's synsets in order.
    File names such as `n01440764_tench` count by their synset, and numbers (`0` ... `999`) are the outputs'
    own where the model's classes have no names but ImageNet-1k's. UserError for classes that it does not know, and
    for two that are one output.
    """
    imagenet = tuple(ImageNetInfo().label_names())
    names = tuple(model.classes) or (imagenet if model.num_classes == len(imagenet) else ())
    output = {name: index for index, name in enumerate(names)}
    found = [output.get(name, output.get(_synset(name))) for name in wanted]
    numbered = all(re.fullmatch("[0-9]{1,9}", name) and int(name) < model.num_classes for name in wanted)
    if numbered and None in found and names in ((), imagenet):
        found = [int(name) for name in wanted]
    unknown = [name for name, column in zip(wanted, found, strict=True) if column is None]
    if unknown:
        raise UserError(
            f"the checkpoint {model.checkpoint.run} does not know {len(unknown)} of the task's {len(wanted)} classes "
            f"({', '.join(unknown[:3])}, ...); evaluate needs a model of the same classes"
        )
    columns = [column for column in found if column is not None]
    first = dict(reversed(list(zip(columns, wanted, strict=True))))
    if len(first) < len(columns):
        at = next(at for at, column in enumerate(columns) if column in columns[:at])
        raise UserError(
            f"the task's classes {first[columns[at]]!r} and {wanted[at]!r} are both output {columns[at]} of the "
            f"checkpoint {model.checkpoint.run}; evaluate needs an output for each class"
        )
    return columns


def _synset(name: str) -> str:
    """Return the synset that a name such as `n01440764_tench` begins with, and any other name as it is."""
    found = re.match(r"(n\d{8})_", name)
    return found[1] if found else name


def with_real_labels(predictions: Predictions, source: Source, file: Path) -> Predictions:
    """Judge by ReaL labels: right is any of an image's labels, and images without labels do not count.

    The file is a list, in the order of the validation images' numbers, of lists of class indices. Where the
    prediction is one of an image's labels it becomes the label, else the first of them does.
    """
    synsets = [re.match(r"n\d{8}", name) for name in source.classes]
    if not isinstance(source, PathSource) or len(synsets) != 1000 or None in synsets:
        raise UserError("evaluate.real_labels needs ImageNet-1k's validation images in 1,000 folders named by synset")
    try:
        lists = _REAL.validate_json(file.read_bytes(), strict=True)
        labels = [lists[int(_number(path)) - 1] for path in source.paths]
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{file}: not the ReaL labels of these images ({error}); see the task's by_hand") from error
    kept = [index for index, right in enumerate(labels) if right]
    predicted = predictions.predicted[kept]
    label = [int(p) if p in labels[i] else labels[i][0] for i, p in zip(kept, predicted, strict=True)]
    return Predictions(np.asarray(label, np.int64), predicted, predictions.confidence[kept])


def _number(path: Path) -> str:
    found = re.search(r"val_([0-9]{1,9})$", path.stem)
    if found is None or not int(found[1]):
        raise ValueError(f"{path.name} is not named ILSVRC2012_val_<number>")
    return found[1]


def _by_part(splits: Sequence[str], source: Source, predictions: Predictions) -> dict[str, float]:
    """Return top-1 of each part by its name without the severity, and the mCE where the parts are all of ImageNet-C."""
    if not isinstance(source, JoinedSource):
        return {}
    correct: dict[str, list[np.ndarray]] = {}
    each: dict[str, float] = {}
    ends = np.cumsum([len(part) for part in source.parts])[:-1]
    for split, right in zip(splits, np.split(predictions.label == predictions.predicted, ends), strict=True):
        name = split.split("@")[-1]
        each[name] = float(right.mean())
        correct.setdefault(name.split("/")[0], []).append(right)
    by_part = {f"top1_{part}": float(np.concatenate(rights).mean()) for part, rights in correct.items()}
    mce = mean_corruption_error(each, len(source.classes)) if len(each) == len(splits) else None
    return by_part if mce is None else by_part | {"mce": mce}
