"""Measures of patch tokens along training equal a slow look at one image after the other."""

import pytest
import torch
from helpers.tiny import STUDENT

from cskd_bench.cells.pretrain import pretrain
from cskd_bench.config import DataConfig, StudentConfig, load_config
from cskd_bench.data.mixing import to_float
from cskd_bench.data.open import open_source
from cskd_bench.data.views import EvalView
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.patches import patch_measures
from cskd_bench.models.attention import attention_maps, mean_distance
from cskd_bench.models.students import build_student

CPU = torch.device("cpu")
VIEW = EvalView(32)


@pytest.fixture
def val(colour_squares):
    return open_source(DataConfig(root=str(colour_squares), num_classes=3), "val")


@pytest.mark.parametrize("heads", ["class", "class+dist+patch"])
def test_measures_are_means_over_images(val, heads):
    torch.manual_seed(0)
    student = build_student(StudentConfig(**STUDENT), 3, heads)
    for parameter in student.parameters():  # so that answers differ between patches
        parameter.data += 0.3 * torch.randn_like(parameter)
    student.eval()
    pixels = torch.stack([VIEW(val.load(index)) for index in range(len(val))])
    found = patch_measures(student, pixels, torch.as_tensor(val.labels), CPU)
    named, far = [], []
    head = student.model.head if heads == "class" else student.distillation_head
    prefix = student.model.num_prefix_tokens
    for index in range(len(val)):
        views = to_float(VIEW(val.load(index)))[None]
        with torch.no_grad():
            said = [int(head(token).argmax()) for token in student.tokens(views)[0, prefix:]]
            maps = attention_maps(student, views)
        named += [answer == val.labels[index] for answer in said]
        far += [float(distance) for weights in maps for distance in mean_distance(weights, (4, 4), 8, prefix)]
    assert 0 < found["patch_top1"] < 1
    assert found["patch_top1"] == pytest.approx(sum(named) / len(named))
    assert found["attention_distance"] == pytest.approx(sum(far) / len(far), rel=1e-5)
    assert not any(module._forward_pre_hooks for module in student.modules())


def test_what_is_no_plain_vit_has_none():
    for model in (build_student(StudentConfig(name="resnet18"), 3, "class"), torch.nn.Linear(2, 2)):
        assert patch_measures(model, torch.zeros(2, 3, 32, 32), torch.zeros(2), CPU) == {}


def test_a_run_that_is_asked_notes_them_at_every_evaluation(tiny_config, tmp_path):
    config = load_config(tiny_config, ["recipe.epochs=2", "run.patch_measures=true"])
    record = pretrain(config, tmp_path / "runs", tmp_path / "results", Ranks(0, 1, CPU))
    assert all(0 < entry["attention_distance"] < 45 and 0 <= entry["patch_top1"] <= 1 for entry in record.curve)
    assert record.curve[0]["attention_distance"] != record.curve[1]["attention_distance"]


def test_a_run_that_is_not_asked_measures_none(tiny_config, tmp_path):
    config = load_config(tiny_config, ["recipe.epochs=1"])
    record = pretrain(config, tmp_path / "runs", tmp_path / "results", Ranks(0, 1, CPU))
    assert not {"attention_distance", "patch_top1"} & record.curve[0].keys() and "top1" in record.curve[0]
