"""How a run is carried out on a machine: loader processes, memory, checkpoints, logs."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from cskd_bench.schema import StrictModel


class RunConfig(StrictModel):
    """How a run is carried out on this machine; none of it decides what is learnt from which views.

    Drop path draws once per micro-batch: with it, another `accumulate` is like another seed.
    """

    workers: NonNegativeInt = 8
    prefetch_memory: PositiveInt = 2_000_000_000  # bytes of views that each rank's workers hold ready
    accumulate: PositiveInt = 1
    compile: Literal["none", "teacher", "all"] = "none"
    eval_batch_size: PositiveInt = 256
    eval_every: PositiveInt = 1
    save_every: PositiveInt | None = None  # steps; a checkpoint is written at each epoch's end anyway
    keep: PositiveInt = 2
    keep_every: PositiveInt | None = None  # epochs; the weights at the end of every such epoch stay for good
    log_every: PositiveInt = 50
    cache: Literal["none", "memory"] = "none"  # memory: decoded training images are kept, by each rank
