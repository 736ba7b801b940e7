"""Identities: no stored id or fingerprint may change or go; fixtures/identities.json holds them all.

`python tests/test_identities.py` adds the new records and tasks to that file; what is in it stays.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from cskd_bench.record import Record, read_records
from cskd_bench.report.recompute import recompute
from cskd_bench.task import load_task, task_files

HERE = Path(__file__).parent
GOLDEN = HERE / "fixtures" / "identities.json"
KEPT = {  # folders of records that stay
    "results": HERE.parent / "results" / "records",
    "whole": HERE / "fixtures" / "release_0_1_0" / "whole" / "results" / "records",
    "unstated": HERE / "fixtures" / "release_0_1_0" / "unstated" / "results" / "records",
}


@cache
def stored() -> dict[str, Record]:
    """Return every kept record by its id."""
    found = [record for folder in KEPT.values() for _, record in read_records(folder)]
    return {record.id: record for record in found if isinstance(record, Record)}


def identities() -> dict[str, dict[str, list[Any]]]:
    """Return what the golden file holds, as the records and the shipped tasks say it now."""
    tasks = [load_task(name) for name in task_files()]
    return {
        "records": {
            name: [record.recipe, record.checkpoint.pretrain_recipe, record.task.fingerprint]
            for name, record in stored().items()
        },
        "tasks": {f"{task.name} v{task.version}": [task.fingerprint()] for task in tasks},
    }


def golden() -> dict[str, dict[str, list[Any]]]:
    return json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {"records": {}, "tasks": {}}


def write_golden() -> None:
    """Add what is new, one line each."""
    kept, now = golden(), identities()
    parts = []
    for part in kept:
        entries = sorted((now[part] | kept[part]).items())
        lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in entries]
        parts.append(f' "{part}": {{\n' + ",\n".join(lines) + "\n }")
    GOLDEN.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def test_no_stored_id_or_fingerprint_has_changed_or_gone():
    now = identities()["records"]
    assert len(golden()["records"]) > 200
    for name, kept in golden()["records"].items():
        assert now.get(name) == kept, name


def test_no_shipped_task_is_another_one_under_the_version_that_it_had():
    now = identities()["tasks"]
    assert len(golden()["tasks"]) > 20
    for name, kept in golden()["tasks"].items():
        assert now.get(name, kept) == kept, name


def test_whatever_is_stored_or_shipped_is_in_the_golden_file():
    assert golden().keys() == identities().keys() and stored()
    for part, kept in golden().items():
        missing = sorted(identities()[part].keys() - kept.keys())
        assert not missing, f"{len(missing)}, such as {missing[0]}: add them by: python tests/test_identities.py"


def test_every_record_has_the_id_and_the_fingerprints_that_this_release_gives_its_settings():
    """A key that is new in the settings is left out of identities where it means what releases before did.

    That files and commands of records still say the same settings is held by tests/bench/test_rerun.py.
    """
    assert len(stored()) > 200
    for record in stored().values():
        again = recompute(record)
        kept = record.id, record.recipe, record.checkpoint.pretrain_recipe, record.task.fingerprint
        names = "id", "recipe", "checkpoint.pretrain_recipe", "task.fingerprint"
        assert tuple(again[name] for name in names) == kept, record.id


if __name__ == "__main__":
    write_golden()
