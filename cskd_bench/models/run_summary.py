"""run.json: what a finished pretraining run says of itself, in one place for all who read it."""

import json
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from cskd_bench.config import PretrainConfig
from cskd_bench.errors import UserError
from cskd_bench.files import write_file
from cskd_bench.record import MethodRef
from cskd_bench.schema import StrictModel

RUN_FILE: Final = "run.json"


class RunSummary(StrictModel):
    """A finished run. `sha256` is of its weights, by `model` (raw) and `ema`; `record` is its record's id."""

    config: PretrainConfig
    identity: str  # of the images
    classes: tuple[str, ...]
    sha256: dict[str, str]
    record: str
    method: MethodRef


def read_run(folder: Path) -> RunSummary:
    """Read run.json of a run's folder; UserError where the run is not finished, or this release cannot read it."""
    path = folder / RUN_FILE
    try:
        return RunSummary.model_validate_json(path.read_bytes())
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


def is_finished(folder: Path) -> bool:
    """Whether a run's folder holds run.json, which is written last."""
    return (folder / RUN_FILE).exists()


def write_run(folder: Path, summary: RunSummary) -> None:
    """Write run.json; UserError where it cannot be written."""
    content = json.dumps(summary.model_dump(mode="json"), indent=1) + "\n"
    write_file(folder / RUN_FILE, content.encode())
