"""Which cells of a bench share a bank: those whose views and teacher are the same and whose labels are hard."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from pydantic import TypeAdapter

from cskd_bench.bank.build import build_bank
from cskd_bench.bank.envelope import declared_ratios
from cskd_bench.bank.match import open_matching_bank
from cskd_bench.bank.store import BankManifest, begin_bank, shard_path
from cskd_bench.bench.banks import assign_banks
from cskd_bench.bench.plan import PretrainCell
from cskd_bench.config import CSKD, DataConfig, Decay, DeiT, PlainKD, PretrainConfig, Recipe, Supervised
from cskd_bench.errors import UserError
from cskd_bench.loss_config import LossConfig
from cskd_bench.methods.parts import fusion_ratio

METHODS = {
    "supervised": Supervised(),
    "cskd": CSKD(),
    "local": CSKD(decay="local"),
    "soft": CSKD(spatial_loss="soft"),
    "deit": DeiT(),
    "kd": PlainKD(),
    "mild": PlainKD(alpha=0.5),
    "hot": PlainKD(temperature=8.0),
}


def cells(seed=0, epochs=300):
    recipe = Recipe(epochs=epochs)
    configs = {
        name: PretrainConfig(name=f"{name}{seed}", seed=seed, method=method, recipe=recipe)
        for name, method in METHODS.items()
    }
    return [PretrainCell(config, "") for config in configs.values()]


def test_methods_of_one_seed_share_a_bank_with_soft_targets_at_one_temperature():
    assigned = assign_banks([*cells(0), *cells(1)], Path("banks"))
    for seed in (0, 1):
        shared = {f"{name}{seed}" for name in ("cskd", "local", "deit", "kd", "mild")}
        assert {name for name in assigned if name.endswith(str(seed))} == shared
        assert len({assigned[name].folder for name in shared}) == 1
        assert {assigned[name].built_from.name for name in shared} == {f"kd{seed}"}
    assert assigned["cskd0"].folder != assigned["cskd1"].folder


def test_few_classes_are_kept_exactly_and_serve_every_temperature():
    few = [
        replace(cell, config=cell.config.model_copy(update={"data": DataConfig(num_classes=64)})) for cell in cells()
    ]
    assigned = assign_banks(few, Path("banks"))
    assert assigned["hot0"].folder == assigned["kd0"].folder


@pytest.mark.parametrize("loss", ["standardised", "dkd"])
@pytest.mark.parametrize("method", [PlainKD, DeiT])
@pytest.mark.parametrize(("classes", "temperature"), [(64, 2.0), (65, 2.0)])
def test_standardised_logits_need_all_of_them(tmp_path, method, loss, classes, temperature):
    """Of the 64 largest of 1,000 the deviation is another: the loss was nine times as large, unsaid."""
    asked = method(loss=TypeAdapter(LossConfig).validate_python({"kind": loss, "temperature": temperature}))
    config = PretrainConfig(name="run", method=asked, data=DataConfig(num_classes=classes))
    refused = loss == "standardised" and classes > 64
    assert bool(assign_banks([PretrainCell(config, "")], Path("banks"))) != refused
    sentence = "a bank keeps the 64 largest of 65 logits" if refused else "epochs 0:300"
    with pytest.raises(UserError, match=sentence):
        build_bank(config, tmp_path / "bank", epochs=range(400))
    with pytest.raises(UserError, match=sentence if refused else "no such folder|no images|not a bank"):
        open_matching_bank(begun(tmp_path / "bank", classes), config)


def begun(folder, classes):
    sizes = {"epochs": 300, "views_per_epoch": 64, "views_per_shard": 64, "soft_classes": 64, "num_classes": classes}
    begin_bank(folder, BankManifest(views={}, teacher={}, precision="fp32", grid=(7, 7), versions={}, **sizes))
    return folder


def test_without_kd_labels_are_hard_only():
    assigned = assign_banks([cell for cell in cells() if cell.config.method.kind == "cskd"], Path("banks"))
    assert {use.built_from.name for use in assigned.values()} == {"cskd0"}


def test_a_bank_with_soft_targets_serves_a_plan_without_kd_too(tmp_path):
    """Adding kd to a plan or leaving it out must not ask one folder to be two banks."""
    hard = [cell for cell in cells() if cell.config.method.kind != "kd"]
    (fresh,) = {use.folder for use in assign_banks(hard, tmp_path).values()}
    (soft,) = {use.folder for use in assign_banks(cells(), tmp_path).values()}
    assert fresh.name == f"{soft.name}-hard"
    views = {"views": {}, "teacher": {}, "precision": "fp32", "num_classes": 10, "grid": (7, 7), "versions": {}}
    sizes = {"epochs": 300, "views_per_epoch": 64, "views_per_shard": 64, "soft_classes": 10}
    begin_bank(soft, BankManifest(**views, **sizes))
    for epoch in range(299):
        shard_path(soft, epoch, 0).parent.mkdir()
        shard_path(soft, epoch, 0).touch()
    assert {use.folder for use in assign_banks(hard, tmp_path).values()} == {fresh}, "only kd could go on with it"
    shard_path(soft, 299, 0).parent.mkdir()
    shard_path(soft, 299, 0).touch()
    assert {use.folder for use in assign_banks(hard, tmp_path).values()} == {soft}
    (hot,) = {use.folder for use in assign_banks([cell for cell in cells() if cell.name == "hot0"], tmp_path).values()}
    assert hot.name == f"{soft.name}-t8"


def test_a_shorter_run_reads_the_bank_of_one_with_a_multiple_of_its_epochs(tmp_path):
    folders = {
        epochs: {use.folder for use in assign_banks(cells(0, epochs), tmp_path).values()} for epochs in (10, 15, 30)
    }
    assert len(set.union(*folders.values())) == 3, "on their own, each has its bank"
    together = assign_banks([*cells(0, 10), *cells(1, 10), *cells(0, 30)], tmp_path)
    assert {together["cskd0"].folder} == folders[30]
    assert {use.built_from.recipe.epochs for name, use in together.items() if name.endswith("0")} == {30}
    assert together["cskd1"].built_from.recipe.epochs == 30, "every seed alike"
    (there,) = folders[30]
    there.mkdir()
    assert {use.folder for use in assign_banks(cells(0, 10), tmp_path).values()} == {there}
    assert {use.folder for use in assign_banks(cells(0, 20), tmp_path).values()} != {there}, "30 is no multiple of 20"


@pytest.mark.parametrize("decay", get_args(Decay))
def test_every_fusion_ratio_of_a_run_is_one_of_a_run_with_a_multiple_of_its_epochs(decay):
    for own, times in itertools.product(range(1, 41), range(2, 9)):
        declared = set(declared_ratios(own * times).tolist())
        assert {fusion_ratio(decay, epoch / own) for epoch in range(own)} <= declared
