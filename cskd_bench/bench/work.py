"""What a worker does, whatever started it: one cell, from its settings to its record or its error."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cskd_bench.bench.banks import BankUse
from cskd_bench.bench.plan import BenchCell, PretrainCell
from cskd_bench.bench.resources import Resources
from cskd_bench.config import PretrainConfig
from cskd_bench.errors import Interrupted, UserError
from cskd_bench.stopping import Stop, stop_signals

if TYPE_CHECKING:
    from cskd_bench.bank.targets import BankTargets
    from cskd_bench.engine.distributed import Ranks

HANDED_ON: Final = ("CSKD_BENCH_DATA", "CSKD_BENCH_DEVICE")  # environment variables that decide what a cell does


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
    resources: Resources
    folder: str  # the bench's working folder, under which relative paths hold
    environment: dict[str, str]
    bank: BankUse | None = None

    @classmethod
    def of(cls, cell: BenchCell, places: Places, resources: Resources, bank: BankUse | None = None) -> "CellJob":
        """Describe a cell as it would run here."""
        handed_on = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
        return cls(cell, places, resources, str(Path.cwd()), handed_on, bank)


@dataclass(frozen=True)
class Ended:
    """How an attempt at a cell ended: with no error, with one, or asked to stop."""

    error: str = ""
    interrupted: bool = False


def work(job: CellJob, stop: Stop | None = None) -> Ended:
    """Run one cell; everything that goes wrong comes back in words, and its messages are in its log.

    `stop` may be requested from elsewhere; SIGTERM, SIGUSR1 and Ctrl-C request it from here on, before torch is loaded.
    """
    with stop_signals(stop) as asked:
        ended: list[Ended] = []
        unwritten = told_in_words(lambda: _log_and_run(job, asked, ended))
        return ended[0] if ended else unwritten


def _log_and_run(job: CellJob, stop: Stop, ended: list[Ended]) -> None:
    """Run a cell with its messages in its log, and note how it ended; OSError for a log that cannot be written."""
    os.chdir(job.folder)
    os.environ.update(job.environment)
    log = job.places.log(job.cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("a", encoding="utf-8", errors="backslashreplace") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        if job.resources.ranks > 1:
            from cskd_bench.bench.ranks import run_ranks

            ended.append(run_ranks(job, stop, file))
        else:
            ended.append(told_in_words(lambda: run_cell(job, None, stop)))


def told_in_words(run: Callable[[], None]) -> Ended:
    """Run something and return how it ended; the traceback of an error goes to standard error."""
    try:
        run()
    except (KeyboardInterrupt, Interrupted):
        return Ended(interrupted=True)
    except Exception as error:
        import traceback

        with contextlib.suppress(OSError):  # a full disk holds no log either
            traceback.print_exc()
        return Ended(f"{type(error).__name__}: {error}")
    return Ended()


def run_cell(job: CellJob, ranks: "Ranks | None", stop: Stop) -> None:
    """Run a cell on these ranks, or on this process alone; raises what pretraining and transfers raise."""
    import torch

    from cskd_bench.cells.pretrain import pretrain
    from cskd_bench.device import default_device
    from cskd_bench.engine.distributed import Ranks
    from cskd_bench.transfer.run import transfer

    cell, places = job.cell, job.places
    ranks = ranks or Ranks(0, 1, default_device())
    if job.resources.threads:
        torch.set_num_threads(max(1, job.resources.threads // ranks.world))
    if isinstance(cell, PretrainCell):
        targets = _bank(job.bank, cell.config, ranks, stop) if job.bank else None
        pretrain(cell.config, places.runs, places.results, ranks, targets, cell.command, stop)
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
        stop=stop,
    )


def _bank(use: BankUse, config: PretrainConfig, ranks: "Ranks", stop: Stop) -> "BankTargets":
    """Open a cell's bank; cells that need it at the same time build it together, and so do ranks.

    One that is whole and holds the labels is taken as it is, whatever configuration it was built from.
    """
    from cskd_bench.bank.build import build_bank
    from cskd_bench.bank.targets import bank_targets

    def opened() -> "BankTargets | None":
        with contextlib.suppress(UserError):
            return bank_targets(use.folder, config)
        return None

    targets = ranks.together(opened)
    if targets is None:
        epochs = range(config.recipe.epochs)
        ranks.together(lambda: build_bank(use.built_from, use.folder, epochs, device=ranks.device, stop=stop))
    return targets or ranks.together(lambda: bank_targets(use.folder, config))
