"""A pretraining run small enough to be killed often: three colours, a two-block ViT, a random CNN teacher."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

CONFIG = """
[method]
kind = "cskd"
[data]
root = "{data}"
num_classes = 3
[student]
image_size = 32
patch_size = 8
depth = 2
embed_dim = 24
num_heads = 2
drop_path = 0.1
[teacher]
name = "test_byobnet"
weights = "{teacher}"
image_size = 64
num_classes = 3
[recipe]
epochs = 4
batch_size = 16
precision = "fp32"
ema_decay = 0.9
[recipe.optim]
warmup_epochs = 1.0
[recipe.augment]
mix_group = 4
repeats = 2
[run]
workers = 0
log_every = 2
save_every = 2
"""


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_file(timm.create_model("test_byobnet", num_classes=3).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory, colour_squares, tiny_teacher) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(CONFIG.format(data=colour_squares, teacher=tiny_teacher))
    return path


class Run:
    """One `cskd-bench pretrain` in a process of its own."""

    def __init__(self, config: Path, folder: Path) -> None:
        self.config, self.folder = config, folder

    @property
    def checkpoints(self) -> Path:
        return self.folder / "runs" / "tiny" / "checkpoints"

    def command(self, *overrides: str) -> list[str]:
        places = ["--runs", str(self.folder / "runs"), "--results", str(self.folder / "results")]
        settings = [word for override in overrides for word in ("--set", override)]
        return ["-m", "cskd_bench.cli", "pretrain", str(self.config), *places, *settings]

    def start(self, *overrides: str) -> "subprocess.Popen[str]":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CSKD_BENCH_DEVICE": "cpu"}
        command = [sys.executable, *self.command(*overrides)]
        return subprocess.Popen(
            command,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def finish(self, *overrides: str) -> str:
        process = self.start(*overrides)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
        return output

    def weights(self) -> dict[str, torch.Tensor]:
        folder = self.folder / "runs" / "tiny"
        return {
            f"{name}.{key}": value
            for name in ("model", "ema")
            for key, value in load_file(folder / f"{name}.safetensors").items()
        }

    def sha256(self) -> str:
        return hashlib.sha256((self.folder / "runs" / "tiny" / "model.safetensors").read_bytes()).hexdigest()

    def log(self) -> str:
        return (self.folder / "runs" / "tiny" / "log.jsonl").read_text()


@pytest.fixture
def new_run(tiny_config, tmp_path):
    return Run(tiny_config, tmp_path)


@pytest.fixture(scope="session")
def new_run_at(tiny_config, tmp_path_factory):
    return lambda name: Run(tiny_config, tmp_path_factory.mktemp(name))


@pytest.fixture(scope="session")
def uninterrupted(tiny_config, tmp_path_factory) -> Run:
    """The run that all others must equal, bit for bit."""
    run = Run(tiny_config, tmp_path_factory.mktemp("uninterrupted"))
    run.finish()
    return run


def assert_same_end(run: Run, reference: Run) -> None:
    ours, theirs = run.weights(), reference.weights()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert run.log() == reference.log()


@pytest.fixture(scope="session")
def same_end():
    return assert_same_end
