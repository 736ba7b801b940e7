"""Loaders: a plan says which views make up each step; workers only carry it out."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cskd_bench.config import AugmentConfig, DataConfig, Recipe
from cskd_bench.data.delivery import deliver, usable_workers
from cskd_bench.data.mixing import ViewKey
from cskd_bench.data.randomness import permutation
from cskd_bench.data.sources import Source
from cskd_bench.data.tensor.parameters import Operations
from cskd_bench.data.views import TrainView
from cskd_bench.errors import Interrupted, UserError

Item = TypeVar("Item")
PREFETCH: Final = 4  # batches that each worker holds ready, in shared memory
LOOK: Final = 5  # seconds between two looks at workers that are waited for
STOPPING: Final = 30.0  # seconds that a batch may still take once a stop was asked for
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@dataclass(frozen=True)
class ViewPlan:
    """Which views make up which step: a pure function of the recipe, whatever the workers and ranks."""

    images: int
    batch_size: int
    repeats: int
    epochs: int
    seed: int

    @classmethod
    def of(cls, recipe: Recipe, images: int, seed: int) -> "ViewPlan":
        """Make the plan of a recipe; UserError if one batch is more than an epoch."""
        if images < recipe.batch_size:
            raise UserError(f"batch_size {recipe.batch_size} is larger than the {images} training images")
        return cls(images, recipe.batch_size, recipe.augment.repeats, recipe.epochs, seed)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches per epoch; the rest of the epoch's order is dropped, as timm does."""
        return self.images // self.batch_size

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.epochs

    def images_at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Return the indices of the images at some positions of an epoch's order."""
        images: np.ndarray = _order(self.seed, epoch, self.images)[positions // self.repeats]
        return images

    def keys(self, step: int) -> list[ViewKey]:
        """Return the global batch of a step: with repeats, each image's copies stand side by side."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order = _order(self.seed, epoch, self.images)
        first = within * self.batch_size
        return [
            ViewKey(epoch, position, int(order[position // self.repeats]), position % self.repeats)
            for position in range(first, first + self.batch_size)
        ]

    def share(self, step: int, rank: int, world: int) -> list[ViewKey]:
        """Return one rank's contiguous share of a step's batch."""
        size = self.batch_size // world
        return self.keys(step)[rank * size : (rank + 1) * size]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, images: int) -> np.ndarray:
    return permutation(seed, epoch, images)


@dataclass
class Batch:
    """Views as the loader delivers them: uint8 pixels (B, 3, S, S), labels (B,), their keys.

    `operations` are still to be done on the device, where the tensor engine made the pixels.
    """

    pixels: Tensor
    labels: Tensor
    keys: list[ViewKey]
    skipped: list[str] = field(default_factory=list)
    operations: Operations | None = None

    def pin_memory(self) -> "Batch":
        """Pin for asynchronous copies; DataLoader calls this."""
        return replace(self, pixels=self.pixels.pin_memory(), labels=self.labels.pin_memory())


class TrainViews(Dataset[Batch]):
    """Makes the views of a list of keys; copies of one image are decoded once."""

    def __init__(self, source: Source, augment: AugmentConfig, image_size: int, seed: int, data: DataConfig) -> None:
        self._source = source
        self._view = TrainView(augment, image_size, seed)
        self._skip = data.on_corrupt == "skip"

    def __getitems__(self, keys: Sequence[ViewKey]) -> Batch:
        skipped: list[str] = []
        views, labels = [], []
        decoded, image, label = -1, None, -1
        for key in keys:
            if key.index != decoded:
                image, label = self._load(key.index, skipped)
                decoded = key.index
            assert image is not None
            views.append(self._view(image, key.epoch, key.index, key.repeat))
            labels.append(label)
        return Batch(torch.stack(views), torch.tensor(labels), list(keys), skipped)

    def _load(self, index: int, skipped: list[str]) -> tuple[Image.Image, int]:
        """Load an image; under `skip`, a corrupt one is replaced by its next readable neighbour."""
        for offset in range(len(self._source)):
            neighbour = (index + offset) % len(self._source)
            try:
                return self._source.load(neighbour), int(self._source.labels[neighbour])
            except UserError as error:
                if not self._skip:
                    raise
                skipped.append(str(error))
        raise UserError("no image of the data set can be decoded")


class _Steps:
    """The batch sampler: one list of keys per step and rank, across epochs."""

    def __init__(self, plan: ViewPlan, first_step: int, rank: int, world: int, parts: int) -> None:
        self._arguments = (plan, first_step, rank, world, parts)

    def __iter__(self) -> Iterator[list[ViewKey]]:
        plan, first_step, rank, world, parts = self._arguments
        for step in range(first_step, plan.steps):
            share = plan.share(step, rank, world)
            size = len(share) // parts
            for part in range(parts):
                yield share[part * size : (part + 1) * size]


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
    dataset: TrainViews,
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
    workers = usable_workers(workers)
    return DataLoader(
        dataset,
        batch_sampler=_Steps(plan, first_step, rank, world, accumulate),
        num_workers=workers,
        worker_init_fn=leave_signals_to_the_main_process,
        collate_fn=deliver,
        generator=torch.Generator(),  # the loader's own draw must not disturb the global one
        pin_memory=pinned,
        prefetch_factor=PREFETCH if workers else None,
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
