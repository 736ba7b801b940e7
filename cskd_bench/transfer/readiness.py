"""Several cells, of which some have no data yet: those run that can."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cskd_bench.data.open import open_split
from cskd_bench.device import default_device
from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import AgreedError, UserError
from cskd_bench.task import TaskSpec
from cskd_bench.transfer.checks import check_batch
from cskd_bench.transfer.placing import Placed
from cskd_bench.transfer.protocols import procedure
from cskd_bench.transfer.run import expand, look_at_data
from cskd_bench.transfer.teaching import fine_tunes, state_teacher, tuning_targets

AskedCell: TypeAlias = tuple[TaskSpec, str, int]  # task, protocol, seed


@dataclass(frozen=True)
class AskedCells:
    """Cells in their order; `unready` says of some, by their position, why their data or teacher cannot be used."""

    cells: list[AskedCell]
    unready: dict[int, str]


def look_ahead(placed: Sequence[Placed], protocols: Sequence[str], seeds: Sequence[int]) -> AskedCells:
    """Open images and teacher of every cell before the first is computed; of a single cell that is left to the cell."""
    cells, unready = list[AskedCell](), dict[int, str]()
    asked = [expand([one.spec], protocols, seeds) for one in placed]
    alone = sum(map(len, asked)) == 1
    for one, its_cells in zip(placed, asked, strict=True):
        seen: dict[tuple[type, bool, str], str] = {}
        for cell in its_cells:
            own = cell[1] if cell[1] in ("kshot", "finetune") else ""  # they ask more of the images than others do
            kind = procedure(one.spec, cell[1]).cell, fine_tunes(one.spec, cell[1]), own
            if kind not in seen:
                seen[kind] = one.problem or ("" if alone else why_unready(one.spec, cell[1]))
            if seen[kind]:
                unready[len(cells)] = seen[kind]
            cells.append(cell)
    return AskedCells(cells, unready)


def run_ready(asked: AskedCells, run: Callable[[AskedCell], None], ranks: Ranks) -> dict[int, str]:
    """Run all cells, those without data last: of them only finished ones come to a record.

    Return why the others could not run, by their position. UserError where that is so of every cell, for one reason.
    """
    failed: dict[int, str] = {}
    for position in sorted(range(len(asked.cells)), key=lambda position: position in asked.unready):
        try:
            run(asked.cells[position])
        except UserError as error:
            if position not in asked.unready or (ranks.world > 1 and not isinstance(error, AgreedError)):
                raise
            failed[position] = asked.unready[position]
            if len(failed) == len(asked.cells) and len(set(failed.values())) == 1:
                raise UserError(failed[position]) from error
    return failed


def why_unready(spec: TaskSpec, protocol: str) -> str:
    """Return the sentence of what is wrong with the images that a protocol reads, or its teacher; empty if nothing."""
    try:
        look_at_data(spec.model_copy(update={"protocols": (protocol,)}))
        check_batch(spec, protocol)
        look_at_teacher(spec, protocol)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or spec.data.root}: {error.strerror or error}"
    return ""


def look_at_teacher(spec: TaskSpec, protocol: str) -> str:
    """Build the teacher of a fine-tuning, and name it; empty without one, UserError for one that does not fit."""
    if spec.finetune.teacher is None or not fine_tunes(spec, protocol):
        return ""
    classes = open_split(spec.data, spec.data.train).classes
    return tuning_targets(state_teacher(spec, protocol), protocol, classes, default_device()).teacher
