"""Linear probe: L2-penalised logistic regression on frozen, standardised features."""

import time
import warnings

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from cskd_bench.cells.cell import Outcome
from cskd_bench.task import LinearConfig
from cskd_bench.transfer.cell import ImageCell, from_probability
from cskd_bench.transfer.features import split_features
from cskd_bench.transfer.subsets import stratified_split


def run(cell: ImageCell) -> Outcome:
    """Choose C on a validation part of train, fit on all of train, report test once."""
    return fit_linear(cell, np.arange(len(cell.train)))


def fit_linear(cell: ImageCell, chosen: np.ndarray) -> Outcome:
    """Probe with the chosen images of train alone."""
    began = time.perf_counter()
    train, test = split_features(cell, cell.train)[chosen], split_features(cell, cell.test)
    labels, config, device = cell.train.labels[chosen], cell.spec.linear, cell.ranks.device
    kept, held = stratified_split(labels, config.validation, cell.seed)
    scores = []
    for c in config.c_grid:
        cell.heed_stop()
        fitted = _fitted(config, c, train[kept], labels[kept], device) if len(held) else None
        scores.append(fitted.score(train[held], labels[held]) if fitted else 0.0)
    best = config.c_grid[int(np.argmax(scores))]
    fitted = _fitted(config, best, train, labels, device)
    predictions = from_probability(cell.test.labels, fitted.predict_proba(test), fitted.classes_)
    metrics = {"chosen_c": best, "validation_top1": float(max(scores))}
    return Outcome(predictions, metrics, seconds=time.perf_counter() - began)


def _fitted(config: LinearConfig, c: float, features: np.ndarray, labels: np.ndarray, device: torch.device) -> Pipeline:
    large = len(labels) >= config.torch_from
    classifier = TorchLogisticRegression(c, config.max_iter, device) if large else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # max_iter bounds the time; the sweep judges the result
        return probe(c, config.max_iter, classifier).fit(features, labels)


def probe(c: float, max_iter: int, classifier: "TorchLogisticRegression | None" = None) -> Pipeline:
    """Return standardisation, then multinomial logistic regression (scikit-learn's, lbfgs, unless another is given)."""
    return make_pipeline(StandardScaler(), classifier or LogisticRegression(C=c, max_iter=max_iter))


class TorchLogisticRegression(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Scikit-learn's objective, C * sum of cross-entropies + |W|^2 / 2 (bias free), by L-BFGS on a device.

    It stops where scikit-learn does by default: no component of the mean loss's gradient above 1e-4.
    """

    def __init__(self, c: float, max_iter: int, device: torch.device) -> None:
        self.c, self.max_iter, self.device = c, max_iter, device

    def fit(self, features: np.ndarray, labels: np.ndarray) -> "TorchLogisticRegression":
        """Fit features (n, D) to integer labels (n,)."""
        self.classes_, targets = np.unique(labels, return_inverse=True)
        x = torch.as_tensor(features, dtype=torch.float32, device=self.device)
        y = torch.as_tensor(targets, device=self.device)
        self.weight_ = torch.zeros(len(self.classes_), x.shape[1], device=self.device, requires_grad=True)
        self.bias_ = torch.zeros(len(self.classes_), device=self.device, requires_grad=True)
        solver = torch.optim.LBFGS(
            [self.weight_, self.bias_],
            max_iter=self.max_iter,
            history_size=10,
            tolerance_grad=1e-4,
            line_search_fn="strong_wolfe",
        )

        def loss() -> torch.Tensor:
            solver.zero_grad()
            value = torch.nn.functional.cross_entropy(x @ self.weight_.T + self.bias_, y)
            value = value + self.weight_.square().sum() / (2 * self.c * len(y))
            value.backward()  # type: ignore[no-untyped-call]
            return value

        solver.step(loss)  # type: ignore[no-untyped-call]
        return self

    @torch.no_grad()
    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Return the probability of each class, (n, K)."""
        x = torch.as_tensor(features, dtype=torch.float32, device=self.device)
        probability: np.ndarray = (x @ self.weight_.T + self.bias_).softmax(1).cpu().numpy()
        return probability

    def score(self, features: np.ndarray, labels: np.ndarray) -> float:
        """Return the fraction of images classified rightly."""
        return float((self.classes_[self.predict_proba(features).argmax(1)] == labels).mean())
