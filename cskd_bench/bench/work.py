"""What a worker does, whatever started it: one cell, from its settings to its record or its error."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cskd_bench.bench.banks import BankUse
from cskd_bench.bench.plan import BenchCell, PretrainCell
from cskd_bench.config import PretrainConfig
from cskd_bench.errors import Interrupted, UserError

if TYPE_CHECKING:
    from cskd_bench.bank.targets import BankTargets

HANDED_ON = ("CSKD_BENCH_DATA", "CSKD_BENCH_DEVICE")  # environment variables that decide what a cell does


@dataclass(frozen=True)
class Places:
    """Where runs and results go."""

    runs: Path
    results: Path
    keep_weights: bool = False  # of fine-tuned students

    def log(self, cell: BenchCell) -> Path:
        """Return the file that a cell's messages go to."""
        return self.runs / "logs" / f"{cell.name.replace(' ', '-')}.log"


@dataclass(frozen=True)
class CellJob:
    """One cell and all that a worker on any machine with the same folders needs to run it."""

    cell: BenchCell
    places: Places
    threads: int  # 0: torch's own choice
    folder: str  # the bench's working folder, under which relative paths hold
    environment: dict[str, str]
    bank: BankUse | None = None

    @classmethod
    def of(cls, cell: BenchCell, places: Places, threads: int, bank: BankUse | None = None) -> "CellJob":
        """Describe a cell as it would run here."""
        handed_on = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
        return cls(cell, places, threads, str(Path.cwd()), handed_on, bank)


@dataclass(frozen=True)
class Ended:
    """How an attempt at a cell ended: with no error, with one, or asked to stop."""

    error: str = ""
    interrupted: bool = False


def work(job: CellJob) -> Ended:
    """Run one cell; everything that goes wrong comes back in words, and its messages are in its log."""
    os.chdir(job.folder)
    os.environ.update(job.environment)
    log = job.places.log(job.cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("a", encoding="utf-8", errors="backslashreplace") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        try:
            _run(job)
        except (KeyboardInterrupt, Interrupted):
            return Ended(interrupted=True)
        except Exception as error:
            import traceback

            traceback.print_exc()
            return Ended(f"{type(error).__name__}: {error}")
    return Ended()


def _run(job: CellJob) -> None:
    import torch

    from cskd_bench.cells.pretrain import pretrain
    from cskd_bench.device import default_device
    from cskd_bench.engine.distributed import Ranks
    from cskd_bench.transfer.run import transfer

    cell, places = job.cell, job.places
    if job.threads:
        torch.set_num_threads(job.threads)
    ranks = Ranks(0, 1, default_device())
    if isinstance(cell, PretrainCell):
        targets = _bank(job.bank, cell.config) if job.bank else None
        pretrain(cell.config, places.runs, places.results, ranks, targets, cell.command)
        return
    transfer(
        cell.task,
        cell.protocol,
        places.runs / cell.run,
        cell.seed,
        results=places.results,
        work=places.runs / "transfer",
        ranks=ranks,
        keep_weights=places.keep_weights,
        workers=0,
        command=cell.command,
    )


def _bank(use: BankUse, config: PretrainConfig) -> "BankTargets":
    """Open a cell's bank; cells that need it at the same time build it together.

    One that is whole and holds the labels is taken as it is, whatever configuration it was built from.
    """
    from cskd_bench.bank.build import build_bank
    from cskd_bench.bank.targets import bank_targets
    from cskd_bench.device import default_device

    with contextlib.suppress(UserError):
        return bank_targets(use.folder, config)
    build_bank(use.built_from, use.folder, range(config.recipe.epochs), device=default_device())
    return bank_targets(use.folder, config)
