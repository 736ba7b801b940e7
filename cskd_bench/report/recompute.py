"""What a record's own settings say of it once more: a setting, name, seed or number that was changed shows."""

import re
from collections.abc import Mapping
from operator import attrgetter
from typing import Final

from cskd_bench.config import PretrainConfig, method_label
from cskd_bench.errors import UserError
from cskd_bench.record import NO_PRETRAINING, MethodRef, Record, record_id
from cskd_bench.schema import fingerprint, validate
from cskd_bench.task import TaskSpec
from cskd_bench.task_identity import transfer_recipe, with_former_meaning

_VARIANT: Final = re.compile(r" \(\d+ largest logits\)$")  # of labels from a bank; the settings do not hold it


def contradictions(record: Record) -> list[str]:
    """Say where a record is not what its own settings make it; UserError where these cannot be read."""
    found = recompute(record) or {}
    held = {name: attrgetter(name)(record) for name in found}
    return [
        f"its {name} is {held[name]}, its settings give {value}" for name, value in found.items() if held[name] != value
    ]


def recompute(record: Record) -> Mapping[str, object] | None:
    """Return id, fingerprints, names and seeds as this release gives them to a record's settings, by their fields.

    None for a record that does not hold the settings of a run or a task of ours. UserError where it does, and this
    release cannot read them.
    """
    if "method" in record.config and "student" in record.config:
        return _of_pretraining(record)
    task, run = record.config.get("task"), record.config.get("pretrain")
    if not isinstance(task, dict) or not isinstance(run, dict):
        return None
    spec = validate(TaskSpec, with_former_meaning(task), record.id)
    if record.protocol not in spec.protocols:
        raise UserError(f"{record.id}: its task has no protocol {record.protocol!r}")
    return _of_transfer(record, spec, pretraining(record) if run else None)


def _of_pretraining(record: Record) -> dict[str, object]:
    run, held = pretraining(record), record.config
    identity = run.identity()
    identity["data"]["identity"] = held["data"].get("identity")
    identity |= {key: held[key] for key in ("variant",) if key in held}
    if run.method.needs_teacher and run.teacher.weights:
        identity["teacher"]["weights"] = record.method.teacher
    words = [run.data_name, "pretrain", run.method.kind, run.student.name, f"s{run.seed}"]
    recipe = run.recipe_fingerprint()
    return {
        "id": record_id(*words, identity),
        "recipe": recipe,
        "task.fingerprint": fingerprint(run.data.model_dump(mode="json", exclude={"root"})),
        "task.name": run.data_name,
        "task.version": 1,
        "task.metric": "top1",
        "task.group": "pretraining",
        "protocol": "pretrain",
        "model.image_size": run.student.image_size,
        "seed": run.seed,
        **_of_run(record, run),
    }


def _of_transfer(record: Record, spec: TaskSpec, run: PretrainConfig | None) -> dict[str, object]:
    """Without a run of ours the id depends on the model's heads, which a record does not tell."""
    tuned = record.config.get("finetuned")
    protocol, pretrain = record.protocol, run.recipe_fingerprint(record.config.get("milestone")) if run else ""
    pretrain = tuned["recipe"] if tuned else pretrain
    settings = {"config": record.config["mmengine"]} if "mmengine" in record.config else {}  # a detector's
    settings |= {key: record.config[key] for key in ("preprocessing",) if key in record.config}
    found: dict[str, object] = {
        "recipe": fingerprint(transfer_recipe(pretrain, protocol, spec.identity(protocol), settings)),
        "task.fingerprint": spec.fingerprint(protocol),
        "task.name": spec.name,
        "task.version": spec.version,
        "task.metric": spec.metric,
    }
    if run is None:
        return found
    kind = NO_PRETRAINING.kind if record.checkpoint.weights == "initial" else run.method.kind
    words = [spec.name, protocol, kind, record.checkpoint.run, f"s{record.seed}"]
    scored = {"checkpoint": record.checkpoint.sha256, "seed": record.seed}
    whole = transfer_recipe(pretrain if tuned else run.stated_recipe(), protocol, spec.identity(), settings)
    named = record_id(*words, {**whole, **scored})
    size = spec.image_size or (tuned or {}).get("image_size") or run.student.image_size
    of_tuning = {"checkpoint.pretrain_recipe": pretrain, "checkpoint.pretrain_data": tuned["data"]} if tuned else {}
    return {"id": named, "model.image_size": size, **found, **_of_run(record, run), **of_tuning}


def _of_run(record: Record, run: PretrainConfig) -> dict[str, object]:
    """Return what is the same in the record of a run and in those of its transfers."""
    variant = _VARIANT.search(record.method.label)
    weights = "".join(record.method.teacher.partition("@")[1:])  # their hash: the settings do not hold it
    method = MethodRef(
        kind=run.method.kind,
        label=method_label(run.method) + (variant[0] if variant else ""),
        teacher=run.teacher.name + weights if run.method.needs_teacher else "",
        config=run.method.model_dump(mode="json"),
    )
    if record.checkpoint.weights == "initial":
        method = NO_PRETRAINING
    return {
        "checkpoint.pretrain_recipe": run.recipe_fingerprint(record.config.get("milestone")),
        "checkpoint.pretrain_seed": run.seed,
        "checkpoint.pretrain_data": run.data_name,
        **{f"method.{key}": value for key, value in method.model_dump().items()},
        "model.name": run.model_name,
    }


def pretraining(record: Record) -> PretrainConfig:
    """Return the settings of a record's pretraining, in today's classes; UserError where they cannot be read."""
    held = record.config if "student" in record.config else record.config["pretrain"]
    if not isinstance(held.get("data"), dict):
        raise UserError(f"{record.id}: its settings name no data")
    data = {key: value for key, value in held["data"].items() if key != "identity"}
    kept = {key: value for key, value in held.items() if key != "variant"} | {"data": data}
    return validate(PretrainConfig, {"name": record.checkpoint.run, **kept}, record.id)
