"""Check a records folder: schema, names, settings, side files, hashes, duplicates, copies of seeds, the manifest."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cskd_bench.errors import UserError
from cskd_bench.record import Record, SideFile, read_records
from cskd_bench.report.copies import Seen
from cskd_bench.report.examples import ACCURACIES, Examples, read_examples, read_side_file
from cskd_bench.report.manifest import files_in, manifest_problems
from cskd_bench.report.recompute import contradictions, recompute


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
    seen = Seen()
    beside = [path.name for path in files_in(folder) if path.suffix != ".json"]  # before the records are read
    referenced: set[str] = set()
    unread: list[str] = []
    for path, record in read_records(folder):
        if isinstance(record, UserError):
            unread.append(f"{path.stem}.")
            problems.append(Problem(path.name, _without_path(record, path)))
            continue
        examples, reasons = _side_files_of(folder, record)
        reasons = [*_own_problems(path, record), *reasons, *seen.repeats(path.name, record, examples)]
        problems.extend(Problem(path.name, reason) for reason in reasons)
        referenced.update(side.name for side in _side_files(record))
    stray = [name for name in beside if name not in referenced and not name.startswith(tuple(unread))]
    problems.extend(Problem(name, "no record refers to this side file") for name in stray)
    problems.extend(Problem(name, reason) for name, reason in manifest_problems(folder))
    return problems


def foreign_records(folder: Path) -> int:
    """Return how many records of a folder hold no settings of ours, so that nothing of them can be recomputed."""
    return sum(isinstance(record, Record) and _is_foreign(record) for _, record in read_records(folder))


def _without_path(error: UserError, path: Path) -> str:
    reason = str(error).removeprefix(f"{path}: ")
    return "its schema version is not known to this release" if "schema_version" in reason else reason


def _own_problems(path: Path, record: Record) -> list[str]:
    """Say what is wrong with a record whatever lies beside it."""
    reasons = []
    if record.id != path.stem:
        reasons.append(f"its id is {record.id!r}: the file was renamed or copied")
    if record.task.metric not in record.metrics:
        reasons.append(f"it has no metric {record.task.metric!r}")
    if not _is_utc(record.created):  # of a repeated seed the oldest counts
        reasons.append(f"its created is {record.created!r}, not a time in UTC (ISO 8601)")
    try:
        reasons.extend(contradictions(record))
    except UserError as error:
        reasons.append(f"its settings cannot be read: {str(error).removeprefix(f'{record.id}: ')}")
    return reasons


def _is_utc(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).utcoffset() == timedelta(0)
    except ValueError:
        return False


def _is_foreign(record: Record) -> bool:
    try:
        return recompute(record) is None
    except UserError:
        return False


def _side_files(record: Record) -> list[SideFile]:
    return [*([record.per_example] if record.per_example else []), *record.pictures]


def _side_files_of(folder: Path, record: Record) -> tuple[Examples | None, list[str]]:
    """Return what a record's side file says of each image, and what is wrong with its side files."""
    reasons, examples = [], None
    try:
        if record.per_example is not None and record.task.metric in record.metrics:
            examples = read_examples(folder, record)
        elif record.task.metric in ACCURACIES:
            reasons.append(f"its {record.task.metric} has no side file: what was predicted of each image is not there")
    except ValueError as error:
        reasons.append(str(error))
    for picture in record.pictures:
        try:
            read_side_file(folder, picture)
        except ValueError as error:
            reasons.append(str(error))
    return examples, reasons
