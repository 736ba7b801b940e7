"""A model that is laid beside its own record under another name is found, and two models that are alike are not."""

import json
import shutil

import numpy as np
import pytest
from report_synthetic import World, add_examples, make_record

from cskd_bench.record import write_record
from cskd_bench.report.compare import compare
from cskd_bench.report.manifest import files_in
from cskd_bench.report.selection import select
from cskd_bench.report.verify import verify_records

EXAMPLES = 300


def add(folder, arrays, *, seed=0, label="cskd", weights=None, **changes):
    """Write a record of given labels, predictions and confidences; its weights are its own unless named."""
    side = add_examples(folder, f"{label}-{seed}{len(list(folder.glob('*')))}.npz", *arrays)
    sha256 = weights or f"{len(list(folder.glob('*'))):064x}"
    value = float((arrays[0] == arrays[1]).mean())
    given = {"label": label, "seed": seed, "pretrain_seed": seed, "value": value, "examples": len(arrays[0])}
    record = make_record(**given, per_example=side, sha256=sha256, **changes)
    write_record(folder, record)
    return record


def said_by(world, skill=0.3):
    return (world.label, *world.predict("cskd", skill))


def reasons(folder):
    return [problem.reason for problem in verify_records(folder)]


def permute(arrays, random):
    order = random.permutation(len(arrays[0]))
    return tuple(array[order] for array in arrays)


def shift_confidence(arrays, random):
    return (*arrays[:2], np.clip(arrays[2] + random.normal(0, 0.05, len(arrays[0])), 0, 1))


def do_both(arrays, random):
    return permute(shift_confidence(arrays, random), random)


@pytest.mark.parametrize("hide", [permute, shift_confidence, do_both])
@pytest.mark.parametrize(
    ("changes", "part"),
    [({"seed": 1}, "pretraining seed"), ({"label": "deit"}, "method"), ({"pretrain_recipe": "c" * 16}, "student")],
)
def test_the_predictions_of_another_seed_method_or_student_are_found(tmp_path, hide, changes, part):
    arrays = said_by(World(EXAMPLES))
    add(tmp_path, arrays)
    add(tmp_path, hide(arrays, np.random.default_rng(1)), **changes)
    (reason,) = reasons(tmp_path)
    assert reason.startswith("has the predictions of ") and f", whose {part} is " in reason


@pytest.mark.parametrize("changes", [{"seed": 1}, {"label": "deit"}, {"pretrain_data": "other"}])
def test_the_weights_of_another_seed_method_or_student_are_found(tmp_path, changes):
    world = World(EXAMPLES)
    add(tmp_path, said_by(world), weights="7" * 64)
    add(tmp_path, said_by(world), weights="7" * 64, **changes)
    (reason,) = reasons(tmp_path)
    assert reason.startswith("has the weights of ")


def test_one_side_file_under_two_methods_is_found(tmp_path):
    add(tmp_path, said_by(World(EXAMPLES)))
    (path,) = tmp_path.glob("*.json")
    data = json.loads(path.read_text())
    data["id"], data["method"] = "second", {**data["method"], "label": "deit", "kind": "deit"}
    data["checkpoint"]["sha256"] = "7" * 64
    (tmp_path / "second.json").write_text(json.dumps(data))
    told = reasons(tmp_path)
    assert any(reason.startswith("its side file ") for reason in told) and len(told) == 2


@pytest.mark.parametrize("classes", [2, 10])
def test_models_that_are_alike_are_no_copies(tmp_path, classes):
    """Steady seeds of one method on a small test set, a perfect model, and one that says the same of every image."""
    world = World(EXAMPLES, classes=classes, seed_spread=0.01)
    for seed in range(12):
        add(tmp_path, said_by(world), seed=seed)
        perfect = np.random.default_rng(seed).uniform(0.9, 1, EXAMPLES)
        add(tmp_path, (world.label, world.label, perfect), seed=seed, protocol="knn")
        add(tmp_path, (world.label, np.zeros_like(world.label), perfect), seed=seed, protocol="finetune")
    assert reasons(tmp_path) == []


@pytest.mark.parametrize("place", [".{}", "below/{}"])
def test_a_side_file_that_no_manifest_lists_is_found_and_not_used(tmp_path, place):
    record = add(tmp_path, said_by(World(EXAMPLES)))
    moved = tmp_path / place.format(record.per_example.name)
    moved.parent.mkdir(exist_ok=True)
    shutil.move(tmp_path / record.per_example.name, moved)
    path = tmp_path / f"{record.id}.json"
    path.write_text(path.read_text().replace(record.per_example.name, place.format(record.per_example.name)))
    (reason,) = reasons(tmp_path)
    assert "lies outside the records folder, or hidden in it" in reason
    (left,) = compare(tmp_path, select(tmp_path)).left_out
    assert "or hidden in it" in left.reason


def test_a_hidden_file_is_no_record(tmp_path):
    add(tmp_path, said_by(World(EXAMPLES)))
    (path,) = tmp_path.glob("*.json")
    (tmp_path / ".second.json").write_text(
        path.read_text().replace(path.stem, ".second").replace('"seed": 0', '"seed": 1')
    )
    selection = select(tmp_path)
    assert [len(records) for records in selection.cells.values()] == [1] and not selection.left_out
    assert len(files_in(tmp_path)) == 2 and reasons(tmp_path) == []


def test_a_side_file_with_too_long_a_name_costs_its_record_alone(tmp_path):
    world = World(EXAMPLES)
    for seed in (0, 1):
        record = add(tmp_path, said_by(world), seed=seed)
    path = tmp_path / f"{record.id}.json"
    path.write_text(path.read_text().replace(record.per_example.name, "a" * 5000))
    (left,) = compare(tmp_path, select(tmp_path)).left_out
    assert left.name == path.name and "cannot be read" in left.reason and len(left.reason) < 300
    assert any("cannot be read" in reason for reason in reasons(tmp_path))
