"""run.json: what a finished run says of itself, a pretraining or a fine-tuning, in one place for all who read it."""

import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from cskd_bench.config import MethodConfig, PretrainConfig, StudentConfig
from cskd_bench.errors import UserError
from cskd_bench.files import write_file
from cskd_bench.outputs import Heads
from cskd_bench.record import CheckpointRef, MethodRef, ModelRef
from cskd_bench.schema import StrictModel

RUN_FILE: Final = "run.json"
Rgb = Annotated[tuple[float, ...], Field(min_length=3, max_length=3)]


class RunSummary(StrictModel):
    """A finished run. `sha256` is of its weights, by `model` (raw) and `ema`; `record` is its record's id.

    `milestone` is the epoch whose end a folder's weights are from where the run went on after it; no record is of them.
    """

    config: PretrainConfig
    identity: str  # of the images
    classes: tuple[str, ...]
    sha256: dict[str, str]
    record: str
    method: MethodRef
    milestone: Annotated[int | None, Field(exclude_if=lambda epoch: epoch is None)] = None


class Blueprint(StrictModel):
    """How a student is built: from the settings of a run of ours (`student`), or by a timm name with its arguments.

    `dropped`: the distillation head is there and does not answer.
    """

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    student: StudentConfig | None = None
    heads: Heads
    dropped: bool = False


class Tuning(StrictModel):
    """The fine-tuning that made weights: its task, seed and record, and the resolution (pixels) that it trained at.

    `recipe` is that of its record, which holds the recipe of the pretraining. `data` names all that was learnt from.
    `method` and `teacher` (model and hash of its weights) are left out where all heads learnt the labels alone.
    """

    task: str
    fingerprint: str
    record: str
    seed: int
    recipe: str
    image_size: int
    data: str
    method: Annotated[MethodConfig | None, Field(exclude_if=lambda method: method is None)] = None
    teacher: Annotated[str, Field(exclude_if=lambda teacher: not teacher)] = ""


class TunedSummary(StrictModel):
    """A fine-tuned student: how it is built, its classes, and what it was tuned from.

    `checkpoint`, `method` and `config` are of the weights that tuning began with; `config` is None where they were not
    of a run of ours. `mean` and `std` are RGB, of pixels in [0, 1]. `crop` and `interpolation` are those of evaluation.
    """

    kind: Literal["finetuned"] = "finetuned"
    tuning: Tuning
    blueprint: Blueprint
    num_classes: int
    classes: tuple[str, ...]
    mean: Rgb
    std: Rgb
    crop: float
    interpolation: str
    sha256: dict[str, str]
    checkpoint: CheckpointRef
    method: MethodRef
    model: ModelRef
    config: PretrainConfig | None = None


def read_run(folder: Path) -> RunSummary:
    """Read run.json of a pretraining's folder; UserError where it is not finished, or this release cannot read it."""
    summary = read_summary(folder)
    if isinstance(summary, TunedSummary):
        raise UserError(f"{folder}: holds a fine-tuned student (record {summary.tuning.record}), not a pretraining run")
    if summary.milestone is not None:
        raise UserError(f"{folder}: holds a milestone (epoch {summary.milestone}), not a finished pretraining run")
    return summary


def read_summary(folder: Path) -> RunSummary | TunedSummary:
    """Read run.json of a run's folder, of either kind; raises UserError as `read_run` does."""
    path = folder / RUN_FILE
    try:
        text = path.read_bytes()
        kind = TunedSummary if _is_tuned(text) else RunSummary
        return kind.model_validate_json(text)
    except FileNotFoundError:
        unfinished = (folder / "checkpoints").is_dir()
        hint = "its pretraining is not finished" if unfinished else "no run.json in it"
        raise UserError(f"{folder}: not a finished run ({hint}); start its pretraining again to finish it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: damaged, or of another release: {key} {first['msg']}") from error


def _is_tuned(text: bytes) -> bool:
    """Tell the two kinds apart; what is no JSON is left to validation, which names what is wrong."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "tuning" in content


def is_finished(folder: Path) -> bool:
    """Whether a run's folder holds run.json, which is written last."""
    return (folder / RUN_FILE).exists()


def write_run(folder: Path, summary: RunSummary | TunedSummary) -> None:
    """Write run.json; UserError where it cannot be written."""
    content = json.dumps(summary.model_dump(mode="json"), indent=1) + "\n"
    write_file(folder / RUN_FILE, content.encode())
