"""A quick look: a few images of each split, and a score that no record and no table ever holds."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import Interrupted, UserError
from cskd_bench.models.preprocessing import Preprocessing
from cskd_bench.models.weights import Weights
from cskd_bench.stopping import Stop
from cskd_bench.task import TaskSpec
from cskd_bench.transfer.cell import ImageCell
from cskd_bench.transfer.protocols import procedure
from cskd_bench.transfer.run import open_cell

QUICK: Final = ("linear", "knn", "kshot", "evaluate")  # protocols that score images one by one, and train no weights


def check_quick(cells: Sequence[tuple[TaskSpec, str, int]]) -> None:
    """UserError for a cell that a quick look is not for."""
    for spec, protocol, _ in cells:
        if protocol not in QUICK:
            raise UserError(
                f"--limit is for {', '.join(QUICK)}, not for protocol {protocol} of task {spec.name}; "
                "choose protocols with --protocol"
            )


def quick_look(
    spec: TaskSpec,
    protocol: str,
    checkpoint: Path,
    seed: int,
    limit: int,
    *,
    ranks: Ranks,
    model: str = "",
    weights: Weights = "raw",
    preprocessing: Preprocessing | None = None,
    workers: int = 4,
    stop: Stop | None = None,
) -> float:
    """Return a cell's score, a fraction, on `limit` images of each split; nothing is kept.

    The images are drawn alike for every checkpoint, protocol and seed: of train as many of each class as possible, of
    test by chance. Interrupted when asked to stop; UserError for data that the task cannot be scored on.
    """
    with tempfile.TemporaryDirectory(prefix="cskd-bench-") as work:

        def load() -> ImageCell:
            cell = open_cell(
                spec,
                protocol,
                checkpoint,
                seed,
                work=Path(work),
                ranks=ranks,
                model=model,
                weights=weights,
                preprocessing=preprocessing,
                workers=workers,
                stop=stop,
            )
            assert isinstance(cell, ImageCell)
            cell.check()  # of all images
            return replace(cell, limit=limit)

        cell = ranks.together(load)
        try:
            outcome = procedure(spec, protocol).run(cell)
        except Interrupted:
            raise Interrupted("stopped; a quick look keeps nothing", kept=False) from None
    predictions = outcome.predictions
    assert predictions is not None
    return (predictions.metrics() | outcome.metrics)[spec.metric]
