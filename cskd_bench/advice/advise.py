"""What to measure first, what is known of a configuration, and what settings like it showed."""

import itertools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

from cskd_bench.advice.gate import CONTROL_METHOD, NO_TEACHER, Gate, find_cell, gate_of
from cskd_bench.advice.settings import (
    MeasuredSetting,
    Prediction,
    TeacherStrength,
    asking,
    expect,
    find_strength,
    find_table,
    settings_of,
    shipped_settings,
)
from cskd_bench.advice.teacher import exact_teacher, measure_teacher, teacher_in_words
from cskd_bench.config import PretrainConfig, method_label
from cskd_bench.errors import UserError
from cskd_bench.report.compare import compare
from cskd_bench.report.plans import read_plans
from cskd_bench.report.selection import STUDIED, Method, TableStudent, select
from cskd_bench.report.teachers import read_teachers
from cskd_bench.schema import fingerprint

SEVERAL: Final = 3  # seeds of a first look
UNMIXED: Final = ("--set", "recipe.augment.mixup=0", "--set", "recipe.augment.cutmix=0")


@dataclass(frozen=True)
class Prospect:
    """What is known of a configuration, and which commands would say more."""

    method: str  # as tables label it
    student: str
    pretrain_data: str
    epochs: int
    teacher: str
    strength: TeacherStrength | None
    gate: Gate
    here: MeasuredSetting | None
    waiting: str  # a registered plan that asks for this contrast, and has not all its seeds
    to_run: tuple[str, ...]
    settings: tuple[MeasuredSetting, ...]
    unused: int = 0  # records of uncommitted or unknown code

    @property
    def expected(self) -> Prediction:
        """What the rule says of this configuration."""
        return expect(self.gate, self.strength)

    @property
    def alike(self) -> list[MeasuredSetting]:
        """The tested settings of which the rule says the same, this one apart."""
        alike = [one for one in self.settings if one.expected == self.expected and not self._is_here(one)]
        return [one for one in alike if one.outcome != "not tested"]

    def _is_here(self, one: MeasuredSetting) -> bool:
        return self.here is not None and _key(one) == _key(self.here)


def advise(
    config: PretrainConfig,
    named: Sequence[str],
    results: Path,
    bank: Path | None = None,
    *,
    include_dirty: bool = False,
) -> Prospect:
    """Collect what records and a bank say of a CSKD configuration; `named` are the words that name it in a command.

    Without records in `results`, those of this repository are asked. UserError for a bank of other views or of another
    teacher.
    """
    if results.exists() and not results.is_dir():
        raise UserError(f"{results}: is no folder; name the folder of your records with --results")
    student = TableStudent(config.model_name, config.data_name, config.recipe_fingerprint())
    teacher, exact = teacher_in_words(config), exact_teacher(config)
    label, wanted = method_label(config.method), (*astuple(student), teacher)
    table, found, unused, plans = None, [], 0, read_plans(results)
    if (results / "records").is_dir():
        selection = select(results / "records", include_dirty=include_dirty)
        unused = sum("--include-dirty" in one.reason for one in selection.left_out)
        comparison = compare(results / "records", selection, plans)
        table = find_table(comparison, student)
        found = list(settings_of(comparison, plans, read_teachers(results), results.as_posix(), label=label))
    settings = tuple(shipped_settings())
    shipped = next((one for one in settings if _key(one) == wanted), None)
    here = next((one for one in found if _key(one) == wanted), shipped if label == STUDIED else None)
    own = Gate() if table is None else gate_of(table, exact)
    gate = _known_gate(own, shipped.gate if shipped else None)
    strengths = [_strength(config, student, exact, results, bank), shipped.strength if shipped else None]
    measured = [one for one in strengths if one]
    strength = next((one for one in measured if one.same_recipe), measured[0] if measured else None)
    cells = {name: find_cell(table, name, exact) if table else None for name in (NO_TEACHER, label)}
    trained = {name: frozenset(cell.scores if cell else ()) for name, cell in cells.items()}
    asked_by = [plan.plan for plan, _ in asking(plans, student, Method("", label, exact))]
    waits = here.plan if here and here.waits else next(iter(asked_by), "") if here is None or not here.plan else ""
    is_known = here is not None and (here.plan or (here.interval and here.seeds >= SEVERAL))
    commands = _Commands(config, named, results, include_dirty, label, trained)
    to_run = commands.to_run(gate, strength, is_known=bool(is_known or waits))
    known = (label, student.model, student.pretrain_data, config.recipe.epochs, teacher, strength, gate, here)
    return Prospect(*known, waits, to_run, settings, unused)


def _known_gate(own: Gate, shipped: Gate | None) -> Gate:
    """Return the user's own gate, or that of this repository where the own lacks scores on training images."""
    if shipped is None or own.gap is not None or (own.seeds and shipped.gap is None):
        return own
    control = {} if own.control is None else {"control": own.control, "control_seeds": own.control_seeds}
    return shipped.model_copy(update=control)


def _key(one: MeasuredSetting) -> tuple[str, ...]:
    return one.student, one.pretrain_data, one.pretrain_recipe, one.teacher


def _strength(
    config: PretrainConfig, student: TableStudent, teacher: str, results: Path, bank: Path | None
) -> TeacherStrength | None:
    if bank is None:
        return find_strength(read_teachers(results), student, teacher)
    augment = config.recipe.augment.model_copy(update={"mixup": 0.0, "cutmix": 0.0})
    unmixed = config.model_copy(update={"recipe": config.recipe.model_copy(update={"augment": augment})})
    try:
        counted = measure_teacher(bank, unmixed)
    except UserError as error:
        hint = f"; build it with {shlex.join(UNMIXED)}" if config.recipe.augment.mixes else ""
        raise UserError(f"{error}{hint}") from error
    return TeacherStrength(global_top1=counted.global_top1, local_top1=counted.local_top1)


@dataclass(frozen=True)
class _Commands:
    """Commands about a configuration, as they can be typed; `trained` has the seeds of runs by the method's label."""

    config: PretrainConfig
    named: Sequence[str]
    results: Path
    include_dirty: bool
    label: str
    trained: Mapping[str, frozenset[int]]

    def to_run(self, gate: Gate, strength: TeacherStrength | None, *, is_known: bool) -> tuple[str, ...]:
        """Return the commands that would make the rule's answer known, the cheapest first.

        None asks for seeds beyond a first look: who adds them until a test succeeds finds more than there is.
        """
        alone, needs_control = self.trained[NO_TEACHER], not gate.is_open and gate.control is None
        found = [] if strength else list(self._measure())
        if not alone and (gate.gap is None or needs_control):
            found.append(self._pretrain(NO_TEACHER, self.config.seed))
        if needs_control:
            paired = not alone or self.config.seed in alone
            found.append(self._pretrain(CONTROL_METHOD, self.config.seed if paired else min(alone)))
        if expect(gate, strength) == "gain" and not is_known:
            found += self._look()
        return tuple(shlex.join(words) for words in found)

    def _look(self) -> Iterator[list[str]]:
        """Yield what is missing of a few seeds with and without the method, first of those that have a run."""
        begun = sorted(self.trained[self.label] | self.trained[NO_TEACHER])
        new = (seed for seed in itertools.count(self.config.seed) if seed not in begun)
        for seed in [*begun, *itertools.islice(new, SEVERAL)][:SEVERAL]:
            for label, method in ((NO_TEACHER, NO_TEACHER), (self.label, STUDIED)):
                if seed not in self.trained[label]:
                    yield self._pretrain(method, seed)

    def _measure(self) -> Iterator[list[str]]:
        bank = f"banks/look-{fingerprint(self.config.identity())[:8]}"  # another one's views would be refused
        unmixed = UNMIXED if self.config.recipe.augment.mixes else ()
        build = ["cskd-bench", "bank", "build", *self.named, *unmixed, "--method", STUDIED]
        yield [*build, "--epochs", "0:1", "--output", bank]
        advise = ["cskd-bench", "advise", *self.named, "--bank", bank, "--results", self.results.as_posix()]
        yield [*advise, *(["--include-dirty"] if self.include_dirty else [])]

    def _pretrain(self, method: str, seed: int) -> list[str]:
        more = [] if seed == self.config.seed else ["--set", f"seed={seed}"]
        named = self.named if method == STUDIED else _without_method(self.named)
        size = self.config.view_size
        of_one_size = self.config.recipe.augment.view_size or size == self.config.student.image_size
        views = [] if of_one_size else ["--set", f"recipe.augment.view_size={size}"]  # as CSKD's teacher needs
        return [
            *("cskd-bench", "pretrain", *named, *views, *more),
            *("--method", method, "--results", self.results.as_posix()),
        ]


def _without_method(named: Sequence[str]) -> list[str]:
    """Leave out settings of the method, which another one does not have."""
    left = list(named)
    for place in reversed(range(len(named) - 1)):
        if named[place] == "--set" and re.match(r"method\s*[.=]", named[place + 1]):
            del left[place : place + 2]
    return left
