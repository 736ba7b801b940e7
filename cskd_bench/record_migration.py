"""From an older record's JSON to today's schema and recipes. The files stay as they are.

1 to 2: what labelling a bank took moves from the note's words to `cost.labelling_seconds`.
2 to 3: what the command, the note and the device say in words moves to `argv`, `labels_from` and `hardware.threads`.
The peak of memory was the process's, not the cell's: it becomes 0, and the note says so. A transfer's recipe and task
fingerprint held the whole task: they become those of what its protocol uses.
"""

import contextlib
import json
import re
import shlex
from collections.abc import Callable
from typing import Any, Final

from cskd_bench.schema import fingerprint
from cskd_bench.task_identity import narrow_record

NO_PEAK: Final = "its peak of memory was that of all its process did, and is left out"

_TODAY: Final = b'"schema_version": 3'
_LABELLING: Final = re.compile(r"labelling took (\d+) s")
_THREADS: Final = re.compile(r"CPU, (\d+) threads")


def migrate(text: bytes) -> bytes:
    """Return the JSON of a record as this release would have written it; what cannot be read is left to validation."""
    if _TODAY in text:
        return text
    try:
        data = json.loads(text)
        steps = [version for version in _STEPS if version >= data["schema_version"]]
        known = data["schema_version"] in _STEPS
    except (ValueError, KeyError, TypeError, RecursionError):
        return text  # whatever is wrong with it, validation names it
    if not known:
        return text
    damaged = contextlib.suppress(KeyError, TypeError, AttributeError, RecursionError)  # validation names it
    for version in steps:
        with damaged:
            _STEPS[version](data)
        data["schema_version"] = version + 1
    with damaged:  # or not of a run of ours
        _resolve_views(data)
    with damaged:  # or of a pretraining
        narrow_record(data)
    try:
        return json.dumps(data).encode()
    except RecursionError:
        return text


def command_words(command: str) -> list[str]:
    """Split a command as a shell does; one that no shell would read has no words."""
    try:
        return shlex.split(command)
    except ValueError:
        return []


def _to_second(data: dict[str, Any]) -> None:
    found = _LABELLING.search(data.get("note", ""))
    data["cost"]["labelling_seconds"] = float(found[1]) if found else 0.0


def _to_third(data: dict[str, Any]) -> None:
    note, threads = data.get("note", ""), _THREADS.fullmatch(data["device"])
    data["argv"] = command_words(data["command"])
    data["labels_from"] = _labels_from(data["protocol"], note, data["method"].get("teacher", ""))
    data["hardware"] = {"threads": int(threads[1])} if threads else {}
    if data["protocol"] == "pretrain":
        images = data["config"].get("data", {}).get("identity")
        data["checkpoint"]["pretrain_images"] = images or ""
    if data["cost"].get("peak_memory_bytes"):
        data["cost"]["peak_memory_bytes"] = 0
        data["note"] = "; ".join(filter(None, (note, NO_PEAK)))


_STEPS: Final[dict[int, Callable[[dict[str, Any]], None]]] = {1: _to_second, 2: _to_third}


def _labels_from(protocol: str, note: str, teacher: str) -> str:
    if protocol != "pretrain":
        return "none"
    return "bank" if "from a bank" in note else "teacher" if teacher else "none"


def _resolve_views(data: dict[str, Any]) -> None:
    """Rename the recipes of a record of release 0.1.0 whose views were its teacher's and larger than stated.

    That release left their size out, so that runs of other views shared a recipe. Only a recipe that its way of
    naming gives is renamed; the id stays.
    """
    config, checkpoint, protocol = data["config"], data["checkpoint"], data["protocol"]
    run = config if protocol == "pretrain" else config.get("pretrain")
    if not run or run["method"]["kind"] == "supervised" or run["recipe"]["augment"]["view_size"] is not None:
        return
    size = run["teacher"]["image_size"]
    if size <= run["student"]["image_size"]:
        return
    images = {key: value for key, value in run["data"].items() if key != "identity"}
    parts = {"data": images, "student": run["student"], "recipe": run["recipe"]}
    augment = {**run["recipe"]["augment"], "view_size": size}
    then = fingerprint(parts)
    now = fingerprint({**parts, "recipe": {**run["recipe"], "augment": augment}})
    if checkpoint["pretrain_recipe"] != then:
        return
    cell = {"protocol": protocol, "task": config.get("task")}
    if "mmengine" in config:  # a detector's
        cell["config"] = config["mmengine"]
    renamed = {then: now, fingerprint({"pretrain": then, **cell}): fingerprint({"pretrain": now, **cell})}
    checkpoint["pretrain_recipe"] = now
    data["recipe"] = renamed.get(data["recipe"], data["recipe"])
