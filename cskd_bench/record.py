"""Records: one immutable JSON per result, written to a temporary name and renamed."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, ValidationError

from cskd_bench.errors import UserError
from cskd_bench.files import write_file
from cskd_bench.record_migration import migrate
from cskd_bench.schema import StrictModel, fingerprint

SCHEMA_VERSION: Final = 3


class SideFile(StrictModel):
    """A file beside the record (name relative to the records folder) and its SHA-256."""

    name: str
    sha256: str


class TaskRef(StrictModel):
    """Which task, in which version, with which content. Records of release 0.1.0 do not say `published_as`."""

    name: str
    version: int
    fingerprint: str
    metric: str  # the key of `metrics` that tables show
    group: Literal["pretraining", "classification", "robustness", "detection", "segmentation"] = "classification"
    published_as: str = ""  # the data set in published.toml, where recipe and metric are those of the published scores


class MethodRef(StrictModel):
    """The pretraining objective: `label` names it in tables, `teacher` is empty without one."""

    kind: str
    label: str
    teacher: str = ""
    config: dict[str, Any] = Field(default_factory=dict)


NO_PRETRAINING: Final = MethodRef(kind="initial", label="no pretraining")  # of weights as a run's seed drew them


class ModelRef(StrictModel):
    """The student. `parameters` counts those used at inference."""

    name: str
    image_size: NonNegativeInt
    parameters: NonNegativeInt


class CheckpointRef(StrictModel):
    """Which weights were scored: run name, raw, EMA or those that the run began with, and their SHA-256.

    `pretrain_images`: the identity of the images of the pretraining, empty where it is not known.
    """

    run: str
    weights: Literal["raw", "ema", "none", "initial"]
    sha256: str
    pretrain_seed: int | None = None
    pretrain_recipe: str = ""
    pretrain_data: str = ""
    pretrain_images: str = ""


class CodeRef(StrictModel):
    """The code that ran."""

    version: str
    commit: str
    dirty: bool


class Cost(StrictModel):
    """What it took: seconds of wall time, images per second in training, bytes at peak. 0: not measured.

    `peak_memory_bytes`: the cell's own peak, of the main rank; on a CPU that of its process, without the workers that
    load images. `labelling_seconds`: what the bank's labels took, once for all runs that read it.
    `evaluation_seconds`: the part of `seconds` in which the epochs of a training were scored; left out where 0, as in
    records whose `seconds` are without it.
    """

    seconds: NonNegativeFloat
    images_per_second: NonNegativeFloat = 0.0
    gpu_hours: NonNegativeFloat = 0.0
    peak_memory_bytes: NonNegativeInt = 0
    labelling_seconds: NonNegativeFloat = 0.0
    evaluation_seconds: Annotated[NonNegativeFloat, Field(exclude_if=lambda seconds: not seconds)] = 0.0


class Hardware(StrictModel):
    """The machine that a cell ran on, as far as it decides numbers and cost; empty or 0 is not known, or not there.

    `cpu_flags`: those that decide which kernels run. `gpus`: the main rank's. `tf32`: whether any product was allowed
    to round its operands to TF32. `deterministic`: whether torch was told to refuse other algorithms. `threads`: of
    each rank, on the CPU. `world`: the number of ranks. `host`: 8 hex digits that tell machines apart and name none.
    """

    cpu: str = ""
    cpu_flags: tuple[str, ...] = ()
    system: str = ""  # operating system and kernel
    blas: str = ""
    cuda: str = ""
    cudnn: str = ""
    driver: str = ""
    gpus: tuple[str, ...] = ()
    tf32: bool | None = None
    deterministic: bool | None = None
    threads: NonNegativeInt = 0
    world: NonNegativeInt = 0
    host: str = ""

    @property
    def known(self) -> bool:
        """Whether a record says what it ran on."""
        return bool(self.cpu)

    @property
    def speed(self) -> tuple[object, ...]:
        """What the cost of a run depends on: costs are compared only where it is equal."""
        return self.cpu, self.threads, self.gpus, self.world

    @property
    def arithmetic(self) -> tuple[object, ...]:
        """What rounding depends on: only where it is equal are the same bits to be expected."""
        return tuple(value for key, value in self if key not in ("system", "host"))


class Record(StrictModel):
    """What ran, on what, with which result. What a record of an older schema does not know is empty."""

    schema_version: Literal[3] = SCHEMA_VERSION
    id: str
    created: str  # UTC, ISO 8601
    started: str = ""  # likewise: when the first process that worked on the cell began it
    resumptions: NonNegativeInt = 0  # how often it went on from a checkpoint
    task: TaskRef
    protocol: str  # pretrain, finetune, linear, knn, kshot, lowlabel, detect, segment, multilabel, evaluate
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
    lock: str = ""  # the packages installed: `constraints@...` where they are those of constraints.txt
    device: str  # in words
    hardware: Hardware = Hardware()
    command: str
    argv: tuple[str, ...] = ()  # the words of the command
    labels_from: Literal["none", "teacher", "bank"] = "none"  # of the teacher, in this cell's own training
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
        if path.is_fifo():
            raise UserError(f"{path}: is a named pipe, not a file")
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return Record.model_validate_json(migrate(text))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: not a record: {key + ': ' if key else ''}{first['msg']}") from error


def read_records(folder: Path) -> Iterator[tuple[Path, Record | UserError]]:
    """Yield every record of a folder in name order; a broken file is yielded as its error, a hidden one is none."""
    for path in sorted(folder.glob("[!.]*.json")):
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
