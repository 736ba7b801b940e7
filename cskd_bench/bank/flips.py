"""How many hard labels a precision of the teacher flips, against the same teacher in fp32."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from cskd_bench.bank.match import bank_plan
from cskd_bench.config import Precision, PretrainConfig
from cskd_bench.data.engines import finish_batch, worker_views
from cskd_bench.data.sources import Source
from cskd_bench.methods.parts import fuse
from cskd_bench.models.teachers import Teacher

RATIO: Final = 0.5  # between the local and the global response


@dataclass(frozen=True, slots=True)
class Flips:
    """Shares of labels that are not fp32's: fused ones over all positions, global ones over all views."""

    views: int
    fused: float
    global_: float

    def __str__(self) -> str:
        return f"{self.fused:.2%} of fused labels (r = {RATIO}) and {self.global_:.2%} of global labels"


def label_flips(
    teacher: Teacher, batches: Iterable[Tensor], ratio: float = RATIO, precision: Precision | None = None
) -> Flips:
    """Compare a teacher's labels in a precision (its own where none is named) with those in fp32, on some views."""
    precision = teacher.precision if precision is None else precision
    views, fused, global_, positions = 0, 0, 0, 0
    for batch in batches:
        with _in(teacher, "fp32"):
            expected = _labels(teacher, batch, ratio)
        with _in(teacher, precision):
            found = _labels(teacher, batch, ratio)
        fused += int((found[0] != expected[0]).sum())
        global_ += int((found[1] != expected[1]).sum())
        views, positions = views + len(batch), positions + expected[0].numel()
    return Flips(views, fused / positions, global_ / views)


def first_views(config: PretrainConfig, source: Source, count: int, device: torch.device) -> Iterator[Tensor]:
    """Make the first `count` views of a run, as its teacher sees them, in the run's batches."""
    augment, classes = config.recipe.augment, config.data.num_classes
    dataset = worker_views(source, augment, config.view_size, config.seed, config.data)
    plan = bank_plan(config, len(source))
    groups = min(-(-count // plan.batch_size), plan.steps)  # views are mixed within whole groups
    keys = [key for step in range(groups) for key in plan.keys(step)]
    for start in range(0, len(keys), config.recipe.batch_size):
        batch = dataset.__getitems__(keys[start : start + config.recipe.batch_size])
        views, _ = finish_batch(batch, augment, classes, device)
        yield views[: count - start]


@contextmanager
def _in(teacher: Teacher, precision: Precision) -> Iterator[None]:
    before = teacher.precision
    teacher.precision = precision
    try:
        yield
    finally:
        teacher.precision = before


def _labels(teacher: Teacher, views: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Return the hard fused labels (B, h, w) and global labels (B,), as the losses harden them."""
    output = teacher(views)
    return fuse(output.dense, output.global_logits, ratio).argmax(1), output.global_logits.argmax(1)
