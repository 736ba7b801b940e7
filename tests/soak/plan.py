"""The plan that is disturbed: cells of about a second, of every kind of method and of three protocols."""

from pathlib import Path

import tomlkit
from helpers.benches import STUDENT, write_task
from helpers.tiny import save_model, teacher, write_colour_squares, write_run

METHODS = ("supervised", "kd", "deit", "cskd", "vkd", "locality")
TASKS = {"coloured": ("train", ["finetune", "linear", "knn"]), "fewer": ("val", ["linear", "knn"])}


def write_plan(folder: Path, seeds: int) -> Path:
    """Write data, a teacher, a student and tasks, and the plan of them all: six cells for each method and seed."""
    squares = write_colour_squares(folder / "squares")
    weights = save_model(folder / "teacher.safetensors", num_classes=3)
    write_run(folder / "student.toml", {**STUDENT, "recipe.epochs": 4, "data.root": squares, **teacher(weights)})
    for name, (train, protocols) in TASKS.items():
        write_task(folder / f"{name}.toml", squares, protocols, train, epochs=3)
    plan = {"students": ["student.toml"], "seeds": list(range(seeds)), "tasks": [f"{name}.toml" for name in TASKS]}
    plan |= {"task_settings": ["knn.k=3"], "methods": [{"kind": kind} for kind in METHODS]}
    (folder / "plan.toml").write_text(tomlkit.dumps(plan))
    return folder / "plan.toml"
