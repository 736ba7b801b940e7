"""Words that name several tasks."""

import pytest

from cskd_bench.cli import main
from cskd_bench.errors import UserError
from cskd_bench.task import task_files
from cskd_bench.task_groups import GROUPS, expand_tasks, one_task


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["dtd"], ["dtd"]),
        (["food101,dtd"], ["food101", "dtd"]),
        (["cifar10*"], ["cifar10", "cifar100", "cifar100_deit", "cifar10_deit"]),
        (["cifar100", "cifar10?", "dtd, cifar100"], ["cifar100", "dtd"]),
        (["segmentation"], ["ade20k", "voc2012", "cityscapes"]),
        (["inat19,paper"], ["inat19", "cifar10", "cifar100", "stanford_cars"]),
        (["flowers102_64"], ["flowers102_64"]),  # of development: found by its name, in no list
        (["own/my.toml", "dtd"], ["own/my.toml", "dtd"]),
    ],
)
def test_words_name_tasks_once_and_in_order(words, expected):
    assert expand_tasks(words) == expected


def test_every_group_holds_shipped_tasks():
    assert {task for tasks in GROUPS.values() for task in tasks} <= task_files().keys()
    assert not GROUPS.keys() & task_files().keys()


def test_a_task_of_ones_own_counts_before_a_group_and_matches_patterns(tmp_path):
    (tmp_path / "paper.toml").write_text("")
    assert expand_tasks(["paper"], tmp_path) == ["paper"]
    assert expand_tasks(["pap*"], tmp_path) == ["paper"]


def test_a_file_whose_name_has_a_comma_is_one_task(tmp_path):
    path = tmp_path / "a,b.toml"
    path.write_text("")
    assert expand_tasks([str(path)]) == [str(path)]


@pytest.mark.parametrize("word", ["cifar11", "nothing*", "dtd,cifar11"])
def test_a_word_that_names_nothing_is_refused(word):
    with pytest.raises(UserError, match=r"no task '(cifar11'.*|nothing\*'); there are .*the groups paper, "):
        expand_tasks([word])


@pytest.mark.parametrize(
    ("word", "alike"), [("cifar1000", "cifar100"), ("flowers", "flowers102"), ("papers", "paper"), ("zzz", None)]
)
def test_a_word_that_is_nearly_a_name_gets_a_suggestion(word, alike):
    one = expand_tasks if alike in GROUPS else lambda words: one_task(*words)  # where one is wanted, no group is
    for ask in (expand_tasks, one):
        with pytest.raises(UserError) as refused:
            ask([word])
        said = f"no task '{word}' (did you mean {alike}?); there are" if alike else f"no task '{word}'; there are"
        assert str(refused.value).startswith(said)


@pytest.mark.parametrize("name", ["dtd", "own/my.toml", "cifar10_jpeg"])  # the last is of development
def test_one_task_is_named_as_any_other(name):
    assert one_task(name) == name == expand_tasks([name])[0]


def test_where_one_task_is_wanted_neither_groups_nor_patterns_are_offered():
    with pytest.raises(UserError) as refused:
        one_task("cifar*")
    assert str(refused.value).endswith("voc2012, and the paths of TOML files")


def test_where_one_task_is_wanted_a_group_is_no_task():
    with pytest.raises(UserError, match=r"'segmentation' is a group of tasks \(ade20k, voc2012, cityscapes\)"):
        one_task("segmentation")


def test_transfer_takes_them(capsys, tmp_path):
    assert main(["transfer", "--task", "dtd,cifar11", "--checkpoint", str(tmp_path)]) == 2
    assert "no task 'cifar11'" in capsys.readouterr().err
