"""k-nearest neighbours on frozen features, as in DINO: cosine similarity, votes weighted by exp(s / T)."""

import time

import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from cskd_bench.cells.cell import Outcome
from cskd_bench.task import KnnConfig
from cskd_bench.transfer.cell import ImageCell, from_probability
from cskd_bench.transfer.features import split_features


def run(cell: ImageCell) -> Outcome:
    """Classify the test split by its neighbours in train."""
    began = time.perf_counter()
    train, test = split_features(cell, cell.train), split_features(cell, cell.test)
    fitted = neighbours(cell.spec.knn, len(train)).fit(normalize(train), cell.train.labels)
    probability = fitted.predict_proba(normalize(test))
    predictions = from_probability(cell.test.labels, probability, fitted.classes_)
    return Outcome(predictions, seconds=time.perf_counter() - began)


def neighbours(config: KnnConfig, images: int) -> KNeighborsClassifier:
    """Return the classifier on unit vectors, where distance^2 = 2 - 2 * similarity."""

    def votes(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance**2 / 2) / config.temperature)

    return KNeighborsClassifier(n_neighbors=min(config.k, images), weights=votes, algorithm="brute")
