"""Models as they are named: tags that timm does not have, names with errors, sizes that patches do not divide."""

import pytest
from helpers.inputs import Input, transfer
from helpers.tiny import save_model, write_run
from inputs.places import folders

from cskd_bench.cli import main
from cskd_bench.config import TeacherConfig
from cskd_bench.errors import UserError
from cskd_bench.models.teacher_models import create_model
from cskd_bench.models.timm_names import check_name


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    folders(root / "data")
    save_model(root / "w.safetensors", "test_vit")
    return root


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet18.a1_in1", "no weights with the tag 'a1_in1' (did you mean a1_in1k?); there are a1_in1k, a2_in1k"),
        ("deit_tiny_patch16_224.fb_in22k", "no weights with the tag 'fb_in22k' (did you mean fb_in1k?)"),
        ("deit_tiny_patch16_225", "timm has no model 'deit_tiny_patch16_225' (did you mean deit_tiny_patch16_224?)"),
        ("hf-hub:timm/x", "timm has no model 'hf-hub:timm/x'"),
        ("", "timm has no model ''"),
        (".", "timm has no model '.'"),
    ],
)
def test_an_unknown_name_or_tag_is_told_with_what_is_close(name, said):
    with pytest.raises(UserError) as error:
        check_name(name, "--model")
    assert str(error.value).startswith("--model: ") and said in str(error.value)


def test_every_verb_that_takes_a_model_says_so(place, capsys, tmp_path):
    weights, tag = ["--checkpoint", str(place / "w.safetensors")], "test_vit.nope"
    image = str(place / "data" / "test" / "a" / "1.png")
    run = write_run(tmp_path / "x.toml", {"method.kind": "supervised"})
    pretrain = ["pretrain", str(run), "--data-dir", str(place / "data"), "--set", "data.val=test"]
    for words in (
        ["transfer", "--task", "digits", "--protocol", "knn", "--pretrained", "--model", tag],
        ["explain", *weights, "--model", tag, "--image", image, "--output", str(tmp_path)],
        ["export", *weights, "--model", tag, "--to", "timm", "--output", str(tmp_path / "x")],
        [*pretrain, "--set", f"student.name={tag}", "--runs", str(tmp_path / "runs")],
        ["speed", "--part", "step", "--student", tag],
        ["speed", "--part", "teacher", "--teacher", tag],
    ):
        assert main(words) == 2, words
        (line,) = capsys.readouterr().err.splitlines()
        assert "'test_vit' has no weights with the tag 'nope'; there are r160_in1k" in line
    with pytest.raises(UserError, match="has no weights with the tag 'nope'"):
        create_model(TeacherConfig(name=tag, weights="x"), pretrained=False)


@pytest.mark.parametrize("size", [8, 40])
@pytest.mark.parametrize("protocol", ["knn", "evaluate"])
def test_a_size_that_patches_do_not_divide_is_refused(place, capsys, size, protocol):
    given = Input("size", folders, settings=(f"image_size={size}",), protocol=protocol)
    assert transfer(given, place / "data", place / "w.safetensors") == 2
    assert f"image_size {size} is not a multiple of the patch size 16" in capsys.readouterr().err
