"""`cskd-bench bank agreement`: how often the labels name the class of the view's image, counted one view at a time."""

import json

import numpy as np
import pytest
import tomlkit
from bank_runs import save_teacher, small_run

from cskd_bench.bank.build import build_bank
from cskd_bench.bank.match import bank_plan
from cskd_bench.bank.store import Bank
from cskd_bench.cli import main
from cskd_bench.data.open import open_source


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run of unmixed views, three of each image, in `run.toml`, and a bank of its first epoch."""
    folder = tmp_path_factory.mktemp("agreement")
    config = small_run(save_teacher(folder))
    augment = config.recipe.augment.model_copy(update={"mixup": 0.0, "cutmix": 0.0})
    assert augment.repeats == 3
    config = config.model_copy(update={"recipe": config.recipe.model_copy(update={"augment": augment})})
    (folder / "run.toml").write_text(tomlkit.dumps(config.model_dump(mode="json", exclude_none=True)))
    build_bank(config, folder / "bank", range(1))
    return folder, config


def test_each_views_labels_are_compared_with_its_own_images_class(place, capsys):
    folder, config = place
    assert main(["bank", "agreement", str(folder / "bank"), str(folder / "run.toml")]) == 0
    told = json.loads(capsys.readouterr().out)
    source, bank = open_source(config.data, config.data.train), Bank(folder / "bank")
    plan = bank_plan(config, len(source))
    right_views, right_places, alike_places = [], [], []
    for step in range(plan.steps_per_epoch):
        for key in plan.keys(step):
            local, global_ = bank.labels(0, np.array([key.position]), ratio=1.0)
            right_views.append(global_[0] == source.labels[key.index])
            right_places += [label == source.labels[key.index] for label in local.flat]
            alike_places += [label == global_[0] for label in local.flat]
    assert told == {
        "views": len(right_views),
        "global_top1": pytest.approx(np.mean(right_views)),
        "local_top1": pytest.approx(np.mean(right_places)),
        "local_is_global": pytest.approx(np.mean(alike_places)),
    }
    assert 0 < told["global_top1"] < 1 and 0 < told["local_is_global"] < 1


def test_other_views_mixed_views_and_an_empty_bank_are_refused(place, tmp_path, capsys):
    folder, _ = place
    ask = ["bank", "agreement", str(folder / "bank"), str(folder / "run.toml")]
    assert main([*ask, "--set", "seed=3"]) == 2
    assert "views.seed: bank has 0, run has 3" in capsys.readouterr().err
    assert main([*ask, "--set", "recipe.augment.mixup=0.8"]) == 2
    assert "two classes each" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_bytes((folder / "bank" / "manifest.json").read_bytes())
    assert main(["bank", "agreement", str(tmp_path), str(folder / "run.toml")]) == 2
    assert "holds no labels yet" in capsys.readouterr().err
