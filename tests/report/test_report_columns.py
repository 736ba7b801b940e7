"""Columns: what a protocol does not use sets nothing apart; what it uses stands in a column of its own, named by it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_synthetic import World, add_examples, make_record

from cskd_bench.record import Record, write_record
from cskd_bench.report import words
from cskd_bench.report.build import build_report
from cskd_bench.report.columns import differing, flatten, list_differences
from cskd_bench.report.compare import compare
from cskd_bench.report.selection import Setting, select
from cskd_bench.schema import fingerprint
from cskd_bench.task import load_task
from cskd_bench.task_identity import transfer_recipe

FORMATS = ["md", "csv", "svg", "latex"]
SCORED = {"finetune": 0.8, "linear": 0.7, "knn": 0.6}
DAY = {"old": "2026-01-01T00:00:00Z", "new": "2026-09-09T00:00:00Z"}


def transfer_record(protocol: str, *changes: str, named: str, **others: Any) -> Record:
    """Invent a transfer on the shipped CIFAR-10, named as an older release or as this one names it."""
    task = load_task("cifar10", None, changes)
    used = protocol if named == "new" else ""
    recipe = fingerprint(transfer_recipe("b" * 16, protocol, task.identity(used), {}))
    identity = {"version": task.version, "fingerprint": task.fingerprint(used), "recipe": recipe}
    config = {"task": task.identity(), "data": {"identity": "aaaa bbbb"}}
    return make_record(task="cifar10", protocol=protocol, config=config, created=DAY[named], **identity, **others)


def write(folder: Path, record: Record, named: str) -> None:
    """Write a record as this release does, or as one before schema 3 did."""
    path = write_record(folder, record)
    if named == "old":
        path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 2}))


@pytest.fixture
def study(tmp_path):
    """Three methods, protocols and seeds on CIFAR-10, as an older release named them, and their report."""
    folder, world = tmp_path / "records", World(200)
    for protocol in SCORED:
        for number, label in enumerate(("supervised", "deit", "cskd")):
            for seed in range(3):
                predicted, confidence = world.predict(label, 0.1 * number)
                side = add_examples(folder, f"{protocol}-{label}-{seed}.npz", world.label, predicted, confidence)
                value = float((predicted == world.label).mean())
                given = {"label": label, "seed": seed, "pretrain_seed": seed, "value": value, "examples": 200}
                write(folder, transfer_record(protocol, named="old", per_example=side, **given), "old")
    return tmp_path


def tables(study, output):
    """Return every format's text, without the list of what was left out."""
    report = build_report(study, output, formats=FORMATS)
    return {name: re.sub(r"\n## Left out\n.*", "", path.read_text(), flags=re.S) for name, path in report.files.items()}


@pytest.mark.parametrize("named", ["old", "new"])
@pytest.mark.parametrize(
    ("protocol", "change"),
    [
        ("linear", "finetune.optim.lr=1.0"),
        ("linear", "data.on_corrupt=skip"),
        ("knn", "finetune.epochs=3"),
        ("knn", 'protocols=["knn"]'),
        ("finetune", "knn.k=3"),
    ],
)
def test_a_setting_that_the_protocol_does_not_use_leaves_every_table_as_it_was(study, named, protocol, change):
    """Another run of a cell and seed is a repeated one, which does not count, whatever it scores."""
    before = tables(study, study / "before")
    record = transfer_record(protocol, change, named=named, seed=1, pretrain_seed=1, value=1.0, examples=200)
    record = record.model_copy(update={"created": DAY["new"]})
    write(study / "records", record, named)
    assert tables(study, study / "after") == before
    (left,) = select(study / "records").left_out
    assert left.name == f"{record.id}.json" and "repeats seed 1" in left.reason


@pytest.mark.parametrize(
    ("protocol", "changes", "said"),
    [
        ("finetune", ["finetune.epochs=3"], ("finetune.epochs 20", "finetune.epochs 3")),
        ("finetune", ["finetune.precision=bf16"], ("finetune.precision fp32", "finetune.precision bf16")),
        ("linear", ["linear.c_grid=[1.0]"], ("linear.c_grid [0.01, 0.1, 1, 10, 100]", "linear.c_grid [1]")),
        ("knn", ["data.test=val", "knn.k=5"], ("knn.k 20, data.test test", "knn.k 5, data.test val")),
        ("knn", ["version=2"], ("v1", "v2")),
        ("knn", ["version=2", "knn.k=5"], ("v1, knn.k 20", "v2, knn.k 5")),
    ],
)
@pytest.mark.parametrize("created", DAY.values())
def test_a_setting_that_the_protocol_uses_makes_a_column_of_its_own_which_names_it(
    study, protocol, changes, said, created
):
    """Newer or older, it replaces nothing: all that was there is there still."""
    before = compare(study / "records", select(study / "records"))
    record = transfer_record(protocol, *changes, named="new", value=1.0, examples=200)
    write_record(study / "records", record.model_copy(update={"created": created}))
    selection = select(study / "records")
    assert not selection.left_out
    (table,) = compare(study / "records", selection).tables
    (old,) = before.tables
    assert set(old.cells) < set(table.cells)
    names = {words.column(setting, table.settings) for setting in table.settings if setting.protocol == protocol}
    assert names == {f"{words.PROTOCOL_WORDS[protocol]}, {text}" for text in said}
    shown = tables(study, study / "after")["md"].replace("\\", "")
    for name in said:  # Markdown says the version before the protocol, always
        settings = "".join(f", {part}" for part in name.split(", ") if part not in ("v1", "v2"))
        assert f", {words.PROTOCOL_WORDS[protocol]}{settings} |" in shown
    (note,) = selection.notes
    assert f"cifar10, {protocol}: 2 recipes" in note and changes[0].partition("=")[0] in note


def test_probes_of_another_definition_of_features_are_marked_and_kept_apart(tmp_path):
    """A record without the key is of release 0.1.0, and means the inference rule."""
    folder = tmp_path / "records"
    for features, value in (("inference", 0.7), ("cls+patch", 0.8), ("cls", 0.75)):
        record = transfer_record("linear", f"features={features}", named="new", value=value)
        assert ("features" in record.config["task"]) == (features != "inference")
        write_record(folder, record)
    (table,) = compare(folder, select(folder)).tables
    names = {words.column(setting, table.settings) for setting in table.settings}
    assert names == {"linear probe", "linear probe, inference features", "linear probe, cls features"}
    assert len(table.cells) == 3
    shown = tables(tmp_path, tmp_path / "out")
    assert all(words.MIXED_FEATURES in shown[name].replace("\\", "").replace("\n", " ") for name in ("md", "latex"))
    for path in folder.glob("*.json"):
        if json.loads(path.read_text())["config"]["task"].get("features") is None:
            path.unlink()
    assert words.MIXED_FEATURES not in tables(tmp_path, tmp_path / "out")["md"]


def setting(**changes: Any) -> Setting:
    given = {"group": "classification", "task": "cars", "version": 1, "fingerprint": "f" * 16, "metric": "top1"}
    given |= {"protocol": "knn", "recipe": "a" * 16, "image_size": 32, "weights": "raw", "content": {}, **changes}
    return Setting(**given)


def test_the_size_of_images_is_named_once():
    sizes = [setting(image_size=size, content={"image_size": size}) for size in (32, 64)]
    assert [words.column(one, sizes) for one in sizes] == ["kNN, 32 px", "kNN, 64 px"]


def test_a_hash_stands_only_where_nothing_else_tells_two_columns_apart():
    recipes = [setting(recipe=f"{number}{'c' * 15}") for number in range(2)]
    assert [words.column(one, recipes) for one in recipes] == ["kNN, recipe 0ccccc", "kNN, recipe 1ccccc"]
    contents = [setting(fingerprint=f"{number}{'c' * 15}") for number in range(2)]
    assert [words.column(one, contents) for one in contents] == [
        "kNN, recipe aaaaaa, content 0ccccc",
        "kNN, recipe aaaaaa, content 1ccccc",
    ]
    third = setting(recipe="3" * 16, weights="ema")
    assert words.column(third, [*recipes, third]) == "kNN, ema weights"
    assert words.column(recipes[0], [*recipes, third]) == "kNN, raw weights, recipe 0ccccc"


def test_long_values_and_many_settings_are_cut_and_told_apart_all_the_same():
    long = [setting(recipe=str(n) * 16, content={"data": {"test": "+".join(["part"] * 20 + [str(n)])}}) for n in "12"]
    assert [words.column(one, long) for one in long] == [
        "kNN, data.test part+part+part+part+part+part..., recipe 111111",
        "kNN, data.test part+part+part+part+part+part..., recipe 222222",
    ]
    many = [setting(recipe=str(n) * 16, content=dict.fromkeys("abcdefgh", n)) for n in (1, 2)]
    assert words.column(many[0], many) == "kNN, a 1, b 1, c 1, 5 more settings"


def test_values_are_written_as_they_are_set_and_odd_ones_harm_nothing():
    deep: Any = {"key": [[1], {"a": 1}]}
    for _ in range(5000):
        deep = {"in": deep}
    said = flatten({"a": {"b": 1e-5, "c": True, "d": None, "e": ""}, "f": [1.0, [2]], "deep": deep})
    assert said | {"deep" + 8 * ".in": "..."} == said
    assert said | {"a.b": "1e-05", "a.c": "true", "a.d": "none", "a.e": "none", "f": "[1, ...]"} == said


def test_a_column_that_says_nothing_of_its_settings_is_not_compared_with():
    assert differing([{}, {"a": "1", "b": "1"}, {"a": "2", "b": "1", "c": "1"}]) == ["a", "c"]
    assert list_differences([{}, {"a": "1"}, {"a": "10"}, {"a": "9"}]) == "a (1, 9, 10)"
    assert list_differences([{}, {"a": "1"}]) == ""
