"""Every example runs as it stands on a CPU, and does what it says."""

import importlib.util
import json
import os
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from helpers import without_ddp
from helpers.processes import TWO_RANKS, run, run_cskd_bench
from helpers.runs import random_run
from helpers.tiny import save_model

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


def test_own_pretraining_method_is_known_once_it_is_installed(tmp_path):
    """An installed package is its modules and the entry points of its pyproject.toml."""
    package, installed = EXAMPLES / "own_pretraining_method", tmp_path / "site"
    about = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    offered = about["entry-points"]["cskd_bench.methods"]
    facts = installed / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n")
    lines = [f"{name} = {value}" for name, value in offered.items()]
    (facts / "entry_points.txt").write_text("\n".join(["[cskd_bench.methods]", *lines]))
    shutil.copy(package / "confident_kd.py", installed)
    where = {"PYTHONPATH": os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])}
    assert "\nconfident_kd " in run_cskd_bench("methods", "list", **where)
    assert "method.weight = 1.0 (at least 0)" in run_cskd_bench("methods", "show", "confident_kd", **where)
    weights = save_model(tmp_path / "teacher.safetensors", num_classes=10)
    settings = {"weights": json.dumps(str(weights)), "name": "test_byobnet", "image_size": 32, "num_classes": 10}
    words = [word for key, value in settings.items() for word in ("--set", f"teacher.{key}={value}")]
    words += ["--set", "recipe.epochs=1", "--set", "recipe.optim.warmup_epochs=0", "--set", "method.weight=2.0"]
    config = EXAMPLES.parent / "configs" / "quickstart" / "student.toml"
    places = ["--runs", tmp_path / "runs", "--results", tmp_path / "results"]
    run_cskd_bench("pretrain", config, "--method", "confident_kd", *words, *places, **where)
    (record,) = (tmp_path / "results" / "records").glob("*.json")
    method = json.loads(record.read_text())["method"]
    assert method["label"] == "confident_kd (weight=2.0)" and method["config"]["kind"] == "confident_kd"
    (finished,) = (tmp_path / "runs").glob("*/run.json")
    words = ["--task", "digits", "--protocol", "linear", "--checkpoint", finished.parent, *places]
    run_cskd_bench("transfer", *words, **where)
    said = run_cskd_bench("transfer", *words, "--results", tmp_path / "other", code=2)
    assert "confident_kd" in said and "Traceback" not in said


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
config.merge_from_dict({"model.backbone.run": sys.argv[2], "model.neck.in_channels": 24})
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
    folder = random_run(tmp_path / "run", "cskd", patch_size=16, depth=4)
    done = run(
        [sys.executable, tmp_path / "step.py", EXAMPLES / "own_mmdet_config.py", folder],
        cwd=tmp_path,
        CUDA_VISIBLE_DEVICES="",
    )
    assert done.returncode == 0, done.stderr
    assert "one step" in done.stdout


def test_every_example_says_how_to_run_it_and_is_tested():
    examples = list(EXAMPLES.glob("*.py"))
    assert len(examples) > 1
    for path in examples:
        assert f"examples/{path.name}" in path.read_text() and path.stem in Path(__file__).read_text(), path
