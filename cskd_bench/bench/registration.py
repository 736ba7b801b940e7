"""Registration: a plan's contrasts, resolved to what records will say of themselves, kept before anything runs."""

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cskd_bench.bench.plan import Benchmark, ContrastConfig, PretrainCell, load_plan, pretrain_cells
from cskd_bench.config import method_label
from cskd_bench.engine.provenance import code_ref
from cskd_bench.errors import UserError
from cskd_bench.files import write_file
from cskd_bench.report.plans import PLANS, Arm, Contrast, Family, RegisteredPlan, read_plan
from cskd_bench.report.tuning import as_set_up
from cskd_bench.report.words import PROTOCOL_WORDS
from cskd_bench.schema import validate
from cskd_bench.task import load_task
from cskd_bench.transfer.precision import state_precision
from cskd_bench.transfer.teaching import state_teacher


def register_plan(
    file: Path, results: Path, tasks_dir: Path | None = None, overrides: Sequence[str] = ()
) -> Path | None:
    """Write a plan's contrasts to results/plans, once; None for a plan without any.

    UserError for a contrast that the plan's records cannot answer, and where the plan asked otherwise when it was
    registered: questions that change once there are answers are no test.
    """
    plan = load_plan(file)
    if not plan.primary and not plan.exploratory:
        return None
    resolved = resolve_plan(plan, file, tasks_dir, overrides)
    path = results / PLANS / f"{file.stem}.json"
    if not path.exists():
        with contextlib.suppress(FileExistsError):  # of two benches that begin at once, one registers
            write_file(path, (resolved.model_dump_json(indent=1) + "\n").encode(), replace=False)
            return path
    kept = read_plan(path)
    if any(getattr(kept, key) != getattr(resolved, key) for key in ("contrasts", "students", "seeds")):
        raise UserError(
            f"{path}: this plan was registered on {kept.registered[:10]} with other contrasts, seeds, students or "
            "settings; restore what was asked, or give the changed plan another file name or --results folder"
        )
    return path


def resolve_plan(
    plan: Benchmark, where: Path, tasks_dir: Path | None = None, overrides: Sequence[str] = ()
) -> RegisteredPlan:
    """Return a plan's contrasts in the words of its records; UserError names the contrast that cannot be."""
    if (plan.primary or plan.exploratory) and len(plan.seeds) < 2:
        raise UserError(f"{where}: seeds: a contrast is tested by the spread between seeds; name two or more")
    resolver = _Resolver(plan, where, tasks_dir, overrides)
    families: tuple[tuple[Family, tuple[ContrastConfig, ...]], ...]
    families = ("primary", plan.primary), ("exploratory", plan.exploratory)
    contrasts = [
        resolver.resolve(contrast, family, f"{where}: {family}.{number}")
        for family, declared in families
        for number, contrast in enumerate(declared)
    ]
    arms = [_arm(cell) for student in plan.students for cell in resolver.cells(student)]
    tables = {(arm.model, arm.pretrain_data, arm.pretrain_recipe) for arm in arms}
    resolved = {
        "plan": where.stem,
        "registered": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": code_ref().commit,
        "note": plan.about,
        "contrasts": tuple(contrasts),
        "students": tuple(sorted(tables)),
        "seeds": tuple(sorted(plan.seeds)),
    }
    return validate(RegisteredPlan, resolved, str(where))


class _Resolver:
    """A plan and the pretraining cells of each student file that its contrasts name."""

    def __init__(self, plan: Benchmark, where: Path, tasks_dir: Path | None, overrides: Sequence[str]) -> None:
        self._plan, self._where, self._tasks_dir, self._overrides = plan, where, tasks_dir, overrides
        self._cells: dict[str, list[PretrainCell]] = {}

    def cells(self, student: str, key: str = "students") -> list[PretrainCell]:
        """Return a student's pretraining cells under the plan's methods; `key` is what names it in the plan."""
        if student not in self._cells:
            self._cells[student] = pretrain_cells(self._plan, student, self._where, self._overrides, key)
        return self._cells[student]

    def resolve(self, asked: ContrastConfig, family: Family, key: str) -> Contrast:
        """Return one contrast in the words of its records; UserError names what the plan does not have."""
        student = asked.student or self._plan.students[0]
        if student not in self._plan.students:
            known = ", ".join(self._plan.students)
            raise UserError(f"{key}: student: {student!r} is none of the plan's students; these are {known}")
        if not asked.student and len(self._plan.students) > 1:
            raise UserError(f"{key}: student: the plan has {len(self._plan.students)}; name the one that is meant")
        first, second = self._find_arm(student, asked.method, key), self._find_arm(student, asked.against, key)
        minus = None
        if asked.other_student:
            other = asked.other_student
            role = "other_student"
            minus = self._find_arm(other, asked.method, key, role), self._find_arm(other, asked.against, key, role)
            if minus == (first, second):
                raise UserError(f"{key}: other_student: {other} pretrains as {student} does, so nothing is left")
        task, fingerprint = self._task(asked, key) if asked.task else (first.pretrain_data, "")
        where = asked.on or self._describe(task, asked, student)
        resolved = {
            "name": f"{asked.method} − {asked.against}",
            "where": where,
            "first": first,
            "second": second,
            "minus": minus,
            "task": task,
            "protocol": asked.protocol,
            "fingerprint": fingerprint,
            "band": None if asked.band is None else asked.band / 100,
            "family": family,
        }
        return validate(Contrast, resolved, key)

    def _find_arm(self, student: str, label: str, key: str, role: str = "student") -> Arm:
        cells = self.cells(student, role)
        for cell in cells:
            if method_label(cell.config.method) == label:
                return _arm(cell)
        known = ", ".join(dict.fromkeys(method_label(cell.config.method) for cell in cells))
        raise UserError(f"{key}: the plan has no method {label!r}; its methods are {known}")

    def _task(self, asked: ContrastConfig, key: str) -> tuple[str, str]:
        """Return the name and fingerprint of the task that a contrast is about."""
        for named in self._plan.tasks:
            spec = load_task(named, self._tasks_dir, self._plan.task_settings)
            if asked.task not in (named, spec.name):
                continue
            if asked.protocol not in spec.protocols or asked.protocol not in (self._plan.protocols or spec.protocols):
                raise UserError(f"{key}: protocol: the plan does not run {asked.protocol!r} on {asked.task}")
            stated = state_teacher(state_precision(spec, asked.protocol), asked.protocol)
            return spec.name, stated.fingerprint(asked.protocol)
        known = f"these are {', '.join(self._plan.tasks)}" if self._plan.tasks else "it has none"
        raise UserError(f"{key}: task: {asked.task!r} is none of the plan's tasks; {known}")

    def _describe(self, task: str, asked: ContrastConfig, student: str) -> str:
        protocol = "pretraining" if asked.protocol == "pretrain" else PROTOCOL_WORDS[asked.protocol]
        parts = [task, protocol]
        if asked.other_student:
            parts.append(f"with {Path(student).stem} less with {Path(asked.other_student).stem}")
        elif len(self._plan.students) > 1:
            parts.append(Path(student).stem)
        return ", ".join(parts)


def _arm(cell: PretrainCell) -> Arm:
    config = cell.config
    teacher = ""
    if config.method.needs_teacher:
        teacher = config.teacher.name + as_set_up(config.teacher.model_dump())
    return Arm(
        model=config.model_name,
        pretrain_data=config.data_name,
        pretrain_recipe=config.recipe_fingerprint(),
        label=method_label(config.method),
        teacher=teacher,
    )
