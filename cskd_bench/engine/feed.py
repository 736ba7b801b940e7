"""The feed of a training run: its loader, the batches of each step, and how long the step waited for them."""

import os
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cskd_bench.data.engines import worker_views
from cskd_bench.data.kept_images import keep_images
from cskd_bench.data.loader import next_item, start_loader, train_loader
from cskd_bench.data.prefetch import batch_bytes, batches_ahead, free_shared_memory
from cskd_bench.data.train_views import Batch, TrainViews
from cskd_bench.data.view_plan import ViewPlan
from cskd_bench.device import pins
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.job import Job
from cskd_bench.engine.logs import Bar
from cskd_bench.engine.state import Progress, check_skipped
from cskd_bench.errors import UserError
from cskd_bench.launcher import ranks_on_this_machine
from cskd_bench.outputs import Targets
from cskd_bench.stopping import Stop


def plan_views(job: Job, ranks: Ranks) -> ViewPlan:
    """Make the plan of a job's views; UserError where its batches do not split among ranks and micro-batches."""
    recipe, accumulate = job.recipe, job.run.accumulate
    group = recipe.augment.mix_group if recipe.augment.mixes else 1
    if recipe.batch_size % (ranks.world * accumulate * group):
        raise UserError(
            f"batch_size {recipe.batch_size} does not split into {ranks.world} ranks x {accumulate} "
            f"micro-batches of whole mixing groups of {group}; change run.accumulate, the ranks or augment.mix_group"
        )
    return ViewPlan.of(recipe, len(job.train), job.seed)


class Feed:
    """Gives a step its micro-batches.

    `waited` is how many seconds the main process waited for them so far, `note` what there is to say at the start.
    """

    def __init__(self, job: Job, ranks: Ranks, plan: ViewPlan, progress: Progress, stop: Stop) -> None:
        self._job, self._rank, self._progress, self._stop = job, ranks.rank, progress, stop
        self.waited, self.note = 0.0, ""
        views = worker_views(job.train, job.recipe.augment, job.view_size, job.seed, job.data)
        if job.run.cache == "memory" and progress.step < plan.steps:
            here = ranks_on_this_machine(ranks.world)
            threads = max(1, (os.cpu_count() or 1) // here)
            self.note = keep_images(views, here, threads, lambda: stop.requested)
        self._batches = _start(views, job, ranks, plan, progress.step)

    def fetch(self, bar: Bar, ratio: float) -> list[tuple[Batch, Targets]]:
        """Return the step's micro-batches with what is known of their targets; UserError for what this rank cannot."""
        fetched = []
        for _ in range(self._job.run.accumulate):
            began = time.perf_counter()
            batch = self._next()
            self.waited += time.perf_counter() - began
            self._account_for_skipped(batch, bar)
            fetched.append((batch, self._job.targets.look_up(batch.keys, ratio)))
        return fetched

    def _next(self) -> Batch:
        try:
            batch = next_item(self._batches, self._job.run.workers, lambda: self._stop.requested)
        except UserError as error:
            if error.__cause__ is None:  # a sentence of our own: an image that cannot be read
                raise
            path = self._job.folder / f"worker_error_rank{self._rank}.txt"
            _write_trace(path, error)
            raise UserError(f"{error} (all of it: {path})") from error
        assert batch is not None
        return batch

    def _account_for_skipped(self, batch: Batch, bar: Bar) -> None:
        progress = self._progress
        for sentence in dict.fromkeys(batch.skipped):
            if sentence not in progress.skipped:  # an image counts once, however often its turn comes
                bar.say(f"skipped: {sentence}")
                progress.skipped.append(sentence)
        check_skipped(progress, self._job.data.max_skipped)


def _start(views: TrainViews, job: Job, ranks: Ranks, plan: ViewPlan, first_step: int) -> Iterator[Batch]:
    loader = train_loader(
        views,
        plan,
        first_step=first_step,
        rank=ranks.rank,
        world=ranks.world,
        accumulate=job.run.accumulate,
        workers=job.run.workers,
        ahead=views_ahead(job, ranks.world),
        pinned=pins(ranks.device),
    )
    return start_loader(loader)


def views_ahead(job: Job, world: int) -> int:
    """Return how many batches each worker holds ready, in the memory that the run allows and the system has."""
    views = job.recipe.batch_size // (world * job.run.accumulate)
    free = free_shared_memory()
    memory = (
        job.run.prefetch_memory if free is None else min(job.run.prefetch_memory, free // ranks_on_this_machine(world))
    )
    return batches_ahead(memory, job.run.workers, batch_bytes(views, job.view_size))


def _write_trace(path: Path, error: Exception) -> None:
    with suppress(OSError):  # the fault itself matters more
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8", errors="backslashreplace")
