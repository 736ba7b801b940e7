"""Which part of a plan is asked for: by names, methods, seeds and tasks."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

from cskd_bench.bench.plan import BenchCell, Cells, PretrainCell
from cskd_bench.config import method_label
from cskd_bench.errors import UserError

C = TypeVar("C", bound=BenchCell)


@dataclass(frozen=True)
class Asked:
    """What cells must be to be asked for, as typed: lists with commas. Empty: anything."""

    only: Sequence[str] = ()  # patterns of names
    methods: Sequence[str] = ()  # labels or kinds
    seeds: Sequence[str] = ()
    tasks: Sequence[str] = ()  # transfers alone

    def choose(self, cells: Cells) -> set[str] | None:
        """Return the names of a plan's cells that are all of what is asked; None where all of the plan is.

        UserError for a word that the plan has nothing for, and where no cell is all of it at once.
        """
        tests = [
            _choose_by("--methods", self.methods, cells.pretrain, _method_words),
            _choose_by("--seeds", self.seeds, cells.pretrain, lambda cell: [str(cell.config.seed)]),
        ]
        runs = [names for names in tests if names is not None]
        chosen = [{cell.name for cell in cells.all() if _run(cell) in names} for names in runs]
        tasks = _choose_by("--tasks", self.tasks, cells.transfer, lambda cell: [cell.task.name, cell.named])
        chosen += [tasks] if tasks is not None else []
        chosen += [match_names("--only", self.only, cells)] if self.only else []
        if not chosen:
            return None
        asked = set.intersection(*chosen)
        if not asked:
            raise UserError("no cell of the plan is all that is asked for at once; look at --dry-run without it")
        return asked


def match_names(option: str, patterns: Sequence[str], cells: Cells) -> set[str]:
    """Return the names of cells that match one of the patterns; UserError for a pattern that matches none."""
    found: set[str] = set()
    for pattern in _split(patterns):
        matching = {cell.name for cell in cells.all() if fnmatchcase(cell.name, pattern)}
        if not matching:
            some = ", ".join(repr(cell.name) for cell in cells.all()[:3])
            raise UserError(
                f"{option} {pattern}: no cell of the plan has such a name; --dry-run lists them ({some}, ...)"
            )
        found |= matching
    return found


def _choose_by(
    option: str, asked: Sequence[str], cells: Sequence[C], words: Callable[[C], Iterable[str]]
) -> set[str] | None:
    """Return the names of the cells that one of the asked words fits; None where nothing is asked."""
    if not asked:
        return None
    known = {word: None for cell in cells for word in words(cell)}
    wanted = set(_split(asked))
    for word in sorted(wanted - known.keys()):
        has = f"the plan has {', '.join(known)}" if known else "the plan has none"
        raise UserError(f"{option} {word}: {has}")
    return {cell.name for cell in cells if not wanted.isdisjoint(words(cell))}


def _run(cell: BenchCell) -> str:
    return cell.name if isinstance(cell, PretrainCell) else cell.run


def _method_words(cell: PretrainCell) -> list[str]:
    return [method_label(cell.config.method), cell.config.method.kind]


def _split(values: Sequence[str]) -> list[str]:
    """Split lists at commas, but not at those within brackets, as labels of methods and patterns have them."""
    parts = [part.strip() for value in values for part in re.split(r",(?![^([]*[)\]])", value)]
    return [part for part in parts if part]
