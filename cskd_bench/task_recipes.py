"""Task files on disk, and the recipes that one file holds beside its own: `cifar100` and `cifar100_deit`.

A file's `[recipes.NAME]` says what is other than in the rest of it; its `finetune` may name a file of `recipes/` beside
it, which several tasks share. The task's name is then the file's with `_NAME`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from cskd_bench.errors import UserError
from cskd_bench.schema import read_toml, shipped

DEVELOPMENT: Final = "development"  # the folder of tasks on data that only their makers have: found, but not listed
RECIPES: Final = "recipes"


def list_tasks(folders: Iterable[Path]) -> dict[str, Path]:
    """Map the names of tasks and of their further recipes to files; a later folder's stand for earlier ones."""
    found: dict[str, Path] = {}
    for folder in folders:
        for file in sorted(folder.glob("*.toml")):
            found[file.stem] = file
            found |= {f"{file.stem}_{recipe}": file for recipe in _recipes(file)}
    return found


def development_tasks() -> dict[str, Path]:
    """Map the names of tasks that are not listed to files: commands and records of this repository name them."""
    return list_tasks([shipped("tasks") / DEVELOPMENT])


def read_task(file: Path, name: str, recipe: str = "") -> dict[str, Any]:
    """Return a task's settings under one of its recipes, which `name` may hold; UserError for one that it has not."""
    data = read_toml(file)
    recipes = data.pop(RECIPES, {})
    recipe = recipe or name.removeprefix(file.stem).removeprefix("_")
    data.setdefault("name", file.stem)
    if not recipe:
        return data
    if not isinstance(recipes, dict) or not isinstance(recipes.get(recipe), dict):
        there = ", ".join(map(str, recipes)) if isinstance(recipes, dict) else ""
        raise UserError(f"{file}: has no recipe {recipe!r}" + (f"; it has {there}" if there else ""))
    changes = dict(recipes[recipe])
    if isinstance(shared := changes.get("finetune"), str):
        changes["finetune"] = read_toml(file.parent / RECIPES / f"{shared}.toml")
    return {**data, **changes, "name": f"{data['name']}_{recipe}"}


def _recipes(file: Path) -> list[str]:
    """Return the names of a file's further recipes; none where it cannot be read, which loading it will say."""
    try:
        recipes = read_toml(file).get(RECIPES, {})
    except UserError:
        return []
    return list(recipes) if isinstance(recipes, dict) else []
