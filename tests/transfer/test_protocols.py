"""k-shot, low-label, evaluation, the feature cache and what is refused, on images made on the spot."""

import hashlib
import json
import re
import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.processes import CSKD_BENCH
from helpers.processes import run as run_command
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cskd_bench.cells.cell import Outcome
from cskd_bench.cli import main
from cskd_bench.config import DataConfig
from cskd_bench.data.leaks import StoredImages, shared_images
from cskd_bench.data.open import open_source
from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import UserError
from cskd_bench.models.checkpoints import load_checkpoint
from cskd_bench.models.students import Student
from cskd_bench.task import TaskData, TaskSpec, load_task, task_files
from cskd_bench.transfer import scan
from cskd_bench.transfer.checks import check_splits, count_same
from cskd_bench.transfer.evaluate import class_columns, with_real_labels
from cskd_bench.transfer.linear import TorchLogisticRegression
from cskd_bench.transfer.lowlabel import for_few_images
from cskd_bench.transfer.protocols import PROTOCOLS, Procedure
from cskd_bench.transfer.run import transfer
from cskd_bench.transfer.subsets import k_shot_indices, low_label_indices

RANKS = Ranks(0, 1, torch.device("cpu"))
MODEL = "vit_tiny_patch16_224"
TASK = """
protocols = ["linear", "knn", "kshot", "lowlabel", "evaluate"]
image_size = 32
[data]
root = "{data}"
num_classes = 3
eval_crop = 1.0
[kshot]
shots = [1, 5]
[lowlabel]
fractions = [0.25, 0.5]
classifier = "linear"
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weights file of a timm model with random weights: enough to tell colours apart."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file(timm.create_model(MODEL, img_size=32, num_classes=1000).state_dict(), path)
    return path


@pytest.fixture
def squares(tmp_path, colour_squares):
    """A copy of the colour squares, to be damaged."""
    shutil.copytree(colour_squares, tmp_path / "squares")
    return tmp_path / "squares"


def task_on(folder, **replaced):
    text = TASK.format(data=folder)
    for old, new in replaced.items():
        text = text.replace(old, new)
    path = folder.parent / "my_squares.toml"
    path.write_text(text)
    return load_task(str(path))


def run(task, protocol, weights, folder, seed=0):
    return transfer(
        task, protocol, weights, seed,
        results=folder / "results", work=folder / "work", ranks=RANKS, model=MODEL, workers=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"other": 0.5}, "gave no top1, so no record is written"),
        ({"top1": float("nan")}, "gave a top1 of nan"),
        ({"top1": 0.5, "other": float("inf")}, "gave a other of inf"),
    ],
)
def test_a_cell_without_its_score_leaves_no_record(weights, squares, tmp_path, monkeypatch, metrics, message):
    outcome = Outcome(metrics=metrics, pictures={"map": b"jpeg"})
    monkeypatch.setitem(PROTOCOLS, "knn", Procedure(lambda cell: outcome))
    with pytest.raises(UserError, match=message):
        run(task_on(squares), "knn", weights, tmp_path)
    assert not (tmp_path / "results" / "records").exists()


# -- which images -----------------------------------------------------------------------------------------------------


def test_more_shots_and_larger_fractions_contain_the_smaller():
    labels = np.repeat(np.arange(7), 40)
    for draw, sizes in ((k_shot_indices, (1, 5, 10)), (low_label_indices, (0.01, 0.1, 1.0))):
        chosen = [draw(labels, size, 3) for size in sizes]
        assert set(chosen[0]) < set(chosen[1]) < set(chosen[2])
        assert all(len(np.unique(labels[some])) == 7 for some in chosen)
        assert not np.array_equal(chosen[1], draw(labels, sizes[1], 4))
    assert np.bincount(labels[k_shot_indices(labels, 5, 0)]).tolist() == [5] * 7
    assert len(low_label_indices(labels, 1.0, 0)) == 280


def test_index_lists_are_frozen():
    """Published lists must never change: these are the ones of version 1."""
    assert k_shot_indices(np.repeat([0, 1], 20), 3, 0).tolist() == [0, 3, 8, 23, 27, 34]


def test_too_few_images_for_k_shots():
    with pytest.raises(UserError, match=r"kshot\.shots: 5 training images a class are asked for, class 1 has 2"):
        k_shot_indices(np.asarray([0] * 9 + [1] * 2), 5, 0)


def test_index_lists_are_printed(squares, capsys):
    task_on(squares)
    assert main(["tasks", "indices", str(squares.parent / "my_squares.toml"), "--seed", "1"]) == 0
    lists = json.loads(capsys.readouterr().out)
    labels = np.repeat([0, 1, 2], 16)
    assert lists["kshot"]["5"] == k_shot_indices(labels, 5, 1).tolist()
    assert sorted(lists["lowlabel"]) == ["0.25", "0.5"]


# -- features ---------------------------------------------------------------------------------------------------------


def test_features_are_computed_once_for_all_protocols(squares, weights, tmp_path, monkeypatch):
    task, computed = task_on(squares), []
    whole = scan._Scan
    monkeypatch.setattr(scan, "_Scan", lambda *given: computed.append(1) or whole(*given))
    for protocol in ("linear", "knn", "kshot", "lowlabel"):
        run(task, protocol, weights, tmp_path)
        run(task, protocol, weights, tmp_path, seed=1)
    assert len(computed) == 2  # train and test


def test_features_of_images_that_were_written_again_are_computed_again(squares, weights, tmp_path):
    """Of equal size in bytes, so that nothing but the files' times tells."""
    for file in (squares / "test").rglob("*.png"):
        Image.open(file).save(file.with_suffix(".ppm"))
        file.unlink()
    before = run(task_on(squares), "knn", weights, tmp_path)
    for file in (squares / "test").rglob("*.ppm"):
        Image.new("RGB", (24, 24), "black").save(file)
    shutil.rmtree(tmp_path / "results")
    assert run(task_on(squares), "knn", weights, tmp_path).metrics != before.metrics


def test_features_of_images_that_were_decoded_otherwise_are_computed_again(squares, weights, tmp_path, monkeypatch):
    for rules in (1, scan.DECODING):
        monkeypatch.setattr(scan, "DECODING", rules)
        run(task_on(squares), "knn", weights, tmp_path)
        shutil.rmtree(tmp_path / "results")
    assert len(list((tmp_path / "work" / "features").iterdir())) == 2 * 2  # train and test


def test_a_damaged_feature_cache_is_set_aside_and_computed_again(squares, weights, tmp_path, capsys):
    task = task_on(squares)
    first = run(task, "knn", weights, tmp_path)
    cached = sorted((tmp_path / "work" / "features").glob("*/*.npz"))
    half = cached[0].read_bytes()
    cached[0].write_bytes(half[: len(half) // 2])
    content = bytearray(cached[1].read_bytes())
    content[len(content) // 2] ^= 1
    cached[1].write_bytes(content)
    shutil.rmtree(tmp_path / "results")
    assert run(task, "knn", weights, tmp_path).metrics == first.metrics
    assert capsys.readouterr().err.count("set aside") == 2
    assert len(list((tmp_path / "work" / "features").glob("*/*.corrupt-*"))) == 2
    assert cached[0].read_bytes() == half


# -- protocols against the obvious ------------------------------------------------------------------------------------


def test_k_shot_is_logistic_regression_on_the_listed_images(squares, weights, tmp_path):
    from cskd_bench.data.mixing import to_float
    from cskd_bench.data.open import open_source
    from cskd_bench.data.views import EvalView

    task = task_on(squares)
    record = run(task, "kshot", weights, tmp_path)
    student = load_checkpoint(weights, model=MODEL, image_size=32).student
    view, by_hand = EvalView(32, 1.0), {}
    for split in ("train", "test"):
        source = open_source(task.data, split)
        with torch.no_grad():
            by_hand[split] = torch.cat(
                [student.features(to_float(view(source.load(i))[None]), task.features) for i in range(len(source))]
            ).numpy()
    labels, truth = np.repeat([0, 1, 2], 16), np.repeat([0, 1, 2], 8)
    for shots in (1, 5):
        chosen = k_shot_indices(labels, shots, 0)
        scaler = StandardScaler().fit(by_hand["train"][chosen])
        fitted = LogisticRegression(C=1.0, max_iter=1000).fit(
            scaler.transform(by_hand["train"][chosen]), labels[chosen]
        )
        assert record.metrics[f"top1_{shots}shot"] == fitted.score(scaler.transform(by_hand["test"]), truth)
    assert record.value == record.metrics["top1_5shot"]


def test_low_label_scores_every_fraction(squares, weights, tmp_path):
    record = run(task_on(squares), "lowlabel", weights, tmp_path)
    assert record.value == record.metrics["top1_at_0.5"]
    assert 0 <= record.metrics["top1_at_0.25"] <= 1


def test_low_label_fine_tunes_each_fraction_from_the_checkpoint(squares, weights, tmp_path):
    recipe = "[finetune]\nepochs = 1\nbatch_size = 4\noptim.lr = 1e-3"
    task = task_on(squares, **{'classifier = "linear"': f'classifier = "finetune"\n{recipe}'})
    record = run(task, "lowlabel", weights, tmp_path)
    assert {"top1_at_0.25", "top1_at_0.5"} < set(record.metrics)
    assert len(record.curve) == 1


def test_low_label_takes_a_smaller_batch_where_there_are_fewer_images_than_one(squares, weights, tmp_path):
    """A quarter of 48 images is 12; with a batch of 16 there would be no step."""
    recipe = "[finetune]\nepochs = 1\nbatch_size = 16\noptim.lr = 1e-3"
    task = task_on(squares, **{'classifier = "linear"': f'classifier = "finetune"\nschedule = "epochs"\n{recipe}'})
    assert "top1_at_0.25" in run(task, "lowlabel", weights, tmp_path).metrics


def test_every_shipped_low_label_task_has_a_batch_for_its_smallest_share():
    smallest = {"oxford_pets": 37, "dtd": 47}  # one image of each class
    for name in task_files():
        task = load_task(name)
        if "lowlabel" in task.protocols:
            images = smallest.get(name, task.data.num_classes)
            batch = for_few_images(task.finetune, images).batch_size
            assert batch <= images and all(batch % ranks == 0 for ranks in (1, 2, 4, 8)), name
    mixed = load_task(
        "digits", overrides=["finetune.augment.mixup=0.8", "finetune.augment.mix_group=4", "finetune.augment.repeats=1"]
    ).finetune
    assert for_few_images(mixed, 27).batch_size == 24
    assert for_few_images(mixed, 7).batch_size == 4
    assert for_few_images(mixed, 10_000) is mixed


@pytest.mark.parametrize("heads", ["class+dist", "class+dist+patch"])
def test_a_dropped_distillation_head_neither_answers_nor_learns(heads):
    """Under several ranks, a weight that never gets a gradient would stop the second step."""
    import timm

    vit = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1, num_classes=3)
    student = Student(vit, heads)
    student.drop_distillation_head()
    views = torch.rand(2, 3, 32, 32)
    logits = student.predict(views)
    torch.testing.assert_close(logits, vit.head(student.tokens(views)[:, 0]))
    logits.sum().backward()
    assert all((weight.grad is not None) is weight.requires_grad for weight in student.parameters())


def test_torchs_logistic_regression_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels = np.repeat([2, 5, 7], 60)
    rows = rng.normal(size=(180, 10)) + labels[:, None] * np.linspace(-0.2, 0.2, 10)
    ours = TorchLogisticRegression(0.3, 500, torch.device("cpu")).fit(rows, labels)
    theirs = LogisticRegression(C=0.3, max_iter=2000, tol=1e-8).fit(rows, labels)
    np.testing.assert_allclose(ours.predict_proba(rows), theirs.predict_proba(rows), atol=2e-3)


def test_large_sets_are_probed_by_torch_with_the_same_score(squares, weights, tmp_path):
    def probed(name, torch_from):
        task = task_on(squares, **{"[kshot]": f"[linear]\ntorch_from = {torch_from}\n[kshot]"})
        return run(task, "linear", weights, tmp_path / name)

    assert probed("torch", 1).value == pytest.approx(probed("sklearn", 1000).value, abs=0.05)


def test_classes_are_matched_by_name_synset_or_number(weights):
    model = load_checkpoint(weights, model=MODEL, image_size=32)
    assert class_columns(["n01443537", "n01440764"], model) == [1, 0]
    assert class_columns(["n01440764_tench", "n01443537_goldfish"], model) == [0, 1]
    assert class_columns(["0", "1", "10"], model) == [0, 1, 10]  # ImageNet-V2's folders, sorted as text
    with pytest.raises(UserError, match=r"does not know 1 of the task's 2 classes \(red"):
        class_columns(["n01440764", "red"], model)


def test_only_a_synset_is_cut_off_a_classs_name(weights):
    """`red_fox` is not `red`, and `n01440764tench` no synset's file."""
    model = replace(load_checkpoint(weights, model=MODEL, image_size=32), classes=("red", "n01440764", "blue_jay"))
    assert class_columns(["n01440764_tench", "blue_jay", "red"], model) == [1, 2, 0]
    for unknown in ("red_fox", "n01440764tench", "n0144076_x", "blue"):
        with pytest.raises(UserError, match=f"does not know 1 of the task's 2 classes .{unknown}"):
            class_columns(["red", unknown], model)


def test_two_classes_are_never_one_output(weights):
    model = load_checkpoint(weights, model=MODEL, image_size=32)
    same = r"classes 'n01440764' and 'n01440764_tench' are both output 0"
    with pytest.raises(UserError, match=same):
        class_columns(["n01440764", "n01443537", "n01440764_tench"], model)
    with pytest.raises(UserError, match="classes '1' and '01' are both output 1"):
        class_columns(["0", "1", "01"], model)


def test_numbers_are_no_classes_of_a_model_whose_classes_have_names(weights):
    """Folders 0, 1, 2 of one data set are not the first classes of another's model."""
    model = replace(load_checkpoint(weights, model=MODEL, image_size=32), classes=("ash", "birch", "cedar"))
    with pytest.raises(UserError, match="does not know 3 of the task's 3 classes"):
        class_columns(["0", "1", "2"], model)
    assert class_columns(["cedar", "ash"], model) == [2, 0]


def test_evaluation_restricts_the_logits_to_the_tasks_classes(tmp_path, weights):
    """Two classes, as ImageNet-A has 200: the answer is always one of the two."""
    rng = np.random.default_rng(0)
    for part in ("fog/1", "fog/2", "snow/1"):
        for synset in ("n01443537", "n02102040"):
            folder = tmp_path / "c" / part / synset
            folder.mkdir(parents=True)
            for number in range(4):
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / f"{number}.png")
    (tmp_path / "c.toml").write_text(
        f'protocols = ["evaluate"]\ngroup = "robustness"\nimage_size = 32\n'
        f'[data]\nroot = "{tmp_path / "c"}"\ntest = "fog/1+fog/2+snow/1+snow/1@contrast/5"\n'
        "num_classes = 2\neval_crop = 1.0\n"
    )
    record = run(load_task(str(tmp_path / "c.toml")), "evaluate", weights, tmp_path)
    assert record.task.group == "robustness"
    assert record.examples == 32
    with np.load(tmp_path / "results" / "records" / record.per_example.name) as side:
        assert set(side["predicted"]) <= {0, 1}
        right = side["predicted"] == side["label"]
        assert side["image"].tolist() == 4 * list(range(8))  # eight images, each in four parts
    assert record.value == right.mean()
    assert record.metrics["top1_fog"] == right[:16].mean()
    assert record.metrics["top1_snow"] == right[16:24].mean()
    assert record.metrics["top1_contrast"] == right[24:].mean()


def test_real_labels_accept_any_and_drop_the_unlabelled(tmp_path):
    from cskd_bench.data.sources import PathSource
    from cskd_bench.engine.evaluate import Predictions

    paths = [tmp_path / f"ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2, 3, 4)]
    for path in paths:
        path.write_bytes(b"x")
    source = PathSource(paths, [0, 1, 2, 3], [f"n{k:08d}" for k in range(1000)])
    (tmp_path / "real.json").write_text("[[0], [7, 9], [], [5]]")
    said = Predictions(source.labels, np.asarray([0, 9, 2, 3]), np.ones(4, np.float32))
    judged = with_real_labels(said, source, tmp_path / "real.json")
    assert judged.label.tolist() == [0, 9, 5]
    assert judged.top1 == pytest.approx(2 / 3)
    for other in ("[[0]]", "{}", "[1, 2, 3, 4]", "null", "[["):
        (tmp_path / "real.json").write_text(other)
        with pytest.raises(UserError, match=r"real\.json: not the ReaL labels of these images"):
            with_real_labels(said, source, tmp_path / "real.json")
    numbered = PathSource(paths, [0, 1, 2, 3], sorted(str(k) for k in range(1000)))  # "10" before "2"
    with pytest.raises(UserError, match="1,000 folders named by synset"):
        with_real_labels(said, numbered, tmp_path / "real.json")


# -- refused ----------------------------------------------------------------------------------------------------------


def test_a_test_image_in_train_is_refused_by_name(squares, weights, tmp_path):
    shutil.copy(squares / "train" / "red" / "03.png", squares / "test" / "red" / "copied.png")
    with pytest.raises(UserError, match=r"1 images of test are also in train \(red/copied.png = red/03.png\); remove"):
        run(task_on(squares), "knn", weights, tmp_path)
    assert not (tmp_path / "results").exists()
    published = task_on(squares, **{"eval_crop = 1.0": 'eval_crop = 1.0\nsplits = "published"'})
    assert "the published split, taken as it is" in run(published, "knn", weights, tmp_path).note


def test_other_classes_are_refused(squares, weights, tmp_path):
    with pytest.raises(UserError, match=r"train has images of 3 classes, data\.num_classes says 4"):
        run(task_on(squares, **{"num_classes = 3": "num_classes = 4"}), "knn", weights, tmp_path)
    (squares / "test" / "green").rename(squares / "test" / "grass")
    with pytest.raises(UserError, match="train and test have different classes, for example grass, green"):
        run(task_on(squares), "knn", weights, tmp_path)


def test_two_names_of_one_split_do_not_make_two(mnist):
    """CIFAR's and MNIST's "val" is their test split: train+val would learn the answers."""
    data = {"dataset": "torch/mnist", "root": str(mnist), "num_classes": 10, "test": "test"}
    for train, expected in (("train", ""), ("train+val", "'train+val' and data.test 'test' open the same 20 images")):
        spec = TaskSpec(name="digits", protocols=("knn",), data=TaskData(train=train, **data))
        splits = [open_source(spec.data, split) for split in (train, "test")]
        said = ""
        try:
            check_splits(spec, *splits)
        except UserError as error:
            said = str(error)
        assert expected in said and bool(said) == bool(expected)


@pytest.mark.parametrize(
    ("train", "test", "shared"),
    [
        ("train[::2]", "train[1::2]", 0),
        ("train[::2]", "train[1:5]", 2),
        ("train[:]", "train", 9),
        ("train", "train[::3][::2]", 2),
        ("train[:4]+train[6:]", "train[3:7]", 2),
    ],
)
@pytest.mark.parametrize("kind", ["npz", "torch", "built-in"])
def test_slices_that_overlap_are_leaks(tmp_path, mnist, kind, train, test, shared):
    """A slice of images that are no files was searched for no leak."""
    if kind == "npz":
        images = [hashlib.sha256(bytes([number])).digest() for number in range(9)]
        labels = np.arange(9) % 3
        np.savez(
            tmp_path / "train.npz",
            jpeg=np.frombuffer(b"".join(images), np.uint8),
            offsets=np.arange(10) * 32,
            labels=labels,
        )
        data = {"dataset": "npz", "root": str(tmp_path), "num_classes": 3}
    elif kind == "torch":
        data = {"dataset": "torch/mnist", "root": str(mnist), "num_classes": 10}
    else:
        data = {"dataset": "sklearn/digits", "num_classes": 10}
    if kind != "npz":
        train, test = (re.sub(r"train(?!\[)", "train[:9]", split) for split in (train, test))
    sources = [open_source(DataConfig(**data), split) for split in (train, test)]
    found = len(shared_images(*map(StoredImages, sources))) or count_same(*sources)
    assert found == shared


def test_a_partly_unpacked_test_split_is_refused(squares, weights, tmp_path):
    """Fewer classes are an easier task: the number would look better than it is."""
    shutil.rmtree(squares / "test" / "red")  # the last in order: those that are left keep their numbers
    with pytest.raises(UserError, match="train and test have different classes, for example red"):
        run(task_on(squares), "knn", weights, tmp_path)
    for split in ("val", "test"):
        for name, synset in (("blue", "n01440764"), ("green", "n01443537")):
            if (squares / split / name).exists():
                (squares / split / name).rename(squares / split / synset)
    with pytest.raises(UserError, match=r"test has images of 2 classes, data\.num_classes says 3"):
        run(task_on(squares), "evaluate", weights, tmp_path)


def test_other_classes_in_val_are_refused(squares, weights, tmp_path):
    """The curve of a fine-tuning would count every later class as wrong."""
    shutil.rmtree(squares / "val" / "blue")
    with pytest.raises(UserError, match="train and val have different classes, for example blue"):
        run(task_on(squares, **{"eval_crop = 1.0": 'eval_crop = 1.0\nval = "val"'}), "knn", weights, tmp_path)


def test_a_record_of_other_images_is_not_taken_for_this_cells(squares, weights, tmp_path):
    first = run(task_on(squares), "knn", weights, tmp_path)
    shutil.copy(squares / "val" / "red" / "00.png", squares / "test" / "red" / "more.png")
    with pytest.raises(UserError, match=f"{first.id}.json: was made from other images than"):
        run(task_on(squares), "knn", weights, tmp_path)
    (tmp_path / "results" / "records" / f"{first.id}.json").unlink()
    again = run(task_on(squares), "knn", weights, tmp_path)
    assert (again.id, again.examples) == (first.id, first.examples + 1)
    with np.load(tmp_path / "results" / "records" / again.per_example.name) as side:
        assert len(side["label"]) == again.examples  # not what the record before left there
    (squares / "test").rename(tmp_path / "away")
    assert run(task_on(squares), "knn", weights, tmp_path) == again  # nothing to compare with


@pytest.mark.gate
def test_a_full_disk_under_the_feature_cache_is_a_sentence_and_leaves_nothing(squares, weights, tmp_path):
    task_on(squares)
    words = ["--task", squares.parent / "my_squares.toml", "--protocol", "knn", "--checkpoint", weights]
    words += ["--model", MODEL, "--workers", "0", "--runs", tmp_path / "runs", "--results", tmp_path / "results"]
    command = [*CSKD_BENCH, "transfer", *map(str, words)]
    limited = f"ulimit -f 4; exec {shlex.join(command)}"  # 4 KiB a file: the features are 18
    ended = run_command(["bash", "-c", limited], PYTHONDONTWRITEBYTECODE="1")
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr and ".npz: cannot be written: File too large" in ended.stderr
    assert list((tmp_path / "runs" / "transfer" / "features").rglob("*.npz")) == []


def test_an_unreadable_image_is_named_and_nothing_is_lost(squares, weights, tmp_path):
    (squares / "test" / "red" / "00.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"00\.png: not a readable image"):
        run(task_on(squares), "knn", weights, tmp_path)
    assert not (tmp_path / "results").exists()


def test_images_in_a_folder_inside_a_class_folder_are_used_and_noted(squares, weights, tmp_path, capsys):
    inner = squares / "train" / "red" / "red"
    inner.mkdir()
    for image in (squares / "train" / "red").glob("*.png"):
        image.rename(inner / image.name)
    record = run(task_on(squares), "knn", weights, tmp_path)
    assert "images in sub-folders of their classes (red/red/00.png, " in record.note
    assert f"{squares}: used in train: " in capsys.readouterr().err
