"""Banks of a bench: the methods of one seed ask one teacher about the same views, so one bank serves them all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cskd_bench.bank.match import why_no_bank
from cskd_bench.bank.store import SOFT_CLASSES, Bank
from cskd_bench.bench.plan import PretrainCell
from cskd_bench.config import PlainKD, PretrainConfig
from cskd_bench.errors import UserError
from cskd_bench.schema import fingerprint

_LONGEST: Final = 60  # times a run's epochs: how much longer a bank is looked for


@dataclass(frozen=True)
class BankUse:
    """A bank that a cell reads, and the configuration that it is built from where it is not there yet."""

    folder: Path
    built_from: PretrainConfig


def assign_banks(cells: Sequence[PretrainCell], banks: Path) -> dict[str, BankUse]:
    """Map the names of cells to their banks under `banks`; a cell that needs its teacher in the loop has none.

    Where `kd` is among the cells of a bank, the bank is built from its configuration: it then holds soft
    targets beside the hard labels, of up to SOFT_CLASSES classes exactly; of more at one temperature, and `kd` at
    another one has its teacher in the loop.
    Without `kd` such a bank is read where it is whole, else one of hard labels alone is built beside. A run
    reads the bank of a run with a multiple of its epochs where that one is there or in the same plan.
    """
    users = [cell for cell in cells if not why_no_bank(cell.config)]
    planned = {cell.config.recipe.epochs for cell in users}
    groups: dict[str, list[PretrainCell]] = {}
    for cell in users:
        groups.setdefault(_name(cell.config, _epochs(cell.config, planned, banks)), []).append(cell)
    assigned: dict[str, BankUse] = {}
    for name, group in groups.items():
        soft = [(one.config, one.config.method.soft_temperature) for one in group if one.config.method.labels == "soft"]
        built_from, temperature = soft[0] if soft else (group[0].config, None)
        recipe = built_from.recipe.model_copy(update={"epochs": _epochs(built_from, planned, banks)})
        built_from = built_from.model_copy(update={"recipe": recipe})
        if temperature not in (None, PlainKD().temperature):
            name = f"{name}-t{temperature:g}"
        elif not soft and not _is_whole(banks / name, max(cell.config.recipe.epochs for cell in group)):
            name = f"{name}-hard"
        for cell in group:
            method = cell.config.method
            exact = cell.config.data.num_classes <= SOFT_CLASSES
            if method.labels == "hard" or exact or method.soft_temperature == temperature:
                assigned[cell.name] = BankUse(banks / name, built_from)
    return assigned


def _epochs(config: PretrainConfig, planned: set[int], banks: Path) -> int:
    """Return the epochs of the bank to read: k times a run's own E, since e / E, the ratios' argument, is ke / kE.

    Views do not depend on how many epochs there are, so the run reads the bank's first E epochs.
    """
    own = config.recipe.epochs
    there = [epochs for epochs in range(own, _LONGEST * own + 1, own) if _is_there(banks / _name(config, epochs))]
    return max(there or [epochs for epochs in planned if epochs % own == 0])


def _is_whole(bank: Path, epochs: int) -> bool:
    try:
        return not Bank(bank).missing(range(epochs))
    except UserError:
        return False


def _is_there(bank: Path) -> bool:
    return bank.exists() or bank.with_name(f"{bank.name}-hard").exists()


def _name(config: PretrainConfig, epochs: int) -> str:
    """Name a bank by the teacher and the views; the bank itself checks far more when it is opened."""
    identity = config.identity()
    asked = {key: identity[key] for key in ("seed", "data", "teacher")}
    asked["augment"] = identity["recipe"]["augment"]
    asked["view_size"], asked["epochs"] = config.view_size, epochs
    return f"{config.data_name}-{config.teacher.name}-s{config.seed}-{fingerprint(asked)[:8]}"
