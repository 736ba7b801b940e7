"""Loaders: they hand out what workers make, and tell in a sentence what a worker died of."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cskd_bench.data.delivery import deliver, usable_workers
from cskd_bench.data.sources import Source
from cskd_bench.data.train_views import Batch, PlannedViews, RankShare, TrainViews
from cskd_bench.data.view_plan import ViewPlan
from cskd_bench.data.views import EvalView
from cskd_bench.errors import Interrupted, UserError

Item = TypeVar("Item")
PREFETCH: Final = 4  # batches that each worker holds ready, in shared memory
LOOK: Final = 5  # seconds between two looks at workers that are waited for
STOPPING: Final = 30.0  # seconds that a batch may still take once a stop was asked for
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def leave_signals_to_the_main_process(worker: int) -> None:
    """Let a worker outlive a Ctrl-C or a Slurm signal sent to the whole group: the main process decides when to end.

    A SIGTERM of the main process itself, as at its exit after an error, still ends the worker.
    """
    for number in (signal.SIGUSR1, signal.SIGINT):
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
    pinned: bool = False,
) -> Iterable[Batch]:
    """Iterate over this rank's micro-batches from `first_step` to the end of the run."""
    share = RankShare(plan, rank, world, accumulate, first_step)
    workers = usable_workers(workers)
    return DataLoader(
        PlannedViews(views, share),
        batch_sampler=share,
        num_workers=workers,
        worker_init_fn=leave_signals_to_the_main_process,
        collate_fn=deliver,
        generator=torch.Generator(),  # the loader's own draw must not disturb the global one
        pin_memory=pinned,
        prefetch_factor=PREFETCH if workers else None,
        timeout=LOOK if workers else 0,
    )


class EvalViews(Dataset[Tensor]):
    """Centre crops of the chosen indices: uint8 pixels (B, 3, S, S)."""

    def __init__(self, source: Source, view: EvalView) -> None:
        self._source = source
        self._view = view

    def __getitems__(self, indices: Sequence[int]) -> Tensor:
        return torch.stack([self._view(self._source.load(index)) for index in indices])


def eval_loader(
    source: Source, view: EvalView, indices: Sequence[int], *, batch_size: int, workers: int, pinned: bool = False
) -> Iterable[Tensor]:
    """Iterate once over the pixels (B, 3, S, S) of the given images, in order."""
    return batch_loader(EvalViews(source, view), cut_batches(indices, batch_size), workers=workers, pinned=pinned)


def cut_batches(indices: Sequence[int], batch_size: int) -> list[list[int]]:
    """Cut indices into batches, the last one smaller."""
    return [list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)]


def batch_loader(
    dataset: Dataset[Tensor], batches: Sequence[list[int]], *, workers: int, pinned: bool = False
) -> Iterable[Tensor]:
    """Iterate once over batches of a data set that gives a list of indices as one tensor, in order."""
    workers = usable_workers(workers if batches else 0)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=leave_signals_to_the_main_process,
        collate_fn=deliver,
        generator=torch.Generator(),  # the loader's own draw must not disturb the global one
        pin_memory=pinned,
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
                f"a loader's worker is gone ({told[0]}): shared memory was full (/dev/shm, or a file's own disk). "
                "Give a container more (docker run --shm-size), or set run.workers=0 (transfer: --workers 0)"
            ) from error
        if ended or isinstance(error, ConnectionError | EOFError):  # perhaps while it handed over what it had made
            raise UserError(
                f"a loader's worker is gone ({told[0]}); was it killed for its memory? "
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
            raise Interrupted("stopped while it waited for images; the same command goes on from what is kept")
