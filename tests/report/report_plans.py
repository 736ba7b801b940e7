"""Registered plans of pretraining contrasts with no teacher, for tests of what rests on them."""

import json
from pathlib import Path
from typing import Protocol


class Asked(Protocol):
    """A setting: what its records say of themselves."""

    student: str
    pretrain_data: str
    pretrain_recipe: str
    teacher: str


def ask_plan(
    results: Path,
    one: Asked,
    name: str,
    seeds: list[int],
    *methods: str,
    task: str,
    band: float | None = None,
    against: str = "supervised",
) -> None:
    """Register a plan in a results folder, with a primary contrast of each method and another."""
    student = {"model": one.student, "pretrain_data": one.pretrain_data, "pretrain_recipe": one.pretrain_recipe}
    shared = {"second": student | {"label": against}, "task": task, "protocol": "pretrain", "band": band}
    contrasts = [
        {"name": f"{label} − {against}", "where": task, "first": student | {"label": label, "teacher": one.teacher}}
        for label in methods
    ]
    plan = {"plan": name, "registered": "now", "commit": "a", "seeds": seeds, "students": [[*student.values()]]}
    (results / "plans").mkdir(exist_ok=True)
    told = plan | {"contrasts": [contrast | shared for contrast in contrasts]}
    (results / "plans" / f"{name}.json").write_text(json.dumps(told))
