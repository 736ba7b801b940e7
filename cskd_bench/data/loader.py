"""Loaders: they hand out what workers make, and tell in a sentence what a worker died of."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from cskd_bench.data.delivery import deliver, usable_workers
from cskd_bench.data.train_views import Batch, PlannedViews, RankShare, TrainViews
from cskd_bench.data.view_plan import ViewPlan
from cskd_bench.errors import Interrupted, UserError

Item = TypeVar("Item")
LOOK: Final = 5  # seconds between two looks at workers that are waited for
STOPPING: Final = 30.0  # seconds that a batch may still take once a stop was asked for
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


def leave_signals_to_the_main_process(worker: int) -> None:
    """Let a worker outlive a signal to the whole group (Ctrl-C, Slurm, a closed terminal): the main process decides.

    A SIGTERM of the main process itself, as at its exit after an error, still ends the worker.
    """
    for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_the_main_process, daemon=True).start()


def _end_with_the_main_process() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def train_loader(
    views: TrainViews,
    plan: ViewPlan,
    *,
    first_step: int,
    rank: int,
    world: int,
    accumulate: int,
    workers: int,
    ahead: int = 2,
    pinned: bool = False,
) -> Iterable[Batch]:
    """Iterate over this rank's micro-batches from `first_step` on; each worker holds `ahead` ready."""
    share = RankShare(plan, rank, world, accumulate, first_step)
    return make_loader(PlannedViews(views, share), share, workers=workers, pinned=pinned, ahead=ahead)


def make_loader(
    dataset: Dataset[Any],
    sampler: Iterable[list[Any]],
    *,
    workers: int,
    pinned: bool,
    ahead: int = 2,
    persistent: bool = False,
) -> Iterable[Any]:
    """Iterate over what a data set's __getitems__ makes of each item of the sampler, in order, by worker processes.

    `ahead`: batches that each worker holds ready. `persistent`: any number of times, by the same workers, which wait in
    between. Fewer workers, or none, where there is no room for their locks.
    """
    workers = usable_workers(workers)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        worker_init_fn=leave_signals_to_the_main_process,
        collate_fn=deliver,
        generator=torch.Generator(),  # the loader's own draw must not disturb the global one
        pin_memory=pinned,
        prefetch_factor=ahead if workers else None,
        persistent_workers=persistent and workers > 0,
        timeout=LOOK if workers else 0,
    )


def start_loader(loader: Iterable[Item]) -> Iterator[Item]:
    """Start a loader; a worker that is killed is found when its batch is asked for.

    The loader's own way is an exception out of a signal handler, anywhere in the main thread: a rank would leave its
    peers in the middle of a collective.

    Signals wait meanwhile: a worker inherits that, until it has its own answer to them.
    """
    before = signal.getsignal(signal.SIGCHLD)
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        batches = iter(loader)
    except OSError as error:
        raise UserError(f"loader processes cannot be started ({error.strerror}); lower run.workers") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    return batches


def next_item(batches: Iterator[Item], workers: int, asked_to_stop: Callable[[], bool] = lambda: False) -> Item | None:
    """Return a loader's next batch, None at its end; UserError says in a sentence what a worker died of.

    Interrupted where a stop is asked for and no batch comes: a loader may wait for a disk that is gone.
    """
    try:
        return _wait(batches, asked_to_stop)
    except (UserError, Interrupted):
        raise
    except Exception as error:
        if not workers:
            raise
        told = str(error).strip().splitlines() or [type(error).__name__]
        ended = [worker.exitcode for worker in getattr(batches, "_workers", ()) if not worker.is_alive()]
        if -signal.SIGBUS in ended:
            raise UserError(
                f"a loader's worker ended ({told[0]}): shared memory was full (/dev/shm, or a file's own disk). "
                "Give a container more (docker run --shm-size), or set run.workers=0 (transfer: --workers 0)"
            ) from error
        if ended or isinstance(error, ConnectionError | EOFError):  # perhaps while it handed over what it had made
            raise UserError(
                f"a loader's worker ended ({told[0]}); was it killed for its memory? "
                "Lower run.workers, or give the job more memory"
            ) from error
        raise UserError(f"a loader's worker failed: {told[-1]}") from error


def _wait(batches: Iterator[Item], asked_to_stop: Callable[[], bool]) -> Item | None:
    """Wait for the next batch, with a look at the workers and at requests every few seconds."""
    asked_at = None
    while True:
        try:
            return next(batches, None)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader timed out"):
                raise
        if not asked_to_stop():
            continue
        asked_at = asked_at or time.monotonic()
        if time.monotonic() - asked_at > STOPPING:
            raise Interrupted("stopped while it waited for images; the same command continues from what is kept")
