"""Records: one immutable JSON per result, written to a temporary name and renamed."""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, ValidationError

from cskd_bench.errors import UserError
from cskd_bench.files import write_file
from cskd_bench.schema import StrictModel, fingerprint
from cskd_bench.task_identity import narrow_record

SCHEMA_VERSION: Final = 2
_LABELLING_NOTE = re.compile(r"labelling took (\d+) s")


class SideFile(StrictModel):
    """A file beside the record (name relative to the records folder) and its SHA-256."""

    name: str
    sha256: str


class TaskRef(StrictModel):
    """Which task, in which version, with which content."""

    name: str
    version: int
    fingerprint: str
    metric: str  # the key of `metrics` that tables show
    group: Literal["pretraining", "classification", "robustness", "detection"] = "classification"


class MethodRef(StrictModel):
    """The pretraining objective: `label` names it in tables, `teacher` is empty without one."""

    kind: str
    label: str
    teacher: str = ""
    config: dict[str, Any] = Field(default_factory=dict)


class ModelRef(StrictModel):
    """The student. `parameters` counts those used at inference."""

    name: str
    image_size: NonNegativeInt
    parameters: NonNegativeInt


class CheckpointRef(StrictModel):
    """Which weights were scored: run name, raw or EMA, and the file's SHA-256."""

    run: str
    weights: Literal["raw", "ema", "none"]
    sha256: str
    pretrain_seed: int | None = None
    pretrain_recipe: str = ""
    pretrain_data: str = ""


class CodeRef(StrictModel):
    """The code that ran."""

    version: str
    commit: str
    dirty: bool


class Cost(StrictModel):
    """What it took: seconds of wall time, images per second in training, bytes at peak.

    `labelling_seconds`: what the bank's labels took, once for all runs that read it.
    """

    seconds: NonNegativeFloat
    images_per_second: NonNegativeFloat = 0.0
    gpu_hours: NonNegativeFloat = 0.0
    peak_memory_bytes: NonNegativeInt = 0
    labelling_seconds: NonNegativeFloat = 0.0


class Record(StrictModel):
    """What ran, on what, with which result."""

    schema_version: Literal[2] = SCHEMA_VERSION
    id: str
    created: str  # UTC, ISO 8601
    task: TaskRef
    protocol: str  # pretrain, finetune, linear, knn, kshot, lowlabel, detect, evaluate
    method: MethodRef
    model: ModelRef
    checkpoint: CheckpointRef
    seed: int
    recipe: str  # fingerprint: records are comparable only where it agrees
    config: dict[str, Any]  # resolved, whole
    metrics: dict[str, float]  # fractions in [0, 1] for accuracies and AP
    examples: NonNegativeInt
    per_example: SideFile | None = None  # npz: label, predicted (integers), confidence (float16)
    curve: tuple[dict[str, float], ...] = ()  # one entry per epoch
    pictures: tuple[SideFile, ...] = ()
    code: CodeRef
    versions: dict[str, str]
    device: str
    command: str
    cost: Cost
    note: str = ""

    @property
    def value(self) -> float:
        """The score that tables show."""
        return self.metrics[self.task.metric]

    @property
    def images(self) -> str:
        """The identity of the images that were learnt from and scored, empty where the record does not say it."""
        data = self.config.get("data")
        return str(data.get("identity") or "") if isinstance(data, dict) else ""


def write_record(folder: Path, record: Record) -> Path:
    """Write a record as folder/<id>.json without ever replacing a file; two processes may write at once."""
    path = folder / f"{record.id}.json"
    content = (json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True) + "\n").encode()
    try:
        write_file(path, content, replace=False)
    except FileExistsError:
        raise UserError(f"{path}: exists already; records are never overwritten") from None
    return path


def read_record(path: Path) -> Record:
    """Read one record; UserError names the file and what is wrong with it."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return Record.model_validate_json(_migrate(text))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: not a record: {key + ': ' if key else ''}{first['msg']}") from error


def _migrate(text: bytes) -> bytes:
    """Bring the JSON of an older record to today's schema, recipes and fingerprints; the file stays as it is.

    1 to 2: what labelling a bank took moves from the note's words to cost.labelling_seconds.
    """
    first, transfer = b'"schema_version": 1' in text, b'"protocol": "pretrain"' not in text
    if not first and not transfer and b'"view_size": null' not in text:
        return text
    try:
        data = json.loads(text)
        if data["schema_version"] == 1:
            found = _LABELLING_NOTE.search(data.get("note", ""))
            data["cost"]["labelling_seconds"] = float(found[1]) if found else 0.0
            data["schema_version"] = 2
    except (ValueError, KeyError, TypeError, RecursionError):
        return text  # whatever is wrong with it, validation names it
    renamed = False
    with contextlib.suppress(KeyError, TypeError, AttributeError):  # not of a run of ours, or damaged
        renamed = _resolve_views(data)
    with contextlib.suppress(KeyError, TypeError, AttributeError, RecursionError):  # of a pretraining, or not ours
        renamed = narrow_record(data) or renamed
    try:
        return json.dumps(data).encode() if first or renamed else text
    except RecursionError:
        return text


def _resolve_views(data: dict[str, Any]) -> bool:
    """Rename the recipes of a record of release 0.1.0 whose views were its teacher's and larger than stated.

    That release left their size out, so that runs of other views shared a recipe. Only a recipe that its way of
    naming gives is renamed; the id stays. Returns whether any was.
    """
    config, checkpoint, protocol = data["config"], data["checkpoint"], data["protocol"]
    run = config if protocol == "pretrain" else config.get("pretrain")
    if not run or run["method"]["kind"] == "supervised" or run["recipe"]["augment"]["view_size"] is not None:
        return False
    size = run["teacher"]["image_size"]
    if size <= run["student"]["image_size"]:
        return False
    images = {key: value for key, value in run["data"].items() if key != "identity"}
    parts = {"data": images, "student": run["student"], "recipe": run["recipe"]}
    augment = {**run["recipe"]["augment"], "view_size": size}
    then = fingerprint(parts)
    now = fingerprint({**parts, "recipe": {**run["recipe"], "augment": augment}})
    if checkpoint["pretrain_recipe"] != then:
        return False
    cell = {"protocol": protocol, "task": config.get("task")}
    if "mmengine" in config:  # a detector's
        cell["config"] = config["mmengine"]
    renamed = {then: now, fingerprint({"pretrain": then, **cell}): fingerprint({"pretrain": now, **cell})}
    checkpoint["pretrain_recipe"] = now
    data["recipe"] = renamed.get(data["recipe"], data["recipe"])
    return True


def read_records(folder: Path) -> Iterator[tuple[Path, Record | UserError]]:
    """Yield every record of a folder in name order; a broken file is yielded as its error."""
    for path in sorted(folder.glob("*.json")):
        try:
            yield path, read_record(path)
        except UserError as error:
            yield path, error


def record_id(*parts: object) -> str:
    """Return a file name that is the same whenever the same cell is computed."""
    words = [str(part) for part in parts[:-1]]
    slug = "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in word) for word in words)
    return f"{slug}-{fingerprint({'identity': parts[-1]})[:8]}"


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
