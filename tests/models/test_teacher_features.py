"""Beside its logits a teacher gives features: the mean of its last map, and maps of its stages, in the same pass."""

import pytest
import timm
import torch
from torch import nn

from cskd_bench.errors import UserError
from cskd_bench.models.folding import fold_batch_norms
from cskd_bench.models.teachers import Teacher

CNNS = ("test_resnet", "test_byobnet", "test_efficientnet", "test_convnext", "mobilenetv3_small_050")


def make(name="test_resnet", size=64, **options):
    torch.manual_seed(0)
    return Teacher(timm.create_model(name, num_classes=7), size, **options)


def outputs_of(teacher, views, stages):
    """Watch an ordinary pass: what leaves the module of each stage that `feature_info` names."""
    seen = {}
    modules = [teacher.model.feature_info[stage]["module"] for stage in stages]
    handles = [
        teacher.model.get_submodule(module).register_forward_hook(
            lambda _, inputs, output, module=module: seen.__setitem__(module, output.clone())
        )
        for module in modules
    ]
    with torch.no_grad():
        teacher.model((views - teacher.mean) / teacher.std)
    for handle in handles:
        handle.remove()
    return [seen[module] for module in modules]


@pytest.mark.parametrize("name", CNNS)
def test_features_are_those_of_an_ordinary_pass_and_change_no_bit_of_the_logits(name):
    teacher, views = make(name), torch.rand(3, 3, 64, 64)
    plain, output = teacher(views), teacher(views, pooled=True, stages=(3, 1))
    assert plain.pooled is None and plain.maps == ()
    assert torch.equal(output.dense, plain.dense) and torch.equal(output.global_logits, plain.global_logits)
    last = teacher.model.forward_features((views - teacher.mean) / teacher.std)
    torch.testing.assert_close(output.pooled, last.sum((2, 3)) / last[0, 0].numel())
    for taken, expected in zip(output.maps, outputs_of(teacher, views, (3, 1)), strict=True):
        assert torch.equal(taken, expected)


@pytest.mark.parametrize("name", CNNS)
def test_sizes_are_known_before_the_first_pass(name):
    teacher = make(name, 60)
    output = teacher(torch.rand(1, 3, 60, 60), pooled=True, stages=(0, 2, 3))
    assert teacher.pooled_width() == output.pooled.shape[1]
    assert teacher.map_widths((0, 2, 3)) == tuple(taken.shape[1] for taken in output.maps)
    assert teacher.map_widths(()) == ()


def test_a_stage_asked_for_twice_comes_twice():
    output = make()(torch.rand(2, 3, 64, 64), stages=(3, 1, 3))
    assert torch.equal(output.maps[0], output.maps[2]) and len(output.maps) == 3


def test_features_take_one_pass():
    teacher, calls = make(), []
    for module in (teacher.model.conv1, teacher.model.layer4[-1].conv2):
        module.register_forward_hook(lambda module, *_: calls.append(module))
    teacher(torch.rand(2, 3, 64, 64), pooled=True)
    assert len(calls) == 2
    teacher(torch.rand(2, 3, 64, 64), pooled=True, stages=(0, 4))
    assert len(calls) == 4


def test_stage_maps_of_a_residual_network_come_after_its_relu():
    output = make()(torch.rand(2, 3, 64, 64), stages=(0, 1, 2, 3, 4))
    assert all(taken.min() == 0 < taken.max() for taken in output.maps)


def test_features_keep_the_views_type_in_half_precision():
    views = torch.rand(2, 3, 64, 64)
    exact, half = (make(precision=precision)(views, pooled=True, stages=(2,)) for precision in ("fp32", "bf16"))
    assert half.pooled.dtype == half.maps[0].dtype == torch.float32
    assert not torch.equal(half.maps[0], exact.maps[0])
    torch.testing.assert_close(half.maps[0], exact.maps[0], atol=0.05, rtol=0.1)


def test_classes_restrict_logits_and_leave_features_whole():
    views = torch.rand(2, 3, 64, 64)
    whole, some = make()(views, pooled=True), make(class_indices=[5, 2])(views, pooled=True)
    assert torch.equal(some.pooled, whole.pooled) and some.dense.shape[1] == 2


def test_pieces_change_no_bit_of_features(monkeypatch):
    monkeypatch.setattr("cskd_bench.models.teachers.views_at_a_time", lambda size: 16)
    views = torch.rand(37, 3, 64, 64)
    whole = make().use_channels_last()(views, pooled=True, stages=(4, 2))
    teacher, seen = make().use_channels_last().take_pieces(), []
    teacher.model.conv1.register_forward_hook(lambda _, inputs, output: seen.append(len(output)))
    output = teacher(views, pooled=True, stages=(4, 2))
    assert seen == [19, 18] and torch.equal(output.pooled, whole.pooled)
    assert all(torch.equal(one, other) for one, other in zip(output.maps, whole.maps, strict=True))


def test_compiled_features_are_the_same():
    views = torch.rand(4, 3, 64, 64)
    plain = make()(views, pooled=True, stages=(4, 2))
    output = make().compile_features("eager")(views, pooled=True, stages=(4, 2))
    torch.testing.assert_close([output.pooled, *output.maps], [plain.pooled, *plain.maps])


def test_features_of_folded_norms_are_the_same_up_to_rounding():
    teacher, views = make(), torch.rand(4, 3, 64, 64)
    for norm in teacher.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    plain = teacher(views, stages=(0, 1, 2, 3, 4))
    assert fold_batch_norms(teacher.model, torch.rand(1, 3, 64, 64)) > 0
    folded = teacher(views, stages=(0, 1, 2, 3, 4))
    torch.testing.assert_close(folded.maps, plain.maps, atol=1e-4, rtol=1e-3)


def test_stages_that_do_not_exist_are_refused_in_a_sentence():
    teacher = make("resnet18")
    for ask in (teacher.map_widths, lambda stages: teacher(torch.rand(1, 3, 64, 64), stages=stages)):
        for stage in (5, -1, 1.0):
            with pytest.raises(
                UserError, match=rf"teacher\.name: resnet18 has stages 0 to 4; there is no stage {stage}"
            ):
                ask((2, stage))


def test_a_teacher_without_stages_is_refused_in_a_sentence():
    teacher = make()
    teacher.model = nn.Sequential(teacher.model)
    with pytest.raises(UserError, match=r"teacher\.name: Sequential gives no maps of its stages"):
        teacher.map_widths((1,))
