"""What a probe reads: the same tokens under every method, by a definition that is part of names and caches."""

import copy

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from cskd_bench.engine.distributed import Ranks
from cskd_bench.models.students import Student
from cskd_bench.task import load_task
from cskd_bench.transfer import linear
from cskd_bench.transfer.run import transfer

RANKS = Ranks(0, 1, torch.device("cpu"))
HEADS = ("class", "class+dist", "class+dist+patch")
TASK = """
protocols = ["linear", "knn", "kshot", "lowlabel", "finetune"]
image_size = 32
[data]
root = "{data}"
num_classes = 3
eval_crop = 1.0
[kshot]
shots = [1]
[lowlabel]
fractions = [0.25]
[finetune]
epochs = 1
batch_size = 16
"""


def small_vit():
    torch.manual_seed(0)
    return timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1, num_classes=3).eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file(timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, num_classes=1000).state_dict(), path)
    return path


def task_on(folder, place, *settings):
    (place / "squares.toml").write_text(TASK.format(data=folder))
    return load_task(str(place / "squares.toml"), None, settings)


def run(task, protocol, weights, place, model="deit_tiny_distilled_patch16_224", seed=0):
    return transfer(
        task, protocol, weights, seed,
        results=place / "results", work=place / "work", ranks=RANKS, model=model, workers=0,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["cls", "cls+patch"])
def test_students_that_differ_in_heads_alone_give_equal_features(kind):
    """Whatever their method's inference rule averages, and whatever their heads learnt."""
    views, found = torch.rand(2, 3, 32, 32), []
    for number, heads in enumerate(HEADS):
        vit = copy.deepcopy(small_vit())
        torch.nn.init.normal_(vit.head.weight, std=number + 1.0)
        torch.nn.init.normal_(vit.head_dist.weight, std=number + 1.0)
        found.append(Student(vit, heads).features(views, kind))
    tokens = Student(small_vit(), "class").tokens(views)
    expected = {"cls": tokens[:, 0], "cls+patch": torch.cat([tokens[:, 0], tokens[:, 2:].mean(1)], 1)}
    assert [torch.equal(features, expected[kind]) for features in found] == [True] * 3


@pytest.mark.parametrize("heads", HEADS)
def test_features_of_the_inference_rule_depend_on_which_heads_it_averages_and_not_on_what_they_learnt(heads):
    views, vit = torch.rand(2, 3, 32, 32), small_vit()
    found = Student(vit, heads).features(views, "inference")
    tokens = Student(vit, heads).tokens(views)
    averaged = [tokens[:, 0], tokens[:, 1], tokens[:, 2:].mean(1)][: HEADS.index(heads) + 1]
    torch.testing.assert_close(found, torch.stack(averaged).mean(0))
    torch.nn.init.normal_(vit.head_dist.weight)
    assert torch.equal(Student(vit, heads).features(views, "inference"), found)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit2"])
def test_a_model_without_a_class_token_gives_its_pooled_features(name):
    model = timm.create_model(name, num_classes=3, **({} if "resnet" in name else {"class_token": False,
                              "global_pool": "avg"})).eval()  # fmt: skip
    size = model.pretrained_cfg["input_size"][-1]
    views = torch.rand(2, 3, size, size)
    student = Student(model, "class")
    expected = model.forward_head(student.tokens(views), pre_logits=True)
    for kind in ("cls", "cls+patch", "inference"):
        assert torch.equal(student.features(views, kind), expected)


def test_two_methods_on_one_backbone_get_one_probe(colour_squares, weights, tmp_path):
    """The same weights under DeiT's and under CSKD's inference rule: equal scores, and one pass over the images."""
    task = task_on(colour_squares, tmp_path)
    one = run(task, "linear", weights, tmp_path)
    other = run(task, "linear", weights, tmp_path, "cskd_tiny_patch16_224")
    same = ("top1", "ece", "chosen_c")
    assert [one.metrics[name] for name in same] == [other.metrics[name] for name in same]
    inference = task_on(colour_squares, tmp_path, "features=inference")
    ours = run(inference, "linear", weights, tmp_path)
    theirs = run(inference, "linear", weights, tmp_path, "cskd_tiny_patch16_224")
    assert ours.metrics["ece"] != theirs.metrics["ece"]
    assert len({record.task.fingerprint for record in (one, ours)}) == 2


def test_the_definition_and_its_version_are_in_names_and_in_the_cache(colour_squares, weights, tmp_path):
    """Features of another definition, or of the releases before it had a name, are never read."""
    seen = set()
    for number, kind in enumerate(("cls", "cls+patch", "inference"), 1):
        task = task_on(colour_squares, tmp_path, f"features={kind}")
        run(task, "knn", weights, tmp_path)
        folders = {path.name for path in (tmp_path / "work" / "features").iterdir()}
        assert len(folders) == 2 * number and folders > seen
        seen = folders
    identity = task_on(colour_squares, tmp_path).identity("linear")
    assert (identity["features"], identity["features_version"]) == ("cls+patch", 1)
    former = task_on(colour_squares, tmp_path, "features=inference").identity("linear")
    assert "features" not in former and "features_version" not in former  # as every record before it


def test_feature_files_of_earlier_releases_are_never_read(colour_squares, weights, tmp_path):
    """They lay beside today's folders as FINGERPRINT.npz, whatever the definition."""
    task = task_on(colour_squares, tmp_path)
    first = run(task, "knn", weights, tmp_path)
    folder = tmp_path / "work" / "features"
    for path in list(folder.iterdir()):
        images = sum(len(np.load(part)["rows"]) for part in path.iterdir())
        np.savez(folder / f"{path.name}.npz", features=np.zeros((images, 192), np.float32))
        for part in path.iterdir():
            part.unlink()
    (tmp_path / "results" / "records" / f"{first.id}.json").unlink()
    assert run(task, "knn", weights, tmp_path).metrics == first.metrics


# -- the choice of C --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "rule"), [("top1", "top1"), ("mean_per_class", "mean_per_class")])
def test_c_is_chosen_by_the_tasks_metric(colour_squares, weights, tmp_path, monkeypatch, metric, rule):
    task = task_on(colour_squares, tmp_path, f"metric={metric}", "linear.c_grid=[1e-4, 1.0]")
    scores = {"top1": {1e-4: 0.9, 1.0: 0.8}, "mean_per_class": {1e-4: 0.5, 1.0: 0.7}}
    whole, tried = linear.Predictions.metrics, iter(task.linear.c_grid)

    def metrics(said):
        c = next(tried, None)
        return whole(said) if c is None else {name: by_c[c] for name, by_c in scores.items()}

    monkeypatch.setattr(linear.Predictions, "metrics", metrics)
    record = run(task, "linear", weights, tmp_path)
    best = max(scores[metric], key=scores[metric].get)
    assert record.metrics["chosen_c"] == best
    assert record.metrics[f"validation_{rule}"] == scores[rule][best]


def test_a_c_at_the_edge_of_the_grid_and_fits_that_did_not_converge_are_recorded_and_said(
    colour_squares, weights, tmp_path
):
    fine = run(task_on(colour_squares, tmp_path, "linear.c_grid=[0.01]"), "linear", weights, tmp_path)
    assert (fine.metrics["chosen_c_at_edge"], fine.metrics["unconverged_fits"], fine.note) == (0.0, 0.0, "")
    settings = ["linear.c_grid=[1e-5, 10.0]", "linear.max_iter=2"]
    record = run(task_on(colour_squares, tmp_path, *settings), "linear", weights, tmp_path)
    assert record.metrics["chosen_c_at_edge"] == 1.0
    assert record.metrics["unconverged_fits"] == 3.0
    chosen = f"C = {record.metrics['chosen_c']:g} is the"
    assert chosen in record.note and "3 of 3 fits stopped at linear.max_iter = 2" in record.note
    few = run(task_on(colour_squares, tmp_path, "kshot.max_iter=1"), "kshot", weights, tmp_path)
    assert few.metrics["unconverged_fits"] == 1.0


# -- a record under another name --------------------------------------------------------------------------------------


def test_a_record_of_other_unused_settings_is_found(colour_squares, weights, tmp_path):
    """Its name holds the whole task; what its score depends on is the same."""
    first = run(task_on(colour_squares, tmp_path), "knn", weights, tmp_path)
    for unused in ("finetune.epochs=3", "linear.max_iter=9", "lowlabel.classifier=finetune"):
        assert run(task_on(colour_squares, tmp_path, unused), "knn", weights, tmp_path) == first
    assert run(task_on(colour_squares, tmp_path, "knn.k=3"), "knn", weights, tmp_path).id != first.id
    assert run(task_on(colour_squares, tmp_path), "knn", weights, tmp_path, seed=1).id != first.id
    tuned = run(task_on(colour_squares, tmp_path), "finetune", weights, tmp_path)
    assert run(task_on(colour_squares, tmp_path, "features=cls"), "finetune", weights, tmp_path) == tuned
