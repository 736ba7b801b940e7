"""Identities: no stored id or fingerprint may change or go; fixtures/identities.json holds them all.

`python tests/test_identities.py` adds the new records and tasks to that file; what is in it stays.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from cskd_bench.config import PretrainConfig
from cskd_bench.record import Record, read_records, record_id
from cskd_bench.schema import fingerprint, validate
from cskd_bench.task import TaskSpec, load_task, task_files

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


def pretraining(record: Record) -> PretrainConfig:
    """Return the settings of a record's pretraining, in today's classes."""
    held = record.config if record.protocol == "pretrain" else record.config["pretrain"]
    kept = {key: value for key, value in held.items() if key != "variant"} | {"data": images(held)}
    return validate(PretrainConfig, {"name": record.checkpoint.run, **kept}, record.id)


def images(held: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in held["data"].items() if key != "identity"}


def recomputed(record: Record) -> tuple[str, list[str]]:
    """Return id and fingerprints as this release gives them to the settings that a record holds."""
    run = pretraining(record)
    if record.protocol == "pretrain":
        identity, held = run.identity(), record.config
        identity["data"]["identity"] = held["data"]["identity"]
        identity |= {key: held[key] for key in ("variant",) if key in held}
        words = [record.task.name, "pretrain", run.method.kind, run.student.name, f"s{run.seed}"]
        task = fingerprint(run.data.model_dump(mode="json", exclude={"root"}))
        return record_id(*words, identity), [run.recipe_fingerprint(), run.recipe_fingerprint(), task]
    spec = validate(TaskSpec, record.config["task"], record.id)
    cell: dict[str, Any] = {"protocol": record.protocol, "task": spec.identity()}
    if record.protocol == "detect":
        cell["config"] = record.config["mmengine"]
    words = [spec.name, record.protocol, run.method.kind, record.checkpoint.run, f"s{record.seed}"]
    scored = {"checkpoint": record.checkpoint.sha256, "seed": record.seed}
    recipe = fingerprint({"pretrain": run.recipe_fingerprint(), **cell})
    named = record_id(*words, {"pretrain": run.stated_recipe(), **cell, **scored})
    return named, [recipe, run.recipe_fingerprint(), spec.fingerprint()]


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
        fingerprints = [record.recipe, record.checkpoint.pretrain_recipe, record.task.fingerprint]
        assert recomputed(record) == (record.id, fingerprints), record.id


if __name__ == "__main__":
    write_golden()
