"""The plan that is disturbed: cells of about a second, of every kind of method and of three protocols."""

from pathlib import Path

import tomlkit
from helpers.tiny import save_model, teacher, write_colour_squares, write_run

METHODS = ("supervised", "kd", "deit", "cskd", "vkd", "locality")
TASKS = {"coloured": ("train", ("finetune", "linear", "knn")), "fewer": ("val", ("linear", "knn"))}
STUDENT = {"name": "tiny", "student.patch_size": 16, "student.depth": 1, "recipe.epochs": 4, "recipe.ema_decay": 0.0}
STUDENT |= {"recipe.augment.auto_augment": "", "run.save_every": 1}


def write_plan(folder: Path, seeds: int) -> Path:
    """Write data, a teacher, a student and tasks, and the plan of them all: six cells for each method and seed."""
    squares = write_colour_squares(folder / "squares")
    weights = save_model(folder / "teacher.safetensors", num_classes=3)
    write_run(folder / "student.toml", {**STUDENT, "data.root": squares, **teacher(weights)})
    for name, (train, protocols) in TASKS.items():
        data = {"dataset": "folder", "root": str(squares), "train": train, "test": "test", "num_classes": 3}
        task = {"version": 1, "protocols": protocols, "metric": "top1", "image_size": 32}
        task |= {
            "data": {**data, "eval_crop": 1.0},
            "finetune": {"epochs": 3, "batch_size": 16},
            "kshot": {"shots": [1]},
        }
        (folder / f"{name}.toml").write_text(tomlkit.dumps(task))
    plan = {"students": ["student.toml"], "seeds": list(range(seeds)), "tasks": [f"{name}.toml" for name in TASKS]}
    plan |= {"task_settings": ["knn.k=3"], "methods": [{"kind": kind} for kind in METHODS]}
    (folder / "plan.toml").write_text(tomlkit.dumps(plan))
    return folder / "plan.toml"
