"""Check a records folder: schema, file names, side files and their hashes, duplicates."""

from dataclasses import dataclass
from pathlib import Path

from cskd_bench.errors import UserError
from cskd_bench.record import Record, SideFile, read_records
from cskd_bench.report.examples import read_examples, read_side_file
from cskd_bench.report.selection import method_of, replicate_of, setting_of, student_of


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one file of a records folder."""

    file: str
    reason: str


def verify_records(folder: Path) -> list[Problem]:
    """Return every problem of a records folder, in file order; UserError if there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of records")
    problems: list[Problem] = []
    first_of: dict[object, str] = {}
    beside = sorted(path.name for path in folder.glob("[!.]*") if path.suffix != ".json")  # before the records are read
    referenced: set[str] = set()
    unread: list[str] = []
    for path, record in read_records(folder):
        if isinstance(record, UserError):
            unread.append(f"{path.stem}.")
            problems.append(Problem(path.name, _without_path(record, path)))
            continue
        if record.id != path.stem:
            problems.append(Problem(path.name, f"its id is {record.id!r}: the file was renamed or copied"))
        if record.task.metric not in record.metrics:
            problems.append(Problem(path.name, f"it has no metric {record.task.metric!r}"))
        else:
            problems.extend(Problem(path.name, reason) for reason in _side_file_problems(folder, record))
        cell = (student_of(record), setting_of(record), method_of(record), replicate_of(record), record.seed)
        first = first_of.setdefault(cell, path.name)
        if first != path.name:
            problems.append(Problem(path.name, f"measures the same cell and seed as {first}"))
        referenced.update(side.name for side in _side_files(record))
    stray = [name for name in beside if name not in referenced and not name.startswith(tuple(unread))]
    problems.extend(Problem(name, "no record refers to this side file") for name in stray)
    return problems


def _without_path(error: UserError, path: Path) -> str:
    reason = str(error).removeprefix(f"{path}: ")
    return "its schema version is not known to this release" if "schema_version" in reason else reason


def _side_files(record: Record) -> list[SideFile]:
    return [*([record.per_example] if record.per_example else []), *record.pictures]


def _side_file_problems(folder: Path, record: Record) -> list[str]:
    reasons = []
    try:
        if record.per_example is not None:
            read_examples(folder, record)
    except ValueError as error:
        reasons.append(str(error))
    for picture in record.pictures:
        try:
            read_side_file(folder, picture)
        except ValueError as error:
            reasons.append(str(error))
    return reasons
