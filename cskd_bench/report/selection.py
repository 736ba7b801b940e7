"""Which records stand together: cells of equal settings, and what was left out with the reason."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cskd_bench.errors import UserError
from cskd_bench.names import readable
from cskd_bench.record import Record, read_records
from cskd_bench.report.columns import Words, flatten, list_differences
from cskd_bench.report.tuning import as_set_up, in_words
from cskd_bench.task_identity import used_by, with_former_meaning

BASELINES: Final = ("supervised", "kd", "deit")
STUDIED: Final = "cskd"  # the label that verdicts and figures are about
METHOD_ORDER: Final = (*BASELINES, STUDIED)
GROUP_ORDER: Final = ("pretraining", "classification", "robustness", "detection", "segmentation")
PROTOCOL_ORDER: Final = (
    *("pretrain", "finetune", "linear", "knn", "kshot", "lowlabel", "detect", "segment", "multilabel", "evaluate"),
)

IMPOSSIBLE: Final = 1e12  # seconds, images per second, GPU-hours


@dataclass(frozen=True, slots=True)
class TableStudent:
    """What all methods of one table share: the model and how it was pretrained."""

    model: str
    pretrain_data: str
    pretrain_recipe: str


@dataclass(frozen=True, slots=True)
class Setting:
    """A column: what exactly was measured. Only equal settings are averaged or compared."""

    group: str
    task: str
    version: int
    fingerprint: str
    metric: str
    protocol: str
    recipe: str
    image_size: int
    weights: str
    content: dict[str, Any] = field(default_factory=dict, compare=False)  # what `fingerprint` names, where it is known


@dataclass(frozen=True, slots=True)
class Method:
    """A row: a pretraining objective with its teacher."""

    kind: str
    label: str
    teacher: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that is not in the tables, or not in all of them, and why."""

    name: str
    reason: str


@dataclass
class Selection:
    """Records by table, row and column."""

    cells: dict[tuple[TableStudent, Setting, Method], list[Record]] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def student_of(record: Record) -> TableStudent:
    """Return the table that a record belongs to."""
    recipe = record.checkpoint.pretrain_recipe or (record.recipe if record.protocol == "pretrain" else "")
    return TableStudent(record.model.name, record.checkpoint.pretrain_data, recipe)


def setting_of(record: Record) -> Setting:
    """Return the column that a record belongs to."""
    task = record.task
    return Setting(
        group=task.group,
        task=task.name,
        version=task.version,
        fingerprint=task.fingerprint,
        metric=task.metric,
        protocol=record.protocol,
        recipe=record.recipe,
        image_size=record.model.image_size,
        weights="raw" if (kind := record.checkpoint.weights) == "initial" else kind,  # a row beside the others
        content=_content(record),
    )


def _content(record: Record) -> dict[str, Any]:
    """Return what the record's protocol used of its task; empty for a pretraining, and where the record has none."""
    try:
        return used_by(record.protocol, with_former_meaning(record.config["task"]))
    except (KeyError, TypeError, AttributeError):  # not of a transfer of ours
        return {}


def method_of(record: Record) -> Method:
    """Return the row that a record belongs to."""
    return Method(record.method.kind, record.method.label, record.method.teacher + _as_set_up(record))


def _as_set_up(record: Record) -> str:
    """Say at what resolution and stride the teacher worked, where a run of ours says it."""
    teacher = _pretraining(record).get("teacher")
    return as_set_up(teacher) if record.method.teacher and isinstance(teacher, dict) else ""


def pretrain_epochs(record: Record) -> int:
    """Return for how many epochs the record's student was pretrained; 0 where the record does not say."""
    recipe = _pretraining(record).get("recipe")
    epochs = recipe.get("epochs") if isinstance(recipe, dict) else None
    return epochs if isinstance(epochs, int) else 0


def _pretraining(record: Record) -> dict[str, Any]:
    pretrained = record.config if record.protocol == "pretrain" else record.config.get("pretrain")
    return pretrained if isinstance(pretrained, dict) else {}


def replicate_of(record: Record) -> int:
    """Return the pretraining seed, the unit that is independent; without one, the record's own seed."""
    seed = record.checkpoint.pretrain_seed
    return record.seed if seed is None else seed


def select(folder: Path, *, include_dirty: bool = False) -> Selection:
    """Read a records folder and sort what can be compared into cells; UserError if there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of records; run a transfer first or name another one")
    selection = Selection()
    usable: list[Record] = []
    for path, record in read_records(folder):
        reason = _unusable(path, record, include_dirty)
        if isinstance(record, Record) and reason is None:
            usable.append(record)
        else:
            selection.left_out.append(LeftOut(readable(path.name), reason or ""))
    usable = _same_images(usable, selection.left_out)
    for record in _first_of_each_seed(usable, selection.left_out):
        key = (student_of(record), setting_of(record), method_of(record))
        selection.cells.setdefault(key, []).append(record)
    selection.notes.extend(_kept_apart(selection.cells))
    return selection


def _unusable(path: Path, record: Record | UserError, include_dirty: bool) -> str | None:
    if isinstance(record, UserError):
        problem = str(record).removeprefix(f"{path}: ")
        if "schema_version" in problem:
            return "its schema version is not known to this release"
        return problem
    if record.id != path.stem:
        return f"its id is {record.id!r}: the file was renamed or copied"
    if record.task.metric not in record.metrics:
        return f"it has no metric {record.task.metric!r}"
    if not 0 <= record.value <= 1:
        return f"its {record.task.metric} is {record.value:g}, not a fraction between 0 and 1"
    cost = record.cost
    rates = max(cost.seconds, cost.images_per_second, cost.gpu_hours, cost.labelling_seconds)
    if rates > IMPOSSIBLE or cost.peak_memory_bytes > 1 << 60:
        return "its cost is impossible"
    if not record.code.commit and not include_dirty:
        return "made from code that is not known (no commit): --include-dirty shows it"
    if record.code.dirty and not include_dirty:
        return "made from a tree with uncommitted changes (--include-dirty shows it)"
    return None


def _same_images(records: list[Record], left_out: list[LeftOut]) -> list[Record]:
    """Keep one content of the data per column: what its oldest record saw, which newer ones never replace."""
    columns: dict[object, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record.created, record.id)):
        columns[student_of(record), setting_of(record)].append(record)
    first = {column: _first_content(found) for column, found in columns.items()}
    kept = []
    for record in records:
        count, images = first[student_of(record), setting_of(record)]
        if record.examples != count:
            reason = f"scored on {record.examples:,} images, the oldest records of its column on {count:,}"
            left_out.append(LeftOut(f"{record.id}.json", reason))
        elif record.images not in ("", images):
            reason = f"its images ({record.images}) are not those of its column's oldest records ({images})"
            left_out.append(LeftOut(f"{record.id}.json", reason))
        else:
            kept.append(record)
    return kept


def _first_content(records: Sequence[Record]) -> tuple[int, str]:
    """Return number and identity of the images of the oldest record, of several at once what most of them saw."""
    count = _most_common([record.examples for record in records if record.created == records[0].created])
    named = [record for record in records if record.images and record.examples == count]
    return count, _most_common([record.images for record in named if record.created == named[0].created])


def _most_common(values: Sequence[Any]) -> Any:
    found = Counter(values).most_common(1)  # of equally many the first
    return found[0][0] if found else None


def _first_of_each_seed(records: list[Record], left_out: list[LeftOut]) -> list[Record]:
    """Keep the oldest record of a cell and seed, so that nobody can repeat a run until it comes out well."""
    kept: dict[object, Record] = {}
    for record in sorted(records, key=lambda record: (record.created, record.id)):
        key = (student_of(record), setting_of(record), method_of(record), replicate_of(record), record.seed)
        first = kept.setdefault(key, record)
        if first is not record:
            left_out.append(LeftOut(f"{record.id}.json", f"repeats seed {record.seed} of {first.id}, which is older"))
    return sorted(kept.values(), key=lambda record: (replicate_of(record), record.seed, record.id))


def _kept_apart(cells: Mapping[tuple[TableStudent, Setting, Method], list[Record]]) -> list[str]:
    """Name the columns that differ in the recipe alone, and in what: they are shown side by side, never averaged."""
    recipes: dict[tuple[str, str, str], dict[str, Words]] = defaultdict(dict)
    for (student, setting, _), records in cells.items():
        found = recipes[student.model, setting.task, setting.protocol]
        found.setdefault(f"{student.pretrain_recipe} {setting.recipe}", _recipe_words(records[0], setting))
    return [
        f"{model}, {task}, {protocol}: {len(found)} recipes, shown apart and never averaged" + _in_what(found.values())
        for (model, task, protocol), found in sorted(recipes.items())
        if len(found) > 1
    ]


def _in_what(recipes: Iterable[Words]) -> str:
    differences = list_differences(list(recipes))
    return f"; they differ in {differences}" if differences else ""


def _recipe_words(record: Record, setting: Setting) -> Words:
    """Return in words what a record's recipe names: of its pretraining and of its task."""
    pretraining = {key: value for key, value in _pretraining(record).items() if key in ("data", "student", "recipe")}
    words = flatten(
        pretraining if record.protocol == "pretrain" else {**in_words(setting.content), "pretrain": pretraining}
    )
    return {key: value for key, value in words.items() if not key.endswith("data.identity")}


def method_order(method: Method) -> tuple[object, ...]:
    """Sort methods as tables show them: by kind, the plain one first. No two methods are equal."""
    kind = METHOD_ORDER.index(method.kind) if method.kind in METHOD_ORDER else len(METHOD_ORDER)
    return kind, method.label != method.kind, method.label, _natural(method.teacher), method.kind, method.teacher


def setting_order(setting: Setting) -> tuple[object, ...]:
    """Sort columns by task, then protocol. No two settings are equal, whatever order a set gives them in."""
    protocols = PROTOCOL_ORDER.index(setting.protocol) if setting.protocol in PROTOCOL_ORDER else len(PROTOCOL_ORDER)
    protocol = (protocols, setting.protocol, setting.image_size, setting.recipe, setting.weights)
    return _natural(setting.task), setting.version, *protocol, setting.task, setting.metric, setting.fingerprint


def _natural(text: str) -> tuple[object, ...]:
    """Return a key that sorts `at 64 px` before `at 128 px`."""
    parts = re.split(r"0*(\d+)", text)  # numbers at odd places; of two numbers the longer one is larger
    return tuple((len(part), part) if place % 2 else (-1, part) for place, part in enumerate(parts))
