"""`speed` measures small cases of every part and says on what; our step is the loop's own arithmetic."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from cskd_bench.cli import main
from cskd_bench.config import CSKD, DataConfig, PlainKD, PretrainConfig, Recipe, Supervised, VkD
from cskd_bench.engine.targets import TeacherTargets
from cskd_bench.errors import UserError
from cskd_bench.methods import METHODS
from cskd_bench.speed import data as data_part
from cskd_bench.speed.measure import compare, table
from cskd_bench.speed.methods import asked_methods, measure_methods
from cskd_bench.speed.run import run_speed
from cskd_bench.speed.step import (
    OurStep,
    StepSize,
    bank_of_views,
    fast_teacher,
    measure_step,
    random_batch,
    step_config,
)

pytestmark = [pytest.mark.gate, pytest.mark.usefixtures("one_thread")]


def test_a_single_round_has_its_one_time_as_quartiles():
    (row,) = table({"a": [2.0]}, "a", 4)
    assert row["median_seconds"] == 2.0


def test_sides_alternate_and_ratios_pair_rounds():
    order = []
    seconds = compare({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warmup=0)
    assert order == ["a", "b", "b", "a", "a", "b"] and len(seconds["a"]) == 3
    rows = table({"a": [1.0, 2.0, 9.0], "b": [0.5, 1.0, 1.0]}, "a", 8)
    assert rows[0]["speedup_over_a"] == 1.0 and rows[1]["speedup_over_a"] == 2.0
    assert rows[0]["median_seconds"] == 2.0 and rows[0]["items_per_second"] == 4.0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_step_measures_every_side(precision):
    size = StepSize("deit_tiny_patch16_224", "regnety_002", batch=3, rounds=3, precision=precision)
    found = measure_step(size, torch.device("cpu"), "cpu")
    sides = {row["side"]: row for row in found["sides"]}
    assert list(sides) == ["plain", "timm", "timm, student alone", "student alone", "ours, teacher", "ours, bank"]
    assert all(row["median_seconds"] > 0 for row in sides.values())
    assert precision in found["what"]
    assert found["bank_over_student_alone"] > 0
    assert found["timm_over_ours_with_teacher"] > 0 and found["timm_over_ours_student_alone"] > 0


def test_methods_are_measured_beside_the_one_without_a_teacher():
    """Whatever METHODS holds is a side by itself: with the teacher, and from a bank where one serves."""
    size = StepSize("deit_tiny_patch16_224", "regnety_002", batch=2, rounds=3)
    found = measure_methods(size, [*asked_methods("all"), "srd"], torch.device("cpu"), "cpu")
    sides = {row["side"]: row for row in found["sides"]}
    assert {row["method"] for row in sides.values()} == {*METHODS, "srd"}
    assert next(iter(sides)) == "supervised" and sides["supervised"]["times_supervised"] == 1.0
    assert {"kd, teacher", "kd, bank", "deit, teacher", "deit, bank", "cskd, teacher", "cskd, bank"} <= sides.keys()
    without = {"supervised", *(f"{name}, teacher" for name in ("vkd", "locality", "srd"))}
    assert without <= sides.keys() and not {"vkd, bank", "locality, bank", "srd, bank"} & sides.keys()
    assert all(reason in found["note"] for reason in found["without_a_bank"].values())
    assert {"vkd", "locality", "srd"} <= found["without_a_bank"].keys()
    assert [sides[f"cskd, {source}"]["labels_from"] for source in ("teacher", "bank")] == ["teacher", "bank"]
    cskd = sides["cskd, teacher"]
    assert cskd["times_supervised"] == pytest.approx(1 / cskd["speedup_over_supervised"])


def test_a_step_trains_the_methods_projector_too():
    size = StepSize("deit_tiny_patch16_224", "regnety_002", batch=2)
    device = torch.device("cpu")
    config = step_config(size, VkD())
    step = OurStep(config, TeacherTargets(fast_teacher(size, device), "", config.method), device)
    weight = next(step._module.projector.parameters())
    before = weight.detach().clone()
    step(*random_batch(size, device))
    assert not torch.equal(weight, before)


def test_a_bank_of_soft_labels_gives_the_teachers_largest_logits(tmp_path):
    dense = torch.randn(2, 1000, 2, 2, generator=torch.Generator().manual_seed(0))
    bank = bank_of_views(tmp_path, dense, PlainKD(temperature=3.0))
    assert (bank.manifest.soft_classes, bank.manifest.soft_temperature) == (64, 3.0)
    kept = bank.soft_targets(0, np.arange(2)).expand(1000)
    assert torch.equal(kept.argmax(1), dense.mean((2, 3)).argmax(1))
    (tmp_path / "hard").mkdir()
    assert bank_of_views(tmp_path / "hard", dense, CSKD()).manifest.soft_classes == 0


def test_asked_methods_are_named_once_and_beside_their_reference():
    assert asked_methods("cskd, kd-nkd,cskd") == ["supervised", "cskd", "kd-nkd"]
    with pytest.raises(UserError, match="no method 'nothing'; there are supervised, kd"):
        asked_methods("kd,nothing")


def test_compiled_sides_stand_beside_eager_ones(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: (compiled.append(function), function)[1])
    size = StepSize("deit_tiny_patch16_224", "regnety_002", batch=2, rounds=3, compile=True)
    found = measure_step(size, torch.device("cpu"), "cpu")
    eager = ["timm", "timm, student alone", "student alone", "ours, teacher", "ours, bank"]
    assert [row["side"] for row in found["sides"]] == ["plain", *eager, *(f"{side}, compiled" for side in eager)]
    assert 0 < len(found["with_compile"].keys() & found.keys()) == len(found["with_compile"])
    assert len(compiled) >= 5, "three students of ours, two of timm's"


def test_teacher_measures_layouts_and_folding():
    found = run_speed("teacher", teacher="regnety_002", batch=1, rounds=3, clock="cpu")
    best = "folded, channels last"
    sides = ["as it is", "channels last", "folded", best, f"{best}, pieces"]
    sides += [f"{best}, pieces, {precision}" for precision in ("fp16", "bf16")]
    assert [row["side"] for row in found["sides"]] == sides


def test_report_measures_the_records_there_are(tmp_path):
    (tmp_path / "records").mkdir()
    assert run_speed("report", rounds=3, clock="cpu", results=tmp_path)["what"] == "report of 0 records"


def test_data_measures_worker_and_device(tmp_path, monkeypatch):
    monkeypatch.setattr(data_part, "_IMAGES", 16)
    for number in range(16):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 60)).save(tmp_path / f"{number}.jpg")
    monkeypatch.setattr(data_part, "_VIEWS", 16)
    found = run_speed("data", tmp_path / "out" / "data.json", rounds=3, clock="cpu", images=tmp_path)
    assert next(row["side"] for row in found["worker"]) == "plain PIL + timm"
    written = json.loads((tmp_path / "out" / "data.json").read_text())
    assert written["machine"]["device"] and written["versions"]["torch"] and written["clock"] == "cpu"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"part": "gpu"}, "choose one of"),
        ({"part": "step", "rounds": 1}, "at least 3"),
        ({"part": "coco", "rounds": 1, "objects": 99}, "--objects 99"),
        ({"part": "bank"}, "needs --config"),
        (
            {"part": "teacher", "teacher": "test_resnet", "batch": 1, "rounds": 3, "methods": "all"},
            "--methods is for --part step, not for teacher",
        ),
        ({"part": "step", "student": "deit_huge"}, "--student: timm has no model 'deit_huge'"),
        ({"part": "step", "student": "test_vit"}, "--student test_vit: the yardsticks need"),
        ({"part": "step", "teacher": "regnety_999"}, "--teacher: timm has no model 'regnety_999'"),
        ({"part": "step", "teacher": "test_resnet"}, "head.fc"),
        ({"part": "teacher", "teacher": "deit_tiny_patch16_224"}, "has no feature map"),
    ],
)
def test_wrong_requests_are_told(arguments, reason):
    with pytest.raises(UserError, match=reason):
        run_speed(**arguments)


def test_a_measurement_is_not_overwritten(tmp_path):
    (tmp_path / "step.json").write_text("{}")
    with pytest.raises(UserError, match="not overwritten"):
        run_speed("step", tmp_path / "step.json")


def test_too_few_images(tmp_path):
    with pytest.raises(UserError, match="needs 64"):
        run_speed("data", rounds=3, images=tmp_path)


def test_a_run_without_a_teacher_has_no_bank():
    config = PretrainConfig(
        name="x", method=Supervised(), data=DataConfig(dataset="sklearn/digits"), recipe=Recipe(batch_size=16)
    )
    with pytest.raises(UserError, match="nothing to label"):
        run_speed("bank", rounds=3, config=config)


BANK_RUN = """
[method]
kind = "cskd"
[data]
dataset = "sklearn/digits"
num_classes = 10
[student]
image_size = 32
patch_size = 8
[teacher]
name = "test_resnet"
weights = "{weights}"
image_size = 32
num_classes = 10
[recipe]
epochs = 5
batch_size = 16
augment.auto_augment = ""
"""


def test_bank_measures_labelling_and_look_up_of_a_configurations_own_views(tmp_path, capsys):
    weights = tmp_path / "teacher.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=10).state_dict(), weights)
    (tmp_path / "run.toml").write_text(BANK_RUN.format(weights=weights))
    words = ["--config", str(tmp_path / "run.toml"), "--set", "recipe.augment.engine=tensor", "--rounds", "3"]
    assert main(["speed", "--part", "bank", *words, "--output", str(tmp_path / "bank.json")]) == 0
    assert "labelling views per second" in capsys.readouterr().out
    found = json.loads((tmp_path / "bank.json").read_text())
    assert found["views"] == 896 and found["bytes_per_view"] > 0 and found["labelling_views_per_second"] > 0
    assert [row["side"] for row in found["lookup"]] == ["consecutive views", "views in any order"]
    assert "views (tensor engine)" in found["note"]


def test_from_the_command_line(tmp_path, capsys):
    output = tmp_path / "teacher.json"
    words = ["speed", "--part", "teacher", "--teacher", "test_resnet", "--batch", "1", "--rounds", "3"]
    assert main([*words, "--output", str(output)]) == 0
    assert "folded, channels last" in capsys.readouterr().out
    written = output.read_bytes()
    assert main([*words, "--output", str(output)]) == 2
    assert "not overwritten" in capsys.readouterr().err and output.read_bytes() == written
    assert main(["speed", "--part", "data", "--images", str(tmp_path)]) == 2
