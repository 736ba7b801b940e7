"""Identities: no stored id or fingerprint may change or go; fixtures/identities.json holds them all.

`records` and `tasks` hold them by the whole task, as the files of records of schema 1 and 2 do; `recipes` and
`protocols` hold what records are read as, by what each protocol uses. `tasks` and `protocols` are of the settings that
release 0.1.0 had for its defaults (FORMER), `settings` of today's.
`python tests/test_identities.py` adds the new records and tasks to that file; what is in it stays.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cskd_bench.record import Record, read_records
from cskd_bench.report.compare import compare
from cskd_bench.report.markdown import markdown
from cskd_bench.report.recompute import recompute
from cskd_bench.report.selection import select
from cskd_bench.schema import fingerprint
from cskd_bench.task import TaskSpec, load_task, task_files
from cskd_bench.task_identity import narrow_record
from cskd_bench.task_recipes import development_tasks

HERE = Path(__file__).parent
GOLDEN = HERE / "fixtures" / "identities.json"
KEPT = {  # folders of records that stay
    "results": HERE.parent / "results" / "records",
    "whole": HERE / "fixtures" / "release_0_1_0" / "whole" / "results" / "records",
    "unstated": HERE / "fixtures" / "release_0_1_0" / "unstated" / "results" / "records",
}

FORMER = ["features=inference", "linear.choose_by=top1", "lowlabel.schedule=epochs", "lowlabel.classifier=finetune"]


@cache
def stored() -> dict[str, Record]:
    """Return every kept record by its id."""
    found = [record for folder in KEPT.values() for _, record in read_records(folder)]
    return {record.id: record for record in found if isinstance(record, Record)}


@cache
def files() -> dict[str, dict[str, Any]]:
    """Return every kept record as its file says it, by its id."""
    return {path.stem: json.loads(path.read_text()) for folder in KEPT.values() for path in folder.glob("*.json")}


def identities() -> dict[str, dict[str, Any]]:
    """Return what the golden file holds, as the records and the shipped tasks say it now."""
    names = [*task_files(), *development_tasks()]
    former = {f"{task.name} v{task.version}": task for task in (load_task(name, None, FORMER) for name in names)}
    tasks = {f"{task.name} v{task.version}": task for task in map(load_task, names)}
    return {
        "records": {name: whole_names(record) for name, record in stored().items()},
        "tasks": {name: [task.fingerprint()] for name, task in former.items()},
        "recipes": {name: [record.recipe, record.task.fingerprint] for name, record in stored().items()},
        "protocols": by_protocol(former),
        "settings": by_protocol(tasks),
    }


def by_protocol(tasks: dict[str, TaskSpec]) -> dict[str, dict[str, str]]:
    return {name: {protocol: task.fingerprint(protocol) for protocol in task.protocols} for name, task in tasks.items()}


def whole_names(record: Record) -> list[str]:
    """Return recipe, pretraining's recipe and task fingerprint by the whole task: of a file that holds them so."""
    pretrain = record.checkpoint.pretrain_recipe
    if record.protocol == "pretrain":
        return [record.recipe, pretrain, record.task.fingerprint]
    task = record.config["task"]
    return [fingerprint({"pretrain": pretrain, **cell_of(record, task)}), pretrain, fingerprint(task)]


def cell_of(record: Record, task: dict[str, Any]) -> dict[str, Any]:
    """Return a transfer's protocol, with a task's identity and, in detection, the detector's configuration."""
    config = {"config": record.config["mmengine"]} if record.protocol == "detect" else {}
    return {"protocol": record.protocol, "task": task, **config}


def golden() -> dict[str, dict[str, Any]]:
    empty: dict[str, dict[str, Any]] = {"records": {}, "tasks": {}, "recipes": {}, "protocols": {}, "settings": {}}
    return empty | (json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {})


def write_golden() -> None:
    """Add what is new, one line each."""
    kept, now = golden(), identities()
    parts = []
    for part in now:
        entries = sorted((now[part] | kept[part]).items())
        lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in entries]
        parts.append(f' "{part}": {{\n' + ",\n".join(lines) + "\n }")
    GOLDEN.write_text("{\n" + ",\n".join(parts) + "\n}\n")


@pytest.mark.parametrize("part", ["records", "recipes"])
def test_no_stored_id_or_fingerprint_has_changed_or_gone(part):
    now = identities()[part]
    assert len(golden()[part]) > 200
    for name, kept in golden()[part].items():
        assert now.get(name) == kept, name


def test_the_files_of_older_records_hold_the_names_of_the_whole_task_and_are_read_by_what_their_protocol_uses():
    """But for two records of views of unstated size, which test_upgrade.py follows."""
    changed = 0
    for name, file in files().items():
        if file["schema_version"] < 3 and not (KEPT["unstated"] / f"{name}.json").exists():
            held = [file["recipe"], file["checkpoint"]["pretrain_recipe"], file["task"]["fingerprint"]]
            assert held == golden()["records"][name], name
            changed += held[0] != stored()[name].recipe and held[2] != stored()[name].task.fingerprint
    assert changed == sum(file["protocol"] != "pretrain" for file in files().values()) - 1


@pytest.mark.parametrize("part", ["tasks", "protocols", "settings"])
def test_no_shipped_task_is_another_one_under_the_version_that_it_had(part):
    now = identities()[part]
    assert len(golden()[part]) > 20
    for name, kept in golden()[part].items():
        assert now.get(name, kept) == kept, name


@pytest.mark.parametrize("folder", [KEPT["results"], KEPT["results"].parents[0] / "first_look" / "records"])
def test_names_by_what_is_used_keep_every_table(monkeypatch, folder):
    """What is shown does not depend on how records are named, only on which of them share a name."""
    selection = select(folder)
    now, names = markdown(compare(folder, selection), [], []), {key[1].recipe for key in selection.cells}
    monkeypatch.setattr("cskd_bench.task_identity.used_by", lambda protocol, task: task)
    selection = select(folder)
    assert {key[1].recipe for key in selection.cells} - names
    assert markdown(compare(folder, selection), [], []) == now


@pytest.mark.parametrize("key", ["recipe", "fingerprint"])
def test_names_that_the_old_rule_does_not_give_stay(key):
    """Such as those of another suite, or of settings that were edited."""
    (path,) = KEPT["unstated"].glob("*-knn-*.json")
    file = json.loads(path.read_text())
    (file["task"] if key == "fingerprint" else file)[key] = "0123456789abcdef"
    before = json.dumps(file)
    assert not narrow_record(file) and json.dumps(file) == before


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
