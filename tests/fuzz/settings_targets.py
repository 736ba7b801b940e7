"""What people write: configurations, tasks, `--set` words, and plans."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from fuzz.choices import Choices
from fuzz.documents import as_toml, change
from fuzz.scratch import scratch
from helpers.inputs import TASK
from helpers.tiny import tiny_run

from cskd_bench.bench.plan import expand, load_plan
from cskd_bench.bench.registration import resolve_plan
from cskd_bench.config import PretrainConfig, load_config
from cskd_bench.report.published import read_published
from cskd_bench.schema import validate
from cskd_bench.task import TaskSpec, load_task

SHIPPED_CONFIG = "imagenette64/15ep.toml"


@cache
def config_table() -> dict[str, Any]:
    """Return every setting of a pretraining, as a table."""
    return validate(PretrainConfig, {"name": "a", **tiny_run({})}, "a").model_dump(mode="json", exclude_none=True)


@cache
def task_table() -> dict[str, Any]:
    """Return every setting of a task with a further recipe, as a table."""
    spec = validate(TaskSpec, {"name": "a", **TASK}, "a").model_dump(mode="json", exclude_none=True)
    return spec | {"recipes": {"b": {"finetune": "shared"}, "c": {"finetune": {"epochs": 3}}}}


@cache
def _keys(table: str) -> tuple[str, ...]:
    """Return the dotted names of all settings."""

    def names(settings: dict[str, Any]) -> list[str]:
        tables = [(key, value) for key, value in settings.items() if isinstance(value, dict)]
        return [*settings, *(f"{key}.{name}" for key, value in tables for name in names(value))]

    return tuple(names(json.loads(table)))


def _words(choices: Choices, table: dict[str, Any]) -> list[str]:
    """Return up to three words as `--set` takes them."""
    keys = _keys(json.dumps(table))
    words = []
    for _ in range(choices.below(4)):
        key = choices.text() if choices.below(16) == 15 else keys[choices.below(300) % len(keys)]
        value = choices.text() if choices.below(2) else as_toml(change(1, choices)).decode("utf-8", "surrogateescape")
        words.append(choices.pick((f"{key}={value}", f"{key}.x={value}", f"{key} = {value}", key, value)))
    return words


def fuzz_config(data: bytes) -> None:
    """Load a pretraining TOML: text as it is, or changed settings, with `--set` words and `--method`."""
    choices = Choices(data)
    method = choices.pick(("", "", "cskd", "kd-nkd", "vkd", choices.text()))
    words = _words(choices, config_table())
    if choices.below(4) == 3:
        load_config(Path(SHIPPED_CONFIG), words, method)
        return
    with scratch() as folder:
        file = Path(folder, choices.pick(("a.toml", "a_cskd.toml", "a b%.toml")))
        file.write_bytes(choices.rest() if choices.below(2) else as_toml(change(config_table(), choices)))
        config = load_config(file, words, method)
    config.recipe_fingerprint(), config.identity(), config.view_size  # what every user of it asks for


def fuzz_task(data: bytes) -> None:
    """Load a task's TOML: text as it is, or changed settings, with `--set` words and further recipes."""
    choices = Choices(data)
    recipe = choices.pick(("", "", "recipe=b", "recipe=c", f"recipe={choices.text()}"))
    words = [*_words(choices, task_table()), *([recipe] if recipe else [])]
    if choices.below(8) == 7:
        load_task(choices.pick(("cifar100", "cifar100_deit", choices.text())), None, words)
        return
    with scratch() as folder:
        root = Path(folder)
        (root / "recipes").mkdir()
        named = choices.pick((*[str(root / "a.toml")] * 12, "a", "a_b", "a_c"))
        (root / "a.toml").write_bytes(choices.rest() if choices.below(2) else as_toml(change(task_table(), choices)))
        shared = change({"epochs": 3}, choices) if choices.below(2) else {"epochs": 3}
        (root / "recipes" / "shared.toml").write_bytes(as_toml(shared))
        spec = load_task(named, root, words)
    spec.fingerprint()
    for protocol in spec.protocols:
        spec.fingerprint(protocol)


PLAN = {
    "students": [SHIPPED_CONFIG],
    "methods": [{"kind": "supervised"}, {"kind": "cskd"}, {"kind": "kd", "loss": {"kind": "dkd"}}],
    "seeds": [0, 1],
    "tasks": ["cifar100"],
    "protocols": ["knn", "linear"],
    "task_settings": ["knn.k=5"],
    "teacher": SHIPPED_CONFIG,
    "about": "a plan",
    "primary": [{"method": "cskd", "against": "supervised", "band": 0.5, "on": "a"}],
    "exploratory": [{"method": "cskd", "against": "supervised", "protocol": "knn", "task": "cifar100"}],
}


def fuzz_plan(data: bytes) -> None:
    """Load and expand a plan of a bench, and resolve its contrasts: text as it is, or a changed plan."""
    choices = Choices(data)
    words = _words(choices, config_table()) if choices.below(4) == 3 else []
    with scratch() as folder:
        file = Path(folder, "plan.toml")
        file.write_bytes(choices.rest() if choices.below(2) else as_toml(change(PLAN, choices)))
        plan = load_plan(file)
        expand(plan, file, None, words)
        resolve_plan(plan, file, None, words)


PUBLISHED = {
    "result": [
        {
            **{"task": "imagenet1k", "metric": "top1", "protocol": "pretrain, 300 epochs", "source": "a paper"},
            **{"secondary": True, "config": "", "differs": "in its views"},
            "rows": [{"method": "cskd", "model": "deit_tiny_patch16_224", "value": 76.3, "rerun": 76, "cifar10": 98}],
        }
    ]
}


def fuzz_published(data: bytes) -> None:
    """Read a file of published scores: text as it is, or a changed one."""
    choices = Choices(data)
    with scratch() as folder:
        file = Path(folder, "published.toml")
        file.write_bytes(choices.rest() if choices.below(2) else as_toml(change(PUBLISHED, choices)))
        read_published(file)
