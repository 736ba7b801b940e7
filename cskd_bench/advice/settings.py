"""Settings in which CSKD and no teacher were both trained: what could have been known before, and what came out."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter

from cskd_bench.advice.gate import NO_TEACHER, Gate, gate_of
from cskd_bench.report.compare import compare
from cskd_bench.report.plans import RegisteredPlan, read_plans
from cskd_bench.report.selection import STUDIED, TableStudent, pretrain_epochs, select
from cskd_bench.report.tables import Comparison, Table
from cskd_bench.report.teachers import Share, TeacherMeasure, read_teachers, without_hash
from cskd_bench.report.titles import titles
from cskd_bench.schema import StrictModel

SHIPPED: Final = Path(__file__).with_name("settings.json")

Prediction = Literal["gain", "no gain", "unknown"]
Direction = Literal["interval above zero", "interval below zero", "interval includes zero", "not tested"]
Verdict = Literal["right", "wrong", "undecided"]


class TeacherStrength(StrictModel):
    """How often labels name the class of the view's image, of views and of positions; shares from 0 to 1."""

    global_top1: Share
    local_top1: Share


class MeasuredSetting(StrictModel):
    """One setting with CSKD − no teacher, paired by seed; shares, and a 95 % interval for this difference alone."""

    results: str  # the folder with its records and leaderboard
    title: str  # as in that leaderboard
    student: str
    pretrain_data: str
    pretrain_recipe: str
    epochs: int
    teacher: str
    gate: Gate
    strength: TeacherStrength | None
    difference: float
    interval: tuple[float, float] | None  # None: one seed, or a registered plan waits for more
    seeds: int
    kept_out: bool  # nothing of it went into the rule

    @property
    def outcome(self) -> Direction:
        """What the interval says."""
        if self.interval is None:
            return "not tested"
        low, high = self.interval
        return "interval above zero" if low > 0 else "interval below zero" if high < 0 else "interval includes zero"

    @property
    def expected(self) -> Prediction:
        """What the rule says, from the gate and the teacher's strength alone."""
        return expect(self.gate, self.strength)

    @property
    def verdict(self) -> Verdict:
        """Whether the outcome bears the rule out; only an interval without zero decides."""
        expected = {"interval above zero": "gain", "interval below zero": "no gain"}.get(self.outcome)
        if self.expected == "unknown" or expected is None:
            return "undecided"
        return "right" if self.expected == expected else "wrong"


def expect(gate: Gate, strength: TeacherStrength | None) -> Prediction:
    """Apply the rule: a gain needs an open gate, and a teacher that beats the student without one.

    The teacher's share is counted on training views, the student's on validation images.
    """
    stronger = None if strength is None or gate.validation is None else strength.global_top1 > gate.validation
    if gate.is_open is False or stronger is False:
        return "no gain"
    return "gain" if gate.is_open and stronger else "unknown"


def read_settings(results: Path, *, include_dirty: bool = False, kept_out: bool = False) -> list[MeasuredSetting]:
    """Return every setting of a results folder in which CSKD and no teacher share a seed, in the order of its tables.

    UserError if there are no records.
    """
    records = results / "records"
    plans = read_plans(results)
    comparison = compare(records, select(records, include_dirty=include_dirty), plans)
    return list(settings_of(comparison, plans, read_teachers(results), results.as_posix(), kept_out=kept_out))


def shipped_settings() -> list[MeasuredSetting]:
    """Return the settings of this repository's results, as `python tests/advice/test_settings.py` wrote them."""
    return TypeAdapter(list[MeasuredSetting]).validate_json(SHIPPED.read_bytes())


def find_table(comparison: Comparison, student: TableStudent) -> Table | None:
    """Return the pretraining table of a student and recipe."""
    found = (table for table in comparison.tables if table.group == "pretraining" and table.student == student)
    return next(found, None)


def find_strength(measures: Sequence[TeacherMeasure], student: TableStudent, teacher: str) -> TeacherStrength | None:
    """Average what was counted of a teacher on a recipe's views; of another recipe's on the same data if need be."""
    same = [one for one in measures if one.is_of(student.pretrain_data, teacher)]
    exact = [one for one in same if one.pretrain_recipe == student.pretrain_recipe]
    used = exact or same
    if not used:
        return None
    views = sum(one.views for one in used)
    return TeacherStrength(
        global_top1=sum(one.views * one.global_top1 for one in used) / views,
        local_top1=sum(one.views * one.local_top1 for one in used) / views,
    )


def settings_of(
    comparison: Comparison,
    plans: Sequence[RegisteredPlan],
    measures: Sequence[TeacherMeasure],
    results: str,
    *,
    label: str = STUDIED,
    kept_out: bool = False,
) -> Iterator[MeasuredSetting]:
    """Yield every setting of a comparison in which a method, by default plain CSKD, and no teacher share a seed.

    Where a registered plan waits for more seeds of it, there is no interval yet, as there is no answer.
    """
    for table, title in zip(comparison.tables, titles(comparison.tables), strict=True):
        if table.group != "pretraining":
            continue
        for (method, _), cell in table.cells.items():
            plain = [item for item in cell.differences if item.baseline.label == NO_TEACHER]
            if method.label != label or cell.setting.weights == "ema" or not plain:
                continue
            seeds = {pair.seed for pair in plain[0].pairs}
            waits = any(plan.covers(table.student) and not seeds.issuperset(plan.seeds) for plan in plans)
            yield MeasuredSetting(
                results=results,
                title=title,
                student=table.student.model,
                pretrain_data=table.student.pretrain_data,
                pretrain_recipe=table.student.pretrain_recipe,
                epochs=pretrain_epochs(cell.records[0]),
                teacher=without_hash(method.teacher),
                gate=gate_of(table, method.teacher),
                strength=find_strength(measures, table.student, method.teacher),
                difference=plain[0].mean,
                interval=None if waits else plain[0].interval,
                seeds=plain[0].seeds,
                kept_out=kept_out,
            )
