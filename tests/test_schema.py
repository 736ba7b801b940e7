"""Settings: what is wrong is said in one sentence that names file and key."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cskd_bench.config import CSKD, PlainKD, PretrainConfig, load_config, method_label
from cskd_bench.errors import UserError
from cskd_bench.schema import apply_overrides, fingerprint, shipped

MINIMAL = '[method]\nkind = "cskd"\n'


def write(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_defaults_are_the_papers_recipe(tmp_path):
    config = load_config(write(tmp_path, MINIMAL))
    recipe = config.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.ema_decay) == (300, 1024, 0.99996)
    assert (recipe.optim.lr, recipe.optim.min_lr, recipe.optim.weight_decay) == (1e-3, 1e-5, 0.05)
    assert (recipe.augment.mixup, recipe.augment.cutmix, recipe.augment.repeats) == (0.8, 1.0, 3)
    assert (config.method.alpha, config.method.spatial_weight, config.method.decay) == (0.5, 1.0, "linear")
    assert config.name == "run"


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        (MINIMAL + "colour = 1\n", [], ["run.toml", "method", "colour"]),
        (MINIMAL, ["recipe.epochs=three"], ["run.toml", "recipe.epochs", "integer"]),
        (MINIMAL, ['recipe.epochs="3"'], ["run.toml", "recipe.epochs", "integer"]),
        (MINIMAL + "[method]\n", [], ["run.toml", "method"]),
        ("a = 1\na = 2\n" + MINIMAL, [], ["run.toml", "line 2"]),
        (MINIMAL, ["student.image_size=225"], ["run.toml", "student", "225", "patch size 16"]),
        (MINIMAL, ["recipe.epochs=3"], ["run.toml", "warmup_epochs", "3 epochs"]),
        (MINIMAL, ["method.decay=steep"], ["run.toml", "method", "decay", "steep"]),
        (MINIMAL, ["method.kind=magic"], ["run.toml", "method", "magic", "cskd"]),
        (MINIMAL, ["recipe.batch_size=100"], ["run.toml", "batch_size 100", "mix_group 16"]),
        (MINIMAL, ["recipe.augment.mix_group=4"], ["run.toml", "recipe.augment", "mix_group 4", "repeats 3"]),
        (MINIMAL, ["recipe.augment.crop_scale=[0.9, 0.1]"], ["run.toml", "crop_scale", "0.9", "0.1"]),
        (MINIMAL, ["name=../elsewhere"], ["run.toml", "name"]),
        (MINIMAL, ["recipe.optim.lr=nan"], ["run.toml", "recipe.optim.lr"]),
        ("\xff", [], ["run.toml"]),
    ],
)
def test_mistakes_are_named(tmp_path, text, overrides, words):
    with pytest.raises(UserError) as caught:
        load_config(write(tmp_path, text), overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for word in words:
        assert word in sentence


def test_missing_file_and_malformed_override(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.toml"):
        load_config(tmp_path / "nothing.toml")
    with pytest.raises(UserError, match="key=value"):
        load_config(write(tmp_path, MINIMAL), ["recipe.epochs"])
    with pytest.raises(UserError, match="not a table"):
        load_config(write(tmp_path, MINIMAL), ["method.kind.x=1"])
    with pytest.raises(UserError, match="unknown key created"):
        load_config(write(tmp_path, "created = 2026-01-01\n" + MINIMAL))


scalars = st.one_of(st.booleans(), st.integers(-(10**9), 10**9), st.floats(-1e9, 1e9), st.text("abc 'é", max_size=8))


def test_a_number_of_too_many_digits_is_refused_in_a_file_and_a_word_as_set(tmp_path):
    digits = "9" * 5000
    with pytest.raises(UserError, match="not valid TOML: Exceeds the limit"):
        load_config(write(tmp_path, f"{MINIMAL}seed = {digits}\n"))
    with pytest.raises(UserError, match="seed: "):
        load_config(write(tmp_path, MINIMAL), [f"seed={digits}"])


@pytest.mark.parametrize("name", ["/", "x" * 300, "a\0b", "", "."])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(UserError, match=r"cannot be read|not valid TOML"):
        load_config(Path(name))


@pytest.mark.parametrize("kind", ["{}", "[]", "1", "[{}]"])
def test_a_kind_of_method_that_is_no_text_is_refused(tmp_path, kind):
    with pytest.raises(UserError, match="method"):
        load_config(write(tmp_path, f"[method]\nkind = {kind}\n"))


@given(st.lists(st.text("abcdefg_", min_size=1, max_size=5), min_size=1, max_size=3), scalars)
def test_an_override_is_what_toml_would_have_said(keys, value):
    text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else repr(value)
    result = apply_overrides({}, [f"{'.'.join(keys)}={text}"])
    for key in keys:
        result = result[key]
    assert result == tomllib.loads(f"value = {text}")["value"]


@given(st.dictionaries(st.text(max_size=4), scalars, max_size=5))
def test_fingerprints_ignore_order_and_see_every_value(data):
    assert fingerprint(data) == fingerprint(dict(reversed(data.items())))
    assert fingerprint(data) != fingerprint({**data, "another key": 1})


def test_recipe_fingerprint_is_shared_by_methods_and_seeds_only(tmp_path):
    path = write(tmp_path, MINIMAL)
    base = load_config(path).recipe_fingerprint()
    assert load_config(path, ["seed=3", "method.kind=deit", "run.workers=0"]).recipe_fingerprint() == base
    assert load_config(path, ["recipe.epochs=100"]).recipe_fingerprint() != base
    assert load_config(path, ["student.name=deit_small_patch16_224"]).recipe_fingerprint() != base


def test_recipes_whose_views_differ_in_size_differ_and_a_stated_size_is_a_resolved_one(tmp_path):
    path = write(tmp_path, MINIMAL + "[student]\nimage_size = 64\n")

    def recipe(*settings):
        return load_config(path, settings).recipe_fingerprint()

    own, taught = recipe("method.kind=supervised"), recipe("teacher.image_size=128")
    assert len({own, taught, recipe("teacher.image_size=224")}) == 3
    stated = "recipe.augment.view_size=128"
    assert taught == recipe("teacher.image_size=128", stated) == recipe("method.kind=supervised", stated)
    assert own == recipe("teacher.image_size=64") == load_config(path, ["teacher.image_size=64"]).stated_recipe()
    unstated = load_config(path, ["teacher.image_size=128"]).identity()
    assert unstated["recipe"]["augment"]["view_size"] is None  # ids of records come from it


def test_methods_are_labelled_by_what_differs(tmp_path):
    path = write(tmp_path, MINIMAL)
    assert method_label(load_config(path).method) == "cskd"
    assert method_label(load_config(path, ["method.decay=local"]).method) == "cskd (decay=local)"


@pytest.mark.parametrize(
    ("named", "method", "settings", "name", "kind"),
    [
        ("run", "", [], "run", "cskd"),
        ("run", "cskd", [], "run", "cskd"),
        ("run", "kd", [], "run_kd", "kd"),
        ("run_cskd_small", "kd", [], "run_kd_small", "kd"),
        ("run_cskd", "", ["method.kind=kd"], "run_cskd", "kd"),
        ("run", "kd", ["name=mine", "method.alpha=0.3"], "mine", "kd"),
    ],
)
def test_a_method_on_the_command_line_stands_for_the_files_own(tmp_path, named, method, settings, name, kind):
    path = write(tmp_path, MINIMAL).rename(tmp_path / f"{named}.toml")
    config = load_config(path, settings, method)
    assert (config.name, config.method.kind) == (name, kind)
    assert config.method.alpha == (0.3 if "method.alpha=0.3" in settings else type(config.method)().alpha)


@pytest.mark.parametrize(
    ("method", "settings", "name"),
    [
        ("kd", [], "run_kd_100ep"),
        ("", ["method.kind=deit"], "run_deit_100ep"),
        ("", ['method={kind="cskd", decay="local"}'], "run_cskd_100ep"),
        ("kd", ["name=run_100ep"], "run_100ep"),
    ],
)
def test_a_run_whose_file_has_no_method_is_named_after_both(tmp_path, method, settings, name):
    path = write(tmp_path, "").rename(tmp_path / "run_100ep.toml")
    assert load_config(path, settings, method).name == name


def test_a_setting_of_a_presets_loss_needs_no_kind(tmp_path):
    path = write(tmp_path, MINIMAL)
    loss = load_config(path, ["method.loss.gamma=2"], "kd-nkd").method.loss
    assert (loss.kind, loss.gamma) == ("nkd", 2.0)
    for settings, words in [
        (["method.loss.gamma=2"], "a table of a loss has a kind"),
        (["method.loss=nkdd"], "method.kd.loss.kind: input should be one of 'kl', 'standardised', 'nkd'"),
        (
            ["method.loss=nkd", "method.alpha=0.5"],
            "alpha belongs to kd without a loss; with one, set loss.label_weight",
        ),
    ]:
        with pytest.raises(UserError, match=words):
            load_config(path, settings, "kd")


def test_settings_of_the_files_method_stay_under_the_same_method_alone(tmp_path):
    path = write(tmp_path, '[method]\nkind = "cskd"\nalpha = 0.2\n')
    assert load_config(path, method="cskd").method == CSKD(alpha=0.2)
    assert load_config(path, method="kd").method == PlainKD()


@pytest.mark.parametrize("path", sorted(shipped("configs").glob("[!bd]*/*.toml")), ids=lambda p: p.stem)
def test_every_shipped_configuration_is_valid(path):
    method = "" if "[method]" in path.read_text() else "cskd"
    assert isinstance(load_config(path, method=method), PretrainConfig)


def test_values_that_are_nested_too_deeply_are_a_sentence(tmp_path):
    deep = "a = " + "[" * 5000
    with pytest.raises(UserError, match=r"run.toml: not valid TOML: its values are nested too deeply"):
        load_config(write(tmp_path, deep))
    assert apply_overrides({}, [deep.replace(" ", "")]) == {"a": "[" * 5000}
