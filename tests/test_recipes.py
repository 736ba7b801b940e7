"""The ImageNet-1k recipes state the paper's hyper-parameters, and say what they should reach."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from cskd_bench.config import PretrainConfig, load_config
from cskd_bench.engine.estimate import estimate
from cskd_bench.schema import fingerprint, shipped

RESULTS = Path(__file__).resolve().parents[1] / "results"
METHODS = ("supervised", "kd", "deit", "cskd")
SCALE = {"tiny": (1024, 1e-3), "small": (512, 5e-4), "base": (256, 2.5e-4)}  # global batch, learning rate
RECIPES = [(size, method, epochs) for size in SCALE for method in METHODS for epochs in (300, 100)]
FILES = [(size, epochs) for size in SCALE for epochs in (300, 100)]


FORMER = json.loads((Path(__file__).parent / "fixtures" / "config_identities.json").read_text())


def path_of(size, epochs):
    return shipped("configs") / f"deit_{size}{'' if epochs == 300 else '_100ep'}.toml"


@pytest.mark.parametrize(("size", "method", "epochs"), RECIPES)
def test_a_recipe_is_the_papers(size, method, epochs):
    config = load_config(path_of(size, epochs), method=method)
    assert config.name == f"deit_{size}_{method}{'' if epochs == 300 else '_100ep'}"
    recipe, optim, augment = config.recipe, config.recipe.optim, config.recipe.augment
    assert config.method.kind == method
    assert config.student.name == f"deit_{size}_patch16_224" and config.student.image_size == 224
    assert config.student.drop_path == 0
    assert config.data.num_classes == 1000
    assert (recipe.batch_size, optim.lr) == SCALE[size]
    assert recipe.epochs == epochs
    assert (optim.name, optim.weight_decay, optim.betas, optim.eps) == ("adamw", 0.05, (0.9, 0.999), 1e-8)
    assert optim.clip_grad is None
    assert (optim.warmup_epochs, optim.warmup_lr, optim.min_lr) == (5, 1e-6, 1e-5)
    assert (augment.auto_augment, augment.color_jitter) == ("rand-m9-mstd0.5-inc1", 0.3)
    assert (augment.interpolation, augment.erasing, augment.repeats) == ("bicubic", 0.25, 3)
    assert (augment.mixup, augment.cutmix, augment.mix_switch, augment.smoothing) == (0.8, 1.0, 0.5, 0.1)
    assert recipe.ema_decay == 0.99996
    assert (config.teacher.name, config.teacher.image_size) == ("regnety_160.deit_in1k", 224)
    if method == "cskd":
        assert (config.method.alpha, config.method.spatial_weight, config.method.decay) == (0.5, 1.0, "linear")
        assert config.method.global_loss == config.method.spatial_loss == "hard"


def leaves(table, prefix=()):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), value


@pytest.mark.parametrize(("size", "epochs"), FILES)
def test_a_recipe_states_only_what_differs_from_the_defaults(size, epochs):
    stated = tomllib.loads(path_of(size, epochs).read_text())
    assert stated
    defaults = PretrainConfig(name="defaults", method={"kind": "cskd"}).model_dump()
    for keys, value in leaves(stated):
        default = defaults
        for key in keys:
            default = default[key]
        assert value != default and keys[0] != "method", ".".join(keys)


@pytest.mark.parametrize(("size", "method", "epochs"), RECIPES)
def test_a_recipe_is_headed_by_command_published_score_and_cost(size, method, epochs):
    path = path_of(size, epochs)
    heading = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert f"pretrain configs/{path.name} --method cskd" in heading
    assert "published top-1  GPU-hours" in heading
    assert stated(path, method)[0] == published(size, method, epochs)


@pytest.mark.parametrize("method", METHODS)
def test_the_gpu_hours_in_the_heading_are_those_of_the_dry_run(method):
    path = path_of("tiny", 300)
    size = estimate(load_config(path, method=method))
    assert "# GPU-hours: at a sustained 100 TFLOP/s" in path.read_text()
    assert stated(path, method)[1] == pytest.approx(size.gpu_hours, rel=0.005)
    assert size.gpu_hours == size.views * (size.student_step_flops + size.teacher_flops) / 1e14 / 3600


@pytest.mark.parametrize("former", FORMER)
def test_a_former_name_says_the_same_run(former, tmp_path, monkeypatch):
    """Commands of records, plans and pages name the file of each method that there once was."""
    monkeypatch.chdir(tmp_path)  # so that the checkout's own configs/ is not what is found
    name, identity, recipe, whole = FORMER[former]
    for named in (former, f"configs/{former}", former.removesuffix(".toml"), shipped("configs") / former):
        config = load_config(Path(named))
        assert config.name == name
        compiled = {"auto": "none", "teacher": "teacher"}  # as the former files, whose default was none
        run = config.run.model_copy(update={"patch_measures": False, "compile": compiled[config.run.compile]})
        config = config.model_copy(update={"run": run})
        assert (fingerprint(config.identity()), config.recipe_fingerprint(), fingerprint(config)) == (
            identity,
            recipe,
            whole,
        )


def test_a_file_of_ones_own_comes_before_a_former_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deit_tiny_kd.toml").write_text('[method]\nkind = "cskd"\n')
    assert load_config(Path("deit_tiny_kd.toml")).method.kind == "cskd"


def stated(path, method):
    """The published score and the GPU-hours that a heading gives a method."""
    ((score, hours),) = re.findall(rf"^# {method} +(none|[\d.]+ %) +([\d.]+) ", path.read_text(), re.M)
    return None if score == "none" else float(score.removesuffix(" %")), float(hours)


def published(size, method, epochs):
    """The score of results/published.toml for this student, method and number of epochs, if there is one."""
    blocks = tomllib.loads((RESULTS / "published.toml").read_text())["result"]
    names = {f"deit_{size}_patch16_224", f"deit_{size}_distilled_patch16_224"}
    scores = [
        row["value"]
        for block in blocks
        if block["task"] == "imagenet1k" and block["protocol"] == f"pretrain, {epochs} epochs, 224 px"
        for row in block["rows"]
        if row["method"] == method and row["model"] in names
    ]
    return scores[0] if scores else None
