"""A small plan, and what a bench of it leaves behind, without what differs from one run to the next."""

from pathlib import Path

import tomlkit

from cskd_bench.record import read_record
from helpers.tiny import save_model, teacher, write_run

OF_ONE_RUN = {"created", "started", "resumptions", "cost", "command", "argv", "code"}
STUDENT = {"name": "tiny", "student.patch_size": 16, "student.depth": 1, "recipe.epochs": 3, "recipe.ema_decay": 0.0}
STUDENT |= {"recipe.augment.auto_augment": "", "run.save_every": 1}
PLAN = """
students = ["student.toml"]
seeds = [0, 1]
tasks = ["coloured.toml", "fewer.toml"]
task_settings = ["knn.k=3"]
[[methods]]
kind = "supervised"
[[methods]]
kind = "cskd"
[[primary]]
method = "cskd"
against = "supervised"
task = "coloured"
protocol = "linear"
"""
CELLS = 24  # 4 pretrainings; (finetune, linear, knn) and (linear, knn) of each


def write_plan(folder: Path, squares: Path) -> Path:
    """Write a student, two tasks and a plan of 24 cells, and return the folder."""
    weights = save_model(folder / "teacher.safetensors", num_classes=3)
    write_run(folder / "student.toml", {**STUDENT, "data.root": squares, **teacher(weights)})
    write_task(folder / "coloured.toml", squares, ["finetune", "linear", "knn"])
    write_task(folder / "fewer.toml", squares, ["linear", "knn"], train="val")
    (folder / "plan.toml").write_text(PLAN)
    return folder


def write_task(file: Path, squares: Path, protocols: list[str], train: str = "train", epochs: int = 2) -> None:
    """Write a task on the coloured squares."""
    data = {"dataset": "folder", "root": str(squares), "train": train, "test": "test", "num_classes": 3}
    task = {"version": 1, "protocols": protocols, "metric": "top1", "image_size": 32}
    task |= {"data": {**data, "eval_crop": 1.0}, "finetune": {"epochs": epochs, "batch_size": 16}}
    file.write_text(tomlkit.dumps(task))


def records_in(results: Path) -> dict[str, dict]:
    """Every record, without times, interruptions and folder names; the code may be committed meanwhile."""
    files = (results / "records").glob("[!.]*.json")
    return {path.stem: read_record(path).model_dump(exclude=OF_ONE_RUN) for path in files}
