"""Ranks: one process or many under torchrun, with the same results, that go on and end together."""

import gc
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, distributed, nn

from cskd_bench.device import default_device
from cskd_bench.engine.peers import Peers, first_line, linger, lost_peer, sentence_of
from cskd_bench.engine.provenance import difference
from cskd_bench.errors import AgreedError, Interrupted, UserError
from cskd_bench.launcher import place_of_process

Result = TypeVar("Result")

PATIENCE: Final = timedelta(days=7)  # a dead rank is noticed by its closed connection, a slow one is waited for


class Status(IntEnum):
    """What a rank tells the others, on the host, before it goes on; the highest of all counts."""

    FINE = 0
    STOP = 1  # asked to stop
    FAULT = 2  # an error here


@dataclass(frozen=True)
class Ranks:
    """This process among all of them, and its device.

    `host` is a gloo group: what it carries never waits for a GPU.
    """

    rank: int
    world: int
    device: torch.device
    host: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the terminal."""
        return self.rank == 0

    def settle(self, error: Exception | None = None, *, stop: bool = False) -> bool:
        """Agree with all ranks before going on; return whether any was asked to stop.

        Where a rank comes with an error, all leave with that rank's sentence: UserError, or Interrupted where some are
        stopped and none has a fault.
        """
        if self.world == 1:
            if error is not None:
                raise error
            return stop
        status = Status.FAULT if error is not None else Status.STOP if stop else Status.FINE
        highest = torch.tensor(int(status))
        distributed.all_reduce(highest, op=distributed.ReduceOp.MAX, group=self.host)
        if highest.item() < Status.FAULT:
            return bool(highest.item() == Status.STOP)
        is_cause = not getattr(error, "consequence", False)  # rather than another rank's fault, seen from here
        is_fault = not isinstance(error, Interrupted)
        found = self._gather(None if error is None else (is_fault, is_cause, sentence_of(error)))
        *kind, rank, sentence = max((*fault[:2], -rank, fault[2]) for rank, fault in enumerate(found) if fault)
        if not kind[0]:
            raise Interrupted(sentence) from error
        if error is not None and not isinstance(error, UserError | OSError | Interrupted):
            error.own = True  # type: ignore[attr-defined]  # and not the end of a peer
            raise error  # a fault of ours: its traceback is wanted
        raise AgreedError(f"rank {-rank}: {sentence}") from error

    def together(self, work: Callable[[], Result], *, stop: bool = False) -> Result:
        """Do each rank's own work; where it fails or is stopped on one, all leave with that rank's sentence.

        Interrupted where a rank was asked to stop. The work itself must not wait for other ranks.
        """
        result: Any = None
        failed: Exception | None = None
        try:
            result = work()
        except Exception as error:
            if self.world == 1:
                raise
            failed = error
        if self.settle(failed, stop=stop):
            raise Interrupted("stopped")
        return result  # type: ignore[no-any-return]

    def on_main(self, work: Callable[[], Result]) -> Result:
        """Do work on the main rank alone, and give every rank its result or its error."""
        if self.world == 1:
            return work()
        result = self.together(lambda: work() if self.is_main else None)
        shared: Result = self.share(result)
        return shared

    def share(self, value: Any) -> Any:
        """Return the main rank's value on every rank."""
        if self.world == 1:
            return value
        shared = [value]
        distributed.broadcast_object_list(shared, 0, group=self.host)
        return shared[0]

    def same(self, what: str, ours: dict[str, Any]) -> None:
        """UserError, on every rank, that says where a rank's settings are not the main rank's."""
        for rank, theirs in enumerate(everyone := self.gather(ours)):
            if changes := difference(everyone[0], theirs):
                raise AgreedError(f"rank {rank} has another {what} than rank 0: {changes}")

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over ranks of a tensor that each rank holds."""
        if self.world > 1:
            distributed.all_reduce(values)
            values /= self.world
        return values

    def any(self, flag: bool) -> bool:
        """Return whether the flag is raised on any rank."""
        return any(self.gather(flag))

    def share_buffers(self, *modules: nn.Module | None) -> None:
        """Give every rank the main rank's buffers: batch norms' running statistics come from each rank's own images."""
        if self.world > 1:
            for module in filter(None, modules):
                for buffer in module.buffers():
                    distributed.broadcast(buffer, 0)

    def gather(self, value: Any) -> list[Any]:
        """Return what every rank holds, in rank order."""
        return [value] if self.world == 1 else self._gather(value)

    def _gather(self, value: Any) -> list[Any]:
        gathered: list[Any] = [None] * self.world
        distributed.all_gather_object(gathered, value, group=self.host)
        return gathered


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the process group that torchrun's environment describes; a single process without all of it.

    Whatever ends one rank ends all within seconds, with that rank's sentence; see peers.py.
    """
    device = default_device()
    _, world, said = place_of_process()
    if said:
        print(f"cskd-bench: {said}", file=sys.stderr)
    if world == 1:
        yield Ranks(0, 1, device)
        return
    try:
        store = _join("nccl" if device.type == "cuda" else "gloo")
        ranks = Ranks(distributed.get_rank(), world, device, distributed.new_group(backend="gloo", timeout=PATIENCE))
        peers = Peers(store, ranks.rank, ranks.share(os.urandom(8).hex()))
    except (RuntimeError, ValueError, OSError) as error:
        told = first_line(error)
        raise UserError(
            f"the {world} ranks do not meet ({told}); look at MASTER_ADDR, MASTER_PORT, WORLD_SIZE and RANK"
        ) from error
    try:
        yield ranks
        ranks.settle()  # rank 0 leaves last: without torchrun the store goes with it
    except Interrupted:
        raise
    except AgreedError:
        linger()
        raise
    except KeyboardInterrupt:
        peers.tell("interrupted", linger=False)
        raise
    except Exception as error:
        linger()
        ended = peers.told(error) if lost_peer(error) else None
        if ended is not None:
            raise UserError(ended) from error
        peers.tell(sentence_of(error))
        raise
    finally:
        with peers.leaving():
            _free_modules(sys.exception())
            distributed.destroy_process_group()


def _free_modules(error: BaseException | None) -> None:
    """Free every DDP module before its group goes; an error's frames may hold one, and so may a reference cycle.

    Freed after the group, DDP would be the last to hold it, and let it go under the interpreter's lock while gloo's
    thread waits for that lock: a deadlock (github.com/pytorch/pytorch/issues/56297).
    """
    errors = {error}
    while errors:
        if (one := errors.pop()) is not None:
            traceback.clear_frames(one.__traceback__)
            errors |= {one.__cause__, one.__context__}
    gc.collect()


def _join(backend: str) -> Any:
    """Join the group through torchrun's store, under names that belong to this attempt alone, and return the store.

    After a restart on one node the store still holds the addresses of the attempt before; a rank that was
    quicker than its peers would call those. With several nodes the counts of restarts need not agree, and
    torch's own names are kept.
    """
    store, rank, world = next(distributed.rendezvous("env://"))  # type: ignore[attr-defined]
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = distributed.PrefixStore(f"attempt-{attempt}", store)  # type: ignore[attr-defined]
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world)
    return store
