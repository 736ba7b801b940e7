"""What to measure first, what is known of a configuration, and what settings like it showed."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cskd_bench.advice.gate import CONTROL_METHOD, NO_TEACHER, Gate, gate_of
from cskd_bench.advice.settings import (
    MeasuredSetting,
    Prediction,
    TeacherStrength,
    expect,
    find_strength,
    find_table,
    read_settings,
    shipped_settings,
)
from cskd_bench.advice.teacher import measure_teacher, teacher_in_words
from cskd_bench.config import PretrainConfig
from cskd_bench.errors import UserError
from cskd_bench.report.compare import compare
from cskd_bench.report.selection import TableStudent, select
from cskd_bench.report.teachers import read_teachers

UNMIXED: Final = ("--set", "recipe.augment.mixup=0", "--set", "recipe.augment.cutmix=0")


@dataclass(frozen=True)
class Prospect:
    """What is known of a configuration, and which commands would say more."""

    student: str
    pretrain_data: str
    epochs: int
    teacher: str
    strength: TeacherStrength | None
    gate: Gate
    here: MeasuredSetting | None
    to_run: tuple[str, ...]
    settings: tuple[MeasuredSetting, ...]

    @property
    def expected(self) -> Prediction:
        """What the rule says of this configuration."""
        return expect(self.gate, self.strength)

    @property
    def alike(self) -> list[MeasuredSetting]:
        """The measured settings of which the rule says the same, this one apart."""
        return [one for one in self.settings if one.expected == self.expected and one is not self.here]


def advise(
    config: PretrainConfig,
    named: Sequence[str],
    results: Path,
    bank: Path | None = None,
    *,
    include_dirty: bool = False,
) -> Prospect:
    """Collect what records and a bank say of a CSKD configuration; `named` are the words that name it in a command.

    Without records in `results`, everything but the bank's labels is unknown. UserError for a bank of other views.
    """
    student = TableStudent(config.model_name, config.data_name, config.recipe_fingerprint())
    teacher = teacher_in_words(config)
    gate, here = Gate(), None
    if (results / "records").is_dir():
        comparison = compare(results / "records", select(results / "records", include_dirty=include_dirty))
        table = find_table(comparison, student)
        gate = gate if table is None else gate_of(table)
        found = read_settings(results, include_dirty=include_dirty)
        here = next((one for one in found if _is(one, student, teacher)), None)
    settings = tuple(shipped_settings())
    here = here or next((one for one in settings if _is(one, student, teacher)), None)
    if gate.seeds == 0 and here is not None:
        gate = here.gate
    strength = _strength(config, student, teacher, results, bank) or (here.strength if here else None)
    unmixed = UNMIXED if config.recipe.augment.mixes else ()
    to_run = _to_run(named, unmixed, results, gate, strength)
    return Prospect(
        config.model_name, config.data_name, config.recipe.epochs, teacher, strength, gate, here, to_run, settings
    )


def _is(setting: MeasuredSetting, student: TableStudent, teacher: str) -> bool:
    return (setting.student, setting.pretrain_data, setting.pretrain_recipe, setting.teacher) == (
        student.model,
        student.pretrain_data,
        student.pretrain_recipe,
        teacher,
    )


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


def _to_run(
    named: Sequence[str], unmixed: Sequence[str], results: Path, gate: Gate, strength: TeacherStrength | None
) -> tuple[str, ...]:
    """Return the commands that would make the rule's answer known, the cheapest first."""
    found = []
    places = ["--results", results.as_posix()]
    if strength is None:
        build = ["cskd-bench", "bank", "build", *named, *unmixed, "--method", "cskd"]
        found.append([*build, "--epochs", "0:1", "--output", "banks/look"])
        found.append(["cskd-bench", "advise", *named, "--bank", "banks/look", *places])
    if gate.gap is None:
        found.append(["cskd-bench", "pretrain", *named, "--method", NO_TEACHER, *places])
    if not gate.is_open and gate.control is None:
        found.append(["cskd-bench", "pretrain", *named, "--method", CONTROL_METHOD, *places])
    if expect(gate, strength) == "gain":
        once = ["cskd-bench", "pretrain", *named, "--set", "seed=1", *places, "--method"]
        found.extend([*once, method] for method in (NO_TEACHER, "cskd"))
    return tuple(shlex.join(words) for words in found)
