"""An export folder: every kind of student, its model card, and nothing left of one that fails."""

import json
import sys
from dataclasses import replace

import pytest
import timm
import torch
from helpers.processes import run_python
from helpers.tiny import save_model
from huggingface_hub import ModelCard

from cskd_bench.cli import main
from cskd_bench.errors import UserError
from cskd_bench.export import export_timm
from cskd_bench.export.card import data_licence
from cskd_bench.export.folder import fill_folder, modeling_text
from cskd_bench.models.checkpoints import load_checkpoint

AS_TIMM_HAS_IT = dict.fromkeys(("patch_size", "depth", "embed_dim", "num_heads"))
ALONE = """
import sys
sys.modules["cskd_bench"] = None  # importing it fails
sys.path.insert(0, sys.argv[2])
import modeling
import timm, torch

def logits(folder):
    model = timm.create_model("local-dir:" + folder, pretrained=True).eval()
    torch.manual_seed(0)
    return model(torch.randn(2, *model.pretrained_cfg["input_size"])).detach()

torch.save([logits(folder) for folder in sys.argv[2:]], sys.argv[1])
"""


def logits_through_timm(folders, place):
    """Load exports in a process without cskd-bench and return each one's logits of two random inputs."""
    run_python(ALONE, place / "logits.pt", *folders, PYTHONPATH="")
    return torch.load(place / "logits.pt")


def native_logits(loaded):
    torch.manual_seed(0)
    student = loaded.student.cpu()
    with torch.no_grad():
        inputs = torch.randn(2, 3, loaded.image_size, loaded.image_size)
        return student.predict(inputs * student.std + student.mean)


def test_a_student_that_lends_a_register_token_is_exported(run_folder, tmp_path):
    runs = [run_folder(kind, name="deit3_small_patch16_224") for kind in ("deit", "cskd")]
    exports = [tmp_path / run.name for run in runs]
    for run, export in zip(runs, exports, strict=True):
        export_timm(run, export)
        config = json.loads((export / "config.json").read_text())
        assert config["architecture"] == "cskd_register_vit"
        assert config["model_args"]["base"] == "deit3_small_patch16_224"
    expected = [native_logits(load_checkpoint(run)) for run in runs]
    torch.testing.assert_close(logits_through_timm(exports, tmp_path), expected)


def test_a_fine_tuned_student_answers_by_its_class_head_and_names_its_tasks_classes(run_folder, tmp_path):
    exports, expected = [], []
    for kind, name in (("deit", "deit_tiny_patch16_224"), ("cskd", "vit_tiny_patch16_224")):
        folder = run_folder(kind, name=name)
        loaded = load_checkpoint(folder)
        loaded.student.reset_classifier(2)
        loaded.student.drop_distillation_head()
        tuned = replace(loaded, num_classes=2, classes=("cat", "dog"), student=loaded.student.eval())
        exports.append(tmp_path / kind)
        exports[-1].mkdir()
        fill_folder(exports[-1], tuned, folder, tmp_path, "")
        config = json.loads((exports[-1] / "config.json").read_text())
        assert config["model_args"]["answers"] == "class"
        assert config["pretrained_cfg"]["label_names"] == ["cat", "dog"] and config["num_classes"] == 2
        expected.append(native_logits(tuned))
    torch.testing.assert_close(logits_through_timm(exports, tmp_path), expected)


def test_a_cnn_is_exported_as_timm_has_it(run_folder, tmp_path):
    folder = run_folder("supervised", name="test_resnet", **AS_TIMM_HAS_IT)
    (tmp_path / "out").mkdir()  # an empty folder is as good as none
    export_timm(folder, tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    with torch.no_grad():
        expected = native_logits(load_checkpoint(folder))
        torch.manual_seed(0)
        torch.testing.assert_close(model(torch.randn(2, 3, 32, 32)), expected, atol=1e-5, rtol=1e-4)


def test_a_weights_file_is_exported_with_its_models_name(tmp_path, capsys):
    file = save_model(tmp_path / "w.safetensors", "test_vit")
    words = ["--checkpoint", str(file), "--to", "timm", "--output", str(tmp_path / "out")]
    assert main(["export", *words]) == 2
    assert "needs --model" in capsys.readouterr().err
    assert main(["export", *words, "--model", "test_vit"]) == 0
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    expected = native_logits(load_checkpoint(file, model="test_vit"))
    torch.manual_seed(0)
    with torch.no_grad():
        torch.testing.assert_close(model(torch.randn(2, 3, 160, 160)), expected)
    assert "label_names" not in json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]
    assert "| top-1 | not measured |" in (tmp_path / "out" / "README.md").read_text()


def test_modeling_changes_nothing_where_cskd_bench_is_there(run_folder, tmp_path, monkeypatch):
    export_timm(run_folder(), tmp_path / "out")
    assert (tmp_path / "out" / "modeling.py").read_text() == modeling_text()
    ours = timm.model_entrypoint("cskd_tiny_patch16_224")
    monkeypatch.syspath_prepend(tmp_path / "out")
    import modeling

    monkeypatch.delitem(sys.modules, "modeling")
    assert modeling.cskd_tiny_patch16_224 is not ours
    assert timm.model_entrypoint("cskd_tiny_patch16_224") is ours


def test_the_card_holds_the_records_numbers(run_folder, keep_record, tmp_path):
    folder = run_folder()
    results = keep_record(folder)
    export_timm(folder, tmp_path / "out", results=results, licence="apache-2.0")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    about = card.data.to_dict()
    assert (about["license"], about["library_name"]) == ("apache-2.0", "timm")
    assert about["pipeline_tag"] == "image-classification"
    assert {"timm", "cskd", "image-classification"} <= set(about["tags"])
    assert about["datasets"] == ["colours", "ILSVRC/imagenet-1k"]
    (result,) = card.data.eval_results
    assert (result.metric_name, result.metric_value, result.dataset_name) == ("top1", 0.625, "imagenet1k")
    loaded = load_checkpoint(folder)
    for row in (
        "| top-1 | 62.50 % of 1,200 images (imagenet1k, pretrain) |",
        "| method | cskd |",
        "| teacher | test_byobnet@12345678 |",
        "| seed | 7 |",
        f"| commit | `{'c' * 40}` |",
        "| record | `colours-pretrain-cskd` |",
        f"| recipe | 300 epochs, fingerprint `{loaded.pretrain_config.recipe_fingerprint()}` |",
        "| images | `three colours` |",
        "- Images of imagenet1k: ImageNet's terms of access: non-commercial research.",
        "- Images of colours: licence not known here.",
        'timm.create_model("local-dir:FOLDER", pretrained=True)',
    ):
        assert row in card.text, row
    assert str(tmp_path) not in card.content


def test_a_card_says_what_was_not_measured(run_folder, keep_record, tmp_path):
    folder = run_folder()
    export_timm(folder, tmp_path / "none", results=tmp_path / "no results")
    text = (tmp_path / "none" / "README.md").read_text()
    assert "| top-1 | not measured |" in text and "| commit | not known |" in text
    about = ModelCard(text).data
    assert (about.license, about.license_name, about.eval_results) == ("other", "not-stated", None)
    other = load_checkpoint(folder).checkpoint.model_copy(update={"sha256": "0" * 64})
    results = keep_record(folder, checkpoint=other)
    export_timm(folder, tmp_path / "other", results=results)
    assert "| top-1 | not measured |" in (tmp_path / "other" / "README.md").read_text()


def test_averaged_weights_have_a_score_of_their_own(run_folder, keep_record, tmp_path):
    folder = run_folder()
    (folder / "ema.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    summary = json.loads((folder / "run.json").read_text())
    summary["sha256"]["ema"] = summary["sha256"]["model"]
    (folder / "run.json").write_text(json.dumps(summary))
    export_timm(folder, tmp_path / "out", "ema", results=keep_record(folder))
    assert "| top-1 | 50.00 % of 1,200 images" in (tmp_path / "out" / "README.md").read_text()


def test_licences_are_those_of_the_shipped_tasks():
    assert data_licence("imagenet1k") == "ImageNet's terms of access: non-commercial research"
    assert data_licence("nothing of the kind") == ""


def test_a_failed_export_leaves_nothing(run_folder, tmp_path, monkeypatch):
    folder, before = run_folder(), sorted(tmp_path.rglob("*"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cskd_bench.export.folder.save_tensors", full)
    with pytest.raises(UserError, match="out: cannot be written: No space left on device"):
        export_timm(folder, tmp_path / "out")
    before = {path for path in before if path.parent != tmp_path}
    assert {path for path in tmp_path.rglob("*") if path.parent != tmp_path} == before
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".writing*"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        export_timm(folder, tmp_path / "file" / "out")


def test_options_belong_to_where_an_export_goes(capsys, tmp_path):
    for words, expected in (
        (["--to", "timm"], "takes --output"),
        (["--to", "timm", "--output", "x", "--private"], "neither --repo nor --private"),
        (["--to", "onnx", "--output", "x", "--repo", "a/b"], "neither --repo nor --private"),
        (["--to", "hub"], "takes --repo USER/NAME"),
        (["--to", "hub", "--repo", "a/b", "--output", "x"], "no --output"),
    ):
        assert main(["export", "--checkpoint", str(tmp_path), *words]) == 2
        assert expected in capsys.readouterr().err
