"""What every executor does; the runner knows no more of where cells run."""

from typing import Final, Protocol

from cskd_bench.bench.plan import BenchCell
from cskd_bench.bench.resources import Resources
from cskd_bench.bench.work import CellJob, Ended

TICK: Final = 0.5  # seconds between two looks at what is finished
GRACE: Final = 60.0  # seconds that a stopped cell has for its checkpoint


class Executor(Protocol):
    """Starts cells and tells which have ended."""

    one_machine: bool  # whether cells share this machine, so that a plan's teacher may take all of it

    def adopt(self, jobs: list[CellJob]) -> list[BenchCell]:
        """Take over what an earlier bench started and is running still; return those cells."""

    def fits(self, resources: Resources) -> bool:
        """Whether a cell that needs this could begin at once, as far as can be told from here."""

    def start(self, job: CellJob) -> None:
        """Start a cell and return at once."""

    def collect_ended(self) -> list[tuple[BenchCell, Ended]]:
        """Return the cells that ended since the last call; waits a moment where there are none."""

    def stop(self) -> None:
        """Ask every running cell to write its checkpoint, and wait until all have ended."""

    def close(self) -> None:
        """Let go of the workers."""
