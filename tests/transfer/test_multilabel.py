"""Multi-label classification: against a slow reference, after an interruption, and what is refused."""

import shutil

import numpy as np
import pytest
import timm
import torch
from helpers import processes
from PIL import Image
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

from cskd_bench.cli import main
from cskd_bench.data.multilabel import open_multilabel
from cskd_bench.doctor.task import check_task
from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import Interrupted, UserError
from cskd_bench.models.checkpoints import load_checkpoint
from cskd_bench.record import read_records
from cskd_bench.stopping import Stop
from cskd_bench.task import load_task
from cskd_bench.transfer import features, multilabel
from cskd_bench.transfer.average_precision import average_precision, average_precisions, mean_average_precision
from cskd_bench.transfer.placing import place_tasks
from cskd_bench.transfer.run import find_record, open_cell, transfer

RANKS = Ranks(0, 1, torch.device("cpu"))
MODEL = "deit_tiny_distilled_patch16_224"
CLASSES = ("blue wall", "green", "red")
COUNTS = {"train": 40, "val": 24, "test": 30}
TASK = """
protocols = ["multilabel"]
metric = "map"
image_size = 32
[data]
dataset = "voc2007"
root = "{data}"
val = "val"
num_classes = 3
eval_crop = 1.0
[multilabel]
c_grid = [0.0001, 0.01, 1.0]
interpolation = "voc2007"
"""


def write_voc(root):
    """Write noisy images in which any of three colours is a little stronger; one in eight labels is 0, difficult."""
    rng = np.random.default_rng(0)
    (root / "JPEGImages").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    number = 0
    for split, count in COUNTS.items():
        values = rng.choice([1, -1], (count, 3), p=[0.4, 0.6])
        names = []
        for row in values:
            pixels = rng.integers(0, 180, (32, 32, 3))
            pixels += 12 * (row[::-1] > 0)
            names.append(f"{number:06d}")
            Image.fromarray(pixels.astype(np.uint8)).save(root / "JPEGImages" / f"{names[-1]}.jpg", quality=95)
            number += 1
        values[rng.random(values.shape) < 1 / 8] = 0
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name, column in zip(CLASSES, values.T, strict=True):
            lines = [f"{image} {value:2d}\n" for image, value in zip(names, column, strict=True)]
            (root / "ImageSets" / "Main" / f"{name}_{split}.txt").write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file(timm.create_model(MODEL, img_size=32, num_classes=10).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def kept_voc(tmp_path_factory):
    return write_voc(tmp_path_factory.mktemp("voc") / "VOC2007")


@pytest.fixture
def voc(tmp_path, kept_voc):
    """A copy of the images and lists, to be damaged."""
    return shutil.copytree(kept_voc, tmp_path / "VOC2007")


def task_on(folder, *overrides):
    path = folder.parent / "my_voc.toml"
    path.write_text(TASK.format(data=folder))
    return load_task(str(path), overrides=overrides)


def options(folder):
    return {"work": folder / "work", "ranks": RANKS, "model": MODEL, "workers": 0}


def run(task, weights, folder, *, stop=None):
    return transfer(
        task, "multilabel", weights, 0,
        results=folder / "results", stop=stop, **options(folder),
    )  # fmt: skip


def listed(root, name, split):
    return root / "ImageSets" / "Main" / f"{name}_{split}.txt"


# -- average precision ------------------------------------------------------------------------------------------------


def slow_voc2007(targets, scores):
    """Return 11-point average precision from the definition: every threshold, every point, image by image."""
    images = [pair for pair in zip(targets, scores, strict=True) if pair[0] != 0]
    positives = sum(target > 0 for target, _ in images)
    curve = []
    for threshold in {score for _, score in images}:
        said = [target for target, score in images if score >= threshold]
        right = sum(target > 0 for target in said)
        curve.append((right / positives, right / len(said)))
    points = [max([precision for recall, precision in curve if recall >= tenth / 10 - 1e-9]) for tenth in range(11)]
    return sum(points) / 11


@pytest.mark.parametrize("levels", [4, 1000], ids=["many equal scores", "few equal scores"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_average_precision_is_that_of_scikit_learn_and_of_the_definition(seed, levels):
    rng = np.random.default_rng(seed)
    targets, scores = rng.choice([-1, 0, 1], 60), rng.integers(0, levels, 60) / levels
    counts = targets != 0
    expected = average_precision_score(targets[counts] > 0, scores[counts])
    assert average_precision(targets, scores, "area") == pytest.approx(expected, abs=1e-12)
    assert average_precision(targets, scores, "voc2007") == pytest.approx(slow_voc2007(targets, scores), abs=1e-12)


def test_eleven_points_by_hand():
    """Right at ranks 1, 3 and 5: precision 1, 2/3, 3/5 at recall 1/3, 2/3, 1: four, three and four points."""
    targets, scores = np.array([1, -1, 1, -1, 1, -1]), np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    expected = (4 * 1 + 3 * 2 / 3 + 4 * 3 / 5) / 11
    assert average_precision(targets, scores, "voc2007") == pytest.approx(expected)
    assert average_precision(targets, scores, "area") == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    difficult = np.append(targets, 0), np.append(scores, 0.95)
    assert average_precision(*difficult, "voc2007") == pytest.approx(expected)


def test_recall_that_is_a_tenth_counts_for_that_point():
    """Three of ten are right at once: 3 / 10 reaches the point 0.3, however the fraction is rounded."""
    targets = np.array([1] * 3 + [-1] * 7 + [1] * 7)
    expected = (4 * 1.0 + sum(max((3 + n) / (10 + n) for n in range(1, 8)) for _ in range(7))) / 11
    assert average_precision(targets, -np.arange(17.0), "voc2007") == pytest.approx(expected)


def test_a_class_that_no_image_has_leaves_the_mean():
    targets = np.array([[1, -1, -1], [-1, 0, 1]])
    each = average_precisions(targets, np.array([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]]), "area")
    assert each[[0, 2]].tolist() == [1.0, 0.5] and np.isnan(each[1])
    assert mean_average_precision(each) == 0.75 and mean_average_precision(each[1:2]) == 0.0


# -- the slow reference -----------------------------------------------------------------------------------------------


def slow_feature(model, path):
    """Return the class token beside the mean patch token of one image, by timm alone."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), np.float32) / 255
    mean, std = (np.asarray(model.default_cfg[key], np.float32) for key in ("mean", "std"))
    with torch.no_grad():
        tokens = model.forward_features(torch.from_numpy((pixels - mean) / std).permute(2, 0, 1)[None])[0]
    return torch.cat([tokens[0], tokens[2:].mean(0)]).numpy()


def slow_split(root, model, split):
    """Return the features of a split's images and the values of each class, from its lists."""
    names = (root / "ImageSets" / "Main" / f"{split}.txt").read_text().split()
    rows = np.stack([slow_feature(model, root / "JPEGImages" / f"{name}.jpg") for name in names])
    values = [dict(line.split() for line in listed(root, name, split).read_text().splitlines()) for name in CLASSES]
    return rows, [np.array([int(column[name]) for name in names]) for column in values]


def slow_scores(train, scored, c):
    """Return the 11-point average precision of each class after scikit-learn's fits."""
    found = []
    for value, truth in zip(train[1], scored[1], strict=True):
        x, y = train[0][value != 0], value[value != 0]
        scaler = StandardScaler().fit(x)
        probe = LogisticRegression(C=c, max_iter=1000).fit(scaler.transform(x), y)
        found.append(slow_voc2007(truth, probe.decision_function(scaler.transform(scored[0]))))
    return np.array(found)


def join(one, other):
    return np.concatenate([one[0], other[0]]), [np.concatenate(pair) for pair in zip(one[1], other[1], strict=True)]


def test_a_score_is_that_of_a_slow_reference(weights, voc, tmp_path):
    record = run(task_on(voc), weights, tmp_path)
    found, model = record.metrics, load_checkpoint(weights, model=MODEL, image_size=32).student.model.eval()
    train, val, test = (slow_split(voc, model, split) for split in ("train", "val", "test"))
    grid = {c: slow_scores(train, val, c).mean() for c in (0.0001, 0.01, 1.0)}
    assert found["chosen_c"] == max(grid, key=grid.get)
    assert found["validation_map"] == pytest.approx(max(grid.values()), abs=0.01)
    expected = slow_scores(join(train, val), test, found["chosen_c"])
    each = [found[f"ap_{name.replace(' ', '_')}"] for name in CLASSES]
    assert each == pytest.approx(expected.tolist(), abs=0.01) and 0.4 < min(each) < max(each) < 0.9999
    assert record.value == found["map"] == pytest.approx(np.mean(each))
    assert (record.task.metric, record.task.group) == ("map", "classification")
    assert (record.examples, record.per_example) == (30, None)


def test_a_share_of_train_chooses_where_no_split_is_named(weights, voc, tmp_path):
    named, carved = task_on(voc), task_on(voc, "data.val=''")
    assert named.fingerprint("multilabel") != carved.fingerprint("multilabel")
    model = load_checkpoint(weights, model=MODEL, image_size=32).student.model.eval()
    train, test = slow_split(voc, model, "train"), slow_split(voc, model, "test")
    record = run(carved, weights, tmp_path)
    expected = slow_scores(train, test, record.metrics["chosen_c"])  # of a fit on all of train, and on nothing else
    assert record.value == pytest.approx(expected.mean(), abs=0.01)
    assert record.images != run(named, weights, tmp_path).images


def test_doubts_of_the_choice_are_in_the_record(weights, voc, tmp_path):
    record = run(task_on(voc, "multilabel.max_iter=1", "multilabel.c_grid=[0.1,10.0]"), weights, tmp_path)
    assert record.metrics["chosen_c_at_edge"] == 1.0 and record.metrics["unconverged_fits"] == 9.0
    assert "of multilabel.c_grid" in record.note and "9 of 9 fits stopped at multilabel.max_iter = 1" in record.note


def test_a_class_without_a_counting_image_in_the_fitted_part_is_scored_alike_everywhere():
    targets = np.array([1, 1, 0], np.int8)
    scores, complete = multilabel.fit_class(np.eye(3), targets, np.eye(3), 1.0, 10)
    assert scores.tolist() == [0, 0, 0] and complete


# -- the record, and interruption -------------------------------------------------------------------------------------


def test_a_finished_cell_is_found_and_not_run_again(weights, voc, tmp_path, monkeypatch):
    task = task_on(voc)
    first = run(task, weights, tmp_path)
    monkeypatch.setattr(multilabel, "split_features", lambda *_: pytest.fail("computed"))
    assert run(task, weights, tmp_path).id == first.id
    cell = open_cell(task, "multilabel", weights, 0, **options(tmp_path))
    assert find_record(cell, tmp_path / "results" / "records").stem == first.id
    other = listed(voc, "red", "test")
    other.write_text(other.read_text().replace(" 1", "-1", 1))  # labels are part of what the images are
    with pytest.raises(UserError, match=first.id):
        run(task, weights, tmp_path)


def test_features_are_those_of_the_other_probes_definition(weights, voc, tmp_path):
    values = {kind: run(task_on(voc, f"features={kind}"), weights, tmp_path) for kind in ("cls", "cls+patch")}
    assert values["cls"].recipe != values["cls+patch"].recipe
    assert values["cls"].metrics["validation_map"] != values["cls+patch"].metrics["validation_map"]


@pytest.mark.parametrize("fits", [1, 7, 11])
def test_an_interrupted_cell_makes_no_fit_twice(weights, voc, tmp_path, monkeypatch, fits):
    """Of 9 fits on train and 3 on all images."""
    whole = run(task_on(voc), weights, tmp_path / "whole")
    stop, made, scanned = Stop(), [], []
    fit, split_features = multilabel.fit_class, features.scan_split

    def counted(*arguments):
        made.append(len(arguments[0]))
        stop.requested = stop.requested or len(made) == fits
        return fit(*arguments)

    def counted_scan(cell, source, view, compute, **named):
        return split_features(cell, source, view, lambda views: scanned.append(len(views)) or compute(views), **named)

    monkeypatch.setattr(multilabel, "fit_class", counted)
    monkeypatch.setattr(features, "scan_split", counted_scan)
    with pytest.raises(Interrupted):
        run(task_on(voc), weights, tmp_path / "again", stop=stop)
    assert len(made) == fits and sum(scanned) == 40 + 24 + 30
    again = run(task_on(voc), weights, tmp_path / "again", stop=Stop())
    assert made == [40] * 9 + [64] * 3 and sum(scanned) == 40 + 24 + 30
    assert (again.id, again.metrics, again.recipe) == (whole.id, whole.metrics, whole.recipe)


@pytest.mark.gate
def test_two_ranks_come_to_the_same_record(weights, voc, tmp_path):
    one = run(task_on(voc), weights, tmp_path)
    words = ["transfer", "--task", voc.parent / "my_voc.toml", "--checkpoint", weights, "--model", MODEL]
    places = ["--workers", "0", "--results", tmp_path / "two", "--runs", tmp_path / "runs"]
    processes.end(processes.start([*processes.TWO_RANKS, "-m", "cskd_bench.cli", *words, *places]))
    ((_, two),) = read_records(tmp_path / "two" / "records")
    assert two.id == one.id and two.metrics == pytest.approx(one.metrics, abs=0.02)


# -- what is refused --------------------------------------------------------------------------------------------------


def rewrite(root, name, split, change):
    path = listed(root, name, split)
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


def without_class(root, name, split):
    rewrite(root, name, split, lambda lines: [f"{line.split()[0]} -1\n" for line in lines])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: (r / "JPEGImages/000041.jpg").unlink(), r"blue wall_val\.txt:2: image 000041 is missing, no file"),
        (lambda r: rewrite(r, "red", "test", lambda s: [*s[:4], "000068 2\n", *s[5:]]), r"red_test\.txt:5: '000068 2'"),
        (lambda r: rewrite(r, "red", "test", lambda s: [*s[:4], "000068\n", *s[5:]]), r"red_test\.txt:5: '000068'; ex"),
        (lambda r: rewrite(r, "red", "val", lambda s: [s[1], s[0], *s[2:]]), r"red_val\.txt:1: names image 000041"),
        (lambda r: rewrite(r, "red", "val", lambda s: s[:-1]), r"red_val\.txt:24: has 23 images in all"),
        (lambda r: rewrite(r, "green", "train", lambda s: []), r"green_train\.txt: is empty"),
        (lambda r: listed(r, "green", "train").write_bytes(b"\xff 1"), r"green_train\.txt: cannot be read"),
        (lambda r: listed(r, "green", "train").unlink(), r"Main: 2 lists CLASS_train\.txt, data\.num_classes says 3"),
        (lambda r: shutil.rmtree(r / "ImageSets"), r"ImageSets/Main: no such folder"),
        (lambda r: without_class(r, "green", "test"), r"no image of test has class green"),
        (
            lambda r: [without_class(r, "green", split) for split in ("train", "val")],
            r"class green needs images of train with it and without it",
        ),
        (
            lambda r: [rewrite(r, name, "test", lambda s: [*s, "000003 1\n"]) for name in CLASSES],
            r"blue wall_test\.txt:31: image 000003 is named before, in .*blue wall_train\.txt:4",
        ),
        (
            lambda r: [rewrite(r, name, "val", lambda s: [*s, "000040 1\n"]) for name in CLASSES],
            r"blue wall_val\.txt:25: image 000040 is named before, in .*blue wall_val\.txt:1",
        ),
        (
            lambda r: shutil.copy(r / "JPEGImages/000045.jpg", r / "JPEGImages/000070.jpg"),
            r"1 images of test are also in train \(JPEGImages/000070\.jpg = JPEGImages/000045\.jpg\)",
        ),
        (
            lambda r: listed(r, "red", "test").rename(listed(r, "rad", "test")),
            r"train and test have different classes: rad, red",
        ),
    ],
)
def test_data_that_no_number_should_be_made_from_is_refused_before_anything_is_computed(
    weights, voc, tmp_path, monkeypatch, damage, message
):
    damage(voc)
    monkeypatch.setattr(multilabel, "split_features", lambda *_: pytest.fail("computed"))
    with pytest.raises(UserError, match=message):
        run(task_on(voc), weights, tmp_path)
    assert not (tmp_path / "results" / "records").exists()
    assert main(["tasks", "validate", str(voc.parent / "my_voc.toml"), "--data-dir", str(voc)]) == 2
    (placed,) = place_tasks([task_on(voc)], None)
    assert "attention" in {finding.verdict for finding in check_task(placed, decode=False, threads=1)}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.dataset=folder", r"data\.dataset: 'folder' has no lists of several classes; use voc2007"),
        ("data.num_classes=4", r"3 lists CLASS_train\.txt, data\.num_classes says 4"),
        ("data.train=train+val", r"image 000040 is named before"),
        ("multilabel.validation=0", r"multilabel\.validation: input should be greater than 0"),
        ("metric=top1", r'protocol "multilabel" gives map, not top1'),
    ],
)
def test_settings_that_do_not_fit_are_refused(weights, voc, tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        run(task_on(voc, override), weights, tmp_path)


# -- the data ---------------------------------------------------------------------------------------------------------


def test_splits_are_joined_by_plus_and_labels_are_part_of_the_identity(voc):
    data = task_on(voc).data
    train, both = open_multilabel(data, "train"), open_multilabel(data, "train+val")
    assert (len(both), both.targets.shape, both.targets.dtype) == (64, (64, 3), np.int8)
    assert set(np.unique(both.targets).tolist()) == {-1, 0, 1} and tuple(both.classes) == CLASSES
    assert both.targets[:40].tolist() == train.targets.tolist()
    assert both.load(0).size == (32, 32)
    other = 1 if train.targets[0, 2] < 1 else 0
    rewrite(voc, "red", "train", lambda lines: [f"{lines[0].split()[0]} {other}\n", *lines[1:]])
    assert open_multilabel(data, "train").identity != train.identity


def test_the_doctor_and_validate_take_sound_data(voc, capsys, tmp_path, monkeypatch):
    task_on(voc)
    monkeypatch.setattr("cskd_bench.doctor.examine.environment", lambda *_: iter(()))
    monkeypatch.setattr("cskd_bench.doctor.task.manifest_for_folder", lambda _: None)
    words = [str(tmp_path / "my_voc.toml"), "--data-dir", str(tmp_path)]  # the folder above
    assert main(["doctor", "--task", *words]) == 0
    assert "all 30 images decode" in capsys.readouterr().out
    assert main(["tasks", "validate", *words]) == 0
    assert "train 40 images, val 24 images, test 30 images, 3 classes, several to an image" in capsys.readouterr().out
    assert main(["doctor", "--dataset", "voc2007", "--data-dir", str(voc), "--counts-only"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "layout: as its authors pack it" in said and "3 lists CLASS_test.txt, data.num_classes says 20" in said
    (voc / "JPEGImages" / "000070.jpg").write_bytes(b"no")
    assert main(["doctor", "--task", *words]) == 1
    assert "000070.jpg: not a readable image" in capsys.readouterr().out.replace("\n", "")
