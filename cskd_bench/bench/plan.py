"""A plan: methods x students x tasks x protocols x seeds, from one TOML, as cells in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, model_validator

from cskd_bench.config import MethodConfig, PretrainConfig, method_label
from cskd_bench.schema import StrictModel, apply_overrides, load_toml, read_toml, shipped, validate
from cskd_bench.task import Protocol, TaskSpec, load_task


class Plan(StrictModel):
    """A whole comparison. Paths are relative to the plan's checkout (or the shipped files)."""

    students: tuple[str, ...]
    methods: tuple[MethodConfig, ...]
    seeds: tuple[NonNegativeInt, ...]
    tasks: tuple[str, ...] = ()
    protocols: tuple[Protocol, ...] = ()  # empty: every protocol of each task
    teacher: str = ""  # a pretraining TOML whose finished run teaches all students

    @model_validator(mode="after")
    def _possible(self) -> "Plan":
        for name in ("students", "methods", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: there is nothing to run")
        labels = [method_label(method) for method in self.methods]
        if len(set(labels)) < len(labels):
            raise ValueError("methods: the same method stands twice")
        return self


@dataclass(frozen=True)
class PretrainCell:
    """One pretraining run of a plan."""

    config: PretrainConfig

    @property
    def name(self) -> str:
        return self.config.name


@dataclass(frozen=True)
class TransferCell:
    """One downstream run of a plan, on the checkpoint of a pretraining cell."""

    task: TaskSpec
    protocol: str
    run: str  # the pretraining cell's name
    seed: int

    @property
    def name(self) -> str:
        return f"{self.task.name} {self.protocol} {self.run}"


@dataclass(frozen=True)
class Cells:
    """A plan, expanded: the teacher first, then pretraining, then transfer."""

    teacher: PretrainCell | None
    pretrain: list[PretrainCell]
    transfer: list[TransferCell]

    def names(self) -> list[str]:
        """Name every cell in the order of running."""
        first = [self.teacher.name] if self.teacher else []
        return first + [cell.name for cell in self.pretrain] + [cell.name for cell in self.transfer]


def load_plan(path: Path) -> Plan:
    """Load a plan's TOML."""
    return load_toml(path, Plan)


def expand(plan: Plan, tasks_dir: Path | None = None, overrides: Sequence[str] = ()) -> Cells:
    """Return every cell of a plan; UserError for a student, task or protocol that does not exist."""
    pretrain = [
        PretrainCell(_config(student, method.model_dump(mode="json"), seed, method_label(method), overrides))
        for student in plan.students
        for method in plan.methods
        for seed in plan.seeds
    ]
    specs = [load_task(name, tasks_dir) for name in plan.tasks]
    transfer = [
        TransferCell(spec, protocol, cell.name, cell.config.seed)
        for cell in pretrain
        for spec in specs
        for protocol in (plan.protocols or spec.protocols)
        if protocol in spec.protocols
    ]
    teacher = None
    if plan.teacher:
        file = resolve(plan.teacher)
        teacher = PretrainCell(validate(PretrainConfig, {"name": file.stem, **read_toml(file)}, str(file)))
    return Cells(teacher, pretrain, transfer)


def _config(student: str, method: dict[str, Any], seed: int, label: str, overrides: Sequence[str]) -> PretrainConfig:
    file = resolve(student)
    data = read_toml(file)
    slug = "".join(c if c.isalnum() or c in ".-" else "_" for c in label).strip("_")
    data |= {"name": f"{data.get('name', file.stem)}_{slug}_s{seed}", "method": method, "seed": seed}
    return validate(PretrainConfig, apply_overrides(data, overrides), str(file))


def resolve(path: str) -> Path:
    """Find a file of a plan: as given, else among the shipped configurations."""
    return Path(path) if Path(path).is_file() else shipped("configs") / Path(path).relative_to("configs")
