"""Checkpoints: a folder written under a temporary name, synced, then renamed; the last K are kept.

A checkpoint holds model.safetensors, ema.safetensors, optimizer.pt (tensors only), projector.safetensors where a
method trains one beside its student, and state.json with the step, the run's identity and the SHA-256 of the other
files. Nothing in it can run code.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from cskd_bench.errors import UserError
from cskd_bench.files import UNFINISHED, write_folder
from cskd_bench.models.weights import save_tensors
from cskd_bench.record import sha256_file

_PREFIX = "step-"


@dataclass(frozen=True)
class Checkpoint:
    """What is needed to go on as if nothing had happened."""

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Any]
    state: dict[str, Any]  # history, meters, identity: plain JSON
    checksum: str = ""  # of state.json, which names those of the other files
    projector: dict[str, Tensor] = field(default_factory=dict)  # what a method trains beside its student


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint atomically and drop the oldest beyond `keep`; UserError when the disk is full."""
    final = folder / f"{_PREFIX}{checkpoint.step:09d}"
    try:
        with write_folder(final) as temporary:
            save_tensors(temporary / "model.safetensors", checkpoint.model)
            if checkpoint.ema:
                save_tensors(temporary / "ema.safetensors", checkpoint.ema)
            if checkpoint.projector:
                save_tensors(temporary / "projector.safetensors", checkpoint.projector)
            torch.save(checkpoint.optimizer, temporary / "optimizer.pt")
            hashes = {path.name: sha256_file(path) for path in sorted(temporary.iterdir())}
            state = {"step": checkpoint.step, "sha256": hashes, **checkpoint.state}
            (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
    except (OSError, RuntimeError) as error:  # torch.save has the latter for a full disk
        raise UserError(
            f"{final}: the checkpoint could not be written ({error}); earlier ones are untouched"
        ) from error
    for old in _complete(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def load_latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest valid checkpoint, and a sentence for each newer one that was set aside.

    Raises UserError when checkpoints exist and none is valid: a run never restarts from zero in silence.
    """
    if not folder.is_dir():
        return None, []
    for leftover in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(leftover)
    found = _complete(folder)
    notes: list[str] = []
    for path in reversed(found):
        try:
            return _load(path), notes
        except Exception as error:  # a damaged file fails in as many ways as there are bytes
            aside = path.with_name(f"corrupt-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            notes.append(f"{path}: damaged ({error}); set aside as {aside.name}")
    if found:
        raise UserError(
            f"{folder}: no checkpoint is valid ({'; '.join(notes)}); to start again from zero, remove the run's folder"
        )
    return None, notes


def load_chosen(folder: Path, step: int, checksum: str) -> Checkpoint:
    """Load the checkpoint that another rank chose; UserError where it is not here, or is another one here."""
    path = folder / f"{_PREFIX}{step:09d}"
    try:
        found = sha256_file(path / "state.json")
        if found != checksum:
            raise ValueError("its state.json has another checksum")
        return _load(path)
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        raise UserError(
            f"{path}: rank 0 resumes from this checkpoint, this rank cannot ({error}); --runs must be one folder "
            "that all ranks see"
        ) from error


def newest(folder: Path) -> int | None:
    """Return the step of the newest checkpoint, valid or not, None where there is none."""
    found = _complete(folder)
    return int(found[-1].name.removeprefix(_PREFIX)) if found else None


def _load(path: Path) -> Checkpoint:
    checksum = sha256_file(path / "state.json")
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    for name, expected in state.pop("sha256").items():
        if sha256_file(path / name) != expected:
            raise ValueError(f"{name} does not match its checksum")
    ema, projector = path / "ema.safetensors", path / "projector.safetensors"
    return Checkpoint(
        step=state.pop("step"),
        model=load_file(path / "model.safetensors"),
        ema=load_file(ema) if ema.exists() else {},
        optimizer=torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True),
        state=state,
        checksum=checksum,
        projector=load_file(projector) if projector.exists() else {},
    )


def _complete(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())
