"""Settings in which CSKD and no teacher were both trained: what could have been known before, and what came out."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pydantic import TypeAdapter

from cskd_bench.advice.gate import NO_TEACHER, Gate, gate_of
from cskd_bench.report.compare import compare
from cskd_bench.report.plans import Contrast, RegisteredPlan, read_plans
from cskd_bench.report.selection import STUDIED, Method, TableStudent, pretrain_epochs, select
from cskd_bench.report.tables import Answer, Comparison, Difference, Table
from cskd_bench.report.teachers import Share, TeacherMeasure, read_teachers, without_hash
from cskd_bench.report.titles import titles
from cskd_bench.schema import StrictModel

SHIPPED: Final = Path(__file__).with_name("settings.json")

Prediction = Literal["gain", "no gain", "unknown"]
Outcome = Literal["higher", "lower", "equal", "not shown", "not tested"]
Verdict = Literal["right", "wrong", "undecided"]
OF_ANSWERS: Final[dict[Answer, Outcome]] = {
    "higher": "higher",
    "lower": "lower",
    "equivalent": "equal",
    "ahead": "not shown",
    "behind": "not shown",
    "open": "not shown",
    "untested": "not tested",
}


class TeacherStrength(StrictModel):
    """How often labels name the class of the view's image, of views and of positions; shares from 0 to 1."""

    global_top1: Share
    local_top1: Share
    same_recipe: bool = True  # else counted on another recipe's views of the same data


class MeasuredSetting(StrictModel):
    """One setting with CSKD − no teacher, paired by seed; shares, and a 95 % interval.

    Where a registered plan asks for this contrast, difference, interval and answer are the plan's: on its seeds, and
    corrected for its family of contrasts. Elsewhere the interval is for this difference alone.
    """

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
    plan: str = ""  # that asks for this contrast
    planned: int = 0  # seeds that it asks for
    answer: Answer | None = None  # the plan's

    @property
    def outcome(self) -> Outcome:
        """What came out: the plan's answer, else whether the interval leaves out zero."""
        if self.answer is not None:
            return OF_ANSWERS[self.answer]
        if self.interval is None:
            return "not tested"
        low, high = self.interval
        return "higher" if low > 0 else "lower" if high < 0 else "not shown"

    @property
    def waits(self) -> bool:
        """Whether its plan waits for seeds."""
        return self.seeds < self.planned

    @property
    def expected(self) -> Prediction:
        """What the rule says, from the gate and the teacher's strength alone."""
        return expect(self.gate, self.strength)

    @property
    def verdict(self) -> Verdict:
        """Whether the outcome bears the rule out; only a difference that is shown decides."""
        expected = {"higher": "gain", "lower": "no gain"}.get(self.outcome)
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
        same_recipe=bool(exact),
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
    """Yield every setting of a comparison in which a method, by default plain CSKD, and no teacher share a seed."""
    for table, title in zip(comparison.tables, titles(comparison.tables), strict=True):
        if table.group != "pretraining":
            continue
        for (method, _), cell in table.cells.items():
            plain = [item for item in cell.differences if item.baseline.label == NO_TEACHER]
            if method.label != label or cell.setting.weights == "ema" or not plain:
                continue
            asked = asking(plans, table.student, method)
            came_out = _of_plan(comparison, asked, plain[0]) if asked else _alone(plain[0])
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
                kept_out=kept_out,
                **came_out._asdict(),
            )


class _CameOut(NamedTuple):
    difference: float
    interval: tuple[float, float] | None
    seeds: int
    plan: str = ""
    planned: int = 0
    answer: Answer | None = None


def _alone(difference: Difference) -> _CameOut:
    return _CameOut(difference.mean, difference.interval, difference.seeds)


def asking(
    plans: Sequence[RegisteredPlan], student: TableStudent, method: Method
) -> list[tuple[RegisteredPlan, Contrast]]:
    """Return the registered contrasts of a method and no teacher in pretraining, with their plans."""
    return [
        (plan, one)
        for plan in plans
        for one in plan.contrasts
        if one.protocol == "pretrain" and one.minus is None and one.first.student == one.second.student == student
        if one.first.is_of(method) and one.second.label == NO_TEACHER
    ]


def _of_plan(comparison: Comparison, asked: Sequence[tuple[RegisteredPlan, Contrast]], plain: Difference) -> _CameOut:
    """Return what came out of a registered contrast; of two plans the one that is whole, then the more cautious."""
    results = {
        (result.plan, result.name, result.where): result for result in (*comparison.primary, *comparison.exploratory)
    }
    found = [(results[plan.plan, one.name, one.where], len(plan.seeds)) for plan, one in asked]
    result, seeds = max(found, key=lambda one: (one[0].seeds / one[1], one[0].adjusted or 0.0))
    mean = plain.mean if result.mean is None else result.mean
    return _CameOut(mean, result.simultaneous, result.seeds, result.plan, seeds, result.answer)
