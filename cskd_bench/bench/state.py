"""What of a plan is there already, read from run folders and records."""

import contextlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from cskd_bench.bench.plan import BenchCell, Cells, PretrainCell, TransferCell
from cskd_bench.bench.work import Places
from cskd_bench.config import DataConfig, TeacherConfig
from cskd_bench.data.open import open_source
from cskd_bench.errors import UserError
from cskd_bench.files import locked, refuse_unwritable, write_file
from cskd_bench.models.run_summary import RunSummary, is_finished, read_run
from cskd_bench.models.teachers import is_another_teacher, teacher_weights
from cskd_bench.record import Record, read_records


class Found:
    """The records of a results folder and the finished runs of a runs folder."""

    def __init__(self, places: Places) -> None:
        self._places = places
        read = (record for _, record in read_records(places.results / "records"))
        self.records: list[Record] = [record for record in read if isinstance(record, Record)]
        self._ids = {record.id: record for record in self.records}
        self._identities: dict[DataConfig, str | None] = {}
        transfers = (record for record in self.records if record.protocol != "pretrain")
        self._transfers = {_key(record): record for record in transfers if "preprocessing" not in record.config}

    def record(self, cell: BenchCell) -> Record | None:
        """Return a finished cell's record, made by the same settings; None where it is not there."""
        if isinstance(cell, PretrainCell):
            folder = self._places.runs / cell.name
            if not is_finished(folder):
                return None
            finished = read_run(folder)
            record = self._ids.get(finished.record)
            changed = record is not None and is_another_teacher(cell.config.teacher, record.method.teacher)
            return record if finished.config.identity() == cell.config.identity() and not changed else None
        summary = run_summary(self._places.runs / cell.run)
        return self._transfers.get(_transfer_key(cell, summary.sha256.get("model", "") if summary else ""))

    def find_finished(self, cells: Cells) -> dict[str, Record]:
        """Map the names of a plan's finished cells to their records.

        A pretraining whose run folder is gone, as in a clone that holds records alone, is finished as long as no
        transfer that is to do needs its weights.
        """
        done = {cell.name: record for cell in cells.all() if (record := self.record(cell))}
        gone = {cell.name: record for cell in cells.pretrain if (record := self._without_folder(cell))}
        for cell in cells.transfer:
            if cell.run not in gone:
                continue
            if record := self._transfers.get(_transfer_key(cell, gone[cell.run].checkpoint.sha256)):
                done[cell.name] = record
        needed = {cell.run for cell in cells.transfer if cell.name not in done}
        return done | {name: record for name, record in gone.items() if name not in needed}

    def _without_folder(self, cell: PretrainCell) -> Record | None:
        """Return the record of a run that is not here: of the same settings, teacher and images."""
        if is_finished(self._places.runs / cell.name):
            return None
        config, settings = cell.config, _settings(cell.config.identity())
        for record in self.records:
            if record.protocol != "pretrain" or record.checkpoint.run != cell.name:
                continue
            same = _settings(record.config) == settings and _same_teacher(config.teacher, record.method.teacher)
            if same and record.images == self._images(config.data):
                return record
        return None

    def _images(self, data: DataConfig) -> str | None:
        """Return the identity of the images that are here, as a pretraining's record keeps it; None without them."""
        if data not in self._identities:
            try:
                splits = [open_source(data, split) for split in (data.train, data.val)]
                self._identities[data] = " ".join(split.identity for split in splits)
            except UserError:
                self._identities[data] = None
        return self._identities[data]

    def step(self, cell: BenchCell) -> int:
        """Return the step of a pretraining cell's newest checkpoint, 0 without one."""
        folder = self._places.runs / cell.name / "checkpoints"
        return max((int(path.name.removeprefix("step-")) for path in folder.glob("step-" + "[0-9]" * 9)), default=0)

    def alike(self, cell: BenchCell, model: str, *, from_bank: bool = False) -> list[Record]:
        """Return finished records of a cell's kind: same protocol, task and student.

        In pretraining also of the same method, and with its teacher where that is: in the loop, or in a bank.
        """
        if isinstance(cell, PretrainCell):
            wanted = (cell.config.data_name, "pretrain", cell.config.method.kind, model)
            found = [r for r in self.records if (r.task.name, r.protocol, r.method.kind, r.model.name) == wanted]
            return [record for record in found if (record.labels_from == "bank") == from_bank]
        same = (cell.task.name, cell.protocol, model)
        return [r for r in self.records if (r.task.name, r.protocol, r.model.name) == same]


def run_summary(folder: Path) -> RunSummary | None:
    """Return what a finished run says of itself; None where it is not finished, or cannot be read."""
    try:
        return read_run(folder)
    except UserError:
        return None


def how_far(cell: BenchCell, places: Places) -> tuple[object, ...]:
    """Return a mark that changes when an unfinished cell gets further: its checkpoints, or what it keeps in parts."""
    if isinstance(cell, PretrainCell):
        return tuple(sorted(path.name for path in (places.runs / cell.name / "checkpoints").glob("step-*")))
    parts = (cell.task.name, cell.protocol, "*", cell.run, f"s{cell.seed}", "*")
    words = ["".join(c if c.isalnum() or c in "._*" else "_" for c in part) for part in parts]
    kept = []
    for folder in sorted((places.runs / "transfer").glob("-".join(words))):
        for path in folder.rglob("[!.]*"):
            with contextlib.suppress(OSError):  # gone meanwhile
                kept.append((str(path), path.stat().st_size if path.is_file() else 0))
    return tuple(sorted(kept))


def refuse_unwritable_places(cells: Cells, places: Places) -> None:
    """UserError where runs or records cannot be written, unless all cells are finished: those are only read."""
    try:
        for folder in (places.runs, places.results / "records"):
            refuse_unwritable(folder)
    except UserError:
        if len(Found(places).find_finished(cells)) < len(cells.all()):
            raise


def write_failures(places: Places, failures: Iterable[dict[str, str]], finished: Collection[str]) -> None:
    """Add what failed to results/failures.json: cell, error, time; an entry goes once its cell is finished.

    Benches that share a results folder write one after the other, so that none's entries are lost.
    """
    path, failed = places.results / "failures.json", list(failures)

    def merge() -> bytes:
        entries = {e["cell"]: e for e in [*_failures(path), *failed] if e["cell"] not in finished}
        return (json.dumps(list(entries.values()), indent=1) + "\n").encode()

    if merge() == (path.read_bytes() if path.exists() else b"[]\n"):
        return
    with locked(places.results / ".failures.lock"):
        write_file(path, merge())


def _failures(path: Path) -> list[dict[str, str]]:
    """Read the list that is there; one that is damaged counts as none."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [{key: str(entry[key]) for key in ("cell", "error", "time")} for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def _transfer_key(cell: TransferCell, sha256: str) -> tuple[str, str, str, str, int]:
    return (cell.task.name, cell.task.fingerprint(cell.protocol), cell.protocol, sha256, cell.seed)


def _same_teacher(config: TeacherConfig, labelled_by: str) -> bool:
    """Whether a record's teacher is known to be the one that is here; a file that is missing cannot tell."""
    at_hand = "@" not in labelled_by or teacher_weights(config).is_file()
    return at_hand and not is_another_teacher(config, labelled_by)


def _settings(identity: dict[str, Any]) -> dict[str, Any]:
    """Return what a plan says of a pretraining, without what its record knows besides: images, weights' hash."""
    kept = {key: identity.get(key) for key in ("seed", "method", "student", "recipe", "data", "teacher")}
    for section, known in (("data", "identity"), ("teacher", "weights")):
        kept[section] = {key: value for key, value in (kept[section] or {}).items() if key != known}
    return kept


def _key(record: Record) -> tuple[str, str, str, str, int]:
    task = record.task
    return (task.name, task.fingerprint, record.protocol, record.checkpoint.sha256, record.seed)
