"""k-shot: logistic regression on k labelled images a class, drawn by a published function of the seed."""

import time
import warnings

from sklearn.exceptions import ConvergenceWarning

from cskd_bench.cells.cell import Outcome
from cskd_bench.transfer.cell import ImageCell, from_probability
from cskd_bench.transfer.features import split_features
from cskd_bench.transfer.linear import converged, probe
from cskd_bench.transfer.subsets import k_shot_indices


def run(cell: ImageCell) -> Outcome:
    """Score every k of the task (`top1_5shot`, ...); predictions and headline are those of the last."""
    began = time.perf_counter()
    config, labels = cell.spec.kshot, cell.train.labels
    subsets = [k_shot_indices(labels, shots, cell.seed) for shots in config.shots]
    train, test = split_features(cell, cell.train), split_features(cell, cell.test)
    metrics, unconverged = {}, 0
    for shots, chosen in zip(config.shots, subsets, strict=True):
        cell.heed_stop()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = probe(config.c, config.max_iter).fit(train[chosen], labels[chosen])
        unconverged += not converged(fitted)
        predictions = from_probability(cell.test.labels, fitted.predict_proba(test), fitted.classes_)
        metrics[f"top1_{shots}shot"] = predictions.top1
        metrics[f"mean_per_class_{shots}shot"] = predictions.mean_per_class
    metrics["unconverged_fits"] = float(unconverged)
    return Outcome(predictions, metrics, seconds=time.perf_counter() - began)
