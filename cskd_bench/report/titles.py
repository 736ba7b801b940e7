"""Titles of tables: the student, its data, and how its pretraining differs from that of its sisters."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from cskd_bench.record import Record
from cskd_bench.report import words
from cskd_bench.report.selection import pretrain_epochs
from cskd_bench.report.tables import Table

Flat = dict[str, Any]  # a configuration by dotted keys

VARIES: Final = object()
PARTS: Final = ("data", "student", "recipe", "teacher")
OTHERS: Final = 3  # differences without plain words that a title names
PLAIN: Final = {
    "data.train": "split {}",
    "student.image_size": "{} px",
    "student.patch_size": "patch {}",
    "student.depth": "depth {}",
    "student.embed_dim": "width {}",
    "student.num_heads": "{} heads",
    "student.drop_path": "drop path {}",
    "student.stem": "{} stem",
    "student.distillation_token": "{} distillation token",
    "recipe.batch_size": "batch size {}",
    "recipe.precision": "{}",
    "recipe.ema_decay": "EMA {}",
    "recipe.optim.name": "{}",
    "recipe.optim.lr": "lr {}",
    "recipe.optim.weight_decay": "weight decay {}",
    "recipe.augment.view_size": "views of {} px",
    "recipe.augment.repeats": "{} repeats",
    "recipe.augment.policy": "{}-augment",
    "teacher.name": "teacher {}",
    "teacher.image_size": "teacher {} px",
}
MIXING: Final = ("recipe.augment.mixup", "recipe.augment.cutmix")
# where images lie and what happens to broken ones; epochs stand in every title; the rest follows from other settings
LEFT_OUT: Final = (
    *("data.root", "data.identity", "data.max_skipped", "data.on_corrupt", "recipe.epochs", "student.name"),
    *("teacher.weights", "teacher.num_classes", "recipe.augment.mix_group"),
)


def titles(tables: Sequence[Table]) -> list[str]:
    """Return one title per table; within a group those of one model and data say what sets them apart."""
    families: dict[object, list[int]] = defaultdict(list)
    for number, table in enumerate(tables):
        student = table.student
        families[table.group, student.model.split(" ")[0], student.pretrain_data].append(number)
    found = [""] * len(tables)
    for numbers in families.values():
        for number, title in zip(numbers, _family([tables[number] for number in numbers]), strict=True):
            found[number] = title
    return found


def recipe_words(table: Table) -> str:
    """Name a table's recipe by its fingerprint, empty where records name none."""
    return f"recipe {table.student.pretrain_recipe[:8]}" if table.student.pretrain_recipe else ""


def _family(tables: Sequence[Table]) -> list[str]:
    settings = [_settings(table) for table in tables]
    varied = {key for flat in settings for key, value in flat.items() if value is VARIES}  # a matter of rows there
    settings = [{key: value for key, value in flat.items() if key not in varied} for flat in settings]
    differing = [key for key in _keys(settings) if len({_text(flat.get(key)) for flat in settings}) > 1]
    shared = set.intersection(*({*table.student.model.split(" ")} for table in tables))
    found = []
    for table, flat in zip(tables, settings, strict=True):
        told = [*_changed_model(table, shared, differing), *_told(flat, differing, settings)]
        found.append(f"{_start(table, shared)}{': ' if told else ''}{', '.join(told)}")
    count = Counter(found)
    for number, table in enumerate(tables):
        if count[found[number]] > 1 and recipe_words(table):
            found[number] += f", {recipe_words(table)}"
    return found


def _start(table: Table, shared: set[str]) -> str:
    """Name the student as its family is called, the data, and the epochs where all records agree."""
    model = " ".join(word for word in table.student.model.split(" ") if word in shared)
    teacher = " (teacher)" if table.teaches else ""
    if not table.student.pretrain_data:
        return f"{model}{teacher}"
    records = [record for cell in table.cells.values() for record in cell.records]
    epochs = {found for record in records if (found := pretrain_epochs(record))}
    schedule = f" for {words.count(max(epochs), 'epoch')}" if len(epochs) == 1 else ""
    milestones = {record.config.get("milestone") for record in records}  # of one epoch: they share a recipe
    if milestones != {None} and len(milestones) == 1:
        schedule = f"{schedule}, weights of epoch {milestones.pop()}"
    return f"{model}{teacher}, pretrained on {table.student.pretrain_data}{schedule}"


def _changed_model(table: Table, shared: set[str], differing: Sequence[str]) -> list[str]:
    """Return what a model's name says beyond its family's, unless the configuration says it too."""
    own = [word for word in table.student.model.split(" ") if word not in shared]
    return [word for word in own if f"student.{word.partition('=')[0].replace('-', '_')}" not in differing]


def _told(flat: Flat, differing: Sequence[str], sisters: Sequence[Flat]) -> list[str]:
    """Write the settings that differ, those with plain words first, then a few of the others."""
    mixing = {_mixing(sister) for sister in sisters}
    plain = [PLAIN[key].format(_text(flat[key])) for key in PLAIN if key in differing and flat.get(key) is not None]
    others = [key for key in differing if key not in PLAIN]
    if len(mixing) > 1:
        plain.insert(0, _mixing(flat))
        others = [key for key in others if key not in MIXING]
    known = [key for key in others if flat.get(key) is not None]
    more = [f"{key.rpartition('.')[2]} {_text(flat[key])}" for key in known]
    return [part for part in plain if part] + more[:OTHERS] + (["…"] if len(more) > OTHERS else [])


def _mixing(flat: Flat) -> str:
    used = [key.rpartition(".")[2] for key in MIXING if flat.get(key)]
    known = any(key in flat for key in MIXING)
    return " and ".join(used) or ("no mixing" if known else "")


def _settings(table: Table) -> Flat:
    """Return a table's settings; a record of each method tells, as seeds share a recipe.

    VARIES stands where its methods differ.
    """
    first: dict[object, Record] = {}
    for (method, _), cell in table.cells.items():
        first.setdefault(method, cell.records[0])
    found: Flat = {}
    for record in first.values():
        for key, value in flatten({part: pretraining_of(record).get(part) or {} for part in PARTS}):
            if key not in LEFT_OUT:
                same = found.get(key, value) is not VARIES and _text(found.get(key, value)) == _text(value)
                found[key] = value if same else VARIES
    return found


def pretraining_of(record: Record) -> dict[str, Any]:
    """Return the pretraining's configuration, empty where the record holds none."""
    pretrained = record.config if record.protocol == "pretrain" else record.config.get("pretrain")
    return pretrained if isinstance(pretrained, dict) else {}


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a nested configuration as dotted keys and values."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _keys(settings: Sequence[Flat]) -> list[str]:
    return list(dict.fromkeys(key for flat in settings for key in flat))


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
