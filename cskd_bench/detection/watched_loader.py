"""MMEngine's loaders, waited for as all loaders are: with a look at their workers, and at requests to stop."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

from cskd_bench.data.loader import LOOK, leave_signals_to_the_main_process, next_item, start_loader


class WatchedLoader:
    """A loader whose batches are asked for every few seconds, so that one which hangs can be stopped.

    Iterating raises Interrupted where a stop is asked for and no batch comes, and UserError for a worker that is gone.
    """

    def __init__(self, loader: DataLoader[Any], asked_to_stop: Callable[[], bool]) -> None:
        self._loader, self._asked_to_stop = loader, asked_to_stop
        if loader.num_workers:
            loader.timeout = LOOK
            loader.worker_init_fn = partial(_begin, loader.worker_init_fn)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        batches = start_loader(self._loader)
        while (batch := next_item(batches, self._loader.num_workers, self._asked_to_stop)) is not None:
            yield batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def _begin(own: Callable[[int], None] | None, worker: int) -> None:
    """Begin a worker as all loaders' do, and then as MMEngine's."""
    leave_signals_to_the_main_process(worker)
    if own is not None:
        own(worker)
