"""Opening data sets on several ranks: one of them searches the folders, the others find its indexes."""

from collections.abc import Callable
from typing import TypeVar

from cskd_bench.data.index import homeless_indexes, take_indexes
from cskd_bench.engine.distributed import Ranks

Opened = TypeVar("Opened")


def main_first(ranks: Ranks, work: Callable[[], Opened]) -> Opened:
    """Do each rank's own work, which opens data sets: the main rank's first, then that of the others.

    What the main rank has searched has an index then; where no folder takes one, the others are sent it. Where it fails
    on one rank, all leave with that rank's sentence.
    """
    first = ranks.together(lambda: work() if ranks.is_main else None)
    if ranks.world > 1:
        take_indexes(ranks.share(homeless_indexes()))
    return ranks.together(lambda: work() if first is None else first)
