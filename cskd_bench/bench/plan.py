"""A plan: methods x students x tasks x protocols x seeds, from one TOML, as cells in order."""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, model_validator

from cskd_bench.bench.resources import MOST_THREADS, Resources, refuse_share
from cskd_bench.config import MethodConfig, PretrainConfig, load_config, method_label
from cskd_bench.config_files import find_config, method_of, read_config
from cskd_bench.errors import UserError
from cskd_bench.schema import StrictModel, apply_overrides, is_file, load_toml, override, validate
from cskd_bench.task import Protocol, TaskSpec, load_task
from cskd_bench.transfer.precision import state_precision
from cskd_bench.transfer.teaching import check_student, state_teacher


class ContrastConfig(StrictModel):
    """A difference that a plan asks about by name: `method` minus `against`, labelled as tables label them.

    `student` is one of the plan's files, needed where there are several. With `other_student`, which may be another
    plan's file, it is a difference in differences: what `method` gains on `against` with the one student (its
    teacher, width or schedule) less what it gains with the other. Within `band` points two methods count as equal.
    """

    method: str
    against: str
    protocol: Literal["pretrain", Protocol] = "pretrain"
    task: str = ""  # one of the plan's tasks; empty for pretraining
    student: str = ""
    other_student: str = ""
    band: float | None = Field(None, gt=0, le=100)
    on: str = ""  # on what, in words; default: data or task, and protocol

    @model_validator(mode="after")
    def _possible(self) -> "ContrastConfig":
        if self.method == self.against:
            raise ValueError(f"{self.method} against itself says nothing")
        if self.other_student and self.other_student == self.student:
            raise ValueError("other_student: name another student than `student`; a difference less itself is 0")
        if (self.protocol == "pretrain") == bool(self.task):
            raise ValueError("task: name one of the plan's tasks with a protocol of it, or neither for pretraining")
        return self


class Benchmark(StrictModel):
    """A whole comparison. Paths are relative to the plan's checkout (or the shipped files).

    `primary` are the questions that the plan is run for: they are tested first, and corrected among themselves alone.
    `exploratory` ones are declared beforehand too, and stand behind them.
    """

    students: tuple[str, ...]
    methods: tuple[MethodConfig, ...]
    seeds: tuple[NonNegativeInt, ...]
    tasks: tuple[str, ...] = ()
    protocols: tuple[Protocol, ...] = ()  # empty: every protocol of each task
    task_settings: tuple[str, ...] = ()  # KEY=VALUE for every task, as transfer's --set takes them
    teacher: str = ""  # a pretraining TOML whose finished run teaches all students
    teacher_gpus: float = Field(0, ge=0)  # what its cell takes; 0: as the other cells
    teacher_threads: int = Field(0, ge=0, le=MOST_THREADS)
    about: str = ""  # what a reader of its contrasts should know, such as when they were named
    primary: tuple[ContrastConfig, ...] = ()
    exploratory: tuple[ContrastConfig, ...] = ()

    @model_validator(mode="after")
    def _possible(self) -> "Benchmark":
        if why := refuse_share(self.teacher_gpus):
            raise ValueError(f"teacher_gpus: {why}")
        for name in ("students", "methods", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: there is nothing to run")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: the same seed stands twice; a repeated run says nothing new")
        labels = [method_label(method) for method in self.methods]
        if len(set(labels)) < len(labels):
            raise ValueError("methods: the same method stands twice")
        declared = [
            contrast.model_copy(update={"on": "", "band": None}) for contrast in (*self.primary, *self.exploratory)
        ]
        if len(set(declared)) < len(declared):
            raise ValueError("primary and exploratory: the same contrast stands twice; each counts in the correction")
        return self


@dataclass(frozen=True)
class PretrainCell:
    """One pretraining run of a plan."""

    config: PretrainConfig
    command: str  # what a person types to run this cell alone

    @property
    def name(self) -> str:
        """The run's name, which is its folder's."""
        return self.config.name

    @property
    def kind(self) -> str:
        """What cells of about equal cost share."""
        return "pretrain"


@dataclass(frozen=True)
class TransferCell:
    """One downstream run of a plan, on the checkpoint of a pretraining cell."""

    task: TaskSpec
    protocol: str
    run: str  # the pretraining cell's name
    seed: int
    named: str  # the task as the plan names it
    settings: tuple[str, ...]  # KEY=VALUE by which it differs from its file
    command: str = ""  # what a person types to run this cell alone, once its checkpoint's folder is known

    @property
    def name(self) -> str:
        """Task, protocol and run."""
        return f"{self.task.name} {self.protocol} {self.run}"

    @property
    def kind(self) -> str:
        """What cells of about equal cost share."""
        return f"{self.task.name} {self.protocol}"


BenchCell = PretrainCell | TransferCell


@dataclass(frozen=True)
class Cells:
    """A plan, expanded: the teacher first, then pretraining, then transfer."""

    teacher: PretrainCell | None
    pretrain: list[PretrainCell]
    transfer: list[TransferCell]
    teacher_takes: Resources = field(default_factory=Resources)  # where nothing is named: as the other cells

    def all(self) -> list[BenchCell]:
        """Return every cell in the order of running."""
        return [*([self.teacher] if self.teacher else []), *self.pretrain, *self.transfer]


def load_plan(path: Path) -> Benchmark:
    """Load a plan's TOML."""
    return load_toml(path, Benchmark)


def expand(plan: Benchmark, where: Path, tasks_dir: Path | None = None, overrides: Sequence[str] = ()) -> Cells:
    """Return every cell of the plan read from `where`, all methods of a seed before the next seed.

    An unfinished plan can thus be compared fairly. `overrides` are of the students' pretraining, those of data.*
    and run.* also of the plan's teacher's. UserError for a student, task or protocol that is not there, and for
    an override of what the plan itself sets.
    """
    _check_overrides(plan, overrides)
    pretrain = [cell for student in plan.students for cell in pretrain_cells(plan, student, where, overrides)]
    names = [cell.name for cell in pretrain]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{where}: students: two runs would be named {twice[0]}; give the student files other names")
    tasks = [(name, _task(name, where, tasks_dir, plan.task_settings)) for name in plan.tasks]
    for protocol in plan.protocols:
        if tasks and not any(protocol in spec.protocols for _, spec in tasks):
            raise UserError(f"{where}: protocols: no task of the plan has the protocol {protocol!r}")
    transfer = [
        _transfer_cell(plan, spec, protocol, cell, name)
        for cell in pretrain
        for name, spec in tasks
        for protocol in (plan.protocols or spec.protocols)
        if protocol in spec.protocols
    ]
    names = [cell.name for cell in transfer]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{where}: tasks and protocols: {twice[0]!r} would run twice; name each once")
    teacher = None
    if plan.teacher:
        _check_file(plan.teacher, where, "teacher")
        shared = [setting for setting in overrides if setting.startswith(("data.", "run."))]
        config = load_config(Path(plan.teacher), shared)
        words = [word for setting in shared for word in ("--set", setting)]
        teacher = PretrainCell(config, shlex.join(["cskd-bench", "pretrain", plan.teacher, *words]))
    return Cells(teacher, pretrain, transfer, Resources(plan.teacher_threads, plan.teacher_gpus))


def _transfer_cell(plan: Benchmark, spec: TaskSpec, protocol: str, cell: PretrainCell, named: str) -> TransferCell:
    """Make the cell of a task on a run, precision and teacher stated: workers and records then agree on what it is.

    UserError for a teacher's weights that are missing, and for a student that cannot learn from that teacher.
    """
    method = cell.config.method
    check_student(spec, protocol, method.heads != "class", f"a student pretrained with method {method.kind}")
    stated = state_teacher(state_precision(spec, protocol), protocol)
    settings = plan.task_settings
    if stated.finetune.precision != spec.finetune.precision:
        settings = (*settings, f"finetune.precision={stated.finetune.precision}")
    return TransferCell(stated, protocol, cell.name, cell.config.seed, named, settings)


def _check_overrides(plan: Benchmark, overrides: Sequence[str]) -> None:
    taken = ("seed", "name", "method") + (("teacher.weights",) if plan.teacher else ())
    for setting in overrides:
        key = setting.partition("=")[0].strip()
        if any(key == word or key.startswith(f"{word}.") for word in taken):
            raise UserError(f"--set {setting}: the plan sets {key} itself; change the plan")


def place_cells(cells: Cells, runs: Path, results: Path, tasks_dir: Path | None = None) -> Cells:
    """Complete a plan's cells with the folders of this bench: the teacher's weights, and what commands name."""
    places = ["--runs", _shorten(runs), "--results", _shorten(results)]
    teacher = cells.teacher and replace(cells.teacher, command=_add_words(cells.teacher.command, places))
    pretrain = []
    for cell in cells.pretrain:
        words = list(places)
        if cells.teacher is not None:
            inside = Path(cells.teacher.name) / "model.safetensors"
            taught = cell.config.teacher.model_copy(update={"weights": str(runs / inside)})
            cell = replace(cell, config=cell.config.model_copy(update={"teacher": taught}))
            words = ["--set", override("teacher.weights", (Path(_shorten(runs)) / inside).as_posix()), *words]
        pretrain.append(replace(cell, command=_add_words(cell.command, words)))
    own = ["--tasks-dir", _shorten(tasks_dir)] if tasks_dir else []
    transfer = []
    for one in cells.transfer:
        checkpoint = (Path(_shorten(runs)) / one.run).as_posix()
        task = Path(one.named).name if Path(one.named).is_absolute() else one.named
        words = ["--task", task, "--protocol", one.protocol, "--checkpoint", checkpoint, "--seed", str(one.seed)]
        changes = [word for setting in one.settings for word in ("--set", setting)]
        transfer.append(replace(one, command=_add_words("cskd-bench transfer", [*words, *changes, *own, *places])))
    return replace(cells, teacher=teacher, pretrain=pretrain, transfer=transfer)


def pretrain_cells(
    plan: Benchmark, student: str, where: Path, overrides: Sequence[str], key: str = "students"
) -> list[PretrainCell]:
    """Return a student's cells, all with views of the largest size that one of its methods needs.

    `key` is what names the student in the plan, for the UserError where its file is not there.
    """
    _check_file(student, where, key)
    runs = [(method.model_dump(mode="json"), seed) for seed in plan.seeds for method in plan.methods]
    cells = [_pretrain_cell(student, method, seed, overrides) for method, seed in runs]
    sizes = {cell.config.view_size for cell in cells}
    if len(sizes) == 1:
        return cells
    stated = [*overrides, f"recipe.augment.view_size={max(sizes)}"]
    return [_pretrain_cell(student, method, seed, stated) for method, seed in runs]


def _pretrain_cell(student: str, method: dict[str, Any], seed: int, overrides: Sequence[str]) -> PretrainCell:
    """Make one student's cell of a method and seed; `student` is the file as the plan names it."""
    file, data = read_config(Path(student))
    stem = str(data.get("name", file.stem)).removesuffix(f"_{method_of(data)}")
    data |= {"method": method, "seed": seed}
    label = method_label(validate(PretrainConfig, {"name": file.stem, **data}, str(file)).method)
    slug = re.sub(r"[^A-Za-z0-9.-]+", "_", label).strip("_")
    data["name"] = name = f"{stem}_{slug}_s{seed}"
    config = validate(PretrainConfig, apply_overrides(data, overrides), str(file))
    inline = ", ".join(f"{key} = {json.dumps(value)}" for key, value in method.items())
    settings = [f"name={name}", f"method={{{inline}}}", f"seed={seed}", *overrides]
    words = [word for setting in settings for word in ("--set", setting)]
    shown = Path(student).name if Path(student).is_absolute() else student
    return PretrainCell(config, shlex.join(["cskd-bench", "pretrain", shown, *words]))


def _check_file(named: str, where: Path, key: str) -> None:
    """Refuse a plan whose file is not there, nor among the shipped configurations."""
    if not is_file(find_config(Path(named))[0]):
        raise UserError(f"{where}: {key}: no file {named!r} here or among the shipped configurations")


def _task(name: str, where: Path, tasks_dir: Path | None, settings: Sequence[str]) -> TaskSpec:
    try:
        return load_task(name, tasks_dir, settings)
    except UserError as error:
        raise UserError(f"{where}: tasks{' with task_settings' if settings else ''}: {error}") from error


def _shorten(path: Path) -> str:
    """Name a folder in a command without this machine's folders above it."""
    return path.name if path.is_absolute() else path.as_posix()


def _add_words(command: str, words: Sequence[str]) -> str:
    return f"{command} {shlex.join(words)}"
