"""A plan on paper: every cell with its state, steps, images and, from finished records of its kind, its cost."""

from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cskd_bench.bank.store import Bank
from cskd_bench.bench.banks import assign_banks
from cskd_bench.bench.plan import BenchCell, Cells, PretrainCell
from cskd_bench.bench.state import Found
from cskd_bench.bench.work import Places
from cskd_bench.data.view_plan import ViewPlan
from cskd_bench.engine.estimate import training_images
from cskd_bench.errors import UserError
from cskd_bench.record import Record
from cskd_bench.transfer.run import size_of_cell

NOT_MEASURED = "not measured"


def show_plan(cells: Cells, places: Places, console: Console, banks: Path | None = None) -> None:
    """Print one row for each cell of a plan, and the cost of what is to do where all of it is known.

    With a folder of banks, their labelling has rows too, and cells are estimated from records made from a bank.
    """
    found = Found(places)
    uses = assign_banks(cells.pretrain, banks) if banks else {}
    students = {cell.name: cell.config.model_name for cell in cells.pretrain}
    table = Table("cell", "state", "steps", "images", "estimated cost", box=None)
    sizes: dict[str, tuple[int, int] | None] = {}
    total: float | None = 0.0
    everything, done = cells.all(), found.find_finished(cells)
    for cell in everything:
        if cell.kind not in sizes or isinstance(cell, PretrainCell):
            sizes[cell.kind] = _size(cell, places.runs / "transfer")
        size, step = sizes[cell.kind], found.step(cell)
        model = cell.config.model_name if isinstance(cell, PretrainCell) else students[cell.run]
        finished = cell.name in done
        alike = found.alike(cell, model, from_bank=cell.name in uses)
        seconds = _seconds(size[1] if size and size[0] else 0, alike)
        state = "finished" if finished else f"resumes from step {step}" if step else "to do"
        if not finished:
            total = None if total is None or seconds is None else total + seconds
        steps, images = (f"{size[0]:,}" if size[0] else "-", f"{size[1]:,}") if size else ("data not here",) * 2
        table.add_row(cell.name, state, steps, images, NOT_MEASURED if seconds is None else _hours(seconds))
    for folder in dict.fromkeys(use.folder for use in uses.values()):
        users = [cell for cell in cells.pretrain if cell.name in uses and uses[cell.name].folder == folder]
        epochs = max(cell.config.recipe.epochs for cell in users)
        state, left = _labels(folder, epochs)
        if all(cell.name in done for cell in users):
            state, left = "not needed", 0.0
        taken = [
            record.cost.labelling_seconds * epochs / own
            for cell in users
            for record in found.alike(cell, students[cell.name], from_bank=True)
            if (own := _recorded_epochs(record))
        ]
        seconds = mean(taken) if taken else None
        if left:
            total = None if total is None or seconds is None else total + left * seconds
        cost = NOT_MEASURED if seconds is None else _hours(seconds)
        table.add_row(Text(f"bank {folder.name}"), state, "-", "-", cost)
    wide = Console(width=200, file=console.file) if not console.is_terminal else console
    wide.print(table)
    cost = NOT_MEASURED if total is None else _hours(total)
    wide.print(
        f"{len(everything)} cells, {len(done)} finished; what is left: {cost}, one cell at a time", highlight=False
    )


def _size(cell: BenchCell, work: Path) -> tuple[int, int] | None:
    """Return (steps, images) of a cell; 0 steps where nothing is trained by steps, None where the data is missing."""
    try:
        if isinstance(cell, PretrainCell):
            plan = ViewPlan.of(cell.config.recipe, training_images(cell.config)[0], cell.config.seed)
            return plan.steps, plan.steps * cell.config.recipe.batch_size
        return size_of_cell(cell.task, cell.protocol, cell.seed, work)
    except UserError:
        return None


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


def _seconds(images: int, records: list[Record]) -> float | None:
    """Estimate from images trained on per second in finished records, else from their seconds; None without any."""
    rates = [record.cost.images_per_second for record in records if record.cost.images_per_second]
    if images and rates:
        return images / mean(rates)
    return mean(record.cost.seconds for record in records) if records else None


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 360 else f"{seconds:.0f} s"
