"""What of a task a protocol's score depends on, and the renaming of older records, which held the whole task.

Pure functions on plain dicts, as records hold them: records are read without the classes of tasks.
"""

from collections.abc import Mapping
from typing import Any, Final

from cskd_bench.schema import fingerprint

_COMMON: Final = ("name", "version", "metric", "image_size")
_FROZEN: Final = ("linear", "knn", "kshot", "multilabel")  # what reads features of a frozen student
_OF_FEATURES: Final = ("features", "features_version")
_TRAINING_ALONE: Final = ("val", "on_corrupt", "max_skipped")  # a probe carves validation out of train
_UNREAD: Final[Mapping[str, tuple[str, ...]]] = {  # keys of `data`; a key that is not named here counts
    "linear": _TRAINING_ALONE,
    "knn": _TRAINING_ALONE,
    "kshot": _TRAINING_ALONE,
    "evaluate": ("train", *_TRAINING_ALONE),
    "detect": ("val", "eval_crop"),
    "segment": ("on_corrupt", "max_skipped", "eval_crop"),
    "multilabel": ("on_corrupt", "max_skipped"),
}

_FORMER: Final[Mapping[str, Mapping[str, Any]]] = {  # settings by what records without them mean
    "linear": {"choose_by": "top1"},
    "lowlabel": {"schedule": "epochs"},
}


def used_by(protocol: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a protocol uses of a task's identity: what is common to all, the data it reads, its own settings.

    Low-label training also uses the settings of the classifier that it names.
    """
    sections, reads_as = [protocol], protocol
    if protocol == "lowlabel":
        reads_as = task[protocol]["classifier"]
        sections.append(reads_as)
    common = (*_COMMON, *_OF_FEATURES) if reads_as in _FROZEN else _COMMON
    used = {key: task[key] for key in (*common, *sections) if key in task}
    if reads_as != protocol and reads_as in _FROZEN:  # the schedule is fine-tuning's
        used[protocol] = {key: value for key, value in used[protocol].items() if key != "schedule"}
    used["data"] = {key: value for key, value in task["data"].items() if key not in _UNREAD.get(reads_as, ())}
    return used


def with_former_meaning(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's task with the values that stand for keys which were not there when it was written.

    Such a value is left out of identities, so that names stay; only the class of tasks has other defaults today.
    """
    stated = {"features": "inference", **task}
    for section, former in _FORMER.items():
        if isinstance(stated.get(section), Mapping):
            stated[section] = {**former, **stated[section]}
    return stated


def former_settings(task: Mapping[str, Any]) -> list[str]:
    """Return KEY=VALUE for what a record's task holds or means and today's defaults would not say."""
    stated = with_former_meaning(task)
    found = [f"features={stated['features']}"]
    for section, former in _FORMER.items():
        if isinstance(stated.get(section), Mapping):
            found += [f"{section}.{key}={stated[section][key]}" for key in former]
    if isinstance(lowlabel := stated.get("lowlabel"), Mapping) and "classifier" in lowlabel:
        found.append(f"lowlabel.classifier={lowlabel['classifier']}")
    if isinstance(finetune := stated.get("finetune"), Mapping) and "precision" in finetune:  # else the device's
        found.append(f"finetune.precision={finetune['precision']}")
    return found


def transfer_recipe(
    pretrain_recipe: str, protocol: str, task: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all that transfers must share to be compared, seed and method apart; its fingerprint is their recipe."""
    return {"pretrain": pretrain_recipe, "protocol": protocol, "task": task, **settings}


def narrow_record(record: dict[str, Any]) -> bool:
    """Rename an older record's task fingerprint and recipe, which held settings that its protocol did not use.

    Only names that the old rule gives to the record's own settings are replaced; the id stays. Returns whether any was.
    """
    config, protocol, pretrain = record["config"], record["protocol"], record["checkpoint"]["pretrain_recipe"]
    task = config["task"]
    settings = {"config": config["mmengine"]} if "mmengine" in config else {}  # a detector's
    if record["task"]["fingerprint"] != fingerprint(task):
        return False
    if record["recipe"] != fingerprint(transfer_recipe(pretrain, protocol, task, settings)):
        return False
    used = used_by(protocol, task)
    record["task"]["fingerprint"] = fingerprint(used)
    record["recipe"] = fingerprint(transfer_recipe(pretrain, protocol, used, settings))
    return True
