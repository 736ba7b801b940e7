"""Linear probe: L2-penalised logistic regression on frozen, standardised features."""

import time
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from cskd_bench.cells.cell import Outcome
from cskd_bench.data.sources import stamp
from cskd_bench.engine.evaluate import Predictions
from cskd_bench.engine.logs import progress_bar
from cskd_bench.schema import fingerprint
from cskd_bench.task import LinearConfig
from cskd_bench.transfer.cell import ImageCell, from_probability
from cskd_bench.transfer.features import split_features
from cskd_bench.transfer.parts import Parts
from cskd_bench.transfer.subsets import stratified_split

EVALUATIONS: Final = 1.25  # of the loss, per iteration: where torch's L-BFGS gives up besides max_iter


def run(cell: ImageCell) -> Outcome:
    """Choose C on a validation part of train, fit on all of train, report test once."""
    return fit_linear(cell, np.arange(len(cell.train)))


def fit_linear(cell: ImageCell, chosen: np.ndarray) -> Outcome:
    """Probe with the chosen images of train alone.

    What C scored on validation is kept as soon as it is known. The record says where the best C is at an edge of the
    grid, and how many fits `max_iter` ended.
    """
    began = time.perf_counter()
    train, test = split_features(cell, cell.train), split_features(cell, cell.test)
    if len(chosen) < len(train):  # else a copy of all
        train = train[chosen]
    labels, config, device = cell.train.labels[chosen], cell.spec.linear, cell.ranks.device
    scores, converged = _validate(cell, train, labels, chosen)
    best = config.c_grid[int(np.argmax(scores))]
    fitted, complete = _fit(config, best, train, labels, device)
    predictions = from_probability(cell.test.labels, fitted.predict_proba(test), fitted.classes_)
    rule = selection_metric(cell)
    metrics = {"chosen_c": best, f"validation_{rule}": float(max(scores))}
    fits, unconverged = len(scores) + 1, int(np.sum(~converged)) + (not complete)
    doubts, note = doubt_choice("linear", config.c_grid, best, config.max_iter, unconverged, fits)
    return Outcome(predictions, metrics | doubts, seconds=time.perf_counter() - began, note=note)


def selection_metric(cell: ImageCell) -> str:
    """Name what C is chosen by: the task's metric, top-1 where the task says so or has no metric of classes."""
    spec = cell.spec
    return "mean_per_class" if (spec.linear.choose_by, spec.metric) == ("metric", "mean_per_class") else "top1"


def _validate(
    cell: ImageCell, train: np.ndarray, labels: np.ndarray, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what every C scores on validation, and whether its fit converged; 0 where nothing can be held out."""
    config, rule = cell.spec.linear, selection_metric(cell)
    kept, held = stratified_split(labels, config.validation, cell.seed)
    key = {"chosen": chosen.tolist(), "data": [cell.train.identity, stamp(cell.train)]}
    parts = Parts(cell.folder, f"validation-{fingerprint(key)}", len(config.c_grid), 1)
    if not len(held):
        return np.zeros(len(config.c_grid)), np.ones(len(config.c_grid), bool)
    title = f"{cell.spec.name} {cell.protocol} s{cell.seed}: fits on {len(kept):,} images"
    missing = cell.ranks.on_main(parts.missing)
    with progress_bar(title, len(config.c_grid), len(config.c_grid) - len(missing), cell.ranks.is_main) as bar:
        for part in missing:
            cell.heed_stop()
            c = config.c_grid[part.start]
            fitted, complete = _fit(config, c, train[kept], labels[kept], cell.ranks.device)
            said = Predictions(labels[held], fitted.predict(train[held]), np.ones(len(held), np.float32))
            row = np.asarray([[said.metrics()[rule], float(complete)]])
            cell.ranks.on_main(partial(parts.put, part, row))
            bar.advance(0.0, f"C = {c:g}: {100 * row[0, 0]:.1f} %")
    rows: np.ndarray = cell.ranks.on_main(parts.read)
    return rows[:, 0], rows[:, 1] > 0


def doubt_choice(
    section: str, grid: Sequence[float], best: float, max_iter: int, unconverged: int, fits: int
) -> tuple[dict[str, float], str]:
    """Return what a record holds and says of a C at an edge of its grid, and of fits that `max_iter` ended."""
    edges, said = {min(grid): "smallest", max(grid): "largest"}, []
    at_edge = len(grid) > 1 and best in edges
    if at_edge:
        said.append(f"C = {best:g} is the {edges[best]} of {section}.c_grid: a better one may lie beyond it")
    if unconverged:
        said.append(f"{unconverged} of {fits} fits stopped at {section}.max_iter = {max_iter} before they converged")
    return {"chosen_c_at_edge": float(at_edge), "unconverged_fits": float(unconverged)}, "; ".join(said)


def _fit(
    config: LinearConfig, c: float, features: np.ndarray, labels: np.ndarray, device: torch.device
) -> tuple[Pipeline, bool]:
    """Return the fitted probe, and whether it converged within `max_iter`."""
    large = len(labels) >= config.torch_from
    classifier = TorchLogisticRegression(c, config.max_iter, device) if large else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted instead
        fitted = probe(c, config.max_iter, classifier).fit(features, labels)
    return fitted, converged(fitted)


def converged(fitted: Pipeline) -> bool:
    """Whether a fitted probe's solver ended by itself."""
    classifier = fitted[-1]
    return bool(np.max(classifier.n_iter_) < classifier.max_iter)


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
            max_eval=int(self.max_iter * EVALUATIONS),
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
        spent = solver.state[self.weight_]
        gave_up = spent["func_evals"] >= int(self.max_iter * EVALUATIONS)
        self.n_iter_ = self.max_iter if gave_up else int(spent["n_iter"])
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the most probable class of each image, (n,)."""
        chosen: np.ndarray = self.classes_[self.predict_proba(features).argmax(1)]
        return chosen

    @torch.no_grad()
    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Return the probability of each class, (n, K)."""
        x = torch.as_tensor(features, dtype=torch.float32, device=self.device)
        probability: np.ndarray = (x @ self.weight_.T + self.bias_).softmax(1).cpu().numpy()
        return probability

    def score(self, features: np.ndarray, labels: np.ndarray) -> float:
        """Return the fraction of images classified rightly."""
        return float((self.predict(features) == labels).mean())
