"""Several tasks by one word: groups of shipped tasks, patterns, and lists with commas."""

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from cskd_bench.errors import UserError, suggest
from cskd_bench.task import task_files
from cskd_bench.task_recipes import development_tasks

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "paper": ("cifar10", "cifar100", "stanford_cars", "inat19"),
    "paper_deit": ("cifar10_deit", "cifar100_deit", "stanford_cars_deit", "inat19_deit"),
    "fine_grained": ("cub200", "fgvc_aircraft", "flowers102", "food101", "oxford_pets", "stanford_cars"),
    "vtab_natural": ("caltech101", "cifar100", "dtd", "flowers102", "oxford_pets", "sun397"),  # SVHN is not here
    "robustness": (
        "imagenet_real",
        "imagenet_v2",
        "imagenet_a",
        "imagenet_r",
        "imagenet_sketch",
        "imagenet_c",
    ),
    "segmentation": ("ade20k", "voc2012", "cityscapes"),
}


def expand_tasks(
    names: list[str], tasks_dir: Path | None = None, fits: Callable[[str], bool] = lambda _: True
) -> list[str]:
    """Return the tasks that words name, each once, in their order; a TOML's path stays as it is.

    A word is a task, a group of GROUPS, a pattern such as `cifar*`, or several of these with commas between them. A
    task of one's own counts before a group of that name. Groups and patterns name only their tasks that `fits` takes,
    or all where it takes none. UserError for a word that names nothing.
    """
    files = task_files(tasks_dir)
    found = [task for name in names for word in _words(name) for task in _tasks_of(word, files, fits)]
    return list(dict.fromkeys(found))


def one_task(name: str, tasks_dir: Path | None = None) -> str:
    """Return the name, or the path of a TOML, of a single task; UserError for a word that names none."""
    files = task_files(tasks_dir)
    if _is_task(name, files):
        return name
    if name in GROUPS:
        raise UserError(f"{name!r} is a group of tasks ({', '.join(GROUPS[name])}); name one of them")
    there = ", ".join(sorted(files))
    raise UserError(f"no task {name!r}{suggest(name, sorted(files))}; there are {there}, and the paths of TOML files")


def _is_task(word: str, files: Mapping[str, Path]) -> bool:
    return word.endswith(".toml") or word in files or word in development_tasks()


def _unknown(word: str, files: Mapping[str, Path]) -> str:
    """Say that a word names no task, which name is most like it, and what there is."""
    return (
        f"no task {word!r}{suggest(word, (*sorted(files), *GROUPS))}; there are {', '.join(sorted(files))}, "
        f"the groups {', '.join(GROUPS)}, patterns such as 'cifar*', and the paths of TOML files"
    )


def _words(name: str) -> list[str]:
    return [name] if Path(name).is_file() else [word.strip() for word in name.split(",") if word.strip()]


def _tasks_of(word: str, files: Mapping[str, Path], fits: Callable[[str], bool]) -> Iterator[str]:
    if _is_task(word, files):
        yield word
        return
    matching = GROUPS.get(word) or [name for name in sorted(files) if fnmatchcase(name, word)]
    if not matching:
        raise UserError(_unknown(word, files))
    yield from [name for name in matching if fits(name)] or matching
