"""Scores beside top-1: top-5 against torch's own topk, and the mCE by AlexNet's errors."""

import numpy as np
import pytest
import torch
from PIL import Image

from cskd_bench.data.open import open_source
from cskd_bench.data.sources import ArraySource, JoinedSource
from cskd_bench.data.views import EvalView
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.evaluate import Predictions, evaluate
from cskd_bench.task import load_task
from cskd_bench.transfer.evaluate import _by_part
from cskd_bench.transfer.robustness import ALEXNET_ERRORS, mean_corruption_error

RANKS = Ranks(0, 1, torch.device("cpu"))


def predictions_of(classes, images=23, batch_size=4):
    """Return the predictions of a random linear model on random images, with its logits (n, K)."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, 4, 4, 3), dtype=np.uint8)
    source = ArraySource(pixels, rng.integers(0, classes, images), [str(k) for k in range(classes)])
    weight = torch.from_numpy(rng.normal(size=(48, classes)).astype(np.float32))
    logits = []

    def predict(views):
        logits.append((views.flatten(1) - 0.5) @ weight)
        return logits[-1]

    found = evaluate(predict, source, EvalView(4, 1.0), RANKS, batch_size=batch_size, workers=0)
    return found, torch.cat(logits)


def test_top5_is_that_of_topk():
    found, logits = predictions_of(classes=12)
    expected = (logits.topk(5).indices.numpy() == found.label[:, None]).any(1)
    assert np.array_equal(found.in_top5, expected) and 0.1 < expected.mean() < 0.9
    assert found.metrics()["top5"] == pytest.approx(expected.mean())
    assert found.metrics()["top1"] <= found.metrics()["top5"]


def test_of_five_classes_no_top5_is_told():
    assert predictions_of(classes=5)[0].metrics().keys() == {"top1", "mean_per_class", "ece"}


def accuracies_of(errors):
    return {f"{name}/{level}": 1 - errors[name] for name in errors for level in range(1, 6)}


def test_alexnet_has_an_mce_of_one():
    assert len(ALEXNET_ERRORS) == 15
    assert mean_corruption_error(accuracies_of(ALEXNET_ERRORS), 1000) == pytest.approx(1)
    halved = {name: error / 2 if name in ("fog", "snow", "frost") else error for name, error in ALEXNET_ERRORS.items()}
    assert mean_corruption_error(accuracies_of(halved), 1000) == pytest.approx(0.9)


def test_severities_are_averaged_before_they_are_divided():
    accuracies = accuracies_of(ALEXNET_ERRORS)
    accuracies["fog/1"] += 0.5
    expected = 1 - 0.5 / 5 / ALEXNET_ERRORS["fog"] / 15
    assert mean_corruption_error(accuracies, 1000) == pytest.approx(expected)


def test_there_is_no_mce_of_parts_or_of_other_classes():
    whole = accuracies_of(ALEXNET_ERRORS)
    assert mean_corruption_error({name: value for name, value in whole.items() if name != "fog/3"}, 1000) is None
    assert mean_corruption_error(whole | {"speckle_noise/1": 0.5}, 1000) is None
    assert mean_corruption_error(whole, 10) is None


def test_all_parts_of_imagenet_c_together_give_an_mce(tmp_path):
    """One image under each corruption and severity, of one of the thousand classes."""
    task = load_task("imagenet_c", overrides=[f"data.root={tmp_path}"])
    splits = task.data.test.split("+")
    for split in splits:
        (tmp_path / split / "n01440764").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / split / "n01440764" / "a.png")
    source = open_source(task.data, task.data.test)
    source.classes = [f"class {k}" for k in range(1000)]
    predicted = np.random.default_rng(0).integers(0, 2, len(source))
    found = _by_part(splits, source, Predictions(source.labels, predicted, np.ones(len(source), np.float32)))
    errors = {name: predicted[5 * number : 5 * number + 5].mean() for number, name in enumerate(ALEXNET_ERRORS)}
    assert found["mce"] == pytest.approx(np.mean([errors[name] / ALEXNET_ERRORS[name] for name in errors]))
    assert found["top1_fog"] == pytest.approx(1 - errors["fog"])
    two = Predictions(source.labels[:2], predicted[:2], np.ones(2, np.float32))
    assert "mce" not in _by_part(splits[:2], JoinedSource(source.parts[:2], splits[:2]), two)
