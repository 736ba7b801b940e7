"""Pictures show what the models computed: attention reproduces the blocks, labels are the teacher's and student's."""

import os
from dataclasses import replace

import pytest
import timm
import torch
from helpers.runs import random_run, small_student
from helpers.tiny import save_model
from PIL import Image

from cskd_bench.cli import main
from cskd_bench.explain.labels import label_maps
from cskd_bench.explain.run import class_names, explain
from cskd_bench.models.attention import attended, attention, attention_maps, mean_distance
from cskd_bench.models.checkpoints import load_checkpoint
from cskd_bench.models.students import Student
from cskd_bench.models.teachers import Teacher


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"qk_norm": True, "scale_attn_norm": True}])
def test_recomputed_attention_reproduces_the_block(options):
    """The reference is the block itself, which runs fused attention and never shows its weights."""
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3, embed_dim=24, num_heads=2, num_classes=3, **options
    ).eval()
    student = Student(model, "class")
    taken = {}
    for number, block in enumerate(model.blocks):
        block.attn.register_forward_hook(lambda _, i, o, number=number: taken.update({number: (i[0], o)}))
    maps = attention_maps(student, torch.rand(2, 3, 32, 32))
    assert len(maps) == 3
    for number, weights in enumerate(maps):
        assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)
        tokens, output = taken[number]
        assert torch.allclose(attended(model.blocks[number].attn, tokens, weights), output, atol=1e-5)
        assert torch.equal(attention(model.blocks[number].attn, tokens), weights)


def test_mean_distance_is_the_slow_sum():
    torch.manual_seed(0)
    weights = torch.rand(2, 2, 8, 8).softmax(-1)  # two images, 2 prefix tokens, 2 x 3 patches
    expected = []
    for head in range(2):
        total = 0.0
        for image in range(2):
            for i in range(6):
                row = weights[image, head, 2 + i, 2:]
                for j in range(6):
                    far = ((i // 3 - j // 3) ** 2 + (i % 3 - j % 3) ** 2) ** 0.5 * 16
                    total += float(row[j] / row.sum()) * far / 12
        expected.append(total)
    assert mean_distance(weights, (2, 3), 16, 2).tolist() == pytest.approx(expected, rel=1e-5)


def test_heads_that_look_at_themselves_look_no_further():
    assert mean_distance(torch.eye(6)[None, None], (2, 2), 16, 2).item() == 0


def test_label_maps_are_the_models_own_labels():
    student = small_student()
    torch.manual_seed(1)
    teacher = Teacher(timm.create_model("test_byobnet", num_classes=3), 64)
    views = torch.rand(1, 3, 64, 64)
    maps = label_maps(student, teacher, views, 32)
    dense = teacher(views).dense
    assert torch.equal(maps.teacher.labels, dense.argmax(1)[0])
    assert [ratio for ratio, _ in maps.fused] == [1.0, 0.5, 0.0]
    assert torch.equal(maps.fused[0][1].labels, maps.teacher.labels)
    assert torch.allclose(maps.teacher.probability, dense.softmax(1).amax(1)[0])
    assert (maps.fused[2][1].labels == dense.mean((2, 3)).argmax(1)).all(), "at r = 0 every place has the global label"
    tokens = student.tokens(torch.nn.functional.avg_pool2d(views, 2))[0, 2:]
    assert torch.equal(maps.student.labels.flatten(), student.distillation_head(tokens).argmax(-1))


def test_label_maps_of_a_vit_are_those_of_its_patches():
    torch.manual_seed(1)
    teacher = Teacher(timm.create_model("test_vit", num_classes=3, img_size=96), 96)
    views = torch.rand(1, 3, 96, 96)
    maps, output = label_maps(small_student(), teacher, views, 32), teacher(views)
    assert torch.equal(maps.teacher.labels, output.dense.argmax(1)[0]) and maps.teacher.labels.shape == (6, 6)
    assert (maps.fused[2][1].labels == output.global_logits.argmax(1)).all(), "at r = 0 every place has its answer"
    assert 0 <= maps.agreement <= 1


def test_a_student_without_patch_head_is_read_by_its_class_head():
    assert small_student("class").patch_map(torch.rand(1, 3, 32, 32)).shape == (1, 3, 4, 4)


def test_classes_get_words():
    assert class_names(["n01440764", "n03425413"], 2) == ["tench", "gas pump"]
    assert class_names(["red", "green"], 3) == ["red", "green", "class 2"]


@pytest.fixture
def run_folder(tmp_path):
    """A finished run as pretraining leaves it, with random weights."""

    def make(kind):
        return random_run(tmp_path / kind, kind, teacher=save_model(tmp_path / "teacher.safetensors", num_classes=3))

    return make


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.effect_noise((96, 80), 60).convert("RGB").save(path)
    return path


@pytest.mark.parametrize("kind", ["cskd", "supervised"])
def test_explain_draws_three_pictures(capsys, run_folder, photo, tmp_path, kind):
    output = tmp_path / "pictures"
    folder = run_folder(kind)
    assert main(["explain", "--checkpoint", str(folder), "--image", str(photo), "--output", str(output)]) == 0
    files = sorted(output.iterdir())
    assert [file.name for file in files] == ["photo_attention.png", "photo_distance.png", "photo_labels.png"]
    for file in files:
        with Image.open(file) as image:
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(maxcolors=1_000_000)) > 20, "an empty picture"
    assert capsys.readouterr().out.count(".png") == 3


def test_a_weights_file_is_drawn_without_a_teacher(run_folder, photo, tmp_path, monkeypatch):
    file = save_model(tmp_path / "w.safetensors", "test_vit", num_classes=1000)
    seen = []
    monkeypatch.setattr("cskd_bench.explain.run.label_maps", lambda *given: seen.append(given) or label_maps(*given))
    arguments = ["--image", str(photo), "--output", str(tmp_path / "out"), "--model", "test_vit"]
    assert main(["explain", "--checkpoint", str(file), *arguments]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 3
    ((_, teacher, views, size),) = seen
    assert teacher is None and (views.shape, size) == ((1, 3, 160, 160), 160)


def test_a_fine_tuned_run_has_no_teacher_for_its_classes(run_folder, photo, tmp_path, monkeypatch):
    loaded = load_checkpoint(run_folder("cskd"))
    loaded.student.reset_classifier(2)
    tuned = replace(loaded, num_classes=2, classes=("cat", "dog"), tuning=object())
    monkeypatch.setattr("cskd_bench.explain.run.load_checkpoint", lambda *_, **__: tuned)
    seen = []
    monkeypatch.setattr("cskd_bench.explain.run.label_maps", lambda *given: seen.append(given) or label_maps(*given))
    assert len(explain(tmp_path, photo, tmp_path / "out")) == 3
    assert [given[1] for given in seen] == [None]


def test_bad_input_is_one_sentence(capsys, run_folder, photo, tmp_path):
    folder = run_folder("supervised")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photo.read_bytes()[:100])
    os.mkfifo(tmp_path / "pipe.jpg")
    for checkpoint, image, words in (
        (folder, broken, "not a readable image"),
        (folder, tmp_path / "none.jpg", "not a readable image"),
        (folder, tmp_path / "pipe.jpg", "not a readable image (it is no file)"),
        (tmp_path / "none", photo, "no such checkpoint"),
        (broken, photo, "needs --model"),
        (tmp_path, photo, "not a finished run"),
    ):
        arguments = ["--checkpoint", str(checkpoint), "--image", str(image), "--output", str(tmp_path / "out")]
        assert main(["explain", *arguments]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_of_a_cnn_has_no_patch_tokens_to_draw(capsys, run_folder, photo, tmp_path, monkeypatch):
    folder = run_folder("supervised")
    loaded = load_checkpoint(folder)
    cnn = Student(timm.create_model("test_byobnet", num_classes=3), "class")
    monkeypatch.setattr("cskd_bench.explain.run.load_checkpoint", lambda *_, **__: replace(loaded, student=cnn))
    arguments = ["--checkpoint", str(folder), "--image", str(photo), "--output", str(tmp_path / "out")]
    assert main(["explain", *arguments]) == 2
    assert "has no patch tokens" in capsys.readouterr().err
