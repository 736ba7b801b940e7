"""A plan on paper: every cell with its state, steps, images, compute and its estimated cost."""

from collections.abc import Collection
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cskd_bench.bank.store import Bank
from cskd_bench.bench.banks import assign_banks
from cskd_bench.bench.costs import Costs, Expected
from cskd_bench.bench.plan import Cells, PretrainCell
from cskd_bench.bench.queue import Queue
from cskd_bench.bench.resources import Resources
from cskd_bench.bench.state import Found
from cskd_bench.bench.work import Places
from cskd_bench.errors import UserError
from cskd_bench.record import Record

NOT_MEASURED = "not measured"


def show_plan(
    cells: Cells, places: Places, console: Console, banks: Path | None = None, only: Collection[str] | None = None
) -> None:
    """Print one row for each cell of a plan, or of what is asked for of it, and the cost of what is to do.

    With a folder of banks, their labelling has rows too, and cells are estimated from records made from a bank.
    """
    found = Found(places)
    uses = assign_banks(cells.pretrain, banks) if banks else {}
    queue = Queue(cells, found, only)
    costs = Costs(cells, found, queue.done, places, uses)
    table = Table("cell", "state", "steps", "images", "PFLOP", "estimated cost", box=None)
    total = Expected(0.0)
    for cell in queue.wanted:
        size, step, expected = costs.size(cell), found.step(cell), costs.expect(cell)
        finished = cell.name in queue.done
        state = "finished" if finished else f"resumes from step {step}" if step else "to do"
        if not finished:
            total = _add(total, expected, costs.left(cell))
        steps, images = (f"{size[0]:,}" if size[0] else "-", f"{size[1]:,}") if size else ("data not here",) * 2
        named = cell.name + (_say_resources(cells.teacher_takes) if cell is cells.teacher else "")
        table.add_row(Text(named), state, steps, images, _peta(costs.flops(cell)), _say_cost(expected))
    users = [cell for cell in queue.wanted if isinstance(cell, PretrainCell) and cell.name in uses]
    for folder in dict.fromkeys(uses[cell.name].folder for cell in users):
        own = [cell for cell in users if uses[cell.name].folder == folder]
        state, expected, left = _bank(folder, own, queue, costs)
        total = _add(total, expected, left) if left else total
        table.add_row(Text(f"bank {folder.name}"), state, "-", "-", "-", _say_cost(expected))
    wide = Console(width=200, file=console.file) if not console.is_terminal else console
    wide.print(table)
    wide.print(
        f"{len(queue.wanted)} cells, {len(queue.finished)} finished; what is left: {_say_cost(total)}, "
        "one cell at a time",
        highlight=False,
    )


def _add(total: Expected, one: Expected, share: float) -> Expected:
    """Add a share of a cost to a sum, which is not known where one of its parts is not."""
    if total.seconds is None or one.seconds is None:
        return Expected()
    return Expected(total.seconds + share * one.seconds, total.about or one.about)


def _bank(folder: Path, users: list[PretrainCell], queue: Queue, costs: Costs) -> tuple[str, Expected, float]:
    """Return a bank's state, what its labelling takes as a whole, and the share of it that is to do."""
    epochs = max(cell.config.recipe.epochs for cell in users)
    state, left = _labels(folder, epochs)
    if all(cell.name in queue.done for cell in users):
        state, left = "not needed", 0.0
    taken = [
        record.cost.labelling_seconds * epochs / own
        for cell in users
        for record in costs.alike(cell)
        if (own := _recorded_epochs(record))
    ]
    return state, Expected(mean(taken) if taken else None), left


def _say_resources(takes: Resources) -> str:
    """Say what a plan's teacher takes, where the plan names it."""
    named = [f"{takes.gpus:g} GPUs"] * bool(takes.gpus) + [f"{takes.threads} threads"] * bool(takes.threads)
    return f" (teacher, {', '.join(named)})" if named else " (teacher)"


def _recorded_epochs(record: Record) -> int:
    """Return the epochs of a record's recipe; 0 where it does not say them."""
    recipe = record.config.get("recipe")
    epochs = recipe.get("epochs") if isinstance(recipe, dict) else None
    return epochs if isinstance(epochs, int) else 0


def _labels(folder: Path, epochs: int) -> tuple[str, float]:
    """Return a bank's state, and the share of its shards that are not there yet."""
    try:
        bank = Bank(folder)
    except UserError:
        return "to do", 1.0
    left = len(bank.missing(range(epochs))) / (epochs * bank.manifest.parts())
    return f"{1 - left:.0%} labelled" if left else "finished", left


def _say_cost(cost: Expected) -> str:
    if cost.seconds is None:
        return NOT_MEASURED
    hours = f"{cost.seconds / 3600:.2f} h" if cost.seconds >= 360 else f"{cost.seconds:.0f} s"
    return f"about {hours}" if cost.about else hours


def _peta(flops: int | None) -> str:
    """Write FLOPs in units of 10^15, with three digits that say something."""
    if flops is None:
        return "-"
    peta = flops / 1e15
    return f"{peta:,.0f}" if peta >= 1000 else f"{peta:.3g}"
