"""The dry run's figures: known FLOPs of known models, sizes that can be added up by hand, no data touched."""

import io

import pytest
import torch
from helpers.tiny import STUDENT
from rich.console import Console

from cskd_bench.config import PretrainConfig, load_config
from cskd_bench.engine.checkpoint import Checkpoint, save_checkpoint
from cskd_bench.engine.estimate import estimate, show
from cskd_bench.errors import UserError
from cskd_bench.schema import shipped, validate


def small(**changes):
    """A two-block student beside a small teacher, on a data set that a manifest knows."""
    data = {
        "name": "small",
        "method": {"kind": "cskd"},
        "data": {"root": "imagenet1k"},
        "student": STUDENT,
        "teacher": {"name": "test_byobnet", "image_size": 64},
        "recipe": {"precision": "fp32"},
    }
    return validate(PretrainConfig, data | changes, "test")


def test_deit_tiny_with_regnety_is_what_the_papers_say():
    """DeiT-Ti is 1.3 GMACs and 5.7 M parameters (timm's tables), RegNetY-16GF is 16 GMACs and 83.6 M."""
    size = estimate(load_config(shipped("configs") / "deit_tiny.toml", ["recipe.precision=fp32"], "cskd"))
    assert size.images == 1_281_167
    assert size.steps == 300 * (1_281_167 // 1024)
    assert size.student_forward_flops / 2 == pytest.approx(1.27e9, rel=0.02)
    assert 2.9 < size.student_step_flops / size.student_forward_flops < 3.05
    assert size.teacher_flops / 2 == pytest.approx(15.96e9, rel=0.02)
    assert size.student_parameters == pytest.approx(5.9e6, rel=0.02)
    assert size.teacher_parameters == pytest.approx(83.6e6, rel=0.01)


def test_a_supervised_run_has_no_teacher():
    size = estimate(small(method={"kind": "supervised"}))
    assert size.teacher_flops == size.teacher_parameters == 0
    assert size.memory(1)["teacher"] == 0


def test_a_projection_is_counted_once_a_batch():
    plain, projected = estimate(small(method={"kind": "deit"})), estimate(small(method={"kind": "vkd"}))
    assert plain.batch_flops == 0 < projected.batch_flops
    assert projected.student_step_flops == pytest.approx(plain.student_step_flops, rel=0.05)
    run = projected.views * (projected.student_step_flops + projected.teacher_flops)
    assert projected.total_flops == run + projected.steps * projected.batch_flops


def test_memory_adds_up_by_hand():
    size = estimate(small())
    one, two = size.memory(1), size.memory(2)
    weights = size.student_parameters * 4
    assert one["student's weights"] == one["gradients"] == one["EMA"] == weights
    assert one["optimiser"] == 2 * weights
    grown = one["student's activations"] - two["student's activations"]
    assert grown == pytest.approx(size.activation_bytes_per_view * size.batch_size / 2)


def test_activations_grow_with_tokens_and_shrink_with_precision():
    full = estimate(small())
    half = estimate(small(recipe={"precision": "bf16"}))
    assert half.activation_bytes_per_view < full.activation_bytes_per_view
    larger = estimate(small(student=STUDENT | {"image_size": 64}))
    assert larger.activation_bytes_per_view > 1.5 * full.activation_bytes_per_view


def test_a_checkpoint_is_as_large_as_said(tmp_path):
    """The reference: a checkpoint of such a run, written, and its files weighed."""
    from timm.utils.model_ema import ModelEmaV3

    from cskd_bench.engine.optim import build_optimizer
    from cskd_bench.models.students import build_student

    config = small()
    student = build_student(config.student, 1000, "class+dist+patch")
    optimizer = build_optimizer(student, config.recipe.optim)
    student(torch.rand(2, 3, 32, 32), (2, 2)).patch_logits.sum().backward()
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    averaged = ModelEmaV3(student).module.state_dict()
    checkpoint = Checkpoint(1, student.state_dict(), averaged, {"optimizer": optimizer.state_dict()}, {})
    folder = save_checkpoint(tmp_path, checkpoint, keep=1)
    written = sum(file.stat().st_size for file in folder.iterdir())
    assert estimate(config).checkpoint_bytes == pytest.approx(written, rel=0.3)


def test_images_are_counted_where_no_manifest_knows_them(colour_squares):
    config = small(data={"root": str(colour_squares), "num_classes": 3}, recipe={"batch_size": 16, "precision": "fp32"})
    size = estimate(config)
    assert (size.images, size.images_from, size.steps_per_epoch) == (48, "the data", 3)


def test_unknown_and_absent_data_is_one_sentence():
    with pytest.raises(UserError, match="number of training images"):
        estimate(small(data={"root": "nowhere"}))


def test_the_tables_name_the_split_and_the_method():
    console = Console(width=140, record=True, file=io.StringIO())
    show(estimate(small()), console)
    words = console.export_text()
    for expected in ("1,281,167", "teacher", "forward + backward", "8 GPUs", "EMA", "disk", "torch's counter"):
        assert expected in words
