"""The backbone adapter: the classification model's patch tokens as maps, at any image size."""

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from cskd_bench.config import StudentConfig
from cskd_bench.detection.backbone import PlainViT, evenly_spaced, partition, unpartition
from cskd_bench.detection.necks import FourTapFPN, SimpleFeaturePyramid, pyramid_strides
from cskd_bench.errors import UserError
from cskd_bench.models.students import build_student

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3, "num_classes": 5}


def small_vit(name: str = "deit_tiny_patch16_224", **options: object) -> VisionTransformer:
    torch.manual_seed(0)
    vit = timm.create_model(name, **SMALL, **options)
    torch.nn.init.normal_(vit.pos_embed, std=0.5)  # timm's 0.02 would hide a wrong position
    return vit.eval()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deit_tiny_patch16_224", {}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("vit_tiny_patch16_224", {"reg_tokens": 3}),
        ("vit_tiny_patch16_224", {"reg_tokens": 1, "no_embed_class": True}),
    ],
)
def test_map_equals_patch_tokens_at_the_pretraining_size(name, options):
    vit = small_vit(name, **options)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = vit.forward_features(images)[:, vit.num_prefix_tokens :]
        (feature_map,) = PlainViT(vit)(images)
    assert feature_map.shape == (2, 24, 4, 4)
    torch.testing.assert_close(feature_map.flatten(2).transpose(1, 2), tokens, atol=1e-5, rtol=0)


@pytest.mark.parametrize("changes", [{"stem": "conv"}, {"distillation_token": "mean"}])
def test_map_equals_patch_tokens_after_a_stem_and_beside_a_mean_token(changes):
    sizes = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3}
    torch.manual_seed(0)
    vit = build_student(StudentConfig(**sizes, **changes), 5, "class+dist").model
    torch.nn.init.normal_(vit.pos_embed, std=0.5)
    images = torch.randn(2, 3, 32, 32)
    vit.train()(images)  # running statistics of their own
    with torch.no_grad():
        tokens = vit.eval().forward_features(images)[:, 2:]
        (feature_map,) = PlainViT(vit)(images)
    torch.testing.assert_close(feature_map.flatten(2).transpose(1, 2), tokens, atol=1e-5, rtol=0)
    assert PlainViT(vit)(torch.randn(1, 3, 45, 70))[0].shape == (1, 24, 6, 9)


def test_a_detectors_small_batches_leave_a_stems_statistics_alone():
    student = build_student(StudentConfig(image_size=32, patch_size=8, depth=1, stem="conv"), 5, "class")
    backbone = PlainViT(student.model).train()
    (feature_map,) = backbone(torch.randn(1, 3, 32, 32))
    feature_map.sum().backward()
    norm = backbone.vit.patch_embed.proj[1]
    assert torch.equal(norm.running_var, torch.ones(64)) and not norm.training
    assert norm.weight.grad is not None and backbone.vit.blocks.training


def test_built_by_name_with_weights_it_is_the_same_model(tmp_path):
    from safetensors.torch import save_file

    vit = small_vit()
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    named = PlainViT(timm="deit_tiny_patch16_224", options=SMALL, weights=str(tmp_path / "model.safetensors")).eval()
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(named(images)[0], PlainViT(vit)(images)[0])


def test_any_image_size_is_padded_to_whole_patches():
    backbone = PlainViT(small_vit(), taps=4)
    maps = backbone(torch.randn(1, 3, 45, 70))
    assert [tuple(m.shape) for m in maps] == [(1, 24, 6, 9)] * 4
    explicit = torch.zeros(1, 3, 48, 72)
    image = torch.randn(1, 3, 45, 70)
    explicit[:, :, :45, :70] = image
    torch.testing.assert_close(backbone(image)[-1], backbone(explicit)[-1])


def test_positions_are_resampled_only_where_the_grid_differs():
    vit = small_vit("deit_tiny_distilled_patch16_224")
    backbone = PlainViT(vit)
    assert torch.equal(backbone.positions((4, 4)), vit.pos_embed)
    wide = backbone.positions((4, 8))
    assert wide.shape == (1, 2 + 32, 24)
    assert torch.equal(wide[:, :2], vit.pos_embed[:, :2])  # prefix tokens have no place
    slow = torch.nn.functional.interpolate(
        vit.pos_embed[:, 2:].reshape(1, 4, 4, 24).permute(0, 3, 1, 2), (4, 8), mode="bicubic", antialias=True
    )
    torch.testing.assert_close(wide[:, 2:], slow.permute(0, 2, 3, 1).reshape(1, 32, 24))


@pytest.mark.parametrize(("height", "width", "window"), [(4, 4, 2), (5, 7, 3), (6, 9, 3), (2, 11, 4)])
def test_windows_put_together_again_are_the_map(height, width, window):
    places = torch.randn(2, height, width, 3)
    windows = partition(places, window)
    assert windows.shape == (2 * -(-height // window) * -(-width // window), window**2, 3)
    assert torch.equal(windows[0].reshape(window, window, 3)[0, 0], places[0, 0, 0])
    assert torch.equal(unpartition(windows, window, (height, width)), places)


@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 7)])
def test_window_attention_equals_a_loop_over_windows_without_padding(height, width):
    """Reference: cut each window out, attend in it alone, average what the prefix tokens became."""
    window, vit = 3, small_vit("deit_tiny_distilled_patch16_224")
    backbone = PlainViT(vit, window_size=window)
    attention = vit.blocks[0].attn
    tokens = torch.randn(2, 2 + height * width, 24)
    prefix, places = tokens[:, :2], tokens[:, 2:].reshape(2, height, width, 24)
    expected, prefixes = torch.zeros_like(places), []
    for top in range(0, height, window):
        for left in range(0, width, window):
            part = places[:, top : top + window, left : left + window]
            out = attention(torch.cat([prefix, part.flatten(1, 2)], 1))
            prefixes.append(out[:, :2])
            expected[:, top : top + window, left : left + window] = out[:, 2:].reshape(part.shape)
    expected = torch.cat([torch.stack(prefixes).mean(0), expected.flatten(1, 2)], 1)
    for fused in (True, False):
        attention.fused_attn = fused
        found = backbone._window_attention(attention, tokens, (height, width), window)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_window_of_the_whole_image_is_global_attention():
    images = torch.randn(1, 3, 32, 32)
    whole = PlainViT(small_vit(), window_size=4, global_blocks=1)(images)[0]
    parts = PlainViT(small_vit(), window_size=2, global_blocks=1)(images)[0]
    plain = PlainViT(small_vit())(images)[0]
    torch.testing.assert_close(whole, plain)
    assert (parts - plain).abs().max() > 1e-3


def test_taps_and_global_blocks_are_evenly_spaced():
    assert evenly_spaced(4, 12) == (2, 5, 8, 11)
    assert evenly_spaced(1, 12) == (11,)
    assert evenly_spaced(4, 6) == (0, 2, 3, 5)


def test_checkpointing_changes_memory_not_gradients():
    images, gradients = torch.randn(1, 3, 40, 32), []
    for checkpointing in (False, True):
        backbone = PlainViT(small_vit(), window_size=2, checkpointing=checkpointing).train()
        backbone(images)[0].square().mean().backward()
        gradients.append(backbone.vit.patch_embed.proj.weight.grad)
    torch.testing.assert_close(*gradients)


def test_stochastic_depth_rises_to_its_rate():
    backbone = PlainViT(small_vit(), drop_path=0.3)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in backbone.vit.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_a_model_without_patch_tokens_is_refused():
    with pytest.raises(UserError, match="plain ViT"):
        PlainViT(timm.create_model("regnetx_002", num_classes=2))


@pytest.mark.parametrize("neck", [SimpleFeaturePyramid, FourTapFPN])
@pytest.mark.parametrize("patch", [8, 16])
def test_necks_give_five_strides_and_every_weight_a_gradient(neck, patch):
    maps = [torch.randn(2, 24, 6, 8, requires_grad=True) for _ in range(4)]
    pyramid = neck(24, 16)
    levels = pyramid(maps)
    strides = pyramid_strides(patch)
    assert strides == [patch // 4, patch // 2, patch, patch * 2, patch * 4]
    height, width = 6 * patch, 8 * patch
    assert [tuple(level.shape) for level in levels] == [
        (2, 16, -(-height // stride), -(-width // stride)) for stride in strides
    ]
    sum(level.square().mean() for level in levels).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in pyramid.parameters())
    used = maps[-1:] if neck is SimpleFeaturePyramid else maps
    assert all(m.grad.abs().sum() > 0 for m in used)


def test_a_patch_size_without_quarter_stride_is_refused():
    with pytest.raises(UserError, match="multiple of 4"):
        pyramid_strides(14)


@pytest.mark.parametrize("neck", [SimpleFeaturePyramid, FourTapFPN])
@pytest.mark.parametrize(("start", "count"), [(1, 5), (2, 2), (0, 3)])
def test_a_neck_starts_and_ends_where_it_is_told_and_leaves_no_weight_unused(neck, start, count):
    pyramid = neck(24, 16, start_level=start, num_outs=count)
    levels = pyramid([torch.randn(1, 24, 8, 8) for _ in range(4)])
    strides = pyramid_strides(16, start, count)
    assert strides == [4 * 2**level for level in range(start, start + count)]
    assert [level.shape[-1] for level in levels] == [128 // stride for stride in strides]
    sum(level.square().mean() for level in levels).backward()
    assert all(parameter.grad is not None for parameter in pyramid.parameters())


@pytest.mark.parametrize("options", [{"start_level": 4}, {"num_outs": 0}])
def test_a_neck_without_levels_is_refused(options):
    with pytest.raises(UserError, match="starts at level 0 to 3"):
        SimpleFeaturePyramid(24, 16, **options)


def test_a_frozen_backbone_learns_nothing_and_drops_nothing():
    backbone = PlainViT(small_vit(), frozen=True, drop_path=0.5).train()
    images = torch.randn(2, 3, 32, 32)
    (first,), (second,) = backbone(images), backbone(images)
    assert torch.equal(first, second) and not first.requires_grad  # no stochastic depth, and nothing to go back through
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert PlainViT(small_vit(), drop_path=0.5).train()(images)[0].requires_grad
