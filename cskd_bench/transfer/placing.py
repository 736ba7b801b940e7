"""Where tasks' images are here: found under --data-dir, unpacked or downloaded before anything is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cskd_bench.data.builtin import BUILT_IN
from cskd_bench.data.download import download
from cskd_bench.data.layouts import find_root, holds, missing, own_name, splits_of
from cskd_bench.data.sources import data_path
from cskd_bench.data.unpack import unpack_found
from cskd_bench.detection.splits import is_made
from cskd_bench.errors import UserError
from cskd_bench.task import TaskData, TaskSpec


@dataclass(frozen=True)
class Placed:
    """A task with the root of its images; `problem` says why they cannot be had, `done` what was fetched."""

    spec: TaskSpec
    problem: str = ""
    done: str = ""


def place_tasks(
    specs: Sequence[TaskSpec], data_dir: str | None, *, fetch: bool = False, change: bool = True
) -> list[Placed]:
    """Find each task's images under `data_dir`, or where its own root says; `fetch` downloads what is missing.

    Without `change` nothing is unpacked or downloaded. UserError for a folder that a task has no use for, and for
    several tasks with a folder that does not hold each of them.
    """
    given = Path(data_dir).expanduser().absolute() if data_dir else None
    if given is None:
        return [_fetched(spec, fetch, change) for spec in specs]
    reading = [spec for spec in specs if takes_folder(spec.data)]
    if not reading:
        named = ", ".join(spec.name for spec in specs)
        raise UserError(f"--data-dir {given}: {named} reads no folder, its images are built in; leave --data-dir out")
    several = len({(spec.data.dataset, own_name(spec.data)) for spec in reading}) > 1
    if several:
        _refuse_unless_parent(reading, given, fetch)
    return [_placed(spec, given, several, fetch, change) if spec in reading else Placed(spec) for spec in specs]


def takes_folder(data: TaskData) -> bool:
    """Whether a task's images lie in a folder that can be named."""
    return data.dataset not in BUILT_IN and not is_made(data)


def splits_read(spec: TaskSpec) -> tuple[str, ...]:
    """Return the single splits that a task reads; a task that trains nothing reads what it scores."""
    return splits_of(spec.data, scored_alone=set(spec.protocols) <= {"evaluate"})


def found_root(spec: TaskSpec, given: Path) -> Path:
    """Return the root of a task's images that a path stands for; nothing is unpacked."""
    return find_root(spec.data, given.absolute()).root if takes_folder(spec.data) else given


def _refuse_unless_parent(specs: Sequence[TaskSpec], given: Path, fetch: bool) -> None:
    lacking = [spec for spec in specs if not holds(spec.data, given)]
    if not lacking or (fetch and (given.is_dir() or not given.exists()) and not _is_one_data_set(specs, given)):
        return
    folders = ", ".join(f"{own_name(spec.data) or splits_of(spec.data)[-1]}/ ({spec.name})" for spec in lacking)
    raise UserError(
        f"--data-dir {given}: with several tasks it is the folder that holds the folder of each, but it has no "
        f"{folders}; name that folder, or run these tasks on their own"
    )


def _is_one_data_set(specs: Sequence[TaskSpec], given: Path) -> bool:
    """Whether a folder holds splits itself, or is the root of one of the tasks."""
    return any((given / split).exists() for spec in specs for split in splits_of(spec.data))


def _placed(spec: TaskSpec, given: Path, several: bool, fetch: bool, change: bool) -> Placed:
    """Give a task the root that was found; one that cannot be found keeps what was named, and says why."""
    data, own = spec.data, given / own_name(spec.data)
    if several and (own.exists() or not holds(data, given)):
        given = own
    if fetch and not given.exists():
        return _fetched(_at(spec, given), fetch, change)
    try:
        found = find_root(data, given)
        placed = _at(spec, found.root)
        if found.archives and not change:
            return Placed(placed, f"{found.archives[0]}: not unpacked yet; the run itself unpacks it")
        if found.archives:
            unpack_found(data, found)
            return Placed(placed, done=f"{found.archives[0]}: unpacked into {found.root}")
        if not fetch and (lacking := missing(data, found.root)):
            return Placed(placed, f"{lacking}; to get the data: {data.by_hand}")
    except UserError as error:
        return Placed(_at(spec, given), str(error))
    return _fetched(placed, fetch, change)


def _fetched(spec: TaskSpec, fetch: bool, change: bool) -> Placed:
    if not fetch or not takes_folder(spec.data):
        return Placed(spec)
    if not change:
        return Placed(spec, done=f"{data_path(spec.data.root)}: would be downloaded unless it is there")
    try:
        return Placed(spec, done=download(spec.data, splits_read(spec)))
    except UserError as error:
        return Placed(spec, str(error))


def _at(spec: TaskSpec, root: Path) -> TaskSpec:
    """Return a task whose images lie elsewhere; it stays the same task."""
    update = {"root": root.as_posix(), "stands_for": spec.data.stands_for or spec.data.root}
    return spec.model_copy(update={"data": spec.data.model_copy(update=update)})
