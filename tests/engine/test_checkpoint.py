"""Checkpoints survive whatever happens while they are written, and never run what they hold."""

import errno
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from cskd_bench import files
from cskd_bench.engine import checkpoint as module
from cskd_bench.engine.checkpoint import Checkpoint, load_latest, save_checkpoint
from cskd_bench.errors import UserError
from cskd_bench.models import weights as module_of_weights
from cskd_bench.models.weights import read_state


def at(step):
    weights = {"w": torch.full((3,), float(step))}
    return Checkpoint(step, weights, weights, {"optimizer": {"state": {}}}, {"identity": {"seed": 1}, "curve": []})


def test_round_trip_and_the_last_k_are_kept(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, at(step), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000002", "step-000000003"]
    loaded, notes = load_latest(tmp_path)
    assert (loaded.step, notes) == (3, [])
    assert torch.equal(loaded.model["w"], at(3).model["w"])
    assert loaded.state == at(3).state


@pytest.mark.parametrize("file", ["model.safetensors", "ema.safetensors", "optimizer.pt", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_newest_one_is_set_aside_and_the_previous_used(tmp_path, file, damage):
    save_checkpoint(tmp_path, at(1), keep=2)
    path = save_checkpoint(tmp_path, at(2), keep=2) / file
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    loaded, notes = load_latest(tmp_path)
    assert loaded.step == 1
    assert len(notes) == 1 and "step-000000002" in notes[0] and "set aside" in notes[0]
    assert (tmp_path / "corrupt-step-000000002").is_dir()


def test_when_none_is_valid_nothing_starts_from_zero(tmp_path):
    (save_checkpoint(tmp_path, at(1), keep=2) / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="no checkpoint is valid"):
        load_latest(tmp_path)


def test_a_disk_that_fills_up_under_the_weights_is_one_sentence(tmp_path, monkeypatch):
    """What safetensors itself raises there is no OSError."""

    def full(*_):
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("cskd_bench.models.weights.save_file", full)
    with pytest.raises(UserError, match="could not be written"):
        save_checkpoint(tmp_path, at(1), keep=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", ["mkdir", "save_file", "torch.save", "write_text", "sync", "rename"])
def test_a_full_disk_at_any_stage_leaves_the_previous_one(tmp_path, monkeypatch, stage):
    save_checkpoint(tmp_path, at(1), keep=2)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    owner, name = {
        "mkdir": (module.Path, "mkdir"),
        "save_file": (module_of_weights, "save_file"),
        "torch.save": (module.torch, "save"),
        "write_text": (module.Path, "write_text"),
        "sync": (files, "sync"),
        "rename": (module.Path, "rename"),
    }[stage]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        with pytest.raises(UserError, match="could not be written"):
            save_checkpoint(tmp_path, at(2), keep=2)
    loaded, notes = load_latest(tmp_path)
    assert (loaded.step, notes) == (1, [])
    save_checkpoint(tmp_path, at(2), keep=2)
    assert load_latest(tmp_path)[0].step == 2


def test_a_kill_between_write_and_rename_leaves_the_previous_one(tmp_path):
    save_checkpoint(tmp_path, at(1), keep=2)
    program = f"""
        import os, torch
        from pathlib import Path
        from cskd_bench.engine import checkpoint as module
        Path.rename = lambda *_: os.kill(os.getpid(), 9)
        weights = {{"w": torch.zeros(3)}}
        module.save_checkpoint(Path({str(tmp_path)!r}), module.Checkpoint(2, weights, {{}}, {{}}, {{}}), 2)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert done.returncode == -9
    assert any(p.name.startswith(".writing") for p in tmp_path.iterdir())
    assert load_latest(tmp_path)[0].step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000001"]


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights.safetensors"])
def test_a_hostile_file_runs_nothing_and_is_refused(tmp_path, name):
    trap = str(tmp_path / "trap")
    with (tmp_path / name).open("wb") as file:
        pickle.dump({"model": Hostile(trap)}, file)
    with pytest.raises(UserError, match=name):
        read_state(tmp_path / name)
    torch.save({"model": Hostile(trap)}, tmp_path / "zipped.pth")
    with pytest.raises(UserError, match="refused"):
        read_state(tmp_path / "zipped.pth")
    assert not Path(trap).exists()


def test_a_hostile_optimizer_file_is_a_damaged_checkpoint(tmp_path):
    """Even with a matching checksum, nothing but tensors and plain values is loaded."""
    import json

    from cskd_bench.record import sha256_file

    save_checkpoint(tmp_path, at(1), keep=2)
    path = save_checkpoint(tmp_path, at(2), keep=2)
    torch.save(Hostile(str(tmp_path / "trap")), path / "optimizer.pt")
    state = json.loads((path / "state.json").read_text())
    state["sha256"]["optimizer.pt"] = sha256_file(path / "optimizer.pt")
    (path / "state.json").write_text(json.dumps(state))
    assert load_latest(tmp_path)[0].step == 1
    assert not (tmp_path / "trap").exists()
