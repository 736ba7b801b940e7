"""Weights files from anywhere: two models are never taken for one."""

import shutil

import pytest
import timm
import torch
from safetensors.torch import save_file

from cskd_bench.engine.distributed import Ranks
from cskd_bench.models.checkpoints import load_checkpoint
from cskd_bench.task import load_task
from cskd_bench.transfer.run import open_cell

CPU = Ranks(0, 1, torch.device("cpu"))
DISTILLED = "deit_tiny_distilled_patch16_224"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights that a two-head and a three-head architecture both load."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("deit") / "model.safetensors"
    save_file(timm.create_model(DISTILLED).state_dict(), path)
    return path


def test_one_file_under_two_architectures_makes_two_records(weights, tmp_path):
    """Two heads or three: the logits differ, so neither record may stand for the other."""
    task = load_task("imagenet1k")
    names = {
        open_cell(task, "evaluate", weights, 0, work=tmp_path, ranks=CPU, model=model).name
        for model in (DISTILLED, "cskd_tiny_patch16_224")
    }
    assert len(names) == 2


def test_two_files_of_one_name_are_two_methods(weights, tmp_path):
    """Many checkpoints are called model.safetensors; a report averages what has one label."""
    other = tmp_path / weights.name
    shutil.copy(weights, other)
    with other.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    first, second = (load_checkpoint(path, model=DISTILLED) for path in (weights, other))
    assert first.method.label != second.method.label
    assert first.checkpoint.run != second.checkpoint.run
    assert first.method.label == f"external (model@{first.checkpoint.sha256[:8]})"
