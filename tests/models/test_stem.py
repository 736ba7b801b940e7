"""A convolutional stem and a distillation token made of patches, each against its definition."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from cskd_bench.config import DeiT, OptimConfig, PretrainConfig, StudentConfig, Supervised
from cskd_bench.engine.optim import parameter_groups
from cskd_bench.errors import UserError
from cskd_bench.models.stem import ConvStem, feed_mean
from cskd_bench.models.students import build_student
from cskd_bench.models.weights import load_state, plain_state, save_tensors
from cskd_bench.schema import validate

SMALL = {"image_size": 64, "patch_size": 16, "depth": 2, "embed_dim": 48, "num_heads": 3}
BOTH = {"stem": "conv", "distillation_token": "mean"}


def small(heads="class+dist+patch", **changes):
    torch.manual_seed(0)
    return build_student(StudentConfig(**SMALL | changes), 5, heads)


def first_tokens(model, images):
    """Return what enters the first block."""
    entered = []
    handle = model.blocks[0].register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    model(images)
    handle.remove()
    return entered[0]


@pytest.mark.parametrize("patch", [4, 8, 16, 32])
def test_a_stem_is_three_convolutions_at_half_the_size_then_patches(patch):
    """The reference is written out in float64, with batch norm by its formula."""
    embed = small(patch_size=patch, stem="conv").model.patch_embed.double().train()
    convolutions = [layer for layer in embed.proj if isinstance(layer, nn.Conv2d)]
    assert [tuple(layer.weight.shape[-2:]) for layer in convolutions] == [(7, 7), (3, 3), (3, 3), (patch // 2,) * 2]
    assert [layer.stride for layer in convolutions] == [(2, 2), (1, 1), (1, 1), (patch // 2,) * 2]
    maps = images = torch.rand(3, 3, 64, 64, dtype=torch.float64)
    for layer, stride in zip(convolutions[:3], (2, 1, 1), strict=True):
        assert layer.out_channels == 64 and layer.bias is None
        maps = F.conv2d(maps, layer.weight, None, stride, layer.weight.shape[-1] // 2)
        mean, variance = maps.mean((0, 2, 3), keepdim=True), maps.var((0, 2, 3), correction=0, keepdim=True)
        maps = ((maps - mean) / (variance + 1e-5).sqrt()).clamp(min=0)
    last = convolutions[3]
    expected = F.conv2d(maps, last.weight, last.bias, patch // 2).flatten(2).transpose(1, 2)
    found = embed(images)
    assert found.shape == (3, (64 // patch) ** 2, 48) == (3, embed.num_patches, 48)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_a_stem_begins_as_kaiming_says():
    convolutions = [layer for layer in small(stem="conv").model.patch_embed.proj if isinstance(layer, nn.Conv2d)]
    wanted = [(2 / layer.weight[0].numel()) ** 0.5 for layer in convolutions]
    assert [layer.weight.std().item() for layer in convolutions] == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize(("heads", "name"), [("class", "deit_tiny"), ("class+dist", "deit_tiny_distilled")])
def test_the_default_student_is_timms_bit_for_bit(heads, name):
    found = small(heads).model.state_dict()
    torch.manual_seed(0)
    sizes = {"img_size": 64, "patch_size": 16, "depth": 2, "embed_dim": 48, "num_heads": 3}
    timms = timm.create_model(f"{name}_patch16_224", num_classes=5, **sizes).state_dict()
    assert found.keys() == timms.keys()
    assert all(torch.equal(found[key], timms[key]) for key in found)


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_the_distillation_token_is_the_mean_of_the_patches_and_its_position(stem):
    model = small(stem=stem, distillation_token="mean").model.eval()
    nn.init.normal_(model.pos_embed)
    images = torch.randn(2, 3, 64, 64)
    patches = model.patch_embed(images)
    tokens = first_tokens(model, images)
    torch.testing.assert_close(tokens[:, 1], sum(patches.unbind(1)) / 16 + model.pos_embed[:, 1])
    torch.testing.assert_close(tokens[:, 0], (model.cls_token + model.pos_embed[:, :1])[0].expand(2, -1))
    torch.testing.assert_close(tokens[:, 2:], patches + model.pos_embed[:, 2:])


def test_the_mean_is_that_of_images_of_another_size():
    model = feed_mean(timm.create_model("deit_tiny_distilled_patch16_224", dynamic_img_size=True, depth=1)).eval()
    images = torch.randn(2, 3, 64, 96)
    tokens = first_tokens(model, images)
    assert tokens.shape == (2, 2 + 4 * 6, 192)
    torch.testing.assert_close(tokens[:, 1], model.patch_embed(images).mean((1, 2)) + model.pos_embed[:, 1])


@pytest.mark.parametrize("changes", [{"stem": "conv"}, {"distillation_token": "mean"}, BOTH])
@pytest.mark.parametrize("heads", ["class+dist", "class+dist+patch"])
def test_every_weight_gets_a_gradient(changes, heads):
    """DDP would wait for one that gets none; the mean has no weight of its own."""
    student = small(heads, **changes)
    output = student(torch.rand(2, 3, 64, 64), (2, 2))
    (output.class_logits.sum() + output.dist_logits.sum()).backward()
    assert [name for name, weight in student.named_parameters() if weight.grad is None] == []
    assert ("dist_token" in student.model.state_dict()) == ("distillation_token" not in changes)


def test_no_batch_norm_decays():
    student = small(**BOTH)
    decay = {id(p): g["weight_decay"] for g in parameter_groups(student, OptimConfig()) for p in g["params"]}
    assert len(decay) == len(list(student.parameters()))
    for layer in student.model.patch_embed.proj:
        for name, weight in layer.named_parameters():
            assert decay[id(weight)] == (0.05 if isinstance(layer, nn.Conv2d) and name == "weight" else 0.0)


def test_weights_go_to_a_student_of_another_size(tmp_path):
    """Positions are resampled as timm does it where a model changes its size; running statistics come along."""
    student = small(**BOTH).train()
    student(torch.rand(4, 3, 64, 64))
    save_tensors(tmp_path / "model.safetensors", plain_state(student.eval()))
    larger = small(**BOTH, image_size=96).eval()
    load_state(larger, tmp_path / "model.safetensors")
    student.model.set_input_size(img_size=96)
    assert student.grid == larger.grid == (6, 6)
    views = torch.rand(2, 3, 96, 96)
    torch.testing.assert_close(student.predict(views), larger.predict(views))
    with pytest.raises(ValueError, match="keeps its patch size of 16"):
        student.model.set_input_size(patch_size=8)


def test_names_tell_the_changes_and_nothing_of_the_defaults():
    run = PretrainConfig(name="run", method=DeiT())
    changed = PretrainConfig(name="run", method=DeiT(), student=StudentConfig(**BOTH))
    assert run.identity()["student"].keys().isdisjoint(BOTH)
    assert run.model_name == "deit_tiny_patch16_224"
    assert changed.model_name == "deit_tiny_patch16_224 stem=conv distillation-token=mean"
    assert changed.identity()["student"].items() >= BOTH.items()
    assert changed.recipe_fingerprint() != run.recipe_fingerprint()
    assert PretrainConfig.model_validate(changed.model_dump()) == changed


@pytest.mark.parametrize("patch", [2, 7])
def test_patches_that_a_stem_cannot_end_in_are_refused(patch):
    wanted = f"patch size must be even and at least 4, not {patch}"
    settings = {"patch_size": patch, "image_size": 28, "stem": "conv"}
    with pytest.raises(UserError, match=wanted):
        validate(StudentConfig, settings, "here")
    with pytest.raises(ValueError, match=wanted):
        ConvStem(28, patch, 3, 48)


def test_what_has_no_patches_or_no_such_token_is_refused():
    with pytest.raises(UserError, match=r"student.stem: only ViTs can be changed, 'resnet18'"):
        build_student(StudentConfig(name="resnet18", stem="conv"), 5, "class")
    with pytest.raises(UserError, match="needs deit_tiny, deit_small or deit_base, not 'vit_tiny_patch16_224'"):
        build_student(StudentConfig(name="vit_tiny_patch16_224", distillation_token="mean"), 5, "class+dist")
    with pytest.raises(UserError, match="no distillation token"):
        small("class", distillation_token="mean")
    run = {"name": "run", "method": Supervised(), "student": {"distillation_token": "mean"}}
    with pytest.raises(UserError, match="method supervised has no distillation token"):
        validate(PretrainConfig, run, "here")
