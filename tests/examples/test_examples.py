"""Every example runs as it stands on a CPU, and does what it says."""

import importlib.util
import sys
from pathlib import Path

import pytest
from helpers import without_ddp
from helpers.processes import TWO_RANKS, run

pytestmark = pytest.mark.gate

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_timm_loop_takes_twenty_steps_and_goes_on_from_its_checkpoint(tmp_path):
    checkpoint = str(tmp_path / "last.pth.tar")
    loop = load("timm_loop")
    losses = loop.main(["--checkpoint", checkpoint, "--workers", "0"])
    assert len(losses) == 20 and losses[-1] < losses[0]
    assert len(loop.main(["--checkpoint", checkpoint, "--epochs", "3", "--amp"])) == 10


def test_timm_loop_runs_on_two_ranks(tmp_path):
    done = run(
        [*TWO_RANKS, without_ddp.__file__, EXAMPLES / "timm_loop.py", "--epochs", "1", "--batch-size", "40"],
        cwd=tmp_path,
        CUDA_VISIBLE_DEVICES="",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fusion ratio 1.00") == 1
    assert done.stdout.count(without_ddp.GONE) == 2
    assert (tmp_path / "timm_loop.pth.tar").exists()


def test_own_method_trains_its_own_spatial_loss():
    losses = load("own_method").main([])
    assert losses[-1] < losses[0]


def test_own_task_leaves_a_record(tmp_path):
    record = load("own_task").main(["--results", str(tmp_path)])
    assert record.task.name == "own_digits" and record.value > 0.5
    assert (tmp_path / "records" / f"{record.id}.json").exists()


def test_read_records_prints_a_line_for_every_cell():
    lines = load("read_records").main([])
    assert any(line.startswith("cifar10_jpeg") and " ± " in line and line.endswith("(3)") for line in lines)


TRAIN_STEP = """
import sys
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.optim import build_optim_wrapper
config = Config.fromfile(sys.argv[1])  # runs custom_imports, as mmdet's tools do
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
init_default_scope(config.default_scope)
torch.manual_seed(0)
model = MODELS.build(config.model)
assert type(model.backbone).__module__ == "cskd_bench.detection.backbone"
wrapper = build_optim_wrapper(model, config.optim_wrapper)
before = model.backbone.vit.blocks[0].attn.qkv.weight.clone()
losses = model.train_step(demo_mm_inputs(1, [[3, 96, 96]], num_classes=80, with_mask=True), wrapper)
assert all(torch.isfinite(value).all() for value in losses.values())
assert not torch.equal(before, model.backbone.vit.blocks[0].attn.qkv.weight)
print("one step", float(losses["loss"]))
"""


def test_own_mmdet_config_trains_without_our_command_line(tmp_path):
    pytest.importorskip("mmdet")
    (tmp_path / "step.py").write_text(TRAIN_STEP)
    done = run(
        [sys.executable, tmp_path / "step.py", EXAMPLES / "own_mmdet_config.py"], cwd=tmp_path, CUDA_VISIBLE_DEVICES=""
    )
    assert done.returncode == 0, done.stderr
    assert "one step" in done.stdout


def test_every_example_says_how_to_run_it_and_is_tested():
    examples = list(EXAMPLES.glob("*.py"))
    assert len(examples) > 1
    for path in examples:
        assert f"examples/{path.name}" in path.read_text() and path.stem in Path(__file__).read_text(), path
