"""Linear probe: scikit-learn's logistic regression on frozen, standardised features."""

import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from cskd_bench.engine.evaluate import Predictions
from cskd_bench.task import LinearConfig
from cskd_bench.transfer.cell import Cell, Outcome, stratified_split
from cskd_bench.transfer.features import split_features


def run(cell: Cell) -> Outcome:
    """Choose C on a validation part of train, fit on all of train, report test once."""
    began = time.perf_counter()
    train, test = split_features(cell, cell.train), split_features(cell, cell.test)
    labels = cell.train.labels
    kept, held = stratified_split(labels, cell.spec.linear.validation, cell.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # max_iter bounds the time; the sweep judges the result
        scores = [
            probe(cell.spec.linear, c).fit(train[kept], labels[kept]).score(train[held], labels[held])
            for c in cell.spec.linear.c_grid
        ]
        best = cell.spec.linear.c_grid[int(np.argmax(scores))]
        fitted = probe(cell.spec.linear, best).fit(train, labels)
    probability = fitted.predict_proba(test)
    predictions = Predictions(
        cell.test.labels,
        fitted.classes_[probability.argmax(1)].astype(np.int64),
        probability.max(1).astype(np.float32),
    )
    metrics = {"chosen_c": best, "validation_top1": float(max(scores))}
    return Outcome(predictions, metrics, seconds=time.perf_counter() - began)


def probe(config: LinearConfig, c: float) -> Pipeline:
    """Return the classifier: standardisation, then L2-penalised multinomial logistic regression (lbfgs)."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=config.max_iter))
