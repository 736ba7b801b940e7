"""A ViT teaches by its own logits, and by its own head on every patch token."""

import pytest
import timm
import torch
from helpers.tiny import save_model

from cskd_bench.config import CSKD, TeacherConfig
from cskd_bench.engine.targets import TeacherTargets
from cskd_bench.errors import UserError
from cskd_bench.models.labeller import make_fast
from cskd_bench.models.students import pool_to_grid
from cskd_bench.models.teachers import Teacher, build_teacher
from cskd_bench.outputs import TeacherOutput

SMALL = {"img_size": 48, "patch_size": 16, "depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 7}
VITS = {
    "class token": ("deit_tiny_patch16_224", {}),
    "registers": ("vit_tiny_patch16_224", {"reg_tokens": 3}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "deit3": ("deit3_small_patch16_224", {}),
    "mean of patches": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "mean without a class token": ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False}),
    "attention pooling": ("vit_tiny_patch16_224", {"global_pool": "map"}),
    "dinov3": ("vit_small_patch16_dinov3", {}),
    "eva": ("eva02_tiny_patch14_224", {}),
    "beit": ("beit_base_patch16_224", {}),
}
each_vit = pytest.mark.parametrize("kind", VITS)


def make_model(kind, **options):
    """Build a small ViT with weights as large as trained ones."""
    torch.manual_seed(0)
    name, own = VITS[kind]
    model = timm.create_model(name, **(SMALL | own | options)).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def answer_by_one_token(model, token):
    """What the model says where its prefix and patch tokens are all this one (C,); by the distillation head if any."""
    if hasattr(model, "head_dist"):
        return model.head_dist(token)
    return model.forward_head(token.expand(1, model.num_prefix_tokens + 4, -1))[0]


@each_vit
def test_each_position_is_the_models_own_head_on_its_patch_token(kind):
    model = make_model(kind).double()
    teacher, views = Teacher(model, 48).double(), torch.rand(2, 3, 48, 48, dtype=torch.float64)
    output = teacher(views)
    assert output.dense.shape == (2, 7, 3, 3) and teacher.grid() == (3, 3) and output.dense.is_contiguous()
    with torch.no_grad():
        tokens = model.forward_features((views - teacher.mean) / teacher.std)
        for image in range(2):
            for row in range(3):
                for column in range(3):
                    token = tokens[image, model.num_prefix_tokens + 3 * row + column]
                    expected = answer_by_one_token(model, token)
                    torch.testing.assert_close(output.dense[image, :, row, column], expected, atol=1e-9, rtol=1e-9)


@each_vit
def test_the_global_response_is_the_models_own_answer(kind):
    model = make_model(kind)
    teacher, views = Teacher(model, 48), torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        expected = model((views - teacher.mean) / teacher.std)
    output = teacher(views)
    torch.testing.assert_close(output.global_logits, expected)
    is_mean = kind == "dinov3"  # whose head is linear and reads the mean of the normed patch tokens
    assert ((output.global_logits - output.dense.mean((2, 3))).abs().max() < 1e-5) == is_mean


@each_vit
def test_features_are_patch_tokens_from_the_same_pass(kind):
    teacher, views = Teacher(make_model(kind), 48), torch.rand(2, 3, 48, 48)
    model, plain, blocks = teacher.model, teacher(views), []
    for block in model.blocks:
        block.register_forward_hook(lambda _, inputs, output: blocks.append(output))
    output = teacher(views, pooled=True, stages=(1, 0))
    assert len(blocks) == 2, "one pass"
    assert torch.equal(output.dense, plain.dense) and torch.equal(output.global_logits, plain.global_logits)
    for taken, block in zip(output.maps, reversed(blocks), strict=True):
        patches = block[:, model.num_prefix_tokens :]
        assert torch.equal(taken, patches.transpose(1, 2).reshape(2, 48, 3, 3))
    normed = model.fc_norm(model.norm(blocks[-1][:, model.num_prefix_tokens :]))
    torch.testing.assert_close(output.pooled, sum(normed[:, place] for place in range(9)) / 9)
    assert (teacher.pooled_width(), teacher.map_widths((1, 0))) == (48, (48, 48))


@each_vit
def test_classes_layout_and_pieces_leave_the_answers(kind, monkeypatch):
    monkeypatch.setattr("cskd_bench.models.teachers.views_at_a_time", lambda size: 16)
    views = torch.rand(37, 3, 48, 48)
    whole = Teacher(make_model(kind), 48)(views)
    fast = make_fast(Teacher(make_model(kind), 48, [5, 2]), compiled=False)
    torch.testing.assert_close(fast(views).dense, whole.dense[:, [5, 2]], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fast(views).global_logits, whole.global_logits[:, [5, 2]], atol=1e-4, rtol=1e-4)


def test_half_precision_answers_in_the_views_type():
    views = torch.rand(2, 3, 48, 48)
    exact, half = (
        Teacher(make_model("eva"), 48, precision=precision)(views, pooled=True) for precision in ("fp32", "bf16")
    )
    assert half.dense.dtype == half.global_logits.dtype == half.pooled.dtype == torch.float32
    assert not torch.equal(half.dense, exact.dense) and not torch.equal(half.global_logits, exact.global_logits)
    torch.testing.assert_close(half.global_logits, exact.global_logits, atol=0.2, rtol=0.1)


def test_a_compiled_vit_gives_the_same():
    views = torch.rand(2, 3, 48, 48)
    plain = Teacher(make_model("class token"), 48)(views)
    compiled = Teacher(make_model("class token"), 48).compile_features("eager")(views)
    torch.testing.assert_close([compiled.dense, compiled.global_logits], [plain.dense, plain.global_logits])


@pytest.mark.parametrize(("value", "finite"), [(1.0, True), (float("nan"), False), (float("inf"), False)])
def test_a_dense_response_that_is_not_finite_is_seen_beside_finite_logits(monkeypatch, value, finite):
    dense = torch.ones(2, 7, 3, 3)
    dense[1, 2, 0, 1] = value
    monkeypatch.setattr(Teacher, "forward", lambda self, views, *asked: TeacherOutput(dense, torch.ones(2, 7)))
    targets = TeacherTargets(Teacher(make_model("class token"), 48), "a ViT", CSKD())
    assert targets.grid == (3, 3)
    assert bool(targets(torch.rand(2, 3, 48, 48), targets.look_up([], 0.5), 0.5).finite) is finite


def test_a_named_vit_is_built_for_its_image_size_and_its_position_embeddings_are_resized(tmp_path):
    weights = save_model(tmp_path / "vit.safetensors", "test_vit", num_classes=3)
    config = TeacherConfig(name="test_vit", weights=str(weights), image_size=64, num_classes=3)
    teacher = build_teacher(config, ["a", "b", "c"], 3)
    assert teacher.grid() == (4, 4) and teacher(torch.rand(1, 3, 32, 32)).dense.shape == (1, 3, 4, 4)
    torch.manual_seed(0)
    original = timm.create_model("test_vit", num_classes=3)
    assert torch.equal(teacher.model.blocks[0].attn.qkv.weight, original.blocks[0].attn.qkv.weight)
    original.set_input_size((64, 64))
    torch.testing.assert_close(teacher.model.pos_embed, original.pos_embed)


def test_on_a_grid_finer_than_its_own_a_students_patch_answers_for_every_position_inside_it():
    maps = torch.arange(4.0).view(1, 1, 2, 2)
    twice = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert pool_to_grid(maps, (4, 4))[0, 0].tolist() == twice
    assert pool_to_grid(maps, (3, 2))[0, 0].tolist() == [[0, 1], [1, 2], [2, 3]], "the mean of those that it overlaps"


def test_a_vit_in_a_program_of_ones_own_takes_the_size_that_it_was_built_for():
    assert Teacher.from_timm(make_model("class token")).image_size == 48
    free = make_model("class token", dynamic_img_size=True)
    assert Teacher.from_timm(free, image_size=80)(torch.rand(1, 3, 48, 48)).dense.shape[2:] == (5, 5)


def test_its_pixels_are_normalised_as_its_weights_ask():
    model = timm.create_model("vit_tiny_patch16_224.augreg_in21k_ft_in1k", **SMALL)
    assert Teacher.from_timm(model).mean.flatten().tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image_size": 100}, r"teacher\.image_size 100 is not a multiple of the patch size 16; take 96 or 112, for"),
        ({"output_stride": 16}, r"teacher\.output_stride: 'test_vit' is a ViT, whose positions are its patches; leave"),
        ({"name": "levit_128s"}, r"'levit_128s' has no feature map .* is no plain ViT"),
        (
            {"name": "vit_small_patch16_dinov3", "weights": ""},
            r"'vit_small_patch16_dinov3' have no classification head",
        ),
    ],
)
def test_vits_that_cannot_teach_are_refused_in_a_sentence(tmp_path, changes, sentence):
    name = changes.get("name", "test_vit")
    config = {"name": name, "image_size": 224, "num_classes": 3, "weights": str(tmp_path / "w.safetensors")} | changes
    if config["weights"]:
        save_model(tmp_path / "w.safetensors", name, num_classes=3)
    with pytest.raises(UserError, match=sentence):
        build_teacher(TeacherConfig(**config), ["a", "b", "c"], 3)


def test_models_that_cannot_teach_are_refused_in_a_sentence():
    for options, sentence in (
        ({"num_classes": 0}, "has no classification head"),
        ({"global_pool": "", "class_token": True}, "does not pool its tokens"),
    ):
        with pytest.raises(UserError, match=sentence):
            Teacher.from_timm(make_model("class token", **options))
    with pytest.raises(UserError, match="image_size 60 is not a multiple of the patch size 16"):
        Teacher.from_timm(make_model("class token", dynamic_img_size=True), image_size=60)
    with pytest.raises(UserError, match="does not run at 64 px"):
        Teacher.from_timm(make_model("class token"), image_size=64)
    with pytest.raises(UserError, match=r"timm's weights of 'vit_small_patch16_dinov3' have no classification head"):
        Teacher.from_timm("vit_small_patch16_dinov3")
