"""The shipped tasks say what they must, and a task's identity is what its score depends on."""

import pytest

from cskd_bench.data.manifests import manifests
from cskd_bench.errors import UserError
from cskd_bench.task import load_task, task_files
from cskd_bench.task_recipes import development_tasks

SHIPPED = sorted(task_files())
PAPER = ["cifar10", "cifar100", "flowers102", "stanford_cars", "inat19"]
MORE = ["oxford_pets", "dtd", "food101", "fgvc_aircraft"]
EVALUATION = [f"imagenet{name}" for name in ("1k", "_real", "_v2", "_a", "_r", "_sketch", "_c")]


def test_the_registry_is_complete():
    assert {*PAPER, *MORE, *EVALUATION, *(f"{name}_deit" for name in PAPER)} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_task_says_where_its_data_comes_from(name):
    data = load_task(name).data
    assert data.source
    assert data.licence or data.source == "yours"
    if name in {*PAPER, *MORE, *EVALUATION}:
        assert data.by_hand
        assert data.splits == "published" or load_task(name).protocols == ("evaluate",)


@pytest.mark.parametrize("name", [*PAPER[:4], "imagenet1k"])
def test_class_counts_are_the_publishers(name):
    assert load_task(name).data.num_classes == manifests()[name].classes


LONG = {  # what its authors name: optimizer, learning rate, weight decay, epochs, erasing, stochastic depth
    "cifar10": ("sgd", 0.01, 1e-4, 1000, 0.0, 0.0),
    "stanford_cars": ("sgd", 0.01, 1e-4, 1000, 0.0, 0.0),
    "flowers102": ("sgd", 0.01, 1e-4, 1000, 0.0, 0.0),
    "cifar100": ("adamw", 5e-6, 0.05, 1000, 0.0, 0.1),
    "inat19": ("adamw", 7.5e-5, 0.05, 360, 0.1, 0.1),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_long_recipe_is_the_one_its_authors_name(name):
    task = load_task(f"{name}_deit")
    recipe, optim = task.finetune, task.finetune.optim
    erasing, drop_path = recipe.augment.erasing, recipe.drop_path
    assert (optim.name, optim.lr, optim.weight_decay, recipe.epochs, erasing, drop_path) == LONG[name]
    assert (recipe.batch_size, optim.warmup_epochs, optim.min_lr) == (768, 5.0, 1e-5)
    assert (recipe.augment.mixup, recipe.augment.cutmix, recipe.augment.repeats) == (0.8, 1.0, 3)
    assert (task.protocols, task.metric, task.image_size) == (("finetune",), "top1", 224)
    assert task.data == load_task(name).data


def test_published_scores_belong_to_long_recipes_as_they_are():
    """A short recipe is another experiment, and so is a long one with a setting changed."""
    assert {load_task(name).published_as for name in [*PAPER, *MORE]} == {""}
    for name in PAPER:
        long = load_task(f"{name}_deit")
        assert long.published_as == name
        for change in ("finetune.epochs=30", "image_size=384", "data.test=train", "finetune.optim.lr=1.0"):
            assert load_task(f"{name}_deit", None, [change]).published_as == "", change
        for change in ("data.root=/elsewhere", "finetune.precision=bf16"):
            assert load_task(f"{name}_deit", None, [change]).published_as == name, change
    assert load_task("imagenet1k").published_as == "imagenet1k"


def test_a_recipe_is_a_task_of_its_own_by_name_or_by_key(tmp_path):
    named = load_task("cifar100_deit")
    assert named == load_task("cifar100", None, ["recipe=deit"])
    assert (named.name, named.version) == ("cifar100_deit", 2)
    with pytest.raises(UserError, match=r"cifar100\.toml: has no recipe 'dit'; it has deit"):
        load_task("cifar100", None, ["recipe=dit"])
    with pytest.raises(UserError, match=r"dtd\.toml: has no recipe 'deit'"):
        load_task("dtd", None, ["recipe=deit"])
    file = tmp_path / "mine.toml"
    file.write_text('protocols = ["knn"]\n[data]\nroot = "mine"\n[recipes.five]\nknn.k = 5\n')
    assert {"mine", "mine_five"} <= task_files(tmp_path).keys()
    assert load_task("mine_five", tmp_path).knn.k == 5 == load_task(str(file), None, ["recipe=five"]).knn.k
    assert load_task("mine", tmp_path).knn.k == 20
    file.write_text("protocols = [")
    assert "mine" in task_files(tmp_path) and "mine_five" not in task_files(tmp_path)


def test_tasks_on_data_that_nobody_else_has_are_found_and_not_listed():
    """Commands and plans of this repository's records name them."""
    hidden = development_tasks()
    assert {"cifar10_jpeg", "flowers102_64", "tin100_transfer32", "stanford_cars128", "coco_mini"} <= hidden.keys()
    assert not hidden.keys() & set(SHIPPED)
    for name in hidden:
        assert load_task(name).name == name
    assert hidden.keys() <= task_files(next(iter(hidden.values())).parent).keys()


@pytest.mark.parametrize("name", [*PAPER, *MORE])
def test_short_recipes_are_short(name):
    recipe = load_task(name).finetune
    assert 10 <= recipe.epochs <= 30
    assert (recipe.optim.name, recipe.optim.lr) == ("adamw", 5e-5)


def test_imagenet_c_is_all_75_conditions():
    parts = load_task("imagenet_c").data.test.split("+")
    assert len(set(parts)) == len(parts) == 75
    assert {part.split("/")[1] for part in parts} == set("12345")


def test_the_field_reports_the_mean_over_classes_for_pets_flowers_and_aircraft():
    chosen = {name for name in [*PAPER, *MORE] if load_task(name).metric == "mean_per_class"}
    assert chosen == {"oxford_pets", "flowers102", "fgvc_aircraft"}


def test_identity_ignores_prose_and_places_and_settings_that_are_not_used():
    task = load_task("cifar100")
    same = ['data.root="/elsewhere/my_copy"', "data.by_hand=other", "description=other", "evaluate.real_labels=x.json"]
    assert load_task("cifar100", None, same).fingerprint() == task.fingerprint()
    for change in (
        "finetune.epochs=21",
        "kshot.c=2.0",
        "data.num_classes=99",
        "image_size=32",
        "metric=mean_per_class",
    ):
        assert load_task("cifar100", None, [change]).fingerprint() != task.fingerprint(), change


IRRELEVANT = {  # settings of a task that a protocol's score does not depend on
    "finetune": [
        "linear.max_iter=9",
        "features=cls",
        "features=inference",
        "protocols=['finetune']",
        "lowlabel.fractions=[0.5]",
    ],
    "linear": ["finetune.optim.lr=1.0", "knn.k=9", "data.val=other", "data.on_corrupt=skip", "protocols=['linear']"],
    "knn": ["finetune.epochs=9", "linear.max_iter=9", "kshot.c=9.0"],
    "kshot": ["linear.c_grid=[9.0]", "knn.k=9"],
    "lowlabel": ["finetune.epochs=9", "lowlabel.schedule=epochs", "data.val=other", "protocols=['lowlabel']"],
    "evaluate": ["features=cls", "finetune.epochs=9", "data.train=other", "data.val=other"],
    "detect": ["features=cls", "finetune.epochs=9", "data.val=other"],
    "multilabel": ["linear.max_iter=9", "finetune.epochs=9", "data.on_corrupt=skip"],
}
RELEVANT = {
    "finetune": ["finetune.optim.lr=1.0", "data.train=other", "data.val=other"],
    "linear": ["linear.max_iter=9", "data.train=other", "data.eval_crop=0.5", "features=cls", "features=inference"],
    "knn": ["knn.k=9", "data.train=other", "features=cls", "features=inference"],
    "kshot": ["kshot.c=9.0", "features=cls", "features=inference"],
    "lowlabel": ["lowlabel.fractions=[0.5]", "linear.max_iter=9", "features=cls"],
    "evaluate": ["evaluate.real_labels=x.json", "data.num_classes=9"],
    "detect": ["detect.epochs=9", "data.train=other"],
    "multilabel": [
        "multilabel.max_iter=9",
        "multilabel.interpolation=area",
        "data.train=other",
        "data.val=other",
        "data.eval_crop=0.5",
        "features=cls",
        "features=inference",
    ],
}


@pytest.mark.parametrize("protocol", RELEVANT)
def test_what_names_a_score_is_what_its_protocol_uses(protocol):
    name = {"evaluate": "imagenette128_c", "detect": "coco_mini", "multilabel": "voc2007"}.get(protocol, "cifar100")
    named = load_task(name).fingerprint(protocol)
    for change in IRRELEVANT[protocol]:
        assert load_task(name, None, [change]).fingerprint(protocol) == named, change
    always = ["version=9", "image_size=32", "data.test=other", "data.dataset=other"]
    for change in [*always, *RELEVANT[protocol]]:
        assert load_task(name, None, [change]).fingerprint(protocol) != named, change


def test_low_label_training_uses_the_settings_of_the_classifier_that_it_names():
    tuned = ["lowlabel.classifier=finetune"]
    named = load_task("cifar100", None, tuned).fingerprint("lowlabel")
    assert load_task("cifar100").fingerprint("lowlabel") != named
    for change in ("linear.max_iter=9", "features=cls", "linear.choose_by=top1"):
        assert load_task("cifar100", None, [*tuned, change]).fingerprint("lowlabel") == named, change
    for change in ("finetune.epochs=9", "data.val=other", "lowlabel.schedule=epochs"):
        assert load_task("cifar100", None, [*tuned, change]).fingerprint("lowlabel") != named, change


def test_what_c_is_chosen_by_names_a_probe_only_where_it_makes_a_difference():
    former = ["linear.choose_by=top1"]
    assert load_task("cifar100", None, former).fingerprint("linear") == load_task("cifar100").fingerprint("linear")
    assert load_task("oxford_pets").metric == "mean_per_class"
    pets = load_task("oxford_pets").fingerprint("linear")
    assert load_task("oxford_pets", None, former).fingerprint("linear") != pets


def test_an_unknown_task_or_key_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no task 'cifar1000'; there are ade20k, caltech101, "):
        load_task("cifar1000")
    (tmp_path / "odd.toml").write_text('protocols = ["knn"]\nkshots = 3\n[data]\nlicense = "x"\n')
    with pytest.raises(UserError, match=r"odd\.toml: unknown key .*license; unknown key kshots"):
        load_task(str(tmp_path / "odd.toml"))


def test_a_task_is_the_same_wherever_its_images_lie(tmp_path):
    """Also where its file names no folder of its own, as ImageNet-A's archive has none."""
    for name in ("imagenet_a", "flowers102"):
        given = load_task(name, None, [f'data.root="{tmp_path}"'])
        assert given.data.root == str(tmp_path)
        assert given.fingerprint() == load_task(name).fingerprint()


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("metric=box_ap", 'protocol "finetune" gives top1 or mean_per_class, not box_ap'),
        ('protocols=["detect"]', 'protocol "detect" gives box_ap, not top1'),
        ("linear.c_grid=[]", r"linear\.c_grid: .* at least 1 item"),
        ("knn.temperature=0.001", r"knn\.temperature: input should be greater than or equal to 0\.02"),
    ],
)
def test_settings_that_could_give_no_number_are_refused_at_once(setting, sentence):
    with pytest.raises(UserError, match=sentence):
        load_task("cifar100", None, [setting])
