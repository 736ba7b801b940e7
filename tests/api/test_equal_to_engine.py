"""A stock timm loop with CSKDTask has the losses of the suite's own loop: one process, two ranks, a restart between."""

import json
import sys
from pathlib import Path

import pytest
import timm
import torch
from helpers.processes import TWO_RANKS, run
from safetensors.torch import save_file

from cskd_bench.cells.pretrain import pretrain
from cskd_bench.config import load_config
from cskd_bench.engine.distributed import Ranks

sys.path.insert(0, str(Path(__file__).resolve().parent))
import loop_on_engine_views

pytestmark = pytest.mark.gate

CONFIG = """
name = "loop"
[method]
kind = "cskd"
[data]
root = "{data}"
num_classes = 3
[student]
name = "deit_tiny_patch16_224"
image_size = 64
[teacher]
name = "test_byobnet"
weights = "{teacher}"
image_size = 64
num_classes = 3
[recipe]
epochs = 7
batch_size = 16
precision = "fp32"
ema_decay = 0.0
[recipe.optim]
warmup_epochs = 1.0
[recipe.augment]
mix_group = 4
repeats = 2
[run]
workers = 0
log_every = 1
eval_every = 7
"""
STEPS_PER_EPOCH = 3


@pytest.fixture(scope="module")
def config(tmp_path_factory, colour_squares):
    folder = tmp_path_factory.mktemp("loop")
    torch.manual_seed(1)
    cnn = timm.create_model("test_byobnet", num_classes=3)
    cnn.head.fc.weight.data.mul_(30)  # an untrained head says the same of every image
    save_file(cnn.state_dict(), folder / "teacher.safetensors")
    path = folder / "loop.toml"
    path.write_text(CONFIG.format(data=colour_squares, teacher=folder / "teacher.safetensors"))
    return path


@pytest.fixture(scope="module")
def ours(config):
    """The losses of the suite's own loop, step by step."""
    runs = config.parent / "runs"
    pretrain(load_config(config), runs, config.parent / "results", Ranks(0, 1, torch.device("cpu")))
    lines = [json.loads(line) for line in (runs / "loop" / "log.jsonl").read_text().splitlines()]
    losses = [line["total"] for line in lines if "total" in line]
    assert len(losses) == 21
    return losses


def largest(theirs, ours):
    assert len(theirs) == len(ours)
    return max(abs(one - other) for one, other in zip(theirs, ours, strict=True))


def test_one_process_with_a_restart_in_the_middle(config, ours, tmp_path):
    checkpoint = str(tmp_path / "checkpoint.pth.tar")
    first = loop_on_engine_views.main(config, checkpoint, 0, 4)
    assert largest(first, ours[: 4 * STEPS_PER_EPOCH]) < 1e-6
    rest = loop_on_engine_views.main(config, checkpoint, 4, 7)
    assert largest(rest, ours[4 * STEPS_PER_EPOCH :]) < 1e-6


def test_two_ranks_with_a_restart_in_the_middle(config, ours, tmp_path):
    losses = []
    for first, end in ((0, 4), (4, 7)):
        output = tmp_path / f"losses{first}.json"
        script = [loop_on_engine_views.__file__, config, tmp_path / "checkpoint.pth.tar", output, first, end]
        done = run([*TWO_RANKS, *script])
        assert done.returncode == 0, done.stderr
        losses += json.loads(output.read_text())
    assert largest(losses, ours) < 1e-6


def test_a_loader_that_normalises_changes_nothing_but_rounding(config, ours, tmp_path):
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    losses = loop_on_engine_views.main(config, str(tmp_path / "checkpoint.pth.tar"), 0, 2, **imagenet)
    assert largest(losses, ours[: 2 * STEPS_PER_EPOCH]) < 1e-5
