"""How a run is carried out on a machine: loader processes, memory, checkpoints, logs."""

from typing import Annotated, Final, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from cskd_bench.schema import StrictModel

ROOM: Final = 2_000_000_000  # bytes


class RunConfig(StrictModel):
    """How a run is carried out on this machine; none of it decides what is learnt from which views.

    `cache`: memory keeps the decoded training images, on each rank. `prefetch_memory`: bytes of views that each rank's
    workers hold ready. `compile`: auto is what compilation.resolve_compile makes of the device. `eval_memory`: of each
    rank's memory, for its share of `data.val` as uint8 views, decoded once a run where they fit; 0 decodes them at
    every evaluation. `patch_measures`: attention distance and patch accuracy at each of them. `keep_every`: epochs;
    the weights at the end of every such epoch stay for good. These five are left out of files at their defaults. Drop
    path draws once per micro-batch: with it, another `accumulate` is like another seed.
    """

    workers: NonNegativeInt = 8
    cache: Annotated[Literal["none", "memory"], Field(exclude_if=lambda cache: bool(cache == "none"))] = "none"
    prefetch_memory: Annotated[PositiveInt, Field(exclude_if=lambda most: bool(most == ROOM))] = ROOM
    accumulate: PositiveInt = 1
    compile: Literal["auto", "none", "teacher", "all"] = "auto"
    eval_batch_size: PositiveInt = 256
    eval_every: PositiveInt = 1
    eval_memory: Annotated[NonNegativeInt, Field(exclude_if=lambda most: bool(most == ROOM))] = ROOM
    patch_measures: Annotated[bool, Field(exclude_if=lambda asked: not asked)] = False
    save_every: PositiveInt | None = None  # steps; a checkpoint is written at each epoch's end anyway
    keep: PositiveInt = 2
    keep_every: Annotated[PositiveInt | None, Field(exclude_if=lambda epochs: epochs is None)] = None
    log_every: PositiveInt = 50
