"""Evaluation without training: the checkpoint's own head, restricted to the task's classes."""

import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter
from timm.data import ImageNetInfo
from torch import Tensor

from cskd_bench.cells.cell import Outcome
from cskd_bench.data.sources import JoinedSource, PathSource, Source, data_path
from cskd_bench.engine.evaluate import Predictions, evaluate
from cskd_bench.errors import UserError
from cskd_bench.models.checkpoints import Loaded
from cskd_bench.transfer.cell import ScoringCell


def run(cell: ScoringCell) -> Outcome:
    """Score every image of test once; of several parts (`a/1+a/2+b/1`, `val@a/1+val@b/1`) also each by name (a, b)."""
    began = time.perf_counter()
    spec, student = cell.spec, cell.model.student.to(cell.ranks.device).eval()
    columns = class_columns(cell.test.classes, cell.model)

    def predict(views: Tensor) -> Tensor:
        return student.predict(views)[:, columns]

    predictions = evaluate(
        predict,
        cell.test,
        cell.view,
        cell.ranks,
        batch_size=cell.batch_size,
        workers=cell.workers,
        stop=lambda: cell.stop.requested,
    )
    metrics = _by_part(spec.data.test.split("+"), cell.test, predictions)
    if spec.evaluate.real_labels:
        predictions = with_real_labels(predictions, cell.test, data_path(spec.data.root) / spec.evaluate.real_labels)
    return Outcome(predictions, metrics, seconds=time.perf_counter() - began)


def class_columns(wanted: Sequence[str], model: Loaded) -> list[int]:
    """Find the model's output for each of a data set's classes.

    Classes are matched by name; a model of 1,000 classes without names has ImageNet-1k's synsets in order.
    File names such as `n01440764_tench` count by their synset, and numbers (`0` ... `999`) are the outputs'
    own where the model's classes have no names but ImageNet-1k's. UserError for classes that it does not know.
    """
    imagenet = tuple(ImageNetInfo().label_names())
    names = tuple(model.classes) or (imagenet if model.num_classes == len(imagenet) else ())
    output = {name: index for index, name in enumerate(names)}
    found = [output.get(name, output.get(name.split("_")[0])) for name in wanted]
    numbered = all(name.isdecimal() and int(name) < model.num_classes for name in wanted)
    if numbered and None in found and names in ((), imagenet):
        return [int(name) for name in wanted]
    unknown = [name for name, column in zip(wanted, found, strict=True) if column is None]
    if unknown:
        raise UserError(
            f"the checkpoint {model.checkpoint.run} does not know {len(unknown)} of the task's {len(wanted)} classes "
            f"({', '.join(unknown[:3])}, ...); evaluate needs a model of the same classes"
        )
    return [column for column in found if column is not None]


def with_real_labels(predictions: Predictions, source: Source, file: Path) -> Predictions:
    """Judge by ReaL labels: right is any of an image's labels, and images without labels do not count.

    The file is a list, in the order of the validation images' numbers, of lists of class indices. Where the
    prediction is one of an image's labels it becomes the label, else the first of them does.
    """
    synsets = [re.match(r"n\d{8}", name) for name in source.classes]
    if not isinstance(source, PathSource) or len(synsets) != 1000 or None in synsets:
        raise UserError("evaluate.real_labels needs ImageNet-1k's validation images in 1,000 folders named by synset")
    try:
        lists = TypeAdapter(list[list[int]]).validate_json(file.read_bytes())
        labels = [lists[int(_number(path)) - 1] for path in source.paths]
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{file}: not the ReaL labels of these images ({error}); see the task's by_hand") from error
    kept = [index for index, right in enumerate(labels) if right]
    predicted = predictions.predicted[kept]
    label = [int(p) if p in labels[i] else labels[i][0] for i, p in zip(kept, predicted, strict=True)]
    return Predictions(np.asarray(label, np.int64), predicted, predictions.confidence[kept])


def _number(path: Path) -> str:
    found = re.search(r"val_(\d+)$", path.stem)
    if found is None:
        raise ValueError(f"{path.name} is not named ILSVRC2012_val_<number>")
    return found[1]


def _by_part(splits: Sequence[str], source: Source, predictions: Predictions) -> dict[str, float]:
    if not isinstance(source, JoinedSource):
        return {}
    correct: dict[str, list[np.ndarray]] = {}
    ends = np.cumsum([len(part) for part in source.parts])[:-1]
    for split, right in zip(splits, np.split(predictions.label == predictions.predicted, ends), strict=True):
        correct.setdefault(split.split("@")[-1].split("/")[0], []).append(right)
    return {f"top1_{part}": float(np.concatenate(rights).mean()) for part, rights in correct.items()}
