"""The dense response is the teacher's own head, applied at every place of its last feature map."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from cskd_bench.config import TeacherConfig
from cskd_bench.errors import UserError
from cskd_bench.models.teachers import Teacher, build_teacher, class_indices

FAMILIES = ("regnety_002", "convnext_atto", "mobilenetv3_small_050")  # GAP + linear, norm + MLP head, conv head


@pytest.mark.parametrize("name", FAMILIES)
def test_each_place_is_the_models_logits_on_a_crop_of_its_features(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7).eval().double()
    teacher = Teacher(model, 96).double()
    views = torch.rand(2, 3, 96, 96, dtype=torch.float64)
    with torch.no_grad():
        dense = teacher(views).dense
        features = model.forward_features((views - teacher.mean) / teacher.std)
        for row in range(features.shape[2]):
            for column in range(features.shape[3]):
                crop = features[:, :, row : row + 1, column : column + 1]
                torch.testing.assert_close(dense[:, :, row, column], model.forward_head(crop), atol=1e-10, rtol=1e-10)


def test_global_response_is_the_mean_of_places_and_for_plain_heads_the_models_own_logits():
    torch.manual_seed(0)
    model = timm.create_model("regnety_002", num_classes=7).eval().double()
    teacher = Teacher(model, 64).double()
    views = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    output = teacher(views)
    torch.testing.assert_close(output.global_logits, output.dense.mean((2, 3)))
    torch.testing.assert_close(output.global_logits, model((views - teacher.mean) / teacher.std))


def test_layout_changes_nothing_but_rounding():
    model = timm.create_model("regnety_002", num_classes=7)
    views = torch.rand(2, 3, 64, 64)
    plain = Teacher(model, 64)(views).dense
    torch.testing.assert_close(Teacher(model, 64).use_channels_last()(views).dense, plain, atol=1e-4, rtol=1e-4)


def test_pieces_change_no_bit_and_each_view_is_seen_once(monkeypatch):
    model = timm.create_model("test_resnet", num_classes=7)
    views = torch.rand(37, 3, 160, 160)
    whole = Teacher(model, 160).use_channels_last()(views)
    teacher = Teacher(model, 160).use_channels_last().take_pieces()
    seen = []
    features = teacher._features
    monkeypatch.setattr(teacher, "_features", lambda inputs: (seen.append(len(inputs)), features(inputs))[1])
    assert torch.equal(teacher(views).dense, whole.dense)
    assert seen == [19, 18]


def test_restriction_to_a_subset_of_classes_selects_logits():
    model = timm.create_model("convnext_atto", num_classes=7)
    views = torch.rand(1, 3, 64, 64)
    everything = Teacher(model, 64)(views).dense
    torch.testing.assert_close(Teacher(model, 64, [5, 2])(views).dense, everything[:, [5, 2]])


def test_a_teacher_is_frozen():
    teacher = Teacher(timm.create_model("regnety_002", num_classes=3), 64).train()
    assert not teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_imagenet_subsets_are_matched_by_synset_and_others_refused():
    assert class_indices(["n01440764", "n02102040"], 2, 1000) == [0, 217]
    assert class_indices(["cat", "dog"], 2, 2) is None
    with pytest.raises(UserError, match=r"1000 classes.*2 .*cat"):
        class_indices(["cat", "dog"], 2, 1000)


def test_classes_that_only_seem_to_be_the_teachers_are_refused():
    """As many as the teacher has is not the same classes."""
    numbers = [str(number) for number in range(1000)]
    assert class_indices([f"{number:0>4}" for number in numbers], 1000, 1000) is None
    with pytest.raises(UserError, match=r"in the order of their digits .* leading zeros"):
        class_indices(sorted(numbers), 1000, 1000)
    with pytest.raises(UserError, match=r"data\.num_classes: is 1000, the data has 2 classes"):
        class_indices(["cat", "dog"], 1000, 1000)


def test_timms_weights_for_another_number_of_classes_would_leave_the_classifier_untrained(monkeypatch):
    create = timm.create_model
    offline = lambda name, pretrained, **options: create(name, **options)  # noqa: E731
    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(UserError, match=r"teacher\.num_classes: is 2, timm's weights of 'regnety_002' are for 1000"):
        build_teacher(TeacherConfig(name="regnety_002", num_classes=2), ["cat", "dog"], 2)
    assert build_teacher(TeacherConfig(name="regnety_002"), ["n01440764", "n02102040"], 2).class_indices.tolist() == [
        0,
        217,
    ]


def test_teachers_that_cannot_teach_are_refused(tmp_path):
    with pytest.raises(UserError, match="no model 'resnet_of_dreams'"):
        build_teacher(TeacherConfig(name="resnet_of_dreams"), ["a"], 1)
    with pytest.raises(UserError, match=r"'resnet18' has no weights with the tag 'dreamt'"):
        build_teacher(TeacherConfig(name="resnet18.dreamt"), ["a"], 1)
    with pytest.raises(UserError, match="no such weights file"):
        build_teacher(TeacherConfig(name="regnety_002", weights=str(tmp_path / "none.safetensors")), ["a"], 1)


def test_a_stride_that_a_teacher_lacks_is_named_with_and_without_a_weights_file(tmp_path):
    save_file(timm.create_model("ghostnet_050", num_classes=3).state_dict(), tmp_path / "ghost.safetensors")
    for weights in (str(tmp_path / "ghost.safetensors"), ""):
        config = TeacherConfig(name="ghostnet_050", weights=weights, num_classes=3, output_stride=16)
        with pytest.raises(UserError, match=r"cannot build 'ghostnet_050' with teacher\.output_stride = 16"):
            build_teacher(config, ["a", "b", "c"], 3)


def test_real_teacher_knows_imagenette(shared_data):
    """The stored Lite0 loads strictly and, restricted to ten classes, recognises Imagenette's images."""
    from cskd_bench.config import DataConfig
    from cskd_bench.data.mixing import to_float
    from cskd_bench.data.open import open_source
    from cskd_bench.data.views import EvalView

    source = open_source(DataConfig(root=str(shared_data / "imagenette128"), num_classes=10), "val")
    weights = str(shared_data / "teachers" / "tf_efficientnet_lite0.safetensors")
    teacher = build_teacher(
        TeacherConfig(name="tf_efficientnet_lite0", weights=weights, image_size=128), source.classes, 10
    )
    chosen = range(0, len(source), 60)
    views = to_float(torch.stack([EvalView(128, 1.0)(source.load(index)) for index in chosen]))
    predicted = teacher(views).global_logits.argmax(1).numpy()
    assert (predicted == source.labels[list(chosen)]).mean() > 0.85
