"""The cskd_* architectures are timm models like others: sizes, features, heads, pooling, weights from elsewhere."""

import ast
from pathlib import Path

import pytest
import timm
import torch
from helpers.runs import small_student
from helpers.tiny import STUDENT
from timm.layers import resample_abs_pos_embed
from torch import nn

from cskd_bench.models import architectures
from cskd_bench.models.students import Student
from cskd_bench.models.weights import plain_state

SMALL = {"depth": 3, "embed_dim": 24, "num_heads": 2, "patch_size": 8, "img_size": 64, "num_classes": 5}
NAMES = {
    "cskd_tiny_patch16_224": {},
    "cskd_register_vit": {},
    "cskd_register_vit deit3": {"base": "deit3_small_patch16_224"},  # layer scale, no positions for its tokens
}


@pytest.fixture(params=NAMES)
def make(request):
    """Build an architecture with random weights."""
    architectures.register()

    def make(**options):
        torch.manual_seed(0)
        model = timm.create_model(request.param.split()[0], **SMALL | NAMES[request.param] | options)
        for parameter in model.parameters() if "pretrained" not in options else ():
            parameter.data += 0.3 * torch.randn_like(parameter)
        return model.eval()

    return make


@pytest.fixture
def views():
    torch.manual_seed(1)
    return torch.randn(2, 3, 64, 64)


@torch.no_grad()
def test_the_output_is_the_mean_of_three_heads(make, views):
    model = make()
    tokens = model.forward_features(views)
    assert tokens.shape == (2, 2 + 64, 24)
    parts = model.head(tokens[:, 0]), model.head_dist(tokens[:, 1]), model.head_dist(tokens[:, 2:]).mean(1)
    torch.testing.assert_close(model(views), (parts[0] + parts[1] + parts[2]) / 3)


@torch.no_grad()
@pytest.mark.parametrize("answers", ["class", "class+dist"])
def test_fewer_heads_can_answer(make, views, answers):
    model = make(answers=answers)
    tokens = model.forward_features(views)
    both = (model.head(tokens[:, 0]) + model.head_dist(tokens[:, 1])) / 2
    torch.testing.assert_close(model(views), both if answers == "class+dist" else model.head(tokens[:, 0]))


@torch.no_grad()
def test_distilled_training_returns_both_heads_while_training(make, views):
    model = make()
    mean, tokens = model(views), model.forward_features(views)
    model.set_distilled_training(True)
    torch.testing.assert_close(model(views), mean)
    model.train()
    head, head_dist = model(views)
    torch.testing.assert_close(head, model.head(tokens[:, 0]))
    torch.testing.assert_close(head_dist, model.head_dist(tokens[:, 1]))
    model.set_distilled_training(False)
    torch.testing.assert_close(model(views), mean)


@torch.no_grad()
def test_both_heads_are_reset_together(make, views):
    model = make()
    before = model.get_classifier()
    model.reset_classifier(7)
    assert model.num_classes == 7 and model(views).shape == (2, 7)
    assert all(isinstance(head, nn.Linear) for head in model.get_classifier())
    assert not any(new is old for new, old in zip(model.get_classifier(), before, strict=True))


@torch.no_grad()
def test_without_classes_the_output_is_the_features(make, views):
    model = make(num_classes=0)
    tokens = model.forward_features(views)
    mean = (tokens[:, 0] + tokens[:, 1] + tokens[:, 2:].mean(1)) / 3
    torch.testing.assert_close(model(views), mean)
    torch.testing.assert_close(make().forward_head(tokens, pre_logits=True), mean)


@torch.no_grad()
def test_features_come_from_blocks(make, views):
    final, maps = make().forward_intermediates(views, indices=[0, 2])
    assert [one.shape for one in maps] == [(2, 24, 8, 8)] * 2
    torch.testing.assert_close(final, make().forward_features(views))
    wrapped = make(features_only=True, out_indices=(0, 2))
    assert wrapped.feature_info.channels() == [24, 24] and wrapped.feature_info.reduction() == [8, 8]
    wrapped.load_state_dict({f"model.{name}": tensor for name, tensor in make().state_dict().items()}, strict=False)
    torch.testing.assert_close(wrapped(views), maps)


@torch.no_grad()
def test_any_size_of_image(make, views):
    fixed, free = make(), make(dynamic_img_size=True)
    torch.testing.assert_close(free(views), fixed(views))
    wide = torch.randn(1, 3, 48, 80)
    assert free(wide).shape == (1, 5)
    with pytest.raises(AssertionError):
        fixed(wide)


def test_pooling_is_of_tokens_as_in_timm(make):
    assert make(global_pool="token").global_pool == "token"
    with pytest.raises(AssertionError, match="the class and distillation tokens"):
        make(global_pool="avg")
    with pytest.raises(AssertionError, match="the class and distillation tokens"):
        make().reset_classifier(3, "avg")


@torch.no_grad()
def test_weights_of_another_size_are_resampled_whatever_they_are_wrapped_in(make, tmp_path):
    """In a file timm unwraps them, given as a table the architecture does."""
    model = make(img_size=32)
    state = model.state_dict()
    prefix = 0 if model.no_embed_class else 2
    expected = resample_abs_pos_embed(state["pos_embed"], [8, 8], num_prefix_tokens=prefix)
    forms = {
        "plain": state,
        "deit": {"model": state, "epoch": 3},
        "timm": {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
        "ours": {f"model.{name}": tensor for name, tensor in state.items()},
    }
    for form, content in forms.items():
        file = tmp_path / f"{form}.pth"
        torch.save(content, file)
        for source in ({"file": str(file)}, {"state_dict": content}):
            other = make(pretrained=True, pretrained_cfg_overlay=source | {"num_classes": 5})
            torch.testing.assert_close(other.pos_embed, expected)
            assert torch.equal(other.head_dist.weight, model.head_dist.weight)
    assert len(forms) == 4


@torch.no_grad()
def test_a_student_with_a_lent_register_token_has_its_architecture(views):
    architectures.register()
    name = "vit_tiny_patch16_224"
    student = small_student(name=name)
    assert isinstance(student, Student) and not hasattr(student.model, "dist_token")
    sizes = STUDENT | {"img_size": STUDENT["image_size"]}
    del sizes["image_size"]
    model = timm.create_model("cskd_register_vit", base=name, num_classes=3, **sizes).eval()
    model.load_state_dict(plain_state(student))
    small = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model((small - student.mean) / student.std), student.predict(small))


def test_the_file_needs_torch_and_timm_alone():
    tree = ast.parse(Path(architectures.__file__).read_text())
    named = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    named |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name.split(".")[0] for name in named} == {"functools", "typing", "timm", "torch"}


def test_registering_twice_changes_nothing(recwarn):
    architectures.register()
    before = timm.model_entrypoint("cskd_tiny_patch16_224")
    architectures.register()
    assert timm.model_entrypoint("cskd_tiny_patch16_224") is before
    assert not [warning for warning in recwarn if "Overwriting" in str(warning.message)]
