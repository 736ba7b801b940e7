"""Weights files from anywhere: two models are never taken for one, and pixels are prepared as for each."""

import json
import shutil

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from cskd_bench.bench.state import Found, _key
from cskd_bench.bench.work import Places
from cskd_bench.cli import main
from cskd_bench.data.views import EvalView
from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import UserError
from cskd_bench.models.checkpoints import load_checkpoint
from cskd_bench.models.preprocessing import Preprocessing
from cskd_bench.record import read_record
from cskd_bench.report.recompute import contradictions
from cskd_bench.task import load_task
from cskd_bench.transfer.run import open_cell, transfer

CPU = Ranks(0, 1, torch.device("cpu"))
DISTILLED = "deit_tiny_distilled_patch16_224"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights that a two-head and a three-head architecture both load."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("deit") / "model.safetensors"
    save_file(timm.create_model(DISTILLED).state_dict(), path)
    return path


def test_one_file_under_two_architectures_makes_two_records(weights, tmp_path):
    """Two heads or three: the logits differ, so neither record may stand for the other."""
    task = load_task("imagenet1k")
    names = {
        open_cell(task, "evaluate", weights, 0, work=tmp_path, ranks=CPU, model=model).name
        for model in (DISTILLED, "cskd_tiny_patch16_224")
    }
    assert len(names) == 2


def test_two_files_of_one_name_are_two_methods(weights, tmp_path):
    """Many checkpoints are called model.safetensors; a report averages what has one label."""
    other = tmp_path / weights.name
    shutil.copy(weights, other)
    with other.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    first, second = (load_checkpoint(path, model=DISTILLED) for path in (weights, other))
    assert first.method.label != second.method.label
    assert first.checkpoint.run != second.checkpoint.run
    assert first.method.label == f"external (model@{first.checkpoint.sha256[:8]})"


# -- how pixels are prepared ------------------------------------------------------------------------------------------

SQUARES = """
protocols = ["knn", "evaluate", "finetune"]
image_size = 32
[data]
root = "{data}"
num_classes = 3
eval_crop = 1.0
"""


@pytest.fixture
def squares(tmp_path, colour_squares):
    """A task of three colours, and a folder that timm reads, of a model with those classes."""
    (tmp_path / "squares.toml").write_text(SQUARES.format(data=colour_squares))
    torch.manual_seed(0)
    small = timm.create_model("deit_tiny_patch16_224", img_size=32, num_classes=3)
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(small.state_dict(), folder / "model.safetensors")
    settings = {"crop_pct": 0.5, "interpolation": "bilinear", "label_names": ["blue", "green", "red"]}
    config = {"architecture": "deit_tiny_patch16_224", "model_args": {"img_size": 32}, "pretrained_cfg": settings}
    (folder / "config.json").write_text(json.dumps(config))
    return tmp_path


def cell(squares, protocol="evaluate", **asked):
    task = load_task(str(squares / "squares.toml"))
    options = {"preprocessing": Preprocessing(**asked)} if asked else {}
    return open_cell(task, protocol, squares / "model", 0, work=squares / "work", ranks=CPU, **options)


def test_the_tasks_crop_is_the_rule_and_the_checkpoints_is_asked_for(squares):
    """What changes the number changes the cell; what says the same again does not."""
    usual, image = cell(squares), Image.effect_noise((50, 40), 60).convert("RGB")
    assert torch.equal(usual.view(image), EvalView(32, 1.0)(image))
    own = cell(squares, crop="checkpoint", interpolation="checkpoint")
    assert torch.equal(own.view(image), EvalView(32, 0.5, "bilinear")(image))
    assert own.settings() == {"preprocessing": {"crop": 0.5, "interpolation": "bilinear"}}
    assert own.name == cell(squares, crop=0.5, interpolation="bilinear").name != usual.name
    assert own.recipe != usual.recipe
    assert cell(squares, crop=1.0, interpolation="bicubic").name == usual.name
    assert usual.settings() == {}


def test_mean_and_std_are_the_models_unless_given(squares):
    usual, grey = cell(squares, "knn"), cell(squares, "knn", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    assert grey.model.student.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert grey.settings() == {"preprocessing": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}}
    assert grey.name != usual.name and grey.features != usual.features == squares / "work" / "features"
    same = tuple(usual.model.student.mean.flatten().tolist())
    assert cell(squares, "knn", mean=same).name == usual.name


def test_features_under_another_mean_are_not_those_of_the_cache(squares):
    def knn(**asked):
        options = {"preprocessing": Preprocessing(**asked)} if asked else {}
        return transfer(
            load_task(str(squares / "squares.toml")), "knn", squares / "model", 0,
            results=squares / "results", work=squares / "work", ranks=CPU, workers=0, **options,
        )  # fmt: skip

    usual, other = knn(), knn(mean=(9.0, 9.0, 9.0))
    assert other.config["preprocessing"] == {"mean": [9.0, 9.0, 9.0]} and "preprocessing" not in usual.config
    assert contradictions(usual) == contradictions(other) == []
    assert len(list((squares / "work" / "features").rglob("*.npz"))) == 4
    assert _key(usual) == _key(other)
    (squares / "results" / "records" / f"{usual.id}.json").unlink()
    assert Found(Places(squares, squares / "results"))._transfers == {}  # no cell of a plan is finished by the other


def test_a_record_under_the_mean_of_a_folder_does_not_stand_for_one_under_the_architectures(squares):
    """One file of weights: its name says one mean, the config.json beside it another."""
    folder, small = squares / "model", "deit_tiny_patch16_224"
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {"mean": [9.0, 9.0, 9.0]}
    (folder / "config.json").write_text(json.dumps(config))

    def knn(checkpoint, model="", settings=()):
        return transfer(
            load_task(str(squares / "squares.toml"), None, settings), "knn", checkpoint, 0,
            results=squares / "results", work=squares / "work", ranks=CPU, workers=0, model=model,
        )  # fmt: skip

    named, described = knn(folder / "model.safetensors", small), knn(folder)
    assert named.id != described.id
    for unused in ([], ["finetune.epochs=3"]):  # under another name, and still found
        assert knn(folder / "model.safetensors", small, unused) == named
        assert knn(folder, "", unused) == described


@pytest.mark.parametrize("crop", [1.5, -1.0])
def test_a_checkpoints_crop_that_no_view_can_have_is_told(squares, crop):
    config = json.loads((squares / "model" / "config.json").read_text())
    config["pretrained_cfg"]["crop_pct"] = crop
    (squares / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="name --crop"):
        cell(squares, crop="checkpoint")
    assert cell(squares, crop=0.5).model.crop == crop


def test_a_crop_is_refused_where_the_task_is_compared(squares):
    with pytest.raises(UserError, match="--crop and --interpolation are for protocol evaluate"):
        cell(squares, "finetune", crop=0.9)
    with pytest.raises(UserError, match="are not for protocol detect"):
        open_cell(load_task("digits_detection"), "detect", squares / "model", 0,
                  work=squares, ranks=CPU, preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5)))  # fmt: skip


def test_a_checkpoint_without_a_head_is_not_evaluated(squares):
    state = timm.create_model("deit_tiny_patch16_224", img_size=32, num_classes=0).state_dict()
    save_file(state, squares / "model" / "model.safetensors")
    with pytest.raises(UserError, match=r"has no head to score \(head\.weight is missing\)"):
        cell(squares).check()
    assert cell(squares, "knn").model.num_classes == 0


def verb(squares, *words):
    places = ["--runs", str(squares / "runs"), "--results", str(squares / "results"), "--workers", "0"]
    return main(["transfer", "--task", str(squares / "squares.toml"), "--protocol", "evaluate", *words, *places])


def test_the_verb_takes_pretrained_weights_and_preprocessing(squares, monkeypatch, capsys):
    built = timm.create_model("deit_tiny_patch16_224", img_size=32, num_classes=3)
    monkeypatch.setattr("cskd_bench.models.hub.timm.create_model", lambda *_, **__: built)
    model = ["--model", "deit_tiny_patch16_224", "--pretrained"]
    assert verb(squares, *model, "--dry-run", "--mean", "0.5", "0.5", "0.5", "--crop", "0.9") == 0
    assert "to do; 32 px, test 24 images" in capsys.readouterr().out
    for words, says in (
        ([], "--checkpoint is missing"),
        ([*model, "--checkpoint", "x"], "goes without --checkpoint"),
        (["--pretrained"], "takes timm's own weights of --model"),
        ([*model, "--std", "1", "1", "0"], "std.2: input should be greater than 0"),
    ):
        assert verb(squares, *words) == 2
        assert says in capsys.readouterr().err
    with pytest.raises(SystemExit):
        verb(squares, *model, "--crop", "2")
    assert "'2' is neither a share in (0, 1] nor `checkpoint`" in capsys.readouterr().err


def test_the_verb_scores_a_folder_under_its_own_crop(squares, capsys):
    assert verb(squares, "--checkpoint", str(squares / "model"), "--crop", "checkpoint") == 0
    (file,) = (squares / "results" / "records").glob("*.json")
    record = read_record(file)
    assert record.config["preprocessing"] == {"crop": 0.5} and contradictions(record) == []


def test_outputs_that_are_called_otherwise_make_another_model(squares):
    """The same file of weights under two lists of names scores otherwise."""
    config = json.loads((squares / "model" / "config.json").read_text())

    def evaluate():
        return transfer(
            load_task(str(squares / "squares.toml")), "evaluate", squares / "model", 0,
            results=squares / "results", work=squares / "work", ranks=CPU, workers=0,
        )  # fmt: skip

    first = evaluate()
    config["pretrained_cfg"] |= {"label_names": ["green", "red", "blue"]}
    (squares / "model" / "config.json").write_text(json.dumps(config))
    other = evaluate()
    assert other.id != first.id and evaluate() == other
    assert (other.metrics["top1"], other.config["weights"]["classes"]) != (
        first.value,
        first.config["weights"]["classes"],
    )
