"""Students: pooling before the head changes nothing, and timm gives an exported student's own logits."""

import pytest
import timm
import torch

from cskd_bench.config import OptimConfig, StudentConfig
from cskd_bench.engine.optim import parameter_groups
from cskd_bench.errors import UserError
from cskd_bench.models import architectures
from cskd_bench.models.students import build_student, pool_to_grid
from cskd_bench.models.weights import plain_state

SMALL = StudentConfig(image_size=64, patch_size=8, depth=2, embed_dim=48, num_heads=3)


@pytest.mark.parametrize("grid", [(8, 8), (4, 4), (2, 2), (3, 3), (7, 5)])
def test_pool_before_head_equals_head_before_pool(grid):
    torch.manual_seed(0)
    student = build_student(SMALL, 5, "class+dist+patch").double().eval()
    tokens = student.tokens(torch.rand(2, 3, 64, 64, dtype=torch.float64))
    logits = student.distillation_head(tokens[:, 2:]).transpose(1, 2).reshape(2, 5, 8, 8)
    slow = torch.nn.functional.adaptive_avg_pool2d(logits, grid)
    torch.testing.assert_close(student.patch_logits(tokens, grid), slow, atol=1e-12, rtol=1e-12)


def test_pooling_divides_or_adapts():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    assert pool_to_grid(maps, (4, 4)) is maps
    assert pool_to_grid(maps, (2, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]


def test_three_head_inference_is_the_mean_of_its_heads():
    student = build_student(SMALL, 5, "class+dist+patch").eval()
    views = torch.rand(2, 3, 64, 64)
    output = student(views, (8, 8))
    by_hand = (output.class_logits + output.dist_logits + output.patch_logits.mean((2, 3))) / 3
    torch.testing.assert_close(student.predict(views), by_hand)


def test_two_head_inference_is_timms():
    student = build_student(SMALL, 5, "class+dist").eval()
    views = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(student.predict(views), student.model((views - student.mean) / student.std))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit3_small_patch16_224", "vit_small_patch16_18x2_224"])
def test_any_vit_gets_a_distillation_token(name):
    config = StudentConfig(name=name, image_size=64, patch_size=16, depth=2, embed_dim=48, num_heads=3)
    student = build_student(config, 5, "class+dist+patch")
    output = student(torch.rand(2, 3, 64, 64), (2, 2))
    output.patch_logits.sum().backward()
    assert output.dist_logits.shape == (2, 5)
    assert output.patch_logits.shape == (2, 5, 2, 2)
    assert student.distillation_head.weight.grad.abs().sum() > 0
    student.reset_classifier(3)
    assert student.predict(torch.rand(1, 3, 64, 64)).shape == (1, 3)


def test_a_distilled_name_means_the_plain_model():
    plain = build_student(StudentConfig(name="deit_tiny_distilled_patch16_224", depth=1), 5, "class")
    assert not hasattr(plain.model, "dist_token")


def test_what_is_no_vit_is_refused_where_patch_tokens_are_needed():
    with pytest.raises(UserError, match=r"student.name.*resnet18.*patch tokens"):
        build_student(StudentConfig(name="resnet18"), 5, "class+dist")
    with pytest.raises(UserError, match="no model 'vit_gargantua'"):
        build_student(StudentConfig(name="vit_gargantua"), 5, "class")


def test_what_a_student_cannot_do_is_named():
    """A size that nothing would obey, a resolution that the model does not run at, heads without a class token."""
    with pytest.raises(UserError, match=r"student.depth.*resnet18"):
        build_student(StudentConfig(name="resnet18", depth=3), 5, "class")
    with pytest.raises(UserError, match=r"student.image_size.*swin_tiny.* 64 px"):
        build_student(StudentConfig(name="swin_tiny_patch4_window7_224", image_size=64), 5, "class")
    averaging = StudentConfig(name="vit_medium_patch16_gap_256", image_size=64, depth=1)
    with pytest.raises(UserError, match="no class token"):
        build_student(averaging, 5, "class+dist+patch")
    assert build_student(averaging, 5, "class").predict(torch.rand(1, 3, 64, 64)).shape == (1, 5)
    assert build_student(StudentConfig(name="resnet18", image_size=64), 5, "class").model.training


def test_no_bias_decays_whichever_head_it_belongs_to():
    """A ViT whose distillation head is ours and one with timm's twin: matrices decay, biases do not."""
    for name in ("vit_tiny_patch16_224", "deit_tiny_patch16_224"):
        student = build_student(StudentConfig(name=name, image_size=32, depth=1), 5, "class+dist+patch")
        decay = {id(p): g["weight_decay"] for g in parameter_groups(student, OptimConfig()) for p in g["params"]}
        assert len(decay) == len(list(student.parameters()))
        head = student.distillation_head
        assert (decay[id(head.weight)], decay[id(head.bias)]) == (0.05, 0.0)


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_cskd_architectures_give_the_students_logits(size):
    """timm.create_model with the student's own state dict: the same three-head numbers."""
    architectures.register()
    torch.manual_seed(0)
    small = {"depth": 1, "img_size": 64}
    student = build_student(
        StudentConfig(name=f"deit_{size}_patch16_224", image_size=64, depth=1), 5, "class+dist+patch"
    )
    exported = timm.create_model(f"cskd_{size}_patch16_224", num_classes=5, **small).eval()
    exported.load_state_dict(plain_state(student))
    views = torch.rand(2, 3, 64, 64)
    student.eval()
    torch.testing.assert_close(exported((views - student.mean) / student.std), student.predict(views))
    torch.testing.assert_close(
        exported.forward_head(student.tokens(views), pre_logits=True),
        student.features(views, "inference"),
        atol=1e-6,
        rtol=1e-5,
    )


def test_drop_path_is_timms():
    student = build_student(SMALL.model_copy(update={"drop_path": 0.2}), 5, "class")
    assert student.model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
