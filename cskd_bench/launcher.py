"""Which rank of how many this process is, as a launcher's environment variables say; leftovers of another job say none.

Notebooks, containers and allocations leave WORLD_SIZE and its like behind, also empty or without the others.
"""

import os
from collections.abc import Mapping
from typing import Final, NamedTuple

from cskd_bench.errors import UserError

MEETING: Final = ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")  # what ranks need to meet; torchrun sets each
COUNTING: Final = ("WORLD_SIZE", "RANK")  # what is enough for processes that never meet
_PORTS: Final = 65535


class Place(NamedTuple):
    """A process among all of its job; `said` is a sentence about variables that were left over, empty without any."""

    rank: int = 0
    world: int = 1
    said: str = ""


def place_of_process(needed: tuple[str, ...] = MEETING, environment: Mapping[str, str] | None = None) -> Place:
    """Return this process's place; one process alone where any of the needed variables is missing or empty.

    UserError where all are there and contradict each other, or are no numbers.
    """
    given = os.environ if environment is None else environment
    values = {name: given.get(name, "").strip() for name in needed}
    if missing := [name for name, value in values.items() if not value]:
        claimed = values["WORLD_SIZE"]
        if claimed in ("", "1"):
            return Place()
        return Place(said=f"WORLD_SIZE={claimed} without {', '.join(missing)}: left over; this runs as one process")
    world = _number("WORLD_SIZE", values["WORLD_SIZE"], 1, 2**31)
    rank = _number("RANK", values["RANK"], 0, world - 1)
    if "MASTER_PORT" in values:
        _number("MASTER_PORT", values["MASTER_PORT"], 0, _PORTS)
    if world > 1 and (local := given.get("LOCAL_RANK", "")):
        _number("LOCAL_RANK", local, 0, world - 1)
    return Place(rank, world)


def ranks_on_this_machine(world: int, environment: Mapping[str, str] | None = None) -> int:
    """Return how many of the job's processes share this machine's memory; all of them where the launcher is silent."""
    said = (os.environ if environment is None else environment).get("LOCAL_WORLD_SIZE", "")
    return min(int(said), world) if said.isascii() and said.isdecimal() and int(said or 0) > 0 else world


def _number(name: str, text: str, low: int, high: int) -> int:
    """Read a whole number in ASCII digits between two bounds."""
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and low <= int(text) <= high):
        raise UserError(
            f"{name}={text}: not a whole number from {low} to {high}, so these are no ranks; "
            f"start with torchrun, or unset {' '.join(MEETING)}"
        )
    return int(text)
