"""Registered plans: which contrasts were named before the runs, as `cskd-bench bench` keeps them in results/plans."""

import re
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, ValidationError, model_validator

from cskd_bench.errors import UserError
from cskd_bench.report.selection import Method, TableStudent
from cskd_bench.report.tables import TableCell
from cskd_bench.schema import StrictModel

PLANS: Final = "plans"  # the folder beside `records`
Family = Literal["primary", "exploratory"]


class Arm(StrictModel):
    """One method on one student, as records name them; `teacher` without the hash of its weights."""

    model: str
    pretrain_data: str
    pretrain_recipe: str
    label: str
    teacher: str = ""

    @property
    def student(self) -> TableStudent:
        """The table that its records belong to."""
        return TableStudent(self.model, self.pretrain_data, self.pretrain_recipe)

    def is_of(self, method: Method) -> bool:
        """Say whether a row is this method; a bank's variant, such as `(64 largest logits)`, changes no method."""
        label = re.sub(r" \(\d+ largest logits\)$", "", method.label)
        return (label, _without_hash(method.teacher)) == (self.label, self.teacher)


class Contrast(StrictModel):
    """`first` minus `second`; with `minus` less the same difference there (a difference in differences)."""

    name: str
    where: str
    first: Arm
    second: Arm
    minus: tuple[Arm, Arm] | None = None
    task: str
    protocol: str
    fingerprint: str = ""  # of the task; empty for pretraining
    band: float | None = Field(None, gt=0, le=1)  # a share: differences within ± this count as equal
    family: Family = "primary"

    @model_validator(mode="after")
    def _possible(self) -> "Contrast":
        if self.first == self.second or self.minus == (self.first, self.second):
            raise ValueError(f"{self.name} on {self.where} is always zero: it takes something from itself")
        return self

    @property
    def terms(self) -> list[tuple[Arm, int]]:
        """The arms with their signs."""
        return [(self.first, 1), (self.second, -1), *zip(self.minus or (), (-1, 1), strict=False)]

    def find(self, arm: Arm, cells: list[TableCell]) -> list[TableCell]:
        """Return the cells of an arm among those of its student; more than one where records do not agree."""
        return [
            cell
            for cell in cells
            if cell.setting.protocol == self.protocol
            and cell.setting.weights != "ema"
            and (not self.fingerprint or (cell.setting.task, cell.setting.fingerprint) == (self.task, self.fingerprint))
            and arm.is_of(cell.method)
        ]


class RegisteredPlan(StrictModel):
    """What a plan asks, resolved to what records say of themselves."""

    plan: str
    registered: str  # UTC
    commit: str
    note: str = ""
    seeds: tuple[int, ...]  # of pretraining: a contrast is tested once all of them are there, on them alone
    contrasts: tuple[Contrast, ...]
    students: tuple[tuple[str, str, str], ...]  # model, pretraining data, pretraining recipe

    @model_validator(mode="after")
    def _apart(self) -> "RegisteredPlan":
        named = [(one.name, one.where) for one in self.contrasts]
        if twice := next((one for one in named if named.count(one) > 1), None):
            raise ValueError(f"{' on '.join(twice)} stands twice; ask it once, or tell two apart with `on`")
        return self

    def covers(self, student: TableStudent) -> bool:
        """Say whether a table is of one of the plan's students."""
        return (student.model, student.pretrain_data, student.pretrain_recipe) in self.students


def read_plans(results: Path) -> list[RegisteredPlan]:
    """Read every registered plan of a results folder in name order; UserError names a file that is none."""
    return [read_plan(path) for path in sorted((results / PLANS).glob("*.json"))]


def read_plan(path: Path) -> RegisteredPlan:
    """Read one registered plan; UserError names the file and what is wrong with it."""
    try:
        plan = RegisteredPlan.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        what = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}: not a registered plan: {key + ': ' if key else ''}{what}") from error
    if plan.plan != path.stem:
        raise UserError(f"{path}: its plan is {plan.plan!r}: the file was renamed or copied")
    return plan


def _without_hash(teacher: str) -> str:
    return re.sub(r"@\S+", "", teacher)
