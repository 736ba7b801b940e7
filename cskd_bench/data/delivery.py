"""How a loader's worker hands over what it made: in shared memory, or through its pipe where that is too small.

A container's /dev/shm may hold less than one batch (docker gives 64 MB). torch moves tensors there in a thread whose
errors nobody sees, and the main process would wait for ever.
"""

import multiprocessing
import pickle
from collections.abc import Iterator
from typing import Any, Final

from torch import Tensor
from torch.utils.data import get_worker_info

from cskd_bench.data.notes import say_once

_LOCKS: Final = 4  # that a queue to or from a worker needs at most
_PIPED: Final = (
    "cskd-bench: too little shared memory (/dev/shm; docker run --shm-size gives more): "
    "views come from the loaders through pipes, bit-identical but more slowly"
)


def deliver(batch: Any) -> Any:
    """Return a batch to be handed over; called in the process that made it, as a loader's collate function."""
    if get_worker_info() is None:
        return batch
    try:
        for tensor in _tensors(batch):
            tensor.share_memory_()  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError):  # no room, or no such folder
        return _Piped(batch)
    return batch


class Pickled:
    """A value that a worker hands over through its pipe alone, and that arrives as what it was."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (pickle.dumps(self._value),)


def usable_workers(asked: int) -> int:
    """Return how many loader processes can be had; none, and a sentence on stderr, where there is no room for locks."""
    try:
        _ = [multiprocessing.Lock() for _ in range(_LOCKS * (asked + 2) if asked else 0)]
    except OSError as error:
        say_once(
            f"cskd-bench: no loader processes ({error.strerror}): their locks lie in shared memory (/dev/shm), which "
            "is full or missing; this process loads the images itself"
        )
        return 0
    return asked


class _Piped:
    """A batch that travels as bytes, and arrives as what it was."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (pickle.dumps(self._batch),)


def _arrive(content: bytes) -> Any:
    """Return a batch that came through a pipe, and say so once."""
    say_once(_PIPED)
    return pickle.loads(content)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a batch, in its fields and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from _tensors(getattr(value, name))
