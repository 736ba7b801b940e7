"""Ranks: one process or many under torchrun, with the same results."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from cskd_bench.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """This process among all of them, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the terminal."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over ranks of a tensor that each rank holds."""
        if self.world > 1:
            distributed.all_reduce(values)
            values /= self.world
        return values

    def any(self, flag: bool) -> bool:
        """Return whether the flag is raised on any rank."""
        if self.world == 1:
            return flag
        raised = torch.tensor(float(flag), device=self.device)
        distributed.all_reduce(raised, op=distributed.ReduceOp.MAX)
        return bool(raised.item())

    def share_buffers(self, *modules: nn.Module | None) -> None:
        """Give every rank the main rank's buffers: batch norms' running statistics come from each rank's own images."""
        if self.world > 1:
            for module in filter(None, modules):
                for buffer in module.buffers():
                    distributed.broadcast(buffer, 0)

    def gather(self, value: Any) -> list[Any]:
        """Return what every rank holds, in rank order."""
        if self.world == 1:
            return [value]
        gathered: list[Any] = [None] * self.world
        distributed.all_gather_object(gathered, value)
        return gathered

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.world > 1:
            distributed.barrier()


def default_device() -> torch.device:
    """Return this process's CUDA device, else the CPU; CSKD_BENCH_DEVICE (cpu, cuda:1) insists.

    UserError for a device that is not there.
    """
    asked = os.environ.get("CSKD_BENCH_DEVICE", "cuda")
    if asked == "cpu" or (asked == "cuda" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if asked == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    number = asked.removeprefix("cuda:")
    if not (asked.startswith("cuda:") and number.isdecimal() and int(number) < torch.cuda.device_count()):
        raise UserError(f"CSKD_BENCH_DEVICE={asked}: use cpu, cuda, or cuda:N of {torch.cuda.device_count()} GPUs here")
    return torch.device("cuda", int(number))


def _join(backend: str) -> None:
    """Join the group through torchrun's store, under names that belong to this attempt alone.

    After a restart on one node the store still holds the addresses of the attempt before; a rank that was
    quicker than its peers would call those. With several nodes the counts of restarts need not agree, and
    torch's own names are kept.
    """
    if os.environ.get("GROUP_WORLD_SIZE") != "1":
        distributed.init_process_group(backend)
        return
    store, rank, world = next(distributed.rendezvous("env://"))  # type: ignore[attr-defined]
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = distributed.PrefixStore(f"attempt-{attempt}", store)  # type: ignore[attr-defined]
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world)


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the process group that torchrun's environment describes; a single process without it."""
    device = default_device()
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        yield Ranks(0, 1, device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _join("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(distributed.get_rank(), world, device)
    finally:
        distributed.destroy_process_group()
