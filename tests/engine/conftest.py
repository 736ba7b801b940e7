"""A pretraining run small enough to be killed often: three colours, a two-block ViT, a random CNN teacher."""

import hashlib
import sys
from pathlib import Path

import pytest
import torch
from helpers.logs import read_untimed
from helpers.processes import Started, end, start
from helpers.tiny import save_model, teacher, write_run
from safetensors.torch import load_file


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("teacher") / "teacher.safetensors", num_classes=3)


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory, colour_squares, tiny_teacher) -> Path:
    changes = {"data.root": colour_squares, "student.drop_path": 0.1, "run.log_every": 2, "run.save_every": 2}
    return write_run(tmp_path_factory.mktemp("config") / "tiny.toml", changes | teacher(tiny_teacher))


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

    def start(self, *overrides: str) -> Started:
        return start([sys.executable, *self.command(*overrides)])

    def finish(self, *overrides: str) -> str:
        return end(self.start(*overrides))

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
        return read_untimed(self.folder / "runs" / "tiny" / "log.jsonl")


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
